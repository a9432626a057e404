package trust_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"pgregory.net/rapid"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

func TestKeyIDsAreTUFKeyIDs(t *testing.T) {
	for _, alg := range []sign.Algorithm{sign.Ed25519, sign.ECDSAP256} {
		pub := newSigner(t, alg).Public()
		key, err := metadata.KeyFromPublicKey(pub.Crypto())
		if err != nil {
			t.Fatal(err)
		}
		if id, err := key.ID(); err != nil || id != pub.KeyID() {
			t.Errorf("%s: key id %s, TUF's is %s (%v)", alg, pub.KeyID(), id, err)
		}
	}
}

func TestRootRotationIsFollowed(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	fresh := newSigner(t, sign.Ed25519)
	// The leaving key must still sign: two of the old root, and two of the new.
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{
		AddRootKeys: []sign.PublicKey{fresh.Public()}, RemoveRootKeys: []string{w.rootKeys[0].KeyID()}, Expires: later,
	}, w.rootKeys[0], w.rootKeys[1], fresh))
	v3 := must(t)(trust.RotateRoot(v2, trust.RootChange{Expires: later.AddDate(1, 0, 0)}, w.rootKeys[1], fresh))
	b, err := a.Update(&trustv1.Metadata{Roots: [][]byte{v2, v3}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if a.RootVersion() != 1 || b.RootVersion() != 3 || b.KeysetVersion() != 1 {
		t.Errorf("versions: before %d, after %d, keyset %d; want 1, 3, 1", a.RootVersion(), b.RootVersion(), b.KeysetVersion())
	}
	if info := b.Root(); info.Threshold != 2 || len(info.KeyIDs) != 2 {
		t.Errorf("root after rotation: %+v", info)
	}
}

func TestRootSignedByTooFewIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	fresh := newSigner(t, sign.Ed25519)
	change := trust.RootChange{AddRootKeys: []sign.PublicKey{fresh.Public()}, RemoveRootKeys: []string{w.rootKeys[0].KeyID()}, Expires: later}
	for what, signers := range map[string][]*sign.Signer{
		"one of the old root's two": {w.rootKeys[1], fresh},
		"one of the new root's two": {w.rootKeys[0], w.rootKeys[1]},
		"none":                      nil,
		"a stranger":                {newSigner(t, sign.Ed25519), newSigner(t, sign.Ed25519)},
	} {
		if _, err := trust.RotateRoot(w.root, change, signers...); !isCode(err, fault.CodeRootUnsigned) {
			t.Errorf("signed by %s: RotateRoot gives %v", what, err)
		}
		v2 := must(t)(trust.ProposeRoot(w.root, change, signers...))
		_, err := a.Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch)
		wantCode(t, "signed by "+what, err, fault.CodeRootUnsigned)
	}
	// The same root, with the missing signature added elsewhere.
	v2 := must(t)(trust.ProposeRoot(w.root, change, w.rootKeys[0], w.rootKeys[1]))
	v2 = must(t)(trust.CosignRoot(v2, fresh, w.rootKeys[0]))
	if _, err := a.Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch); err != nil {
		t.Errorf("cosigned root: %v", err)
	}
}

func isCode(err error, code fault.Code) bool { return fault.CodeOf(err) == code }

func TestReplayedRootDoesNotGoBack(t *testing.T) {
	w := newWorld(t)
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: later}, w.rootKeys...))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	// The very bytes that are held already change nothing.
	b, err := a.Update(&trustv1.Metadata{Roots: [][]byte{w.root}}, epoch)
	if err != nil || b != a {
		t.Errorf("replay of version 1: root version %d, %v; want the same anchors", b.RootVersion(), err)
	}
	// Another version 2, properly signed: two roots of one version.
	other := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: later.AddDate(5, 0, 0)}, w.rootKeys...))
	_, err = a.Update(&trustv1.Metadata{Roots: [][]byte{other}}, epoch)
	wantCode(t, "other content under version 2", err, fault.CodeRootRollback)
}

func TestSkippedRootVersionIsRefused(t *testing.T) {
	w := newWorld(t)
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: later}, w.rootKeys...))
	v3 := must(t)(trust.RotateRoot(v2, trust.RootChange{Expires: later}, w.rootKeys...))
	_, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v3}}, epoch)
	wantCode(t, "version 3 on version 1", err, fault.CodeRootSkipped)
}

