package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		s := memstore.New(memstore.Options{})
		return storetest.Engine{
			Driver:  func(*testing.T) store.Driver { return s.Driver() },
			Expire:  func(*testing.T) { s.Expire() },
			Restart: func(*testing.T) { s.Expire() },
		}
	})
}
