package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	"github.com/meshkit/meshkit/pkg/fault"
)

// PublicKey checks signatures. The zero value checks none.
type PublicKey struct {
	key crypto.PublicKey
	alg Algorithm
	id  string
}

// NewPublicKey wraps an ed25519.PublicKey or a P-256 *ecdsa.PublicKey. The
// error has fault.CodeKeyInvalid.
func NewPublicKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		// ed25519.Verify panics on another length.
		if len(k) != ed25519.PublicKeySize {
			return PublicKey{}, fault.New(fault.CodeKeyInvalid, "Ed25519 public key has %d bytes, not %d", len(k), ed25519.PublicKeySize)
		}
		k = bytes.Clone(k)
		return PublicKey{key: k, alg: Ed25519, id: keyID("ed25519", hex.EncodeToString(k), "ed25519")}, nil
	case *ecdsa.PublicKey:
		if k == nil || k.Curve != elliptic.P256() {
			return PublicKey{}, fault.New(fault.CodeKeyInvalid, "ECDSA public key is not on curve P-256")
		}
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return PublicKey{}, fault.New(fault.CodeKeyInvalid, "encode ECDSA public key: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		return PublicKey{key: k, alg: ECDSAP256, id: keyID("ecdsa", string(text), "ecdsa-sha2-nistp256")}, nil
	}
	return PublicKey{}, fault.New(fault.CodeKeyInvalid, "public key of type %T is neither Ed25519 nor P-256", key)
}

// keyID hashes TUF's canonical JSON of a key. That form escapes nothing but '"'
// and '\', which neither hex nor PEM holds, so a newline stays as it is.
func keyID(keytype, public, scheme string) string {
	sum := sha256.Sum256([]byte(`{"keytype":"` + keytype + `","keyval":{"public":"` + public + `"},"scheme":"` + scheme + `"}`))
	return hex.EncodeToString(sum[:])
}

// ParsePublicKey reads a PEM block "PUBLIC KEY" (PKIX).
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return PublicKey{}, fault.New(fault.CodeKeyInvalid, "not one PEM block of type PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fault.New(fault.CodeKeyInvalid, "parse public key: %w", err)
	}
	return NewPublicKey(key)
}

// PEM writes the key as ParsePublicKey reads it.
func (k PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// KeyID is the TUF key id, 64 hex digits; "" for the zero key.
func (k PublicKey) KeyID() string { return k.id }

// Algorithm is the scheme that Verify applies.
func (k PublicKey) Algorithm() Algorithm { return k.alg }

// IsZero tells whether k is no key.
func (k PublicKey) IsZero() bool { return k.key == nil }

// Crypto gives the key in the standard library's form.
func (k PublicKey) Crypto() crypto.PublicKey { return k.key }

// Verify checks a signature that Signer.Sign made over message. The error has
// fault.CodeBadSignature and says nothing about why.
func (k PublicKey) Verify(message, sig []byte) error {
	ok := false
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		ok = ecdsa.VerifyASN1(key, sum[:], sig)
	}
	if !ok {
		return fault.New(fault.CodeBadSignature, "signature does not match key %s", k.id)
	}
	return nil
}
