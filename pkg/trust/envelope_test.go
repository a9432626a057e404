package trust_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

func TestManifestOfAListedHubIsAccepted(t *testing.T) {
	w := newWorld(t)
	m, hub, err := w.anchors(t).VerifyManifest(signed(t, w.hub2, manifest(7)), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(m, manifest(7)) || hub.Hub != "hub2" || hub.KeyID != w.hub2.KeyID() {
		t.Errorf("got %v by %+v", m, hub)
	}
}

func TestAlteredManifestIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	good := signed(t, w.hub1, manifest(7))
	for i := range good.Payload {
		env := proto.CloneOf(good)
		env.Payload[i] ^= 1
		if _, _, err := a.VerifyManifest(env, epoch); !isCode(err, fault.CodeBadSignature) || !strings.Contains(err.Error(), `"hub1"`) {
			t.Fatalf("payload byte %d altered: %v", i, err)
		}
	}
	env := proto.CloneOf(good)
	env.Signatures[0].Sig[3] ^= 1
	_, _, err := a.VerifyManifest(env, epoch)
	wantCode(t, "altered signature", err, fault.CodeBadSignature)
	env = proto.CloneOf(good)
	env.Signatures[0].KeyId = w.hub2.KeyID()
	_, _, err = a.VerifyManifest(env, epoch)
	wantCode(t, "signature under another hub's key id", err, fault.CodeBadSignature)
}

// A payload that has fields of a later version, or that another implementation
// marshalled in another order, is judged by its bytes as sent.
func TestPayloadIsNotMarshalledAgain(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	m := manifest(7)
	m.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 0x02, 'h', 'i'}) // field 100
	if _, _, err := a.VerifyManifest(signed(t, w.hub1, m), epoch); err != nil {
		t.Errorf("unknown field: %v", err)
	}
}

func TestFreshnessCannotPassForAManifest(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	fresh := &trustv1.Freshness{
		Domain: domain, View: "v", Epoch: 1, Version: 7, Digest: make([]byte, 32), IssuedAt: timestamppb.New(epoch), KeysetVersion: 1,
	}
	env, err := trust.SignFreshness(ctx, w.hub1, fresh)
	if err != nil {
		t.Fatal(err)
	}
	if f, hub, err := a.VerifyFreshness(env, epoch); err != nil || f.Version != 7 || hub.Hub != "hub1" {
		t.Fatalf("freshness: %v by %+v, %v", f, hub, err)
	}
	_, _, err = a.VerifyManifest(env, epoch)
	wantCode(t, "freshness as manifest", err, fault.CodeEnvelopeInvalid)
	relabelled := proto.CloneOf(env)
	relabelled.PayloadType = trust.ManifestType
	_, _, err = a.VerifyManifest(relabelled, epoch)
	wantCode(t, "freshness relabelled as manifest", err, fault.CodeBadSignature)
	_, _, err = a.VerifyFreshness(env, epoch.Add(-trust.MaxSkew-time.Second))
	wantCode(t, "freshness from the future", err, fault.CodeIssuedInFuture)
}

func TestUnknownKeyIsNamed(t *testing.T) {
	w, stranger := newWorld(t), newSigner(t, sign.Ed25519)
	_, _, err := w.anchors(t).VerifyManifest(signed(t, stranger, manifest(7)), epoch)
	wantCode(t, "stranger's manifest", err, fault.CodeUnknownKey)
	if !strings.Contains(err.Error(), stranger.KeyID()) {
		t.Errorf("%q does not name the key", err)
	}
}

func TestDroppedHubKeyIsNamed(t *testing.T) {
	w := newWorld(t)
	before := w.anchors(t)
	v2 := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{DropHubs: []string{"hub2"}}, w.keysetKey))
	after, err := before.Update(&trustv1.Metadata{Keyset: v2}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	env := signed(t, w.hub2, manifest(7))
	_, _, err = after.VerifyManifest(env, epoch)
	wantCode(t, "manifest of a dropped hub", err, fault.CodeDroppedKey)
	if !strings.Contains(err.Error(), `"hub2"`) || !strings.Contains(err.Error(), w.hub2.KeyID()) {
		t.Errorf("%q names neither hub nor key", err)
	}
	// Also to someone who joined after the drop, and after further keysets.
	v3 := must(t)(trust.EditKeyset(v2, trust.KeysetEdit{Add: hubs("hub3", newSigner(t, sign.Ed25519))}, w.keysetKey))
	newcomer, err := trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{w.root}, Keyset: v3, CaBundle: w.bundle}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = newcomer.VerifyManifest(env, epoch)
	wantCode(t, "to a newcomer", err, fault.CodeDroppedKey)
	// The anchors of the time when it was accepted still vouch for what is stored.
	if _, _, err := before.VerifyStored(env); err != nil {
		t.Errorf("stored generation under its own anchors: %v", err)
	}
}

