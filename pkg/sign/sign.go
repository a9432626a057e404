// Package sign makes and checks signatures with keys that may live anywhere: in
// a file, in memory, in a device.
//
// A Driver finds or makes a key and gives it as a crypto.Signer; Open and Create
// wrap that in a Signer, which knows the key's algorithm, its id and how to hash
// for it. A PublicKey is the other half. Key ids are TUF key ids: the hex
// SHA-256 of the key's canonical JSON form, so that one id names a key in
// metadata, in envelopes and in messages to people.
//
// Signers and public keys are immutable. A Signer is safe for concurrent use if
// its crypto.Signer is, as the standard library's are.
package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Algorithm is a signature scheme.
type Algorithm string

// The algorithms of signing keys. Configuration is signed with Ed25519; P-256
// serves CAs and devices that have nothing else.
const (
	Ed25519   Algorithm = "ed25519"
	ECDSAP256 Algorithm = "ecdsa-p256"
)

// Driver keeps private keys. Implementations must be safe for concurrent use.
type Driver interface {
	// Create makes a new key that survives a restart before it returns. A name
	// that is taken is fault.CodeKeyExists, and the key there is untouched.
	Create(ctx context.Context, name string, alg Algorithm) (crypto.Signer, error)
	// Open gives the key of that name; fault.CodeKeyNotFound if there is none.
	Open(ctx context.Context, name string) (crypto.Signer, error)
}

// Signer signs with one private key.
type Signer struct {
	key    crypto.Signer
	public PublicKey
}

// New wraps a private key. The error has fault.CodeKeyInvalid.
func New(key crypto.Signer) (*Signer, error) {
	if key == nil {
		return nil, fault.New(fault.CodeKeyInvalid, "no private key")
	}
	public, err := NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, public: public}, nil
}

// Open opens the key of that name in d.
func Open(ctx context.Context, d Driver, name string) (*Signer, error) {
	key, err := d.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return New(key)
}

// Create makes a new key of that name in d.
func Create(ctx context.Context, d Driver, name string, alg Algorithm) (*Signer, error) {
	key, err := d.Create(ctx, name, alg)
	if err != nil {
		return nil, err
	}
	return New(key)
}

// Generate makes a private key in memory, for drivers and for keys that live no
// longer than the process.
func Generate(alg Algorithm) (crypto.Signer, error) {
	switch alg {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return nil, fault.New(fault.CodeKeyInvalid, "algorithm %q is none of %s, %s", alg, Ed25519, ECDSAP256)
}

// KeyID is the TUF key id of the public key.
func (s *Signer) KeyID() string { return s.public.id }

// Algorithm is the scheme that Sign uses.
func (s *Signer) Algorithm() Algorithm { return s.public.alg }

// Public is the public half.
func (s *Signer) Public() PublicKey { return s.public }

// CryptoSigner gives the key itself, for X.509.
func (s *Signer) CryptoSigner() crypto.Signer { return s.key }

// Sign signs a message of any length: Ed25519 over the message itself, P-256
// over its SHA-256, as ASN.1. It checks ctx before it starts; the error has
// fault.CodeSignFailed.
func (s *Signer) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.CodeSignFailed, "sign with key %s: %w", s.KeyID(), context.Cause(ctx))
	}
	input, opts := message, crypto.SignerOpts(crypto.Hash(0))
	if s.public.alg == ECDSAP256 {
		sum := sha256.Sum256(message)
		input, opts = sum[:], crypto.SHA256
	}
	sig, err := s.key.Sign(rand.Reader, input, opts)
	if err != nil {
		return nil, fault.New(fault.CodeSignFailed, "sign with key %s: %w", s.KeyID(), err)
	}
	return sig, nil
}
