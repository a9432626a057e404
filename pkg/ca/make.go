package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// NewRoot makes the self-signed certificate of a domain's root CA for key, as
// DER. It lives RootTTL and may sign CAs only: issuing ones, and one that makes
// issuing ones.
func NewRoot(domain string, key crypto.Signer, now time.Time) ([]byte, error) {
	if err := identity.ValidDomain(domain); err != nil {
		return nil, err
	}
	if err := checkKey(key.Public()); err != nil {
		return nil, fault.New(fault.CodeWeakKey, "root CA of domain %q: %w", domain, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "draw a serial number: %w", err)
	}
	serial.SetBit(serial, 126, 1)
	from := now.UTC().Add(-Backdate).Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "MeshKit root CA " + domain},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore:    from, NotAfter: from.Add(RootTTL),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 2,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "make root CA of domain %q: %w", domain, err)
	}
	return der, nil
}

// NewIntermediate makes the certificate of an issuing CA for key, signed by the
// root's driver, as DER. It lives IntermediateTTL, or as long as the root, and
// may sign leaf certificates only.
func NewIntermediate(ctx context.Context, root Driver, domain string, key crypto.Signer, now time.Time) ([]byte, error) {
	csr, err := caRequest(domain, key)
	if err != nil {
		return nil, err
	}
	return issueCA(ctx, root, ProfileIntermediate, domain, issuingCA+domain, csr, now)
}

// NewHubCA makes the certificate of the CA that makes issuing CAs for hubs that
// join, as DER. It lives IntermediateTTL, or as long as the root.
func NewHubCA(ctx context.Context, root Driver, domain string, key crypto.Signer, now time.Time) ([]byte, error) {
	csr, err := caRequest(domain, key)
	if err != nil {
		return nil, err
	}
	return issueCA(ctx, root, ProfileHubCA, domain, "MeshKit hub CA "+domain, csr, now)
}

// IssueIntermediate makes the certificate of the issuing CA of a hub, for the key
// of its request, signed by a hub CA. It lives as NewIntermediate's does. Codes:
// CodeCSRInvalid, CodeWeakKey, CodeIssuerInvalid, CodeIssuerExpired,
// CodeIssueRefused.
func IssueIntermediate(ctx context.Context, hubCA Driver, hub identity.ID, csr []byte, now time.Time) ([]byte, error) {
	if hub.Kind != identity.Hub {
		return nil, fault.New(fault.CodeIdentityInvalid, "%s is no hub", hub)
	}
	if len(csr) > MaxCSR {
		return nil, fault.New(fault.CodeCSRInvalid, "the request for the issuing CA of %s has %d bytes, more than %d", hub, len(csr), MaxCSR)
	}
	return issueCA(ctx, hubCA, ProfileIntermediate, hub.Domain, issuingCA+hub.Domain+" "+hub.Name, csr, now)
}

const issuingCA = "MeshKit issuing CA "

// HubOf names the hub whose issuing CA signed a certificate of the domain that has
// been verified; false if it was the CA that was made with the domain, whose name has
// no hub.
func HubOf(leaf *x509.Certificate, domain string) (hub string, ok bool) {
	return strings.CutPrefix(leaf.Issuer.CommonName, issuingCA+domain+" ")
}

// caRequest makes the request for the CA of a key that is here.
func caRequest(domain string, key crypto.Signer) ([]byte, error) {
	if err := identity.ValidDomain(domain); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "make request for a CA of domain %q: %w", domain, err)
	}
	return der, nil
}

func issueCA(ctx context.Context, by Driver, profile Profile, domain, name string, csrDER []byte, now time.Time) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.New(fault.CodeCSRInvalid, "request for %q: %w", name, err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fault.New(fault.CodeWeakKey, "request for %q: %w", name, err)
	}
	issuer := by.Issuer()
	if !maySign(issuer, profile) {
		return nil, fault.New(fault.CodeIssuerInvalid, "CA %q may not sign %q", issuer.Subject.CommonName, name)
	}
	now = now.UTC()
	if now.Before(issuer.NotBefore) || !now.Before(issuer.NotAfter) {
		return nil, fault.New(fault.CodeIssuerExpired, "CA %q is not valid at %s", issuer.Subject.CommonName, now.Format(time.RFC3339))
	}
	t := Template{
		Profile: profile, CSR: csrDER, CommonName: name,
		NotBefore: later(now.Add(-Backdate).Truncate(time.Second), issuer.NotBefore),
		NotAfter:  earlier(now.Add(IntermediateTTL).Truncate(time.Second), issuer.NotAfter),
	}
	der, err := by.Sign(ctx, t)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "issue %q: %w", name, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "parse %q: %w", name, err)
	}
	if err := checkIssued(c, t, csr, issuer); err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "%q: %w", name, err)
	}
	return der, nil
}

// maySign tells whether a CA may sign one of a profile.
func maySign(issuer *x509.Certificate, profile Profile) bool {
	below, _ := profile.PathLen()
	return !issuer.MaxPathLenZero && (issuer.MaxPathLen < 0 || issuer.MaxPathLen > below)
}

// NewCSR makes a certificate request, DER, for key. It names id for whoever
// reads it; the CA takes only the key from it.
func NewCSR(key crypto.Signer, id identity.ID) ([]byte, error) {
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, fault.New(fault.CodeIdentityInvalid, "identity %q: %w", id, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id.Name}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "make certificate request for %s: %w", id, err)
	}
	return der, nil
}
