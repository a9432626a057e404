package trust_test

import (
	"testing"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// TestRootRecoversFromAFastForwardedKeyset: who had the keyset key signed the last
// version that there is. Root keys that replace all keyset keys get the domain back.
func TestRootRecoversFromAFastForwardedKeyset(t *testing.T) {
	w := newWorld(t)
	fresh := newSigner(t, sign.Ed25519)
	last := must(t)(trust.NewKeyset(w.root, 1<<31, hubs("hub2", w.hub2), w.bundle, later, w.keysetKey))
	stuck, err := w.anchors(t).Update(&trustv1.Metadata{Keyset: last, CaBundle: w.bundle}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	v2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{
		AddKeysetKeys: []sign.PublicKey{fresh.Public()}, RemoveKeysetKeys: []string{w.keysetKey.KeyID()}, Expires: later,
	}, w.rootKeys...))
	good := must(t)(trust.NewKeyset(v2, 2, hubs("hub1", w.hub1), w.bundle, later, fresh))
	free, err := stuck.Update(&trustv1.Metadata{Roots: [][]byte{v2}, Keyset: good, CaBundle: w.bundle}, epoch)
	if err != nil || free.KeysetVersion() != 2 || len(free.Hubs()) != 1 || free.Hubs()[0].Hub != "hub1" {
		t.Fatalf("root 2 with a keyset of new keys: %v", err)
	}
	// A hub that went this way brings others along, whatever they say they have.
	m := free.Metadata(1, 1<<31)
	if again, err := stuck.Update(m, epoch); err != nil || again.KeysetVersion() != 2 {
		t.Errorf("metadata for someone who is stuck: %v", err)
	}
	// From there on versions grow again.
	_, err = free.Update(&trustv1.Metadata{Keyset: must(t)(trust.NewKeyset(v2, 1, hubs("hub2", w.hub2), w.bundle, later, fresh)), CaBundle: w.bundle}, epoch)
	wantCode(t, "keyset 1 after recovery", err, fault.CodeKeysetRollback)
}

// TestAKeysetKeyThatStaysAllowsNoWayBack: as long as one keyset key stays, what it
// signed earlier must not come back with a new root.
func TestAKeysetKeyThatStaysAllowsNoWayBack(t *testing.T) {
	w := newWorld(t)
	second := newSigner(t, sign.Ed25519)
	root2 := must(t)(trust.RotateRoot(w.root, trust.RootChange{AddKeysetKeys: []sign.PublicKey{second.Public()}, Expires: later}, w.rootKeys...))
	old := must(t)(trust.NewKeyset(root2, 5, hubs("hub1", w.hub1, "hub2", w.hub2), w.bundle, later, w.keysetKey))
	dropped := must(t)(trust.EditKeyset(old, trust.KeysetEdit{DropHubs: []string{"hub2"}}, second))
	a, err := w.anchors(t).Update(&trustv1.Metadata{Roots: [][]byte{root2}, Keyset: dropped, CaBundle: w.bundle}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	root3 := must(t)(trust.RotateRoot(root2, trust.RootChange{RemoveKeysetKeys: []string{second.KeyID()}, Expires: later}, w.rootKeys...))
	_, err = a.Update(&trustv1.Metadata{Roots: [][]byte{root3}, Keyset: old, CaBundle: w.bundle}, epoch)
	wantCode(t, "an earlier keyset with a root that disowns the present one", err, fault.CodeKeysetRollback)
}
