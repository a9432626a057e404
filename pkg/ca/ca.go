// Package ca issues the X.509 certificates of one domain.
//
// An Authority decides what a certificate says; a Driver signs it. The Authority
// takes nothing from a certificate request but its public key: names, lifetime
// and usages come from the caller and the profile. It parses what the driver
// returns and compares it field by field with what was asked, so that a driver's
// surprise (an extra name, a longer life, a copied extension) is an error
// instead of a certificate. Nothing is stored here: the hub records each
// Certificate in its log before it hands it out, so drivers need no certificate
// database.
//
// # Time
//
// Leaf certificates live DefaultTTL. NotBefore lies Backdate before the issuing
// clock, so that a peer whose clock is up to ten minutes behind accepts a new
// certificate at once; NotAfter never lies beyond the issuer's. A certificate is
// renewed at half its life, so a clock that is ten minutes ahead never meets an
// expired one. A clock that is a day wrong does: see package mtls.
//
// An Authority is safe for concurrent use.
package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"net/url"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

const (
	// DefaultTTL is the life of a leaf certificate.
	DefaultTTL = 24 * time.Hour
	// MaxTTL is the longest life that Issue gives a leaf (operators' credentials
	// are files that people keep).
	MaxTTL = 366 * 24 * time.Hour
	// RootTTL and IntermediateTTL are the lives of CAs.
	RootTTL         = 3653 * 24 * time.Hour
	IntermediateTTL = 730 * 24 * time.Hour
	// Backdate is how far before its issue a certificate becomes valid.
	Backdate = 15 * time.Minute
)

// Profile says what a certificate may be used for.
type Profile string

// The profiles. Nodes serve their local processes too, so they authenticate as
// client and server, as hubs do; operators are clients only.
const (
	ProfileNode     Profile = "node"
	ProfileHub      Profile = "hub"
	ProfileOperator Profile = "operator"
	// ProfileIntermediate is a CA that issues leaf certificates, ProfileHubCA one
	// that makes such CAs for hubs that join.
	ProfileIntermediate Profile = "intermediate"
	ProfileHubCA        Profile = "hub-ca"
)

// PathLen tells whether certificates of the profile are CAs, and how many further
// CAs may stand below one.
func (p Profile) PathLen() (pathLen int, ok bool) {
	switch p {
	case ProfileIntermediate:
		return 0, true
	case ProfileHubCA:
		return 1, true
	}
	return 0, false
}

// ProfileOf gives the profile of an identity's certificates.
func ProfileOf(id identity.ID) Profile { return Profile(id.Kind) }

// Driver signs certificates with one issuing CA. Implementations must be safe
// for concurrent use.
type Driver interface {
	// Sign makes the certificate that t describes and returns it as DER. Its
	// names, validity and usages must be those of t and of t.Profile, and nothing
	// else; of the request it takes the public key only. A template that it cannot
	// follow exactly is an error.
	Sign(ctx context.Context, t Template) (der []byte, err error)
	// Issuer is the CA's own certificate.
	Issuer() *x509.Certificate
}

// Template is what a driver is asked to sign.
type Template struct {
	Profile Profile
	// CSR is a PKCS#10 request, DER, whose signature has been checked.
	CSR        []byte
	CommonName string
	// URI is the SPIFFE ID; nil for the profiles of CAs only.
	URI      *url.URL
	DNSNames []string
	IPs      []netip.Addr
	// NotBefore and NotAfter are UTC, in whole seconds, and exact.
	NotBefore, NotAfter time.Time
}

// Request asks for a leaf certificate.
type Request struct {
	// CSR is a PKCS#10 request, DER, at most MaxCSR bytes.
	CSR []byte
	// ID is who the caller proved to be; the certificate names it and no one else.
	ID identity.ID
	// TTL is the life; 0 means DefaultTTL. It is cut at the issuer's own end.
	TTL time.Duration
	// DNSNames and IPs are further names, for hubs only.
	DNSNames []string
	IPs      []netip.Addr
}

// Certificate is an issued certificate and what is worth recording of it.
type Certificate struct {
	// Chain is DER: leaf, then intermediates, without the root.
	Chain   [][]byte
	ID      identity.ID
	Profile Profile
	// Serial is hex, lower case; Fingerprint the hex SHA-256 of the leaf's DER.
	Serial, Fingerprint string
	NotBefore, NotAfter time.Time
}

