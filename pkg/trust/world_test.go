package trust_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

const domain = "eu-west"

var (
	epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	later = epoch.AddDate(1, 0, 0)
	ctx   = context.Background()
)

// world is a domain with two root keys of which two must sign, one keyset key,
// and two hubs.
type world struct {
	rootKeys   []*sign.Signer
	keysetKey  *sign.Signer
	hub1, hub2 *sign.Signer
	root       []byte
	keyset     []byte
	bundle     []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		rootKeys: []*sign.Signer{newSigner(t, sign.Ed25519), newSigner(t, sign.ECDSAP256)}, keysetKey: newSigner(t, sign.Ed25519),
		hub1: newSigner(t, sign.Ed25519), hub2: newSigner(t, sign.Ed25519), bundle: newBundle(t),
	}
	w.root = must(t)(trust.NewRoot(domain, w.rootKeys, 2, []*sign.Signer{w.keysetKey}, later))
	w.keyset = must(t)(trust.NewKeyset(w.root, 1, hubs("hub1", w.hub1, "hub2", w.hub2), w.bundle, later, w.keysetKey))
	return w
}

func (w *world) metadata() *trustv1.Metadata {
	return &trustv1.Metadata{Roots: [][]byte{w.root}, Keyset: w.keyset, CaBundle: w.bundle}
}

func (w *world) anchors(t testing.TB) *trust.Anchors {
	t.Helper()
	a, err := trust.Join(domain, w.metadata(), epoch)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func hubs(pairs ...any) map[string][]sign.PublicKey {
	m := map[string][]sign.PublicKey{}
	for i := 0; i < len(pairs); i += 2 {
		name := pairs[i].(string)
		m[name] = append(m[name], pairs[i+1].(*sign.Signer).Public())
	}
	return m
}

func newSigner(t testing.TB, alg sign.Algorithm) *sign.Signer {
	t.Helper()
	key, err := sign.Generate(alg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newBundle(t testing.TB) []byte {
	t.Helper()
	return must(t)(makeBundle())
}

func makeBundle() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: epoch, NotAfter: later, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

func must(t testing.TB) func([]byte, error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func manifest(version uint64) *trustv1.Manifest {
	digest := make([]byte, 32)
	digest[0] = byte(version)
	return &trustv1.Manifest{
		Domain: domain, View: "00112233445566778899aabbccddeeff", Epoch: 1, Version: version, Digest: digest,
		Count: 3, TotalBytes: 100, RequiredCapabilities: []string{"core/v1"}, IssuedAt: timestamppb.New(epoch), KeysetVersion: 1,
	}
}

func signed(t testing.TB, s *sign.Signer, m *trustv1.Manifest) *trustv1.Envelope {
	t.Helper()
	env, err := trust.SignManifest(ctx, s, m)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func wantCode(t testing.TB, what string, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("%s: %v (code %s), want %s", what, err, fault.CodeOf(err), code)
	}
}