func TestExpiryIsJudgedOnTheFinalRootOnly(t *testing.T) {
	w := newWorld(t)
	stale := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: epoch.Add(-time.Hour)}, w.rootKeys...))
	good := must(t)(trust.RotateRoot(stale, trust.RootChange{Expires: later}, w.rootKeys...))
	_, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{stale}}, epoch)
	wantCode(t, "expired final root", err, fault.CodeRootExpired)
	if _, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{stale, good}}, epoch); err != nil {
		t.Errorf("expired root in between: %v", err)
	}
	_, err = trust.Pin(domain, w.root, later.Add(time.Second))
	wantCode(t, "pin of an expired root", err, fault.CodeRootExpired)
	_, err = trust.Join(domain, w.metadata(), later.Add(time.Second))
	wantCode(t, "join under an expired root", err, fault.CodeRootExpired)
}

func TestKeysetNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	v2 := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{DropHubs: []string{"hub2"}}, w.keysetKey))
	b, err := a.Update(&trustv1.Metadata{Keyset: v2}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Update(&trustv1.Metadata{Keyset: w.keyset, CaBundle: w.bundle}, epoch)
	wantCode(t, "replay of keyset 1", err, fault.CodeKeysetRollback)
	other := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{DropHubs: []string{"hub1"}}, w.keysetKey))
	_, err = b.Update(&trustv1.Metadata{Keyset: other}, epoch)
	wantCode(t, "other content under version 2", err, fault.CodeKeysetRollback)
	if same, err := b.Update(&trustv1.Metadata{Keyset: v2}, epoch); err != nil || same != b {
		t.Errorf("repetition of the keyset held: %v", err)
	}
	if got := b.Hubs(); len(got) != 1 || got[0].Hub != "hub1" {
		t.Errorf("hubs %v, want hub1 only", got)
	}
}

func TestKeysetOfAnotherSignerIsRefused(t *testing.T) {
	w, thief := newWorld(t), newSigner(t, sign.Ed25519)
	forged := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{Add: hubs("evil", thief)}, thief))
	_, err := w.anchors(t).Update(&trustv1.Metadata{Keyset: forged}, epoch)
	wantCode(t, "keyset signed by a stranger", err, fault.CodeKeysetUnsigned)
	// A root key is not a keyset key.
	forged = must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{Add: hubs("evil", thief)}, w.rootKeys...))
	_, err = w.anchors(t).Update(&trustv1.Metadata{Keyset: forged}, epoch)
	wantCode(t, "keyset signed by root keys", err, fault.CodeKeysetUnsigned)
}

func TestNewKeysetKeyTakesItsKeysetAlong(t *testing.T) {
	w := newWorld(t)
	fresh := newSigner(t, sign.Ed25519)
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{
		AddKeysetKeys: []sign.PublicKey{fresh.Public()}, RemoveKeysetKeys: []string{w.keysetKey.KeyID()}, Expires: later,
	}, w.rootKeys...))
	_, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch)
	wantCode(t, "root that disowns the keyset", err, fault.CodeKeysetUnsigned)
	keyset := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{}, fresh))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v2}, Keyset: keyset}, epoch)
	if err != nil || a.RootVersion() != 2 || a.KeysetVersion() != 2 {
		t.Fatalf("root 2 with keyset 2: %v", err)
	}
}

func TestCABundleIsTheOneInTheKeyset(t *testing.T) {
	w := newWorld(t)
	other := newBundle(t)
	m := w.metadata()
	m.CaBundle = other
	_, err := trust.Join(domain, m, epoch)
	wantCode(t, "exchanged bundle", err, fault.CodeCABundleMismatch)
	_, err = w.anchors(t).Update(&trustv1.Metadata{CaBundle: other}, epoch)
	wantCode(t, "bundle without its keyset", err, fault.CodeCABundleMismatch)
	both := append(bytes.Clone(w.bundle), other...)
	v2 := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{CABundle: both}, w.keysetKey))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Keyset: v2, CaBundle: both}, epoch)
	if err != nil || !bytes.Equal(a.CABundle(), both) {
		t.Errorf("bundle with its keyset: %v", err)
	}
	_, err = trust.EditKeyset(w.keyset, trust.KeysetEdit{CABundle: []byte("no certificates")}, w.keysetKey)
	wantCode(t, "bundle that is none", err, fault.CodeMetadataInvalid)
}

func TestMetadataOfAnotherDomainIsRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	_, err := trust.Join("us-east", w.metadata(), epoch)
	wantCode(t, "root of eu-west pinned for us-east", err, fault.CodeForeignDomain)
	// The same keys under another name: a root for us-east that follows ours.
	foreign := must(t)(trust.NewRoot("us-east", w.rootKeys, 2, []*sign.Signer{w.keysetKey}, later))
	foreign = must(t)(trust.RotateRoot(foreign, trust.RootChange{Expires: later}, w.rootKeys...))
	_, err = w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{foreign}}, epoch)
	wantCode(t, "root made for us-east", err, fault.CodeForeignDomain)
	_, err = w.anchors(t).Update(&trustv1.Metadata{Keyset: other.keyset, CaBundle: other.bundle}, epoch)
	wantCode(t, "keyset of another eu-west", err, fault.CodeKeysetUnsigned)
}

