package bundle_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	bundlev1 "github.com/meshkit/meshkit/pkg/api/meshkit/bundle/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// parse gives the message of a payload, to be spoiled.
func parse(t testing.TB, payload []byte) *bundlev1.Bundle {
	t.Helper()
	m := &bundlev1.Bundle{}
	if err := proto.Unmarshal(payload, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatIsWrittenByHandIsWhatGeneratedCodeReads(t *testing.T) {
	w := newWorld()
	s := w.source(1)
	e, err := bundle.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, e.Bytes())
	want := &bundlev1.Bundle{Format: 1, Manifest: s.Manifest, Trust: s.Trust}
	for l := range s.Content.All() {
		want.Resources = append(want.Resources, &controlv1.Resource{Key: l.Key, Content: l.Content})
	}
	if !proto.Equal(m, want) {
		t.Errorf("the bundle is\n%v\nwant\n%v", m, want)
	}
	if e.Size() != proto.Size(want) || e.Size() != len(e.Bytes()) || e.Own() >= e.Size() {
		t.Errorf("size %d, own %d, bytes %d, want %d", e.Size(), e.Own(), len(e.Bytes()), proto.Size(want))
	}
	again, err := bundle.Encode(s)
	if err != nil || !bytes.Equal(again.Bytes(), e.Bytes()) {
		t.Errorf("the same source gives other bytes: %v", err)
	}
}

// Anything that is changed on the way is refused, with a code that says what.
func TestEveryAlterationIsRefused(t *testing.T) {
	w, other := newWorld(), newWorld()
	good := w.payload(1)
	if b, err := bundle.Open(good, w.anchors, epoch); err != nil || b.Version != 1 || b.Domain != domain || b.Content.Root() != content(1).Root() {
		t.Fatalf("the unaltered bundle: %v", err)
	}
	signed := func(change func(*trustv1.Manifest)) func(*bundlev1.Bundle) {
		return func(m *bundlev1.Bundle) {
			x := w.manifest(1, content(1))
			change(x)
			m.Manifest = must(trust.SignManifest(ctx, w.hub, x))
		}
	}
	for name, c := range map[string]struct {
		change func(*bundlev1.Bundle)
		want   fault.Code
	}{
		"no format":               {func(m *bundlev1.Bundle) { m.Format = 0 }, fault.CodeBundleInvalid},
		"a later format":          {func(m *bundlev1.Bundle) { m.Format = 2 }, fault.CodeBundleFormat},
		"no manifest":             {func(m *bundlev1.Bundle) { m.Manifest = nil }, fault.CodeEnvelopeInvalid},
		"another payload":         {func(m *bundlev1.Bundle) { m.Manifest.Payload[3] ^= 1 }, fault.CodeBadSignature},
		"another signature":       {func(m *bundlev1.Bundle) { m.Manifest.Signatures[0].Sig[3] ^= 1 }, fault.CodeBadSignature},
		"signed by nobody listed": {func(m *bundlev1.Bundle) { m.Manifest = other.source(1).Manifest }, fault.CodeUnknownKey},
		"another domain's roots":  {func(m *bundlev1.Bundle) { m.Trust = other.anchors.Metadata(0, 0) }, fault.CodeRootRollback},
		"another keyset":          {func(m *bundlev1.Bundle) { m.Trust.Keyset = other.keyset }, fault.CodeKeysetUnsigned},
		"another CA":              {func(m *bundlev1.Bundle) { m.Trust.CaBundle = other.ca }, fault.CodeCABundleMismatch},
		"a resource less":         {func(m *bundlev1.Bundle) { m.Resources = m.Resources[1:] }, fault.CodeCountMismatch},
		"a resource more": {func(m *bundlev1.Bundle) {
			m.Resources = append(m.Resources, &controlv1.Resource{Key: "Cluster/default/x", Content: cluster("x", "")})
		}, fault.CodeCountMismatch},
		"a resource twice": {func(m *bundlev1.Bundle) { m.Resources = append(m.Resources, m.Resources[0]) }, fault.CodeBundleInvalid},
		"a resource changed": {func(m *bundlev1.Bundle) {
			m.Resources[0].Content = bytes.Replace(m.Resources[0].Content, []byte("1-"), []byte("2-"), 1)
		}, fault.CodeDigestMismatch},
		"a resource under other name": {func(m *bundlev1.Bundle) { m.Resources[0].Key = "Cluster/default/x" }, fault.CodeKeyMismatch},
		"a resource too large":        {func(m *bundlev1.Bundle) { m.Resources[0].Content = make([]byte, 256<<10+1) }, fault.CodeContentTooLarge},
		"signed for another domain":   {signed(func(m *trustv1.Manifest) { m.Domain = "us-east" }), fault.CodeForeignDomain},
		"signed with another count":   {signed(func(m *trustv1.Manifest) { m.Count++ }), fault.CodeCountMismatch},
		"signed with other bytes":     {signed(func(m *trustv1.Manifest) { m.TotalBytes++ }), fault.CodeCountMismatch},
		"signed with another digest":  {signed(func(m *trustv1.Manifest) { m.Digest[0] ^= 1 }), fault.CodeDigestMismatch},
		"signed for too much":         {signed(func(m *trustv1.Manifest) { m.Count = 50_001 }), fault.CodeBundleTooLarge},
		"signed in the future":        {signed(func(m *trustv1.Manifest) { m.IssuedAt = timestamppb.New(epoch.Add(time.Hour)) }), fault.CodeIssuedInFuture},
		"signed under a later keyset": {signed(func(m *trustv1.Manifest) { m.KeysetVersion = 2 }), fault.CodeTrustBehind},
	} {
		m := parse(t, good)
		c.change(m)
		b, err := bundle.Open(must(proto.Marshal(m)), w.anchors, epoch)
		if fault.CodeOf(err) != c.want || b != nil {
			t.Errorf("%s: %v (%s), want %s", name, err, fault.CodeOf(err), c.want)
		}
	}
	for n := range len(good) { // cut off anywhere
		if n%7 != 0 && n > 100 {
			continue
		}
		if b, err := bundle.Open(good[:n], w.anchors, epoch); err == nil || b != nil {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(good))
		}
	}
}

