package trust_test

import (
	"fmt"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// A node joins, accepts a manifest of hub1, learns that hub1 has been dropped,
// and refuses what it signs from then on.
func ExampleAnchors_VerifyManifest() {
	rootKey, keysetKey, hub1 := exampleSigner(), exampleSigner(), exampleSigner()
	root, err := trust.NewRoot("eu-west", []*sign.Signer{rootKey}, 1, []*sign.Signer{keysetKey}, later)
	if err != nil {
		panic(err)
	}
	bundle, err := makeBundle()
	if err != nil {
		panic(err)
	}
	keyset, err := trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {hub1.Public()}}, bundle, later, keysetKey)
	if err != nil {
		panic(err)
	}
	anchors, err := trust.Join("eu-west", &trustv1.Metadata{Roots: [][]byte{root}, Keyset: keyset, CaBundle: bundle}, epoch)
	if err != nil {
		panic(err)
	}
	env, err := trust.SignManifest(ctx, hub1, manifest(7))
	if err != nil {
		panic(err)
	}
	m, hub, err := anchors.VerifyManifest(env, epoch)
	fmt.Println(m.GetVersion(), hub.Hub, err)

	dropped, err := trust.EditKeyset(keyset, trust.KeysetEdit{DropHubs: []string{"hub1"}}, keysetKey)
	if err != nil {
		panic(err)
	}
	if anchors, err = anchors.Update(&trustv1.Metadata{Keyset: dropped}, epoch); err != nil {
		panic(err)
	}
	_, _, err = anchors.VerifyManifest(env, epoch)
	fmt.Println(fault.CodeOf(err) == fault.CodeDroppedKey)
	// Output:
	// 7 hub1 <nil>
	// true
}

func exampleSigner() *sign.Signer {
	key, err := sign.Generate(sign.Ed25519)
	if err != nil {
		panic(err)
	}
	s, err := sign.New(key)
	if err != nil {
		panic(err)
	}
	return s
}
