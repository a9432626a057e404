// Package mtls connects the programs of one domain with TLS 1.3, each side
// proving its SPIFFE ID.
//
// A Source holds a program's certificate, key and CA bundle. ServerConfig and
// ClientConfig make TLS configurations that ask the Source at every handshake,
// so that a renewed certificate or a rotated bundle is in use from the next
// connection on, without a restart. PinnedClientConfig serves the one connection
// that is made before there is a certificate: joining by CA pin. PeerID tells a
// gRPC handler who is on the other side.
//
// # What is checked
//
// The peer's chain must lead to a CA of the Source's present bundle; its leaf
// must not be a CA, must be meant for the side that it is on (client or server),
// and must carry exactly one SPIFFE ID, of the Source's own domain. A client
// also says whom it wants: AnyHub, or a function. Host names are not compared,
// because the SPIFFE ID is the name. Sessions are never resumed, so that a
// dropped CA is refused at the next connection.
//
// # Clocks
//
// Certificates are valid from ca.Backdate (15 minutes) before their issue and
// renewed at half-life, so clocks that are up to ten minutes apart, either way,
// notice nothing. A clock that is a day wrong finds every 24-hour certificate
// expired or not yet valid: fault.CodePeerExpired, with both times in the
// message. ServerOptions.Grace lets a hub go on admitting nodes whose
// certificates are outside their life by less than that, so that a hub with a
// wrong clock, or an outage that outlasts the certificates, does not shut out a
// whole fleet at once; the fleet's own certificates then renew as usual. What
// grace costs is said at the option.
//
// A Source is safe for concurrent use. No goroutine is started here.
package mtls

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// material is what a Source holds at one moment; it is never modified.
type material struct {
	cert   tls.Certificate     // Leaf is set
	chain  []*x509.Certificate // of cert, leaf first
	id     identity.ID
	bundle []byte
	roots  *x509.CertPool
	// verified is what is known to lead to roots.
	verified *verified
	// served is cert with the root that it leads to appended, so that a client
	// which knows only the root's pin can verify the chain.
	served tls.Certificate
}

// Source is a program's own certificate, key and CA bundle.
type Source struct {
	mu  sync.Mutex // serializes changes to cur
	cur atomic.Pointer[material]
	// now is the clock that certificates are judged by; set before the Source is
	// shared.
	now func() time.Time
}

// NewSource makes a Source. The chain in cert is leaf first, then intermediates;
// bundlePEM is the domain's CA bundle. The key must belong to the leaf.
func NewSource(cert tls.Certificate, bundlePEM []byte) (*Source, error) {
	m, err := newMaterial(cert, bundlePEM)
	if err != nil {
		return nil, err
	}
	s := &Source{now: time.Now}
	s.cur.Store(m)
	return s, nil
}

// Certificate makes what NewSource and SetCertificate take, of a DER chain (as
// ca.Certificate.Chain or a JoinResponse hold it) and its key.
func Certificate(chain [][]byte, key crypto.Signer) tls.Certificate {
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

func newMaterial(cert tls.Certificate, bundlePEM []byte) (*material, error) {
	if len(cert.Certificate) == 0 {
		return nil, fault.New(fault.CodeCertificateInvalid, "no certificate")
	}
	certs := make([]*x509.Certificate, len(cert.Certificate))
	for i, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.New(fault.CodeCertificateInvalid, "parse certificate %d of the chain: %w", i+1, err)
		}
		certs[i] = c
	}
	id, err := identity.FromCertificate(certs[0])
	if err != nil {
		return nil, err
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.CodeKeyInvalid, "no private key for the certificate of %s", id)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(certs[0].PublicKey) {
		return nil, fault.New(fault.CodeKeyInvalid, "private key does not belong to the certificate of %s", id)
	}
	roots, err := parseBundle(bundlePEM)
	if err != nil {
		return nil, err
	}
	m := &material{chain: certs, id: id, bundle: bytes.Clone(bundlePEM), roots: x509.NewCertPool(), verified: newVerified()}
	for _, r := range roots {
		m.roots.AddCert(r)
	}
	m.cert = tls.Certificate{Certificate: cert.Certificate, PrivateKey: key, Leaf: certs[0]}
	m.served = m.cert
	top := certs[len(certs)-1]
	for _, r := range roots {
		if bytes.Equal(top.RawIssuer, r.RawSubject) && !bytes.Equal(top.Raw, r.Raw) && top.CheckSignatureFrom(r) == nil {
			m.served.Certificate = append(append([][]byte{}, cert.Certificate...), r.Raw)
			break
		}
	}
	return m, nil
}

