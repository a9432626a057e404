package consul

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// The command that the refusal of a new domain names is run as it is printed, and is
// enough; the neighbour whose name begins alike stays.
func TestTheCommandThatRemovesADomainDoes(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	program, err := consultest.Program()
	ok(t, err)
	d := open(t, Config{Address: s.HTTP, Datacenter: "dc1"})
	l, err := store.Open(bounded(t), d, store.Options{})
	ok(t, err)
	neighbour := open(t, Config{Address: s.HTTP, Domain: "eu-west-2"})
	ok(t, neighbour.Put(bounded(t), "snapshot/x", []byte("y")))
	ok(t, l.Unused(bounded(t)))
	ok(t, l.RaiseAlarm(bounded(t), store.MarkOf("old", store.Head{Position: store.Position{Seq: 42, Term: 7}})))
	err = l.Unused(bounded(t))
	wantCode(t, err, fault.CodeStoreRemains)
	_, rest, _ := strings.Cut(fault.RemedyOf(err), "`consul ")
	args, _, found := strings.Cut(rest, "`")
	if !found {
		t.Fatalf("the remedy names no command: %s", fault.RemedyOf(err))
	}
	run := exec.CommandContext(bounded(t), program, strings.Fields(args)...)
	run.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+s.HTTP)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("consul %s: %v: %s", args, err, out)
	}
	ok(t, l.Unused(bounded(t)))
	if _, err := neighbour.Get(bounded(t), "snapshot/x"); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
}
