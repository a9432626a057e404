package agent_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// rawControl is a hub's control service that sends whatever a test says.
type rawControl struct {
	controlv1.UnimplementedControlServiceServer
	hub      *testHub
	accepted *controlv1.Accepted
	out      chan *controlv1.StreamResponse
	hellos   chan *controlv1.Hello
	statuses chan *controlv1.Status
}

// newHostileHub is a hub with a good certificate that does as it likes.
func newHostileHub(t *testing.T) (*testHub, *rawControl) {
	t.Helper()
	h := newHub(t)
	h.stop()
	r := &rawControl{
		hub: h, accepted: &controlv1.Accepted{Protocol: "v1", Hub: "hub1", Domain: domain, View: "view-1", FreshnessInterval: durationpb.New(10 * time.Second)},
		out: make(chan *controlv1.StreamResponse), hellos: make(chan *controlv1.Hello, 100), statuses: make(chan *controlv1.Status, 1000),
	}
	h.control = r
	h.start()
	return h, r
}

// Stream implements controlv1.ControlServiceServer.
func (r *rawControl) Stream(g grpc.BidiStreamingServer[controlv1.StreamRequest, controlv1.StreamResponse]) error {
	m, err := g.Recv()
	if err != nil {
		return err
	}
	if err := g.Send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Accepted{Accepted: r.accepted}}); err != nil {
		return err
	}
	r.hellos <- m.GetHello()
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := g.Recv()
			switch {
			case err != nil:
				ended <- err
				return
			case m.GetAck() != nil:
				r.hub.acks <- m.GetAck()
			case m.GetNack() != nil:
				r.hub.nacks <- m.GetNack()
			case m.GetStatus() != nil:
				r.statuses <- m.GetStatus()
			}
		}
	}()
	for {
		select {
		case m := <-r.out:
			if err := g.Send(m); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-g.Context().Done():
			return g.Context().Err()
		}
	}
}

func (r *rawControl) send(m *controlv1.StreamResponse) {
	r.hub.t.Helper()
	select {
	case r.out <- m:
	case <-time.After(patience):
		r.hub.t.Fatal("no stream takes the message")
	}
}

func (r *rawControl) update(env *trustv1.Envelope, t *digest.Trie) {
	r.hub.t.Helper()
	u := &controlv1.Update{Manifest: env, Chunks: 1}
	for l := range t.All() {
		u.Upserts = append(u.Upserts, &controlv1.Resource{Key: l.Key, Content: l.Content})
	}
	r.send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Update{Update: u}})
}

func (r *rawControl) trust(m *trustv1.Metadata) {
	r.hub.t.Helper()
	r.send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Trust{Trust: m}})
}

func (r *rawControl) freshness(version uint64, t *digest.Trie) {
	r.hub.t.Helper()
	env, err := trust.SignFreshness(context.Background(), r.hub.signer, &trustv1.Freshness{
		Domain: domain, View: "view-1", Epoch: 1, Version: version, Digest: t.Root().Bytes(), IssuedAt: timestamppb.Now(), KeysetVersion: r.hub.anchors.KeysetVersion(),
	})
	if err != nil {
		r.hub.t.Fatal(err)
	}
	r.send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Freshness{Freshness: env}})
}

func (r *rawControl) awaitHello() *controlv1.Hello {
	r.hub.t.Helper()
	select {
	case h := <-r.hellos:
		return h
	case <-time.After(patience):
		r.hub.t.Fatal("no hello")
		return nil
	}
}

// signed is a manifest of version with content t, changed by edit, under s.
func (h *testHub) signed(s *sign.Signer, version uint64, t *digest.Trie, edit func(*trustv1.Manifest)) *trustv1.Envelope {
	h.t.Helper()
	m := &trustv1.Manifest{
		Domain: domain, View: "view-1", Epoch: 1, Version: version, Digest: t.Root().Bytes(), Count: uint64(t.Len()), TotalBytes: uint64(t.Bytes()),
		IssuedAt: timestamppb.Now(), KeysetVersion: h.anchors.KeysetVersion(),
	}
	if edit != nil {
		edit(m)
	}
	env, err := trust.SignManifest(context.Background(), s, m)
	if err != nil {
		h.t.Fatal(err)
	}
	return env
}

// atVersionTwo is an agent that has version 2 and was given version 1 before.
func atVersionTwo(t *testing.T) (*testHub, *rawControl, agent.Config, *running) {
	t.Helper()
	h, r := newHostileHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	r.awaitHello()
	for v := uint64(1); v <= 2; v++ {
		c := content(map[string]int{"a": int(v)})
		r.update(h.signed(h.signer, v, c, nil), c)
		h.awaitAck(v, true)
	}
	return h, r, cfg, a
}