// Options of an Authority; the zero value is right for programs.
type Options struct {
	// Intermediates are DER certificates between the driver's issuer and the
	// root, lowest first.
	Intermediates [][]byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Authority issues certificates for one domain through one driver.
type Authority struct {
	domain string
	driver Driver
	issuer *x509.Certificate
	chain  [][]byte // what follows a leaf
	bundle []byte
	pin    string
	now    func() time.Time
}

// New makes an Authority. bundle is the PEM of the domain's roots; the driver's
// issuer must lead to one of them. The error has fault.CodeIssuerInvalid. An
// issuer that has expired is accepted here and refused by Issue.
func New(domain string, d Driver, bundle []byte, opt Options) (*Authority, error) {
	if err := identity.ValidDomain(domain); err != nil {
		return nil, err
	}
	issuer := d.Issuer()
	if issuer == nil || !issuer.IsCA {
		return nil, fault.New(fault.CodeIssuerInvalid, "issuer of domain %q is not a CA certificate", domain)
	}
	roots, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	a := &Authority{domain: domain, driver: d, issuer: issuer, bundle: bytes.Clone(bundle), now: opt.Now}
	if a.now == nil {
		a.now = time.Now
	}
	verify := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: issuer.NotBefore, // whether it has expired is Issue's question
	}
	for _, r := range roots {
		verify.Roots.AddCert(r)
	}
	for _, der := range opt.Intermediates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.New(fault.CodeIssuerInvalid, "parse intermediate of domain %q: %w", domain, err)
		}
		verify.Intermediates.AddCert(c)
	}
	chains, err := issuer.Verify(verify)
	if err != nil {
		return nil, fault.New(fault.CodeIssuerInvalid, "issuer %q does not lead to a root of the CA bundle: %w", issuer.Subject, err)
	}
	root := chains[0][len(chains[0])-1]
	a.pin = Pin(root)
	for _, c := range chains[0][:len(chains[0])-1] {
		a.chain = append(a.chain, c.Raw)
	}
	return a, nil
}

// Bundle is the PEM of the domain's roots; do not modify it.
func (a *Authority) Bundle() []byte { return a.bundle }

// Pin names the root that the issuer leads to: what `--ca-pin` takes.
func (a *Authority) Pin() string { return a.pin }

// Issuer is the issuing CA's certificate.
func (a *Authority) Issuer() *x509.Certificate { return a.issuer }

// Pin writes "sha256:" and the hex SHA-256 of a certificate's public key
// (SubjectPublicKeyInfo), so that it survives a new certificate for the key.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Issue checks the request and issues a certificate for req.ID. The caller has
// authenticated whoever asks. Codes: CodeCSRInvalid, CodeForeignCSR,
// CodeWeakKey, CodeIssuerExpired, CodeIssueRefused (nothing left the hub).
func (a *Authority) Issue(ctx context.Context, req Request) (Certificate, error) {
	if req.ID.Domain != a.domain {
		return Certificate{}, fault.New(fault.CodeForeignCSR, "identity %q is not of domain %q", req.ID, a.domain)
	}
	if _, err := identity.New(req.ID.Domain, req.ID.Kind, req.ID.Name); err != nil {
		return Certificate{}, err
	}
	csr, err := checkCSR(req)
	if err != nil {
		return Certificate{}, err
	}
	t, err := a.template(req)
	if err != nil {
		return Certificate{}, err
	}
	der, err := a.driver.Sign(ctx, t)
	if err != nil {
		return Certificate{}, fault.New(fault.CodeIssueRefused, "issue certificate for %s: %w", req.ID, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fault.New(fault.CodeIssueRefused, "parse the certificate issued for %s: %w", req.ID, err)
	}
	if err := checkIssued(leaf, t, csr, a.issuer); err != nil {
		return Certificate{}, fault.New(fault.CodeIssueRefused, "certificate issued for %s: %w", req.ID, err)
	}
	return certificate(append([][]byte{der}, a.chain...), leaf, req.ID), nil
}

func certificate(chain [][]byte, leaf *x509.Certificate, id identity.ID) Certificate {
	sum := sha256.Sum256(leaf.Raw)
	return Certificate{
		Chain: chain, ID: id, Profile: ProfileOf(id),
		Serial: leaf.SerialNumber.Text(16), Fingerprint: hex.EncodeToString(sum[:]),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

func (a *Authority) template(req Request) (Template, error) {
	now := a.now().UTC()
	if now.Before(a.issuer.NotBefore) || !now.Before(a.issuer.NotAfter) {
		return Template{}, fault.New(fault.CodeIssuerExpired, "issuing CA %q is valid from %s to %s, and it is %s here",
			a.issuer.Subject.CommonName, a.issuer.NotBefore.Format(time.RFC3339), a.issuer.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	ttl := req.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < time.Minute || ttl > MaxTTL {
		return Template{}, fault.New(fault.CodeCSRInvalid, "certificate life %s is not between 1m and %s", ttl, MaxTTL)
	}
	uri, err := url.Parse(req.ID.String())
	if err != nil {
		return Template{}, fault.New(fault.CodeIdentityInvalid, "identity %q: %w", req.ID, err)
	}
	return Template{
		Profile: ProfileOf(req.ID), CSR: req.CSR, CommonName: req.ID.Name, URI: uri,
		DNSNames: req.DNSNames, IPs: req.IPs,
		NotBefore: later(now.Add(-Backdate).Truncate(time.Second), a.issuer.NotBefore),
		NotAfter:  earlier(now.Add(ttl).Truncate(time.Second), a.issuer.NotAfter),
	}, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func parseBundle(bundle []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bundle; len(bytes.TrimSpace(rest)) > 0; {
		block, next := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fault.New(fault.CodeIssuerInvalid, "CA bundle holds something that is not a PEM certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New(fault.CodeIssuerInvalid, "parse CA bundle: %w", err)
		}
		out, rest = append(out, c), next
	}
	if len(out) == 0 {
		return nil, fault.New(fault.CodeIssuerInvalid, "CA bundle holds no certificate")
	}
	return out, nil
}
