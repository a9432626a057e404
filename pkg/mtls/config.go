package mtls

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// maxChain limits the certificates that a peer may present.
const maxChain = 10

// ServerOptions of ServerConfig; the zero value is the strictest.
type ServerOptions struct {
	// OptionalClient admits clients without a certificate, whom PeerID does not
	// report: for the port that serves joining. A certificate that is presented
	// is verified all the same.
	OptionalClient bool
	// Grace admits nodes' client certificates that are outside their life by less
	// than this, before or after. It lets a fleet reconnect and renew after an outage
	// that was longer than the certificates' life, and keeps it connected while a
	// hub's clock is wrong. Hubs and operators get none: what they may do is more,
	// and they do not have to come back by themselves. The price: a stolen certificate works that much
	// longer, unless its node is forgotten. Certificates of CAs get no grace at
	// the far end: they are judged at the moment when the leaf was last valid.
	Grace time.Duration
}

// ServerConfig makes the configuration of a TLS 1.3 server that presents the
// Source's certificate and asks for one of the same domain.
func ServerConfig(s *Source, opt ServerOptions) *tls.Config {
	auth := tls.RequireAnyClientCert
	if opt.OptionalClient {
		auth = tls.RequestClientCert
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: auth,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.cur.Load().served, nil
		},
		// A resumed session would skip the question whether its CA still counts.
		SessionTicketsDisabled: true,
		// Called for every handshake, unlike VerifyPeerCertificate.
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 && opt.OptionalClient {
				return nil
			}
			return VerifyClient(s, cs.PeerCertificates, opt.Grace)
		},
	}
}

// VerifyClient judges a client's chain, leaf first, as a server with this Source
// does at the handshake; see ServerOptions.Grace. It does not tell whether whoever
// shows the chain holds its key.
func VerifyClient(s *Source, chain []*x509.Certificate, grace time.Duration) error {
	_, err := s.cur.Load().verify(chain, x509.ExtKeyUsageClientAuth, s.now(), grace)
	return err
}

// AnyHub wants a hub.
func AnyHub(id identity.ID) error {
	if id.Kind != identity.Hub {
		return fault.New(fault.CodePeerRole, "%s is not a hub", id)
	}
	return nil
}

// ClientConfig makes the configuration of a TLS 1.3 client that presents the
// Source's certificate to a server of the same domain. want says whether the
// server is the one that is meant; nil means AnyHub.
func ClientConfig(s *Source, want func(identity.ID) error) *tls.Config {
	if want == nil {
		want = AnyHub
	}
	c := clientBase()
	c.ServerName = DomainServerName(s.ID().Domain)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &s.cur.Load().cert, nil
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := s.cur.Load().verify(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, s.now(), 0)
		if err != nil {
			return err
		}
		return want(id)
	}
	return c
}

// A port may serve several domains. Which one a client means it says in the server
// name of its hello (SNI, RFC 6066 section 3), which is no host name here: the
// domain, or, before it knows that, what it was pinned to. Nothing rests on it but
// the choice of certificate, which is then verified.

// DomainServerName is what hellos say that mean a domain by name.
func DomainServerName(domain string) string { return domain }

// PinServerName is what hellos say that mean a domain by its CA pin. No domain has a
// name that begins with an underscore.
func PinServerName(pin string) string {
	digits := strings.ToLower(strings.TrimPrefix(pin, "sha256:"))
	return "_pin." + digits[:min(len(digits), 48)]
}

// clientBase is a client configuration that compares no host names, as SPIFFE
// asks, and admits no server: each caller puts its own VerifyConnection in,
// which crypto/tls calls for every handshake, resumed ones included.
func clientBase() *tls.Config {
	c := tlsconfig.TLSClientConfig(nil, tlsconfig.AuthorizeAny())
	c.VerifyPeerCertificate = nil // judges by time.Now and has no codes; VerifyConnection takes its place
	c.MinVersion = tls.VersionTLS13
	c.VerifyConnection = func(tls.ConnectionState) error {
		return fault.New(fault.CodePeerUnverified, "this configuration admits no server")
	}
	return c
}

// verify judges a peer's chain.
func (m *material) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time, grace time.Duration) (identity.ID, error) {
	id, err := peerLeaf(certs)
	if err != nil {
		return identity.ID{}, err
	}
	if id.Domain != m.id.Domain {
		return identity.ID{}, fault.New(fault.CodePeerDomain, "peer %s is not of domain %q", id, m.id.Domain)
	}
	if id.Kind != identity.Node {
		grace = 0
	}
	at := judgedAt(certs[0], now, grace)
	if m.verified.holds(certs, usage, at) {
		return id, nil
	}
	found, err := verifyChain(id, certs, m.roots, usage, at)
	if err != nil {
		return identity.ID{}, err
	}
	m.verified.add(certs, usage, found)
	return id, nil
}