// wantVersion checks that the agent has a version, and still has it after a restart
// that no hub helps with.
func wantVersion(t *testing.T, h *testHub, cfg agent.Config, a *running, version uint64) {
	t.Helper()
	for _, when := range []string{"running", "restarted"} {
		if rep := a.Report(); rep.Active.Version != version || rep.Durable.Highest.Version != version {
			t.Fatalf("%s: version %d is active, highest %d; want %d", when, rep.Active.Version, rep.Durable.Highest.Version, version)
		}
		if b := readBundle(t, cfg); b.Version != version {
			t.Fatalf("%s: the bundle file has version %d, want %d", when, b.Version, version)
		}
		a.stop()
		h.stop()
		if when == "running" {
			a = start(t, cfg)
		}
	}
}

func TestWhatAHostileHubSendsIsRefusedAndLastKnownGoodStays(t *testing.T) {
	v3 := content(map[string]int{"a": 3, "b": 3})
	for name, c := range map[string]struct {
		code fault.Code
		says func(*testHub) string // in the refusal
		send func(*testHub, *rawControl)
	}{
		"a key that no keyset lists": {fault.CodeUnknownKey, nil, func(h *testHub, r *rawControl) {
			r.update(h.signed(newSigner(h.t), 3, v3, nil), v3)
		}},
		"a key that was dropped": {fault.CodeDroppedKey, func(*testHub) string { return `"hub1"` }, func(h *testHub, r *rawControl) {
			old := h.signer
			h.rotate()
			r.trust(h.anchors.Metadata(1, 1))
			r.update(h.signed(old, 3, v3, nil), v3)
		}},
		"another domain": {fault.CodeForeignDomain, nil, func(h *testHub, r *rawControl) {
			r.update(h.signed(h.signer, 3, v3, func(m *trustv1.Manifest) { m.Domain = "us-east" }), v3)
		}},
		"an older version again": {fault.CodeNotNewer, nil, func(h *testHub, r *rawControl) {
			v1 := content(map[string]int{"a": 1})
			r.update(h.signed(h.signer, 1, v1, nil), v1)
		}},
		"an older epoch": {fault.CodeNotNewer, nil, func(h *testHub, r *rawControl) {
			r.update(h.signed(h.signer, 99, v3, func(m *trustv1.Manifest) { m.Epoch = 0 }), v3)
		}},
		"other content for the same version": {fault.CodeEquivocation, func(h *testHub) string { return h.signer.KeyID() }, func(h *testHub, r *rawControl) {
			r.update(h.signed(h.signer, 2, v3, nil), v3)
		}},
		"resources of two versions": {fault.CodeDigestMismatch, nil, func(h *testHub, r *rawControl) {
			r.update(h.signed(h.signer, 3, v3, nil), content(map[string]int{"a": 2, "b": 3}))
		}},
		"a resource too few": {fault.CodeCountMismatch, nil, func(h *testHub, r *rawControl) {
			r.update(h.signed(h.signer, 3, v3, nil), content(map[string]int{"a": 3}))
		}},
		"an altered manifest": {fault.CodeBadSignature, nil, func(h *testHub, r *rawControl) {
			env := h.signed(h.signer, 3, v3, nil)
			env.Payload = bytes.Replace(env.Payload, []byte("view-1"), []byte("view-2"), 1)
			r.update(env, v3)
		}},
		"a statement that contradicts": {fault.CodeEquivocation, nil, func(h *testHub, r *rawControl) { r.freshness(2, v3) }},
	} {
		t.Run(name, func(t *testing.T) {
			h, r, cfg, a := atVersionTwo(t)
			c.send(h, r)
			n := h.awaitNack(c.code)
			if c.says != nil && !strings.Contains(n.GetMessage(), c.says(h)) {
				t.Errorf("the refusal says %q, want %s in it", n.GetMessage(), c.says(h))
			}
			wantVersion(t, h, cfg, a, 2)
		})
	}
}

func TestForgedTrustMetadataIsNotTaken(t *testing.T) {
	h, r, _, a := atVersionTwo(t)
	thief := newSigner(t)
	forged, err := trust.EditKeyset(h.keyset, trust.KeysetEdit{Add: map[string][]sign.PublicKey{"evil": {thief.Public()}}}, thief)
	if err != nil {
		t.Fatal(err)
	}
	r.trust(&trustv1.Metadata{Keyset: forged})
	v3 := content(map[string]int{"a": 3})
	r.update(h.signed(thief, 3, v3, nil), v3)
	h.awaitNack(fault.CodeUnknownKey)
	if s := a.Status(); s.GetKeysetVersion() != 1 {
		t.Errorf("keyset version %d", s.GetKeysetVersion())
	}
}

// settings is content whose domain settings say when a node is stale.
func settings(t *digest.Trie) *digest.Trie {
	return t.Set("DomainSettings/default/domain", []byte(`{"apiVersion":"meshkit.dev/v1","kind":"DomainSettings","metadata":{"name":"domain","namespace":"default"},"spec":{"freshness":{"interval":"1s","staleAfter":"2s"}}}`))
}