func TestDroppedKeyCannotComeBack(t *testing.T) {
	w := newWorld(t)
	v2 := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{DropKeys: []string{w.hub1.KeyID()}}, w.keysetKey))
	_, err := trust.EditKeyset(v2, trust.KeysetEdit{Add: hubs("hub3", w.hub1)}, w.keysetKey)
	wantCode(t, "adding a dropped key", err, fault.CodeDroppedKey)
	_, err = trust.EditKeyset(w.keyset, trust.KeysetEdit{DropHubs: []string{"hub9"}}, w.keysetKey)
	wantCode(t, "dropping what is not there", err, fault.CodeMetadataInvalid)
	_, err = trust.EditKeyset(w.keyset, trust.KeysetEdit{Add: hubs("hub3", w.hub1)}, w.keysetKey)
	wantCode(t, "one key for two hubs", err, fault.CodeKeyExists)
}

// CheckEdit finds out what a keyset changes besides what it is to change.
func TestAKeysetIsTheEditThatItIsSaidToBe(t *testing.T) {
	w := newWorld(t)
	hub3 := newSigner(t, sign.Ed25519)
	edit := trust.KeysetEdit{Add: hubs("hub3", hub3), DropKeys: []string{w.hub2.KeyID()}}
	check := func(made trust.KeysetEdit) error {
		t.Helper()
		return trust.CheckEdit(w.keyset, must(t)(trust.EditKeyset(w.keyset, made, w.keysetKey)), edit)
	}
	longer := edit
	longer.Expires = later.AddDate(1, 0, 0)
	for name, made := range map[string]trust.KeysetEdit{"the edit": edit, "with a later end": longer} {
		if err := check(made); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	shorter, more, less, another, whole := edit, edit, edit, edit, edit
	shorter.Expires = later.Add(-time.Second)
	more.Add = hubs("hub3", hub3, "hub4", newSigner(t, sign.Ed25519))
	less.DropKeys = nil
	another.Add = hubs("hub4", hub3)
	whole.CABundle = newBundle(t)
	for name, made := range map[string]trust.KeysetEdit{
		"an earlier end": shorter, "one more hub": more, "one key less dropped": less, "another hub": another, "another bundle": whole,
	} {
		wantCode(t, name, check(made), fault.CodeMetadataInvalid)
	}
	v2 := must(t)(trust.EditKeyset(w.keyset, trust.KeysetEdit{}, w.keysetKey))
	wantCode(t, "one version too many", trust.CheckEdit(w.keyset, must(t)(trust.EditKeyset(v2, edit, w.keysetKey)), edit), fault.CodeMetadataInvalid)
	exact := edit
	exact.Expires = later
	wantCode(t, "another end than a given one", trust.CheckEdit(w.keyset, must(t)(trust.EditKeyset(w.keyset, longer, w.keysetKey)), exact), fault.CodeMetadataInvalid)
}

func TestAnchorsSurviveMarshalAndLoad(t *testing.T) {
	w := newWorld(t)
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: later}, w.rootKeys...))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	data := must(t)(a.Marshal())
	b, err := trust.Load(domain, a.Pin(), data)
	if err != nil {
		t.Fatal(err)
	}
	if b.RootVersion() != 2 || b.KeysetVersion() != 1 || b.Pin() != a.Pin() || !bytes.Equal(must(t)(b.Marshal()), data) {
		t.Error("loaded anchors differ from those saved")
	}
	// Expired metadata loads: a restart must not take away what is active.
	if err := b.Expired(later.Add(time.Hour)); !isCode(err, fault.CodeRootExpired) {
		t.Errorf("Expired: %v", err)
	}
	stranger := newWorld(t).anchors(t)
	_, err = trust.Load(domain, a.Pin(), must(t)(stranger.Marshal()))
	wantCode(t, "another chain of the same domain", err, fault.CodeRootPin)
	_, err = trust.Load("us-east", a.Pin(), data)
	wantCode(t, "another domain", err, fault.CodeForeignDomain)
}