func TestAnOversizedPayloadIsNotEvenParsed(t *testing.T) {
	w := newWorld()
	if _, err := bundle.Open(make([]byte, bundle.MaxBytes+1), w.anchors, epoch); fault.CodeOf(err) != fault.CodeBundleTooLarge {
		t.Errorf("a payload beyond the limit: %v", err)
	}
	if testing.Short() {
		t.Skip("the other end takes 160 MiB")
	}
	var large *digest.Trie
	note := strings.Repeat("x", 256<<10)
	for i := range bundle.MaxBytes/(256<<10) + 1 {
		large = large.Set(fmt.Sprintf("Cluster/default/c%d", i), []byte(note))
	}
	if _, err := bundle.Encode(bundle.Source{Content: large}); fault.CodeOf(err) != fault.CodeBundleTooLarge {
		t.Errorf("a bundle beyond the limit is encoded: %v", err)
	}
}

func TestTheReaderFollowsTheKeysetAndNotBack(t *testing.T) {
	w := newWorld()
	pinned, before := w.anchors, w.payload(1)
	w.rotate()
	after := w.payload(2)
	b, err := bundle.Open(after, pinned, epoch)
	if err != nil || b.Trust.KeysetVersion() != 2 || b.Signer.KeyID != w.hub.KeyID() {
		t.Fatalf("a bundle with the next keyset: %v", err)
	}
	// What the dropped key signed is refused from then on, also with the old keyset.
	if _, err := bundle.Open(before, b.Trust, epoch); fault.CodeOf(err) != fault.CodeDroppedKey {
		t.Errorf("a bundle by the dropped key: %v", err)
	}
	// Old metadata alone is no reason: the newest judges.
	m := parse(t, after)
	m.Trust = pinned.Metadata(0, 0)
	if again, err := bundle.Open(must(proto.Marshal(m)), b.Trust, epoch); err != nil || again.Trust != b.Trust {
		t.Errorf("a good manifest beside old metadata: %v", err)
	}
	if again, err := bundle.Open(after, b.Trust, epoch); err != nil || again.Trust != b.Trust {
		t.Errorf("the same bundle again: %v", err)
	}
}

// The sender's chain of roots may begin before, at or after the reader's pin.
func TestChainsOfRootsMayBeginElsewhere(t *testing.T) {
	w := newWorld()
	second := must(trust.RotateRoot(w.root, trust.RootChange{Expires: later.AddDate(1, 0, 0)}, w.rootKey))
	whole := must(w.anchors.Update(&trustv1.Metadata{Roots: [][]byte{second}}, epoch))
	fromSecond := must(trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{second}, Keyset: w.keyset, CaBundle: w.ca}, epoch))
	first := w.anchors
	w.anchors = whole
	payload := w.payload(1)
	for name, pinned := range map[string]*trust.Anchors{"before": first, "later": fromSecond, "with the same": whole} {
		if b, err := bundle.Open(payload, pinned, epoch); err != nil || b.Trust.RootVersion() != 2 {
			t.Errorf("a reader that began %s: %v", name, err)
		}
	}
	w.anchors = fromSecond
	if _, err := bundle.Open(w.payload(1), first, epoch); err != nil {
		t.Errorf("a sender that began later: %v", err)
	}
}

