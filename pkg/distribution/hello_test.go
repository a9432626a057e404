package distribution

import (
	"errors"
	"testing"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

func TestHelloForAnotherNodeIsDenied(t *testing.T) {
	thief, err := identity.New("test.example", identity.Node, "thief")
	if err != nil {
		t.Fatal(err)
	}
	err = checkHello(&controlv1.Hello{Node: "victim", Protocols: []string{Protocol}}, Peer{ID: thief})
	if !errors.Is(err, fault.CodeHelloNode) {
		t.Errorf("got %v, want %s", err, fault.CodeHelloNode)
	}
}
