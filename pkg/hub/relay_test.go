package hub_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	leaders "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/omnirelay/omnirelaytest"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
)

// relayNode is a joined node that runs OmniRelay.
type relayNode struct {
	source  *mtls.Source
	anchors *trust.Anchors
	conn    *grpc.ClientConn
}

func joinRelay(t testing.TB, h *hubtest.Running, node string, labels map[string]string) relayNode {
	t.Helper()
	source, resp := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: labels}), node)
	anchors, err := trust.Join(hubtest.Name, resp.GetTrust(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return relayNode{source, anchors, h.Dial(t, source)}
}

func (n relayNode) client(t testing.TB, node string) *omnirelaytest.Client {
	t.Helper()
	c := omnirelaytest.New(t, n.conn, node, n.anchors)
	c.Capabilities = view.Known()
	return c
}

func TestAnOmniRelayClientFollowsItsHubAndResumes(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	o.apply(t, mesh()...)
	c := n.client(t, "node-a")
	c.Start()
	first := c.Applied()
	if first.Bundle.Domain != hubtest.Name || first.Bundle.Content.Len() != 3 || first.Response.GetVersion() != fmt.Sprint(first.Bundle.Version) || first.Response.GetEpoch() != int64(first.Bundle.Epoch) {
		t.Errorf("the first bundle has %d resources at %s, epoch %d", first.Bundle.Content.Len(), first.Response.GetVersion(), first.Response.GetEpoch())
	}
	seq := o.apply(t, checkout(80, 20)).GetSeq()
	e := c.Applied()
	leaf, _ := e.Bundle.Content.Get("Route/default/checkout")
	if e.Bundle.Version != seq || e.Bundle.Content.Len() != 3 || !strings.Contains(string(leaf.Content), `"weight":80`) {
		t.Errorf("after the change the bundle is version %d with %d resources", e.Bundle.Version, e.Bundle.Content.Len())
	}
	c.Stop()
	c.Start()
	c.Applied() // its own file
	seq = o.apply(t, checkout(70, 30)).GetSeq()
	if e := c.Applied(); e.Bundle.Version != seq {
		t.Errorf("a resumed client was sent version %d, want only the change, %d", e.Bundle.Version, seq)
	}
}

// The view is that of the node's labels and capabilities: nothing that the client cannot
// honour is in it.
func TestAnOmniRelayClientGetsItsOwnView(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	o.apply(t, cluster("payments-v1", "10.0.0.1:80"), cluster("payments-v2", "10.0.0.2:80"), []byte(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"checkout"},
		"spec":{"service":"checkout","rules":[{"name":"all","clusters":[{"name":"payments-v1","weight":100}],"mirror":{"cluster":"payments-v2","percent":10}}]}}`))
	for _, c := range []struct {
		capabilities []string
		mirrors      bool
	}{{[]string{"core/v1"}, false}, {[]string{"core/v1", "mirror/v1", "native/v1"}, true}} {
		m, err := relay.NewControlPlaneWatchClient(n.conn).Snapshot(t.Context(), &relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: c.capabilities}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Open(m.GetPayload(), n.anchors, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		leaf, _ := b.Content.Get("Route/default/checkout")
		if has := strings.Contains(string(leaf.Content), "mirror"); has != c.mirrors || slices.Contains(m.GetRequiredCapabilities(), "mirror/v1") != c.mirrors {
			t.Errorf("with %q: the route is %s, required %q", c.capabilities, leaf.Content, m.GetRequiredCapabilities())
		}
	}
	bare := n.client(t, "")
	bare.Capabilities = []string{"dsl/v1"}
	bare.Start()
	if e := bare.Next(); e.Refused.GetError().GetCode() != "unsupported_capability" || !slices.Contains(e.Refused.GetRequiredCapabilities(), "core/v1") || e.Wait < time.Second {
		t.Errorf("without core/v1: %+v", e)
	}
}

func TestWhoMayWatch(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	joinRelay(t, h, "node-b", nil)
	watch := func(conn *grpc.ClientConn, node string) error {
		s, err := relay.NewControlPlaneWatchClient(conn).Watch(t.Context(), &relay.ControlWatchRequest{NodeId: node, Capabilities: &relay.CapabilitySet{Items: []string{"core/v1"}}})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	if err := watch(n.conn, ""); err != nil {
		t.Errorf("a node without saying its name: %v", err)
	}
	wantCode(t, watch(n.conn, "node-b"), fault.CodeHelloNode)
	wantCode(t, watch(h.Operator(t), "node-a"), fault.CodeNotPermitted)
	if err := watch(h.Dial(t, nil), "node-a"); err == nil {
		t.Error("a stranger may watch")
	}
	// A node that is forgotten loses the stream that it has.
	s, err := relay.NewControlPlaneWatchClient(n.conn).Watch(t.Context(), &relay.ControlWatchRequest{Capabilities: &relay.CapabilitySet{Items: []string{"core/v1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	wantCode(t, err, fault.CodeNodeForgotten)
	wantCode(t, watch(n.conn, ""), fault.CodeNodeForgotten)
	// And so does a certificate of the node that it did not join with.
	wantCode(t, watch(h.Dial(t, h.Domain.Source(t, identity.Node, "node-b")), ""), fault.CodeNodeForgotten)
}

// The control stream of the same node goes on undisturbed, and so do its reports.
func TestAWatchLeavesTheNodesAgentAlone(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", map[string]string{"region": "eu"})
	a := (&agentHost{h}).connect(t, "node-a", n.source)
	a.await(1)
	c := n.client(t, "node-a")
	c.Start()
	c.Applied()
	seq := o.apply(t, mesh()...).GetSeq()
	a.await(seq)
	c.Applied()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := o.fleet.WatchPropagation(ctx, &adminv1.WatchPropagationRequest{Version: seq})
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p.GetDone() {
			if p.GetConcerned() != 1 || p.GetAcked() != 1 {
				t.Errorf("the client that never acks counts as one that should: %v", p)
			}
			break
		}
	}
}

// A node that runs many data planes still has its agent connected, however they came.
func TestWatchesLeaveTheNodesAgentItsPlaces(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	watch := func() (*relay.ControlWatchResponse, error) {
		s, err := relay.NewControlPlaneWatchClient(h.Dial(t, n.source)).Watch(t.Context(), &relay.ControlWatchRequest{Capabilities: &relay.CapabilitySet{Items: []string{"core/v1"}}})
		if err != nil {
			t.Fatal(err)
		}
		return s.Recv()
	}
	var own *agent
	for i := range 16 {
		if i == 4 { // as many as the node may have control streams
			own = (&agentHost{h}).connect(t, "node-a", n.source)
			own.await(1)
		}
		if m, err := watch(); err != nil || m.GetError() != nil {
			t.Fatalf("watch %d of the node: %v, %v", i+1, m, err)
		}
	}
	if m, err := watch(); m.GetError().GetCode() != "not_admitted" || m.GetBackoff().GetMillis() < 1 {
		t.Errorf("one more than a node may have: %v, %v", m, err)
	}
	own.await(o.apply(t, mesh()...).GetSeq())
}

// Each rotation is a keyset more, and then one that drops the old key: whatever the
// moment, what a client is sent verifies.
func TestAnOmniRelayClientFollowsKeyRotations(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	o.apply(t, mesh()...)
	c := n.client(t, "node-a")
	c.Start()
	c.Applied()
	for range 5 {
		rotated, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for e := c.Applied(); ; e = c.Applied() {
			if e.Bundle.Trust.KeysetVersion() == rotated.GetKeysetVersion() && e.Bundle.Signer.KeyID == rotated.GetNewKeyId() {
				break
			}
		}
	}
}

// A hub that stops says for how long to stay away; the client comes back to it with what
// it has.
func TestAnOmniRelayClientSurvivesARestartOfItsHub(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	seq := o.apply(t, mesh()...).GetSeq()
	c := n.client(t, "node-a")
	c.Sleep = func(ctx context.Context, _ time.Duration) { <-ctx.Done() }
	c.Start()
	c.Applied()
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if e := c.Next(); e.Refused.GetError().GetCode() != "hub_draining" || e.Refused.GetBackoff().GetMillis() < 1 || len(e.Refused.GetPayload()) > 0 {
		t.Errorf("when its hub stopped the client met %+v", e)
	}
	c.Stop()

	h = d.Start(t)
	n.conn = h.Dial(t, n.source)
	c2 := n.client(t, "node-a")
	data, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c2.File, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c2.Start()
	if e := c2.Applied(); e.Response != nil || e.Bundle.Version != seq {
		t.Errorf("it began with %+v", e)
	}
	next := operate(t, h).apply(t, checkout(50, 50)).GetSeq()
	if e := c2.Applied(); e.Bundle.Version != next {
		t.Errorf("the new run of the hub sent version %d, want only the change, %d", e.Bundle.Version, next)
	}
}

func subscribe(t testing.TB, conn *grpc.ClientConn, scope string) leaders.LeadershipControlService_SubscribeClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	s, err := leaders.NewLeadershipControlServiceClient(conn).Subscribe(ctx, &leaders.LeadershipSubscribeRequest{Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until receives events until one is of the kind; renewals may come in between.
func until(t testing.TB, s leaders.LeadershipControlService_SubscribeClient, kind leaders.LeadershipEventKind) *leaders.LeadershipEvent {
	t.Helper()
	for {
		e, err := s.Recv()
		if err != nil {
			t.Fatalf("waiting for %s: %v", kind, err)
		}
		if e.GetKind() == kind {
			return e
		}
	}
}

func TestAForgottenNodeIsToldOfNoMoreLeaders(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	n := joinRelay(t, h, "node-a", nil)
	s := subscribe(t, n.conn, "")
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}); err != nil {
		t.Fatal(err)
	}
	d.Store.Expire() // something to tell of
	var err error
	for err == nil {
		var e *leaders.LeadershipEvent
		if e, err = s.Recv(); e.GetKind() == leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED {
			t.Fatalf("the forgotten node is told of %v", e)
		}
	}
	wantCode(t, err, fault.CodeNodeForgotten)
}

func TestLeadershipIsToldToNodesAndOperators(t *testing.T) {
	d := hubtest.NewDomain(t)
	h1 := d.Start(t)
	n := joinRelay(t, h1, "node-a", nil)
	for _, conn := range []*grpc.ClientConn{h1.Operator(t), n.conn} {
		for _, scope := range []string{"", hubtest.Name} {
			s := subscribe(t, conn, scope)
			e := until(t, s, leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT)
			k := e.GetToken()
			if e.GetScope() != hubtest.Name || e.GetLeaderId() != hubtest.HubName || k.GetLeaderId() != hubtest.HubName || k.GetScope() != hubtest.Name || k.GetScopeKind() != "domain" {
				t.Errorf("the snapshot is %v", e)
			}
			if k.GetTerm() < 1 || k.GetFenceToken() != k.GetTerm() || !k.GetExpiresAt().AsTime().After(k.GetIssuedAt().AsTime()) || e.GetCorrelationId() == "" || !e.GetOccurredAt().IsValid() {
				t.Errorf("its token is %v", k)
			}
		}
	}
	_, err := subscribe(t, n.conn, "us-east").Recv()
	wantCode(t, err, fault.CodeNoSuchScope)
	if _, err := subscribe(t, h1.Dial(t, nil), "").Recv(); err == nil || err == io.EOF {
		t.Errorf("a stranger's subscription: %v", err)
	}

	// A second hub of the domain sees the first lead, give it up, and then leads itself.
	h2 := h1.Follower(t, "hub2")
	s := subscribe(t, h2.Operator(t), "")
	first, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if first.GetLeaderId() != hubtest.HubName || first.GetKind() != leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT && first.GetKind() != leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED {
		t.Errorf("the second hub first tells %v", first)
	}
	if err := h1.Stop(); err != nil {
		t.Fatal(err)
	}
	elected := until(t, s, leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED)
	if elected.GetLeaderId() != "hub2" || elected.GetToken().GetFenceToken() <= first.GetToken().GetFenceToken() {
		t.Errorf("after the first hub stopped: %v, want hub2 under a higher term than %d", elected, first.GetToken().GetTerm())
	}
	// Its lease ends as if it had been silent for too long, and it is elected again.
	d.Store.Expire()
	lost := until(t, s, leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST)
	if lost.GetToken().GetTerm() != elected.GetToken().GetTerm() || lost.GetReason() == "" || lost.GetToken().GetExpiresAt().AsTime().After(lost.GetOccurredAt().AsTime()) {
		t.Errorf("when the store took the lease away: %v", lost)
	}
	if again := until(t, s, leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED); again.GetToken().GetTerm() <= elected.GetToken().GetTerm() {
		t.Errorf("elected again under term %d, not above %d", again.GetToken().GetTerm(), elected.GetToken().GetTerm())
	}
	if err := h2.Stop(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Recv()
	}
	wantCode(t, err, fault.CodeDraining)
}