// A node that joined after a rotation of the root has pinned a later one than its hub.
func TestThePinnedRootMayBeAnywhereInTheChain(t *testing.T) {
	w := newWorld()
	chain := []*trust.Anchors{w.anchors} // each pins the root that was the newest
	last := w.root
	for range 5 {
		last = must(trust.RotateRoot(last, trust.RootChange{Expires: later.AddDate(1, 0, 0)}, w.rootKey))
		chain = append(chain, must(trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{last}, Keyset: w.keyset, CaBundle: w.ca}, epoch)))
		w.anchors = must(w.anchors.Update(&trustv1.Metadata{Roots: [][]byte{last}}, epoch))
	}
	payload := w.payload(1)
	for i, c := range chain {
		a, err := bundle.Pin(payload, domain, c.Pin(), epoch)
		if err != nil || a.Pin() != c.Pin() || a.RootVersion() != 6 {
			t.Fatalf("with root %d pinned: %v", i+1, err)
		}
		if _, err := bundle.Open(payload, a, epoch); err != nil {
			t.Errorf("with root %d pinned, the bundle itself: %v", i+1, err)
		}
	}
	// What a chain is that does not hold together after the pin, it does not hide.
	m := parse(t, payload)
	m.Trust.Roots = append(m.Trust.Roots[:3], m.Trust.Roots[4:]...)
	if _, err := bundle.Pin(must(proto.Marshal(m)), domain, chain[1].Pin(), epoch); err == nil {
		t.Error("a chain with a gap after the pinned root was accepted")
	}
}

// As many roots travel as one message of trust metadata may have: the newest.
func TestAChainOfManyRootsIsSentFromItsNewEnd(t *testing.T) {
	w := newWorld()
	first, last := w.anchors, w.root
	var within *trust.Anchors
	for i := range trust.MaxRoots + 1 {
		last = must(trust.RotateRoot(last, trust.RootChange{Expires: later.AddDate(1, 0, 0)}, w.rootKey))
		w.anchors = must(w.anchors.Update(&trustv1.Metadata{Roots: [][]byte{last}}, epoch))
		if i == 1 {
			within = must(trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{last}, Keyset: w.keyset, CaBundle: w.ca}, epoch))
		}
	}
	payload := w.payload(1)
	if _, err := bundle.Open(payload, within, epoch); err != nil {
		t.Errorf("a reader with the oldest root that is sent: %v", err)
	}
	if _, err := bundle.Pin(payload, domain, within.Pin(), epoch); err != nil {
		t.Errorf("one that has its pin: %v", err)
	}
	if _, err := bundle.Open(payload, first, epoch); fault.KindOf(err) != fault.Denied && fault.KindOf(err) != fault.Corrupt {
		t.Errorf("a reader that was away for longer: %v", err)
	}
	if _, err := bundle.Pin(payload, domain, first.Pin(), epoch); fault.CodeOf(err) != fault.CodeRootPin {
		t.Errorf("and one that has its pin: %v", err)
	}
}

func TestAPinAdmitsItsOwnChainOnly(t *testing.T) {
	w, other := newWorld(), newWorld()
	if a, err := bundle.Pin(w.payload(1), domain, w.anchors.Pin(), epoch); err != nil || a.Pin() != w.anchors.Pin() {
		t.Errorf("pin: %v", err)
	}
	if _, err := bundle.Pin(other.payload(1), domain, w.anchors.Pin(), epoch); fault.CodeOf(err) != fault.CodeRootPin {
		t.Errorf("another chain: %v", err)
	}
	if _, err := bundle.Pin(w.payload(1), "us-east", w.anchors.Pin(), epoch); fault.CodeOf(err) != fault.CodeForeignDomain {
		t.Errorf("another domain: %v", err)
	}
	if _, err := bundle.Pin(w.payload(1), domain, w.anchors.Pin(), later.Add(time.Hour)); fault.KindOf(err) != fault.Denied {
		t.Errorf("after its expiry: %v", err)
	}
	if _, err := bundle.Open(w.payload(1), nil, epoch); fault.CodeOf(err) != fault.CodeNoKeyset {
		t.Errorf("without a pin: %v", err)
	}
}

// An expired keyset stops what is new, and does not take away what is there.
func TestExpiryConcernsWhatIsNew(t *testing.T) {
	w := newWorld()
	payload, late := w.payload(1), later.Add(time.Hour)
	if _, err := bundle.Open(payload, w.anchors, late); fault.CodeOf(err) != fault.CodeKeysetExpired {
		t.Errorf("a new bundle under an expired keyset: %v", err)
	}
	if b, err := bundle.OpenStored(payload, w.anchors); err != nil || b.Version != 1 {
		t.Errorf("a stored one: %v", err)
	}
	payload[len(payload)-10] ^= 1
	if _, err := bundle.OpenStored(payload, w.anchors); fault.CodeOf(err) != fault.CodeDigestMismatch {
		t.Errorf("a stored one that was altered: %v", err)
	}
}