const (
	maxBundleBytes = 256 << 10
	maxBundleCerts = 64
)

func parseBundle(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxBundleBytes {
		return nil, fault.New(fault.CodeCertificateInvalid, "CA bundle of %d bytes is larger than %d", len(text), maxBundleBytes)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 || len(certs) > maxBundleCerts {
		return nil, fault.New(fault.CodeCertificateInvalid, "CA bundle holds %d certificates, not 1 to %d", len(certs), maxBundleCerts)
	}
	for i, c := range certs {
		if !c.IsCA {
			return nil, fault.New(fault.CodeCertificateInvalid, "certificate %d of the CA bundle is not a CA's", i+1)
		}
	}
	return certs, nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := text; len(bytes.TrimSpace(rest)) > 0; {
		block, next := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fault.New(fault.CodeCertificateInvalid, "found something that is not a PEM certificate after %d certificates", len(out))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New(fault.CodeCertificateInvalid, "parse certificate %d: %w", len(out)+1, err)
		}
		out, rest = append(out, c), next
	}
	return out, nil
}

// SetCertificate replaces certificate and key; connections made from now on use
// them. The identity must stay the same, and a CA of the bundle must have issued it.
// Its dates are not judged: they are the issuer's clock's.
func (s *Source) SetCertificate(cert tls.Certificate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.cur.Load()
	m, err := newMaterial(cert, old.bundle)
	if err != nil {
		return err
	}
	if m.id != old.id {
		return fault.New(fault.CodeCertificateInvalid, "certificate of %s cannot replace that of %s", m.id, old.id)
	}
	if _, err := verifyChain(m.id, m.chain, m.roots, x509.ExtKeyUsageClientAuth, m.cert.Leaf.NotAfter); err != nil {
		return fault.New(fault.CodeCertificateInvalid, "certificate of %s is not one of this domain: %w", m.id, err)
	}
	s.cur.Store(m)
	return nil
}

// SetBundle replaces the CA bundle; connections made from now on are judged by
// it. During a rotation the bundle holds both the old and the new CA.
func (s *Source) SetBundle(bundlePEM []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := newMaterial(s.cur.Load().cert, bundlePEM)
	if err != nil {
		return err
	}
	s.cur.Store(m)
	return nil
}

// ID is whom the certificate names.
func (s *Source) ID() identity.ID { return s.cur.Load().id }

// Certificate is the present certificate and key.
func (s *Source) Certificate() tls.Certificate { return s.cur.Load().cert }

// Chain is the present certificate and what leads from it to the CA bundle, leaf
// first; do not modify it.
func (s *Source) Chain() []*x509.Certificate { return s.cur.Load().chain }

// Bundle is the present CA bundle (PEM); do not modify it.
func (s *Source) Bundle() []byte { return s.cur.Load().bundle }

// NotAfter is when the present certificate expires.
func (s *Source) NotAfter() time.Time { return s.cur.Load().cert.Leaf.NotAfter }

// Renewal says when to renew the present certificate: at half its life, plus or
// minus a tenth of its life at random, so that a fleet that joined at once does
// not renew at once; now, if that has passed. Ask once per certificate: each
// call draws anew.
func (s *Source) Renewal(now time.Time) time.Time {
	leaf := s.cur.Load().cert.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotBefore.Add(time.Duration(float64(life) * (0.4 + 0.2*rand.Float64())))
	if at.Before(now) {
		return now
	}
	return at
}
