package hub_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
)

func scopedCluster(name, region, address string) []byte {
	return []byte(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"` + name + `"},"scope":{"nodeLabels":{"region":"` + region + `"}},"spec":{"endpoints":[{"address":"` + address + `"}]}}`)
}

func zonedCluster(name, zone, address string) []byte {
	return []byte(strings.Replace(string(scopedCluster(name, zone, address)), `"region"`, `"zone"`, 1))
}

// The view that the node moves to was last published before what the node has:
// without a newer version of it the node would have to wait for the next change.
func TestANodeThatMovesToAnOlderViewIsGivenItAtANewerVersion(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	zoned := (&agentHost{h}).start(t, "node-zoned", map[string]string{"region": "us", "zone": "a"})
	plain := (&agentHost{h}).start(t, "node-plain", map[string]string{"region": "us"})
	first := o.apply(t, scopedCluster("us", "us", "10.0.0.2:80"), zonedCluster("zone-a", "a", "10.0.0.1:80"), cluster("all", "10.0.0.3:80")).GetSeq()
	zoned.await(first)
	plain.await(first)
	second := o.apply(t, zonedCluster("zone-a", "a", "10.0.0.9:80")).GetSeq()
	zoned.await(second) // and the view without the zone stays at first
	// No scope names the zone any more: both nodes are of one view.
	third, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Deletes: []*adminv1.Key{{Kind: "Cluster", Name: "zone-a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if m := zoned.await(third.GetSeq()); m.GetCount() != 2 {
		t.Errorf("the node holds %d resources, want 2", m.GetCount())
	}
}

// The same for a node that was not connected when it moved; what happens in the log
// meanwhile changes nothing.
func TestANodeThatComesBackToAnOlderViewIsGivenItAtANewerVersion(t *testing.T) {
	for _, quiet := range []bool{true, false} {
		t.Run(fmt.Sprint("quiet=", quiet), func(t *testing.T) {
			h := hubtest.NewDomain(t).Start(t)
			o := operate(t, h)
			eu := (&agentHost{h}).start(t, "node-eu", map[string]string{"region": "eu"})
			us := (&agentHost{h}).start(t, "node-us", map[string]string{"region": "us"})
			first := o.apply(t, scopedCluster("only-eu", "eu", "10.0.0.1:80"), scopedCluster("only-us", "us", "10.0.0.2:80"), scopedCluster("also-us", "us", "10.0.0.2:81")).GetSeq()
			eu.await(first)
			us.await(first)
			second := o.apply(t, scopedCluster("only-eu", "eu", "10.0.0.9:80")).GetSeq()
			eu.await(second) // and the view of region us stays at first
			// A node that has seen the second version on another hub, say, and is of the
			// region whose view stands at the first.
			source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: map[string]string{"region": "us"}}), "node-moved")
			if !quiet {
				h.Token(t, &adminv1.CreateTokenRequest{})
			}
			moved := (&agentHost{h}).connect(t, "node-moved", source, func(a *agent) {
				eu.mu.Lock()
				defer eu.mu.Unlock()
				a.active, a.content = eu.active, eu.content
			})
			if m := moved.await(second); m.GetCount() != 2 {
				t.Errorf("the node holds %d resources of region us, want 2", m.GetCount())
			}
		})
	}
}

// A scope with a key of its own gives every node another view, also those whose
// content stays what it is: they are sent nothing, and nobody waits for them.
func TestWaitingEndsThoughANodeMovesToAViewOfTheSameContent(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	us := (&agentHost{h}).start(t, "node-us", map[string]string{"region": "us"})
	first := o.apply(t, mesh()...).GetSeq()
	us.await(first)
	o.propagated(t, first) // the hub has its ack too
	seq := o.apply(t, scopedCluster("only-eu", "eu", "10.0.0.1:80")).GetSeq()
	if p := o.propagated(t, seq); p.GetConcerned() != 0 {
		t.Errorf("%v, want no node concerned", p)
	}
}

// propagated waits until a version is everywhere.
func (o operator) propagated(t *testing.T, version uint64) *adminv1.WatchPropagationResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	stream, err := o.fleet.WatchPropagation(ctx, &adminv1.WatchPropagationRequest{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	var last *adminv1.WatchPropagationResponse
	for !last.GetDone() {
		p, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", last, err)
		}
		last = p
	}
	return last
}

func TestWaitingRightAfterARestartWaitsForTheNodesThatComeBack(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h = d.Start(t)
	o := operate(t, h)
	seq := o.apply(t, mesh()...).GetSeq()
	stream, err := o.fleet.WatchPropagation(t.Context(), &adminv1.WatchPropagationRequest{Version: seq})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetDone() || first.GetDisconnected() != 1 {
		t.Fatalf("with no node back: %v (%v)", first, err)
	}
	a := (&agentHost{h}).connect(t, "node-a", source)
	a.await(seq)
	if p := o.propagated(t, seq); p.GetConcerned() != 1 || p.GetAcked() != 1 {
		t.Errorf("%v, want the node that came back counted", p)
	}
}

// What a node holds was published by the hub before it was started again: the hub
// computes it from the past that the log keeps.
func TestAHubThatWasStartedAgainSendsDeltasToNodesThatMissedChanges(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: map[string]string{"region": "us"}}), "node-us")
	before := (&agentHost{h}).connect(t, "node-us", source)
	docs := mesh()
	for i := range 20 {
		docs = append(docs, cluster(fmt.Sprint("more-", i), "10.0.1.1:80"))
	}
	before.await(o.apply(t, append(docs, scopedCluster("only-us", "us", "10.0.0.3:80"))...).GetSeq())
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h = d.Start(t)
	o = operate(t, h)
	o.apply(t, checkout(80, 20), cluster("new", "10.0.0.7:80"))
	o.apply(t, checkout(70, 30), scopedCluster("only-us", "us", "10.0.0.4:80"))
	last, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Deletes: []*adminv1.Key{{Kind: "Cluster", Name: "more-7"}}}})
	if err != nil {
		t.Fatal(err)
	}
	after := (&agentHost{h}).connect(t, "node-us", source, func(a *agent) {
		before.mu.Lock()
		defer before.mu.Unlock()
		a.active, a.content = before.active, before.content
	})
	if m := after.await(last.GetSeq()); m.GetCount() != 24 {
		t.Errorf("the node holds %d resources, want 24", m.GetCount())
	}
	if after.snapshots > 0 {
		t.Error("the node was sent a snapshot where a delta could serve")
	}
}

// Whom a change touches is known by groups of nodes, which outlive a change: not a node
// that joins, a scope by another label, or a node that says what it can do.
func TestAPlanCountsTheNodesThatThereAre(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	check := func(what string, doc []byte, touched, total uint64) {
		t.Helper()
		plan, err := o.resources.Plan(t.Context(), &adminv1.PlanRequest{Change: &adminv1.Change{Resources: [][]byte{doc}}})
		if err != nil {
			t.Fatal(err)
		}
		if plan.GetAgentsTouched() != touched || plan.GetAgentsTotal() != total {
			t.Errorf("%s: the plan touches %d of %d agents, want %d of %d", what, plan.GetAgentsTouched(), plan.GetAgentsTotal(), touched, total)
		}
	}
	join := func(node string, labels map[string]string) *mtls.Source {
		source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: labels}), node)
		return source
	}
	eu, zoned := scopedCluster("eu", "eu", "10.0.0.1:80"), zonedCluster("zoned", "z", "10.0.0.1:80")
	join("a", map[string]string{"region": "eu"})
	check("one node", eu, 1, 1)
	join("b", map[string]string{"region": "eu", "zone": "z"})
	check("another joined", eu, 2, 2)
	check("a scope by another label", zoned, 1, 2)
	join("c", map[string]string{"region": "us", "zone": "z"})
	check("a third joined", zoned, 2, 3)
	check("a scope by the first label again", eu, 2, 3)

	d := join("d", map[string]string{"region": "us"})
	check("before the fourth connected", cluster("all", "10.0.0.3:80"), 4, 4)
	stream, err := controlv1.NewControlServiceClient(h.Dial(t, d)).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "d", Protocols: []string{distribution.Protocol}, Capabilities: []string{"other/v1"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // it is accepted
		t.Fatal(err)
	}
	check("the fourth cannot take anything", cluster("all", "10.0.0.3:80"), 3, 4)
}
