package bundle_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

const domain = "eu-west"

var (
	epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	later = epoch.AddDate(1, 0, 0)
	ctx   = context.Background()
)

// world is a domain with one hub. Its methods panic, so that examples can use it.
type world struct {
	rootKey, keysetKey, hub *sign.Signer
	root, keyset, ca        []byte
	anchors                 *trust.Anchors
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newSigner() *sign.Signer { return must(sign.New(must(sign.Generate(sign.Ed25519)))) }

func newWorld() *world {
	w := &world{rootKey: newSigner(), keysetKey: newSigner(), hub: newSigner()}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: later, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: must(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))})
	w.root = must(trust.NewRoot(domain, []*sign.Signer{w.rootKey}, 1, []*sign.Signer{w.keysetKey}, later))
	w.keyset = must(trust.NewKeyset(w.root, 1, map[string][]sign.PublicKey{"hub1": {w.hub.Public()}}, w.ca, later, w.keysetKey))
	w.anchors = must(trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{w.root}, Keyset: w.keyset, CaBundle: w.ca}, epoch))
	return w
}

// rotate replaces the hub's key.
func (w *world) rotate() {
	next := newSigner()
	w.keyset = must(trust.EditKeyset(w.keyset, trust.KeysetEdit{Add: map[string][]sign.PublicKey{"hub1": {next.Public()}}, DropKeys: []string{w.hub.KeyID()}}, w.keysetKey))
	w.anchors = must(w.anchors.Update(&trustv1.Metadata{Keyset: w.keyset}, epoch))
	w.hub = next
}

// content is some clusters, one of them large.
func content(version int) (t *digest.Trie) {
	for i := range 5 {
		t = t.Set(fmt.Sprintf("Cluster/default/c%d", i), cluster(fmt.Sprintf("c%d", i), fmt.Sprintf("%d-%0*d", version, 1+i*400, 0)))
	}
	return t
}

func cluster(name, note string) []byte {
	return fmt.Appendf(nil, `{"kind":"Cluster","metadata":{"name":%q,"namespace":"default"},"spec":{"note":%q}}`, name, note)
}

func (w *world) manifest(version uint64, t *digest.Trie) *trustv1.Manifest {
	return &trustv1.Manifest{
		Domain: domain, View: "view-1", Epoch: 3, Version: version, Digest: t.Root().Bytes(), Count: uint64(t.Len()), TotalBytes: uint64(t.Bytes()),
		RequiredCapabilities: []string{"core/v1"}, IssuedAt: timestamppb.New(epoch), KeysetVersion: w.anchors.KeysetVersion(),
	}
}

// source is a bundle's content, signed.
func (w *world) source(version uint64) bundle.Source {
	t := content(int(version))
	return bundle.Source{Manifest: must(trust.SignManifest(ctx, w.hub, w.manifest(version, t))), Trust: w.anchors.Metadata(0, 0), Content: t}
}

func (w *world) payload(version uint64) []byte { return must(bundle.Encode(w.source(version))).Bytes() }
