package bolt

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		path := filepath.Join(t.TempDir(), "store.db")
		f := mustOpen(t, path)
		return storetest.Engine{
			Driver: func(t *testing.T) store.Driver { return mustDomain(t, f, "eu-west") },
			Expire: func(*testing.T) { f.expire("eu-west") },
			Restart: func(t *testing.T) {
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				f = mustOpen(t, path)
			},
		}
	})
}

// expire ends the lease of a domain as only the end of the process can.
func (f *File) expire(domain string) {
	f.mu.Lock()
	d := f.domains[domain]
	f.mu.Unlock()
	d.mu.Lock()
	l := d.lease
	d.mu.Unlock()
	d.drop(l)
}

func mustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustDomain(t testing.TB, f *File, name string) store.Driver {
	t.Helper()
	d, err := f.Domain(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
