package hub_test

import (
	"bytes"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
)

// TestANodeCannotMakeTheHubHoldALargeMessage sends more in one call than a node
// ever needs. The hub refuses it by its announced length, before it holds it; an
// operator's port to the same hub takes it.
func TestANodeCannotMakeTheHubHoldALargeMessage(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	node, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	large := bytes.Repeat([]byte{0x30}, 1<<20)
	_, err := identityv1.NewIdentityServiceClient(h.Dial(t, node)).Renew(t.Context(), &identityv1.RenewRequest{Csr: large})
	if fault.KindOf(err) != fault.Exhausted {
		t.Errorf("1 MiB from a node gave %v, want it refused by size", err)
	}
	_, err = operate(t, h).resources.Plan(t.Context(), &adminv1.PlanRequest{Change: &adminv1.Change{Resources: [][]byte{large}}})
	if fault.KindOf(err) == fault.Exhausted {
		t.Errorf("1 MiB from an operator was refused by size: %v", err)
	}
}

// TestTheNewestChangeCanAlwaysBeTakenBack undoes a first publication without a
// flag, although that removes the whole mesh; an older one is held to the limit.
func TestTheNewestChangeCanAlwaysBeTakenBack(t *testing.T) {
	o := operate(t, hubtest.NewDomain(t).Start(t))
	publish := func(names ...string) {
		t.Helper()
		change := &adminv1.Change{}
		for _, n := range names {
			change.Resources = append(change.Resources, cluster(n, "10.0.0.1:80"))
		}
		if _, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change}); err != nil {
			t.Fatal(err)
		}
	}
	publish("a", "b", "c", "d", "e", "f")
	resp, err := o.resources.Undo(t.Context(), &adminv1.UndoRequest{})
	if err != nil || resp.GetResult().GetPlan().GetDeleted() != 6 {
		t.Fatalf("undo of the newest change: %v, %v", resp, err)
	}
	publish("a", "b", "c", "d", "e", "f")
	publish("g")
	first, err := o.resources.History(t.Context(), &adminv1.HistoryRequest{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.resources.Undo(t.Context(), &adminv1.UndoRequest{Seq: first.GetEntries()[1].GetSeq()})
	wantCode(t, err, fault.CodeLargeRemoval)
}
