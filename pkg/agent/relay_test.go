package agent_test

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	agentlocal "github.com/meshkit/meshkit/pkg/agent/local"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/omnirelay/omnirelaytest"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// onSocket connects to an agent's socket.
func onSocket(t testing.TB, a *running) *grpc.ClientConn {
	t.Helper()
	conn, err := agentlocal.Dial(t.Context(), a.endpoints.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// onPort connects to an agent's port with a node's certificate.
func onPort(t testing.TB, h *testHub, a *running, node string) *grpc.ClientConn {
	t.Helper()
	creds := credentials.NewTLS(mtls.ClientConfig(h.ca.source(identity.Node, node), func(identity.ID) error { return nil }))
	conn, err := grpc.NewClient(a.endpoints.Listen, append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pinned is the trust of a data plane that begins.
func (h *testHub) pinned() *trust.Anchors {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.anchors
}

func TestOmniRelayIsServedWithEveryHubGone(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1, "b": 2}))
	h.awaitAck(1, true)
	c := omnirelaytest.New(t, onSocket(t, a), "proxy-7", h.pinned()) // on the socket a name is a name
	c.Start()
	if e := c.Applied(); e.Bundle.Version != 1 || e.Bundle.Content.Len() != 2 {
		t.Errorf("the agent serves version %d with %d resources", e.Bundle.Version, e.Bundle.Content.Len())
	}
	h.publish(2, content(map[string]int{"a": 1, "b": 3}))
	h.awaitAck(2, true)
	if e := c.Applied(); e.Bundle.Version != 2 {
		t.Errorf("after a change it serves version %d", e.Bundle.Version)
	}
	c.Stop()
	h.stop()
	a.stop()

	a = start(t, cfg)
	again := omnirelaytest.New(t, onSocket(t, a), "proxy-7", h.pinned())
	data, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(again.File, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again.Start()
	if e := again.Applied(); e.Response != nil || e.Bundle.Version != 2 {
		t.Errorf("the client began with %+v", e)
	}
	for name, conn := range map[string]*grpc.ClientConn{"socket": onSocket(t, a), "port": onPort(t, h, a, "n1")} {
		fresh := omnirelaytest.New(t, conn, "n1", h.pinned())
		fresh.Start()
		if e := fresh.Applied(); e.Bundle.Version != 2 || e.Bundle.Content.Len() != 2 {
			t.Errorf("a new client on the %s gets version %d", name, e.Bundle.Version)
		}
	}
	// The hub is back: what the resumed client is sent first is the change.
	h.start()
	h.publish(3, content(map[string]int{"a": 1, "b": 4}))
	if e := again.Applied(); e.Bundle.Version != 3 {
		t.Errorf("the resumed client was sent version %d", e.Bundle.Version)
	}
}

func TestOmniRelayOnThePortIsForThisNode(t *testing.T) {
	h := newHub(t)
	a := start(t, joined(t, h, "n1"))
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	for _, c := range []struct {
		certificate, node string
		want              fault.Code
	}{{"n1", "n2", fault.CodeHelloNode}, {"n2", "n2", fault.CodeDenied}, {"n2", "", fault.CodeDenied}} {
		conn := onPort(t, h, a, c.certificate)
		s, err := relay.NewControlPlaneWatchClient(conn).Watch(t.Context(), &relay.ControlWatchRequest{NodeId: c.node, Capabilities: &relay.CapabilitySet{Items: []string{"core/v1"}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); fault.CodeOf(err) != c.want || fault.KindOf(err) != fault.Denied {
			t.Errorf("node_id %q with the certificate of %s: %v", c.node, c.certificate, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	leaders, err := mesh.NewLeadershipControlServiceClient(onPort(t, h, a, "n2")).Subscribe(ctx, &mesh.LeadershipSubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaders.Recv(); fault.CodeOf(err) != fault.CodeDenied {
		t.Errorf("a leadership subscription with another node's certificate: %v", err)
	}
}

// An operator takes the node back by hand; its OmniRelay comes along, and back again.
func TestOmniRelayFollowsItsAgentBack(t *testing.T) {
	h := newHub(t)
	a := start(t, joined(t, h, "n1"))
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	h.publish(2, content(map[string]int{"a": 2}))
	h.awaitAck(2, true)
	conn := onSocket(t, a)
	c := omnirelaytest.New(t, conn, "n1", h.pinned())
	c.Start()
	c.Applied()
	if _, err := agentlocal.NewClient(conn).Revert(t.Context(), &agentv1.RevertRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if e := c.Applied(); e.Bundle.Version != 1 {
		t.Errorf("after the revert the client has version %d", e.Bundle.Version)
	}
	if _, err := agentlocal.NewClient(conn).Unpin(t.Context(), &agentv1.UnpinRequest{}); err != nil {
		t.Fatal(err)
	}
	h.publish(3, content(map[string]int{"a": 3}))
	if e := c.Applied(); e.Bundle.Version != 3 && e.Bundle.Version != 2 {
		t.Errorf("after the unpin the client has version %d", e.Bundle.Version)
	}
}

// The agent has what its own build can do; a client that can do less is not sent it.
func TestAnAgentDoesNotSendWhatItsClientCannotDo(t *testing.T) {
	h := newHub(t)
	a := start(t, joined(t, h, "n1"))
	v := content(map[string]int{"a": 1})
	env := h.signed(h.signer, 1, v, func(m *trustv1.Manifest) { m.RequiredCapabilities = []string{"core/v1", "mirror/v1"} })
	if err := h.feed.Publish(feed.Version{Epoch: 1, Version: 1, View: "view-1", Trie: v, Manifest: env, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	h.awaitAck(1, true)
	c := omnirelaytest.New(t, onSocket(t, a), "n1", h.pinned())
	c.Sleep = func(ctx context.Context, _ time.Duration) { <-ctx.Done() }
	c.Start()
	e := c.Next()
	if e.Refused.GetError().GetCode() != "unsupported_capability" || !slices.Equal(e.Refused.GetRequiredCapabilities(), []string{"core/v1", "mirror/v1"}) || len(e.Refused.GetPayload()) > 0 {
		t.Errorf("a client without mirror/v1 met %+v", e)
	}
	if !strings.Contains(e.Refused.GetError().GetMessage(), "mirror/v1") || e.Wait < time.Second {
		t.Errorf("it is told %q and to wait for %s", e.Refused.GetError().GetMessage(), e.Wait)
	}
	able := omnirelaytest.New(t, onSocket(t, a), "n1", h.pinned())
	able.Capabilities = []string{"core/v1", "mirror/v1"}
	able.Start()
	able.Applied()
}

// The hub's key is replaced while the content stays: the manifest's key is not in the
// keyset any more, and the next freshness statement stands in for it.
func TestOmniRelayGetsProofAfterTheHubsKeyIsReplaced(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	v := content(map[string]int{"a": 1})
	h.publish(1, v)
	h.awaitAck(1, true)
	begin := h.pinned()
	c := omnirelaytest.New(t, onSocket(t, a), "n1", begin)
	c.Start()
	c.Applied()
	h.rotate()
	h.confirm(1, v)
	if e := c.Applied(); e.Bundle.Trust.KeysetVersion() != 2 || e.Bundle.Signer.KeyID != h.signer.KeyID() || e.Bundle.Version != 1 {
		t.Errorf("the client has keyset %d, vouched for by %v", e.Bundle.Trust.KeysetVersion(), e.Bundle.Signer)
	}
	c.Stop()
	h.stop()
	a.stop()
	a = start(t, cfg) // from disk
	m, err := relay.NewControlPlaneWatchClient(onSocket(t, a)).Snapshot(t.Context(), &relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: []string{"core/v1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bundle.Open(m.GetPayload(), begin, time.Now()); err != nil || b.Version != 1 || b.Signer.KeyID != h.signer.KeyID() {
		t.Errorf("after a restart: %v", err)
	}
}

// The hub is lost between the keyset that drops its key and its next word.
func TestOmniRelayIsServedAfterARotationThatNoHubVouchedAfter(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	begin := h.pinned()
	c := omnirelaytest.New(t, onSocket(t, a), "n1", begin)
	c.Start()
	c.Applied()
	h.rotate()
	for deadline := time.Now().Add(patience); a.Status().GetKeysetVersion() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent does not have the next keyset")
		}
	}
	c.Stop()
	h.stop()
	a.stop()
	a = start(t, cfg)
	fresh := omnirelaytest.New(t, onSocket(t, a), "n1", begin)
	fresh.Start()
	if e := fresh.Applied(); e.Bundle.Version != 1 || e.Bundle.Trust.KeysetVersion() != 1 {
		t.Errorf("a client that has nothing gets version %d under keyset %d", e.Bundle.Version, e.Bundle.Trust.KeysetVersion())
	}
	// It is sent that once, and the next word of a hub.
	h.start()
	h.confirm(1, content(map[string]int{"a": 1}))
	if e := fresh.Applied(); e.Bundle.Version != 1 || e.Bundle.Trust.KeysetVersion() != 2 {
		t.Errorf("then it is sent version %d under keyset %d", e.Bundle.Version, e.Bundle.Trust.KeysetVersion())
	}
}

// An agent knows of the leader what its hub says, and only while it has one.
func TestAnAgentTellsOfTheLeaderWhatItsHubSays(t *testing.T) {
	h := newHub(t)
	h.accepted = proto.CloneOf(h.accepted)
	h.accepted.Leader = &controlv1.Leader{Hub: "hub2", Term: 7}
	a := start(t, joined(t, h, "n1"))
	present := content(map[string]int{"a": 1})
	h.publish(1, present)
	h.awaitAck(1, true)
	client := mesh.NewLeadershipControlServiceClient(onSocket(t, a))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := client.Subscribe(ctx, &mesh.LeadershipSubscribeRequest{Scope: domain})
	if err != nil {
		t.Fatal(err)
	}
	next := func(kind mesh.LeadershipEventKind) *mesh.LeadershipEvent {
		t.Helper()
		e, err := s.Recv()
		if err != nil || e.GetKind() != kind {
			t.Fatalf("event %v, %v; want %s", e, err, kind)
		}
		return e
	}
	e := next(mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT)
	if k := e.GetToken(); k.GetLeaderId() != "hub2" || k.GetTerm() != 7 || k.GetFenceToken() != 7 || k.GetScope() != domain || k.GetScopeKind() != "domain" || k.GetLabels()["meshkit.dev/observed-via"] != "hub1" {
		t.Errorf("the token is %v", k)
	}
	// It says for how long to believe it, and what the hub confirms goes on.
	const believed = 30 * time.Second // three times the interval at which the hub confirms
	expires := func(e *mesh.LeadershipEvent) time.Time {
		t.Helper()
		at := e.GetToken().GetExpiresAt()
		if left := time.Until(at.AsTime()); at == nil || left <= 0 || left > believed {
			t.Errorf("the token of %s expires at %v", e.GetKind(), at)
		}
		return at.AsTime()
	}
	before := expires(e)
	h.confirm(1, present)
	if e := next(mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED); !expires(e).After(before) || e.GetToken().GetTerm() != 7 {
		t.Errorf("after a confirmation: %v", e)
	}
	h.say(func(acc *controlv1.Accepted) { acc.Leader = &controlv1.Leader{Hub: "hub1", Term: 8} })
	if e := next(mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED); e.GetLeaderId() != "hub1" || e.GetToken().GetFenceToken() != 8 || !expires(e).After(before) {
		t.Errorf("after a new term: %v", e)
	}
	h.say(func(acc *controlv1.Accepted) { // one that lags
		acc.Leader = &controlv1.Leader{Hub: "hub2", Term: 7}
		acc.Downlevels = []*controlv1.Downlevel{{Reason: "told"}}
	})
	for deadline := time.Now().Add(patience); len(a.Status().GetDownlevels()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent was not told")
		}
	}
	h.say(func(acc *controlv1.Accepted) { acc.Leader = &controlv1.Leader{Hub: "hub1", Term: 8} })
	if e := next(mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED); e.GetToken().GetTerm() != 8 {
		t.Errorf("said again: %v", e)
	}
	h.stop()
	e = next(mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED)
	if e.GetToken().GetTerm() != 8 || e.GetReason() == "" || !proto.Equal(e.GetToken().GetExpiresAt(), e.GetOccurredAt()) {
		t.Errorf("without a hub: %v", e)
	}
	unknown, err := client.Subscribe(t.Context(), &mesh.LeadershipSubscribeRequest{Scope: "us-east"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unknown.Recv(); fault.CodeOf(err) != fault.CodeNoSuchScope || fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), domain) {
		t.Errorf("an unknown scope: %v", err)
	}
	a.stop()
	if _, err := s.Recv(); err == nil || err == io.EOF {
		t.Errorf("when the agent stops the subscription ends with %v", err)
	}
}

// say changes what the hub tells of itself.
func (h *testHub) say(change func(*controlv1.Accepted)) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accepted = proto.CloneOf(h.accepted)
	change(h.accepted)
	for _, wake := range h.wakes {
		wake()
	}
}