// TestAHubCannotHideThatTheNodeIsStale promises statements once a year, which is not
// signed, and sends none, or the same one again and again.
func TestAHubCannotHideThatTheNodeIsStale(t *testing.T) {
	h, r := newHostileHub(t)
	r.accepted.FreshnessInterval = durationpb.New(365 * 24 * time.Hour)
	start(t, joined(t, h, "n1"))
	r.awaitHello()
	c := settings(content(map[string]int{"a": 1}))
	r.update(h.signed(h.signer, 1, c, nil), c)
	h.awaitAck(1, true)
	env, err := trust.SignFreshness(t.Context(), h.signer, &trustv1.Freshness{
		Domain: domain, View: "view-1", Epoch: 1, Version: 1, Digest: c.Root().Bytes(), IssuedAt: timestamppb.Now(), KeysetVersion: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		select {
		case s := <-r.statuses:
			if s.GetPhase() == controlv1.Phase_PHASE_STALE {
				return
			}
		case <-again.C:
			r.send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Freshness{Freshness: env}})
		case <-deadline:
			t.Fatal("the node never became stale")
		}
	}
}

// TestContentRefusedForTheClockIsAskedForAgain: a clock that is set right, or trust
// metadata that arrives late, makes content acceptable that a hub does not send twice
// on one stream.
func TestContentRefusedForTheClockIsAskedForAgain(t *testing.T) {
	h, r, _, _ := atVersionTwo(t)
	v3 := content(map[string]int{"a": 3})
	early := h.signed(h.signer, 3, v3, func(m *trustv1.Manifest) {
		m.IssuedAt = timestamppb.New(time.Now().Add(trust.MaxSkew + 700*time.Millisecond))
	})
	r.update(early, v3)
	h.awaitNack(fault.CodeIssuedInFuture)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for waiting := true; waiting; {
		select {
		case <-r.hellos:
			waiting = false
		case <-again.C:
			select {
			case <-r.hellos:
				waiting = false
			default:
				r.freshness(3, v3)
			}
		case <-deadline:
			t.Fatal("the node does not come back for it")
		}
	}
	r.update(early, v3)
	h.awaitAck(3, true)
}

func TestContentThatCameBeforeItsKeysIsAskedForAgain(t *testing.T) {
	h, r, _, _ := atVersionTwo(t)
	h.rotate()
	v3 := content(map[string]int{"a": 3})
	env := h.signed(h.signer, 3, v3, nil)
	r.update(env, v3)
	h.awaitNack(fault.CodeTrustBehind)
	r.trust(h.anchors.Metadata(1, 1))
	r.awaitHello()
	r.update(env, v3)
	h.awaitAck(3, true)
}

// TestLastKnownGoodOutlivesSeveralRotations drops the key of the stored content, and
// then changes the keyset again before any hub vouched for it.
func TestLastKnownGoodOutlivesSeveralRotations(t *testing.T) {
	h, r, cfg, a := atVersionTwo(t)
	for range 3 {
		at := h.anchors.KeysetVersion()
		h.rotate()
		r.trust(h.anchors.Metadata(1, at))
	}
	v3 := content(map[string]int{"a": 3})
	r.update(h.signed(newSigner(t), 3, v3, nil), v3) // answered when the rotations are taken in
	h.awaitNack(fault.CodeUnknownKey)
	wantVersion(t, h, cfg, a, 2)
}

// TestDamagedTrustMetadataDoesNotStopTheNode flips a byte of the file that all else is
// verified with.
func TestDamagedTrustMetadataDoesNotStopTheNode(t *testing.T) {
	h, _, cfg, a := atVersionTwo(t)
	a.stop()
	path := filepath.Join(cfg.Data, "trust", "anchors")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, h, cfg, start(t, cfg), 2)
}

// TestACABundleThatWasNotWrittenIsTakenFromTrust stops between the two files that a
// rotation of the CA writes.
func TestACABundleThatWasNotWrittenIsTakenFromTrust(t *testing.T) {
	h, r, cfg, a := atVersionTwo(t)
	path := filepath.Join(cfg.Data, "tls", "ca.pem")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	both := append(bytes.Clone(old), newCA(t).bundle()...)
	keyset, err := trust.EditKeyset(h.keyset, trust.KeysetEdit{CABundle: both}, h.keys[1])
	if err != nil {
		t.Fatal(err)
	}
	r.trust(&trustv1.Metadata{Keyset: keyset, CaBundle: both})
	v3 := content(map[string]int{"a": 3})
	r.update(h.signed(h.signer, 3, v3, nil), v3)
	h.awaitAck(3, true)
	a.stop()
	if err := os.WriteFile(path, old, 0o644); err != nil {
		t.Fatal(err)
	}
	a = start(t, cfg)
	if !bytes.Equal(a.Source().Bundle(), both) {
		t.Error("the agent uses the bundle of before")
	}
	a.stop()
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, both) {
		t.Errorf("the file has %d bytes, want %d (%v)", len(now), len(both), err)
	}
}