// Every truncation and every flipped byte of a small file is found.
func TestDamagedAnchorsAreRefusedAtEveryByte(t *testing.T) {
	w := newWorld(t)
	a := w.anchors(t)
	data := must(t)(a.Marshal())
	for i := range data {
		if _, err := trust.Load(domain, a.Pin(), data[:i]); !isCode(err, fault.CodeMetadataInvalid) {
			t.Fatalf("first %d of %d bytes: %v", i, len(data), err)
		}
		flipped := bytes.Clone(data)
		flipped[i] ^= 0x20
		if _, err := trust.Load(domain, a.Pin(), flipped); !isCode(err, fault.CodeMetadataInvalid) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
}

func TestMetadataGivesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{Expires: later}, w.rootKeys...))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{v2}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if m := a.Metadata(2, 1); m != nil {
		t.Errorf("nothing is missing, got %d roots", len(m.Roots))
	}
	if m := a.Metadata(1, 1); len(m.GetRoots()) != 1 || m.Keyset != nil {
		t.Errorf("root 2 is missing, got %d roots and %d bytes of keyset", len(m.GetRoots()), len(m.GetKeyset()))
	}
	b, err := trust.Join(domain, a.Metadata(0, 0), epoch)
	if err != nil || b.RootVersion() != 2 || b.KeysetVersion() != 1 {
		t.Errorf("join with everything: %v", err)
	}
}

// Whatever order valid and stale messages arrive in, versions never go back, and
// whoever has seen every message holds the newest.
func TestVersionsNeverGoBackWhateverArrives(t *testing.T) {
	w := newWorld(t)
	messages := []*trustv1.Metadata{w.metadata()}
	root, keyset := w.root, w.keyset
	for range 2 {
		root = must(t)(trust.RotateRoot(root, trust.RootChange{Expires: later}, w.rootKeys...))
		keyset = must(t)(trust.EditKeyset(keyset, trust.KeysetEdit{}, w.keysetKey))
		messages = append(messages, &trustv1.Metadata{Roots: [][]byte{root}}, &trustv1.Metadata{Keyset: keyset})
	}
	first := w.anchors(t)
	rapid.Check(t, func(t *rapid.T) {
		a := first
		for range rapid.IntRange(1, 8).Draw(t, "messages") {
			next, err := a.Update(rapid.SampledFrom(messages).Draw(t, "message"), epoch)
			if err != nil {
				continue
			}
			if next.RootVersion() < a.RootVersion() || next.RootVersion() > a.RootVersion()+1 || next.KeysetVersion() < a.KeysetVersion() {
				t.Fatalf("from root %d keyset %d to root %d keyset %d", a.RootVersion(), a.KeysetVersion(), next.RootVersion(), next.KeysetVersion())
			}
			a = next
		}
		for _, m := range messages {
			if next, err := a.Update(m, epoch); err == nil {
				a = next
			}
		}
		if a.RootVersion() != 3 || a.KeysetVersion() != 3 {
			t.Fatalf("after all messages: root %d keyset %d, want 3 and 3", a.RootVersion(), a.KeysetVersion())
		}
	})
}

// A chain longer than one message reaches those who joined long ago in parts,
// and those who join now from its newest roots.
func TestLongRootChainTravelsInParts(t *testing.T) {
	w := newWorld(t)
	roots := [][]byte{w.root}
	for range trust.MaxRoots + 5 {
		roots = append(roots, must(t)(trust.ProposeRoot(roots[len(roots)-1], trust.RootChange{Expires: later}, w.rootKeys...)))
	}
	a, err := trust.FromMetadata(domain, &trustv1.Metadata{Roots: roots, Keyset: w.keyset, CaBundle: w.bundle})
	if err != nil {
		t.Fatal(err)
	}
	_, err = trust.Join(domain, &trustv1.Metadata{Roots: roots, Keyset: w.keyset, CaBundle: w.bundle}, epoch)
	wantCode(t, "more roots than one message may hold", err, fault.CodeMetadataInvalid)
	joined, err := trust.Join(domain, a.Metadata(0, 0), epoch)
	if err != nil || joined.RootVersion() != a.RootVersion() || joined.KeysetVersion() != 1 {
		t.Errorf("join at root %d: %v", a.RootVersion(), err)
	}
	old, steps := w.anchors(t), 0
	for m := a.Metadata(old.RootVersion(), old.KeysetVersion()); m != nil; m = a.Metadata(old.RootVersion(), old.KeysetVersion()) {
		if old, err = old.Update(m, epoch); err != nil {
			t.Fatal(err)
		}
		steps++
	}
	if steps != 2 || old.RootVersion() != a.RootVersion() {
		t.Errorf("after %d messages at root %d, want 2 and %d", steps, old.RootVersion(), a.RootVersion())
	}
}