func TestAVouchCountsForTheSameContentOnly(t *testing.T) {
	w := newWorld()
	s := w.source(5)
	w.rotate()
	s.Trust = w.anchors.Metadata(0, 0)
	if _, err := bundle.Open(must(bundle.Encode(s)).Bytes(), w.anchors, epoch); fault.CodeOf(err) != fault.CodeDroppedKey {
		t.Fatalf("a manifest by a dropped key: %v", err)
	}
	vouch := func(signer *sign.Signer, change func(*trustv1.Freshness)) *trustv1.Envelope {
		f := &trustv1.Freshness{Domain: domain, View: "view-1", Epoch: 3, Version: 9, Digest: s.Content.Root().Bytes(), IssuedAt: timestamppb.New(epoch), KeysetVersion: 2}
		change(f)
		return must(trust.SignFreshness(ctx, signer, f))
	}
	s.Vouch = vouch(w.hub, func(*trustv1.Freshness) {})
	payload := must(bundle.Encode(s)).Bytes()
	b, err := bundle.Open(payload, w.anchors, epoch)
	if err != nil || b.Version != 9 || b.Signer.KeyID != w.hub.KeyID() {
		t.Errorf("vouched for by the next key: version %v, %v", b, err)
	}
	if _, err := bundle.OpenStored(payload, w.anchors); err != nil {
		t.Errorf("stored: %v", err)
	}
	for name, v := range map[string]*trustv1.Envelope{
		"for another view":        vouch(w.hub, func(f *trustv1.Freshness) { f.View = "view-2" }),
		"for another digest":      vouch(w.hub, func(f *trustv1.Freshness) { f.Digest[0] ^= 1 }),
		"for a version before":    vouch(w.hub, func(f *trustv1.Freshness) { f.Version = 4 }),
		"for an epoch before":     vouch(w.hub, func(f *trustv1.Freshness) { f.Epoch = 2 }),
		"for another domain":      vouch(w.hub, func(f *trustv1.Freshness) { f.Domain = "us-east" }),
		"by a key of nobody":      vouch(newSigner(), func(*trustv1.Freshness) {}),
		"a manifest in its place": s.Manifest,
	} {
		s.Vouch = v
		if b, err := bundle.Open(must(bundle.Encode(s)).Bytes(), w.anchors, epoch); err == nil || b != nil {
			t.Errorf("vouched %s: accepted", name)
		}
	}
}

// Whoever has seen a freshness statement can put any manifest beside it: nothing of that
// one counts.
func TestAVouchedManifestSaysNothingByItself(t *testing.T) {
	w := newWorld()
	s := w.source(5)
	s.Vouch = must(trust.SignFreshness(ctx, w.hub, &trustv1.Freshness{
		Domain: domain, View: "view-1", Epoch: 3, Version: 9, Digest: s.Content.Root().Bytes(), IssuedAt: timestamppb.New(epoch), KeysetVersion: 1,
		RequiredCapabilities: []string{"dsl/v1"},
	}))
	m := w.manifest(5, s.Content)
	m.RequiredCapabilities, m.IssuedAt = []string{"evil/v1"}, timestamppb.New(epoch.AddDate(-20, 0, 0))
	s.Manifest = must(trust.SignManifest(ctx, newSigner(), m))
	b, err := bundle.Open(must(bundle.Encode(s)).Bytes(), w.anchors, epoch)
	if err != nil || !slices.Equal(b.Required, []string{"dsl/v1"}) || !b.Issued.Equal(epoch) || b.Version != 9 {
		t.Errorf("bundle %+v (%v), want what the statement says", b, err)
	}
	m.Count++
	s.Manifest = must(trust.SignManifest(ctx, newSigner(), m))
	if b, err := bundle.Open(must(bundle.Encode(s)).Bytes(), w.anchors, epoch); fault.CodeOf(err) != fault.CodeCountMismatch {
		t.Errorf("another count: %+v (%v)", b, err)
	}
}

func FuzzOpen(f *testing.F) {
	w := newWorld()
	good := w.payload(1)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, open := range []func() (*bundle.Bundle, error){
			func() (*bundle.Bundle, error) { return bundle.Open(payload, w.anchors, epoch) },
			func() (*bundle.Bundle, error) { return bundle.OpenStored(payload, w.anchors) },
		} {
			b, err := open()
			switch {
			case err != nil && (b != nil || fault.CodeOf(err) == ""):
				t.Errorf("refused with %v and %v", err, b)
			case err == nil && b.Digest() != content(1).Root():
				t.Errorf("content that nobody signed was accepted: %s", b.Digest())
			}
		}
		_, _ = bundle.Pin(payload, domain, w.anchors.Pin(), epoch)
	})
}