func TestTwoVotesOfOneKeyCountOnce(t *testing.T) {
	w := newWorld(t)
	env := signed(t, w.hub1, manifest(7))
	env.Signatures = append(env.Signatures, proto.CloneOf(env.Signatures[0]))
	_, _, err := w.anchors(t).VerifyManifest(env, epoch)
	wantCode(t, "two signatures by one key", err, fault.CodeEnvelopeInvalid)
}

func TestManifestSignedByTwoHubsIsAccepted(t *testing.T) {
	w := newWorld(t)
	env, other := signed(t, w.hub1, manifest(7)), signed(t, newSigner(t, sign.Ed25519), manifest(7))
	env.Signatures = append(other.Signatures, env.Signatures...)
	if _, hub, err := w.anchors(t).VerifyManifest(env, epoch); err != nil || hub.Hub != "hub1" {
		t.Errorf("stranger's and hub1's signature: %+v, %v", hub, err)
	}
}

func TestManifestUnderANewerKeysetAsksForTrustFirst(t *testing.T) {
	w := newWorld(t)
	m := manifest(7)
	m.KeysetVersion = 2
	a := w.anchors(t)
	_, _, err := a.VerifyManifest(signed(t, w.hub1, m), epoch)
	wantCode(t, "known key, newer keyset", err, fault.CodeTrustBehind)
	_, _, err = a.VerifyManifest(signed(t, newSigner(t, sign.Ed25519), m), epoch)
	wantCode(t, "unknown key, newer keyset", err, fault.CodeTrustBehind)
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("kind %v, want one that is retried", fault.KindOf(err))
	}
}

func TestManifestFromTheFutureIsRefused(t *testing.T) {
	w := newWorld(t)
	a, env := w.anchors(t), signed(t, w.hub1, manifest(7))
	for _, c := range []struct {
		clock time.Duration // of the verifier, against the hub's
		code  fault.Code
	}{{-trust.MaxSkew, ""}, {-trust.MaxSkew - time.Second, fault.CodeIssuedInFuture}, {-24 * time.Hour, fault.CodeIssuedInFuture}, {10 * time.Minute, ""}, {24 * time.Hour, ""}} {
		_, _, err := a.VerifyManifest(env, epoch.Add(c.clock))
		if fault.CodeOf(err) != c.code {
			t.Errorf("clock off by %s: %v, want code %q", c.clock, err, c.code)
		}
	}
}

func TestExpiredKeysetRefusesNewAndKeepsOld(t *testing.T) {
	w := newWorld(t)
	a, env := w.anchors(t), signed(t, w.hub1, manifest(7))
	_, _, err := a.VerifyManifest(env, later.Add(time.Second))
	wantCode(t, "new manifest under an expired keyset", err, fault.CodeKeysetExpired)
	if _, _, err := a.VerifyStored(env); err != nil {
		t.Errorf("stored manifest under an expired keyset: %v", err)
	}
}

func TestExpiredRootRefusesNewAndKeepsOld(t *testing.T) {
	w := newWorld(t)
	end := epoch.AddDate(0, 1, 0) // the keyset is good for longer
	w.root = must(t)(trust.NewRoot(domain, w.rootKeys, 2, []*sign.Signer{w.keysetKey}, end))
	a, env := w.anchors(t), signed(t, w.hub1, manifest(7))
	if _, _, err := a.VerifyManifest(env, end.Add(-time.Second)); err != nil {
		t.Errorf("before: %v", err)
	}
	_, _, err := a.VerifyManifest(env, end.Add(time.Second))
	wantCode(t, "new manifest under an expired root", err, fault.CodeRootExpired)
	if _, _, err := a.VerifyStored(env); err != nil {
		t.Errorf("stored manifest under an expired root: %v", err)
	}
}

func TestManifestOfAnotherDomainIsRefused(t *testing.T) {
	w := newWorld(t)
	m := manifest(7)
	m.Domain = "us-east"
	_, _, err := w.anchors(t).VerifyManifest(signed(t, w.hub1, m), epoch)
	wantCode(t, "manifest for us-east", err, fault.CodeForeignDomain)
}

func TestSenselessManifestIsNeitherSignedNorAccepted(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	for what, spoil := range map[string]func(*trustv1.Manifest){
		"short digest":        func(m *trustv1.Manifest) { m.Digest = m.Digest[:31] },
		"short previous":      func(m *trustv1.Manifest) { m.PreviousDigest = []byte{1} },
		"no view":             func(m *trustv1.Manifest) { m.View = "" },
		"no time":             func(m *trustv1.Manifest) { m.IssuedAt = nil },
		"impossible time":     func(m *trustv1.Manifest) { m.IssuedAt.Nanos = -1 },
		"empty with digest":   func(m *trustv1.Manifest) { m.Count, m.TotalBytes = 0, 0 },
		"huge count":          func(m *trustv1.Manifest) { m.Count = 1 << 40 },
		"huge size":           func(m *trustv1.Manifest) { m.TotalBytes = 1 << 60 },
		"unsorted capability": func(m *trustv1.Manifest) { m.RequiredCapabilities = []string{"b", "a"} },
	} {
		m := manifest(7)
		spoil(m)
		_, err := trust.SignManifest(ctx, w.hub1, m)
		wantCode(t, "sign: "+what, err, fault.CodeManifestInvalid)
		payload, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = a.VerifyManifest(seal(t, w.hub1, payload), epoch)
		wantCode(t, "verify: "+what, err, fault.CodeManifestInvalid)
	}
	_, _, err := a.VerifyManifest(seal(t, w.hub1, []byte{0xff}), epoch)
	wantCode(t, "verify: no protobuf", err, fault.CodeManifestInvalid)
}

