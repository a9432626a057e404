package sign_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
)

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

func TestSignatureBelongsToKeyAndMessage(t *testing.T) {
	for _, alg := range []sign.Algorithm{sign.Ed25519, sign.ECDSAP256} {
		s, other := newSigner(t, alg), newSigner(t, alg)
		sig, err := s.Sign(t.Context(), []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Public().Verify([]byte("message"), sig); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		for what, err := range map[string]error{
			"another message": s.Public().Verify([]byte("massage"), sig),
			"another key":     other.Public().Verify([]byte("message"), sig),
			"no signature":    s.Public().Verify([]byte("message"), nil),
			"zero key":        sign.PublicKey{}.Verify([]byte("message"), sig),
		} {
			if !errors.Is(err, fault.CodeBadSignature) {
				t.Errorf("%s, %s: %v", alg, what, err)
			}
		}
	}
}

func TestPublicKeySurvivesPEM(t *testing.T) {
	for _, alg := range []sign.Algorithm{sign.Ed25519, sign.ECDSAP256} {
		pub := newSigner(t, alg).Public()
		text, err := pub.PEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := sign.ParsePublicKey(text)
		if err != nil || again.KeyID() != pub.KeyID() || again.Algorithm() != alg || len(pub.KeyID()) != 64 {
			t.Errorf("%s: %q, %v; want %q", alg, again.KeyID(), err, pub.KeyID())
		}
		if _, err := sign.ParsePublicKey(append(text, text...)); !errors.Is(err, fault.CodeKeyInvalid) {
			t.Errorf("%s: two blocks: %v", alg, err)
		}
	}
	if _, err := sign.ParsePublicKey([]byte("no key")); !errors.Is(err, fault.CodeKeyInvalid) {
		t.Errorf("garbage: %v", err)
	}
}

func TestUnfitKeysAreRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]crypto.PublicKey{
		"RSA": &rsa.PublicKey{}, "P-384": p384.Public(), "short Ed25519": ed25519.PublicKey{1, 2}, "nil ECDSA": (*ecdsa.PublicKey)(nil), "nil": nil,
	} {
		if _, err := sign.NewPublicKey(key); !errors.Is(err, fault.CodeKeyInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := sign.New(p384); !errors.Is(err, fault.CodeKeyInvalid) {
		t.Errorf("P-384 signer: %v", err)
	}
	if _, err := sign.Generate("rsa"); !errors.Is(err, fault.CodeKeyInvalid) {
		t.Errorf("unknown algorithm: %v", err)
	}
}

// device is a key whose holder has gone away.
type device struct{ crypto.Signer }

func (device) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("device removed")
}

func TestSigningErrorsAreNamed(t *testing.T) {
	key, err := sign.Generate(sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.New(device{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(t.Context(), nil); !errors.Is(err, fault.CodeSignFailed) {
		t.Errorf("absent device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSigner(t, sign.Ed25519).Sign(ctx, nil); !errors.Is(err, fault.CodeSignFailed) || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