// peerLeaf reads whom the leaf claims to be; nothing is believed yet.
func peerLeaf(certs []*x509.Certificate) (identity.ID, error) {
	if len(certs) == 0 {
		return identity.ID{}, fault.New(fault.CodePeerNoCertificate, "peer presented no certificate")
	}
	if len(certs) > maxChain {
		return identity.ID{}, fault.New(fault.CodePeerUnverified, "peer presented %d certificates, more than %d", len(certs), maxChain)
	}
	id, err := identity.FromCertificate(certs[0])
	if err != nil {
		return identity.ID{}, fault.New(fault.CodePeerUnverified, "peer: %w", err)
	}
	if certs[0].IsCA || certs[0].KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return identity.ID{}, fault.New(fault.CodePeerUnverified, "peer %s presented a CA certificate as its own", id)
	}
	return id, nil
}

// judgedAt is the time to judge a leaf at: now, or the nearest end of its life
// if that is less than grace away.
func judgedAt(leaf *x509.Certificate, now time.Time, grace time.Duration) time.Time {
	switch {
	case now.After(leaf.NotAfter) && now.Sub(leaf.NotAfter) < grace:
		return leaf.NotAfter
	case now.Before(leaf.NotBefore) && leaf.NotBefore.Sub(now) < grace:
		return leaf.NotBefore
	}
	return now
}

func verifyChain(id identity.ID, certs []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) ([]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return chains[0], nil
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return nil, fault.New(fault.CodePeerExpired, "certificate %q of peer %s is valid from %s to %s, and it is %s here", invalid.Cert.Subject.CommonName, id,
			invalid.Cert.NotBefore.Format(time.RFC3339), invalid.Cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil, fault.New(fault.CodePeerUnverified, "verify certificate of peer %s: %w", id, err)
}

// Captured is what a pinned connection has proved. It is filled at the
// handshake, and safe for concurrent use.
type Captured struct {
	hub atomic.Pointer[identity.ID]
}

// Hub is the hub that answered; zero before the handshake. Its domain is the one
// that is being joined: hold what the hub answers against it.
func (c *Captured) Hub() identity.ID {
	if id := c.hub.Load(); id != nil {
		return *id
	}
	return identity.ID{}
}

// PinnedClientConfig makes the configuration of a TLS 1.3 client that has no
// certificate and knows of the domain only a pin: "sha256:" and the hex SHA-256
// of a root CA's public key. The server must present a chain from a hub's
// certificate up to a CA certificate with that key.
func PinnedClientConfig(pin string) (*tls.Config, *Captured, error) {
	want, err := parsePin(pin)
	if err != nil {
		return nil, nil, err
	}
	got := &Captured{}
	c := clientBase()
	c.ServerName = PinServerName(pin)
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := verifyPinned(cs.PeerCertificates, want, time.Now())
		if err != nil {
			return err
		}
		got.hub.Store(&id)
		return nil
	}
	return c, got, nil
}

func parsePin(pin string) ([]byte, error) {
	digits, ok := strings.CutPrefix(pin, "sha256:")
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil, fault.New(fault.CodePinInvalid, "CA pin %.100q is not sha256: and 64 hexadecimal digits", pin)
	}
	return sum, nil
}

func verifyPinned(certs []*x509.Certificate, pin []byte, now time.Time) (identity.ID, error) {
	id, err := peerLeaf(certs)
	if err != nil {
		return identity.ID{}, err
	}
	for _, c := range certs[1:] {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
			continue
		}
		// The pin vouches for the key; the rest of the certificate counts only if
		// that key signed it.
		if !c.IsCA || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			return identity.ID{}, fault.New(fault.CodePeerUnverified, "peer %s presented a certificate with the pinned key that is not a self-signed CA", id)
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		if _, err := verifyChain(id, certs, roots, x509.ExtKeyUsageServerAuth, now); err != nil {
			return identity.ID{}, err
		}
		if err := AnyHub(id); err != nil {
			return identity.ID{}, err
		}
		return id, nil
	}
	return identity.ID{}, fault.New(fault.CodePinMismatch, "peer %s presented no CA with the pinned key sha256:%x", id, pin)
}

// PeerID is the identity that the other side of a gRPC call proved at the
// handshake; false if it presented no certificate, or on connections that this
// package did not configure, such as Unix sockets.
func PeerID(ctx context.Context) (identity.ID, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}, false
	}
	return StateID(info.State)
}

// StateID is PeerID for a TLS connection made with a configuration of this
// package.
func StateID(cs tls.ConnectionState) (identity.ID, bool) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return identity.ID{}, false
	}
	id, err := identity.FromCertificate(cs.PeerCertificates[0])
	return id, err == nil
}