// seal signs any payload as a manifest, as a faulty hub could.
func seal(t testing.TB, s *sign.Signer, payload []byte) *trustv1.Envelope {
	t.Helper()
	sig := must(t)(s.Sign(ctx, pae(trust.ManifestType, payload)))
	return &trustv1.Envelope{Payload: payload, PayloadType: trust.ManifestType, Signatures: []*trustv1.Signature{{KeyId: s.KeyID(), Sig: sig}}}
}

func TestEnvelopeLimits(t *testing.T) {
	w := newWorld(t)
	a, good := w.anchors(t), signed(t, w.hub1, manifest(7))
	for what, spoil := range map[string]func(*trustv1.Envelope){
		"no payload":        func(e *trustv1.Envelope) { e.Payload = nil },
		"huge payload":      func(e *trustv1.Envelope) { e.Payload = make([]byte, trust.MaxPayloadBytes+1) },
		"no signatures":     func(e *trustv1.Envelope) { e.Signatures = nil },
		"nine signatures":   func(e *trustv1.Envelope) { e.Signatures = make([]*trustv1.Signature, 9) },
		"null signature":    func(e *trustv1.Envelope) { e.Signatures[0] = nil },
		"empty key id":      func(e *trustv1.Envelope) { e.Signatures[0].KeyId = "" },
		"huge signature":    func(e *trustv1.Envelope) { e.Signatures[0].Sig = make([]byte, 1<<20) },
		"wrong payloadType": func(e *trustv1.Envelope) { e.PayloadType = "text/plain" },
	} {
		env := proto.CloneOf(good)
		spoil(env)
		_, _, err := a.VerifyManifest(env, epoch)
		wantCode(t, what, err, fault.CodeEnvelopeInvalid)
	}
	_, _, err := a.VerifyManifest(nil, epoch)
	wantCode(t, "nil envelope", err, fault.CodeEnvelopeInvalid)
	var none *trust.Anchors
	_, _, err = none.VerifyManifest(good, epoch)
	wantCode(t, "no anchors", err, fault.CodeNoKeyset)
	pinned, err := trust.Pin(domain, w.root, epoch)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = pinned.VerifyManifest(good, epoch)
	wantCode(t, "root only", err, fault.CodeNoKeyset)
}

func TestEquivocationIsProvenAndNamesTheHub(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	one, two := manifest(7), manifest(7)
	two.Digest[31] = 1
	x, y := signed(t, w.hub1, one), signed(t, w.hub1, two)
	evidence, ok := trust.Equivocation(x, y)
	if !ok {
		t.Fatal("two digests for one version by one key are no evidence")
	}
	if hub, err := a.VerifyEvidence(evidence); err != nil || hub.Hub != "hub1" {
		t.Errorf("evidence: %+v, %v", hub, err)
	}
	for what, other := range map[string]*trustv1.Envelope{
		"the same manifest":       x,
		"another hub's signature": signed(t, w.hub2, two),
		"another version":         signed(t, w.hub1, manifest(8)),
	} {
		if _, ok := trust.Equivocation(x, other); ok {
			t.Errorf("%s is taken for equivocation", what)
		}
	}
	reissued := manifest(7)
	reissued.IssuedAt = timestamppb.New(epoch.Add(time.Minute))
	if _, ok := trust.Equivocation(x, signed(t, w.hub1, reissued)); ok {
		t.Error("the same content issued again is taken for equivocation")
	}
	// Evidence that someone made up.
	forged := proto.CloneOf(y)
	forged.Signatures[0].Sig = proto.CloneOf(x).Signatures[0].Sig
	made, ok := trust.Equivocation(x, forged)
	if !ok {
		t.Fatal("Equivocation is expected to compare claims")
	}
	_, err := a.VerifyEvidence(made)
	wantCode(t, "forged evidence", err, fault.CodeBadSignature)
}

func BenchmarkVerifyManifest(b *testing.B) {
	w := newWorld(b)
	a, env := w.anchors(b), signed(b, w.hub1, manifest(7))
	for b.Loop() {
		if _, _, err := a.VerifyManifest(env, epoch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignManifest(b *testing.B) {
	w, m := newWorld(b), manifest(7)
	for b.Loop() {
		signed(b, w.hub1, m)
	}
}
