package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// NewRoot makes the self-signed certificate of a domain's root CA for key, as
// DER. It lives RootTTL and may sign intermediates only.
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
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
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
	if err := identity.ValidDomain(domain); err != nil {
		return nil, err
	}
	if err := checkKey(key.Public()); err != nil {
		return nil, fault.New(fault.CodeWeakKey, "intermediate CA of domain %q: %w", domain, err)
	}
	issuer := root.Issuer()
	if issuer.MaxPathLenZero {
		return nil, fault.New(fault.CodeIssuerInvalid, "CA %q may sign leaf certificates only, not another CA", issuer.Subject.CommonName)
	}
	now = now.UTC()
	if now.Before(issuer.NotBefore) || !now.Before(issuer.NotAfter) {
		return nil, fault.New(fault.CodeIssuerExpired, "root CA %q is not valid at %s", issuer.Subject.CommonName, now.Format(time.RFC3339))
	}
	csrDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "make request for the intermediate CA of domain %q: %w", domain, err)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fault.New(fault.CodeCSRInvalid, "parse request for the intermediate CA of domain %q: %w", domain, err)
	}
	t := Template{
		Profile: ProfileIntermediate, CSR: csrDER, CommonName: "MeshKit issuing CA " + domain,
		NotBefore: later(now.Add(-Backdate).Truncate(time.Second), issuer.NotBefore),
		NotAfter:  earlier(now.Add(IntermediateTTL).Truncate(time.Second), issuer.NotAfter),
	}
	der, err := root.Sign(ctx, t)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "issue intermediate CA of domain %q: %w", domain, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "parse intermediate CA of domain %q: %w", domain, err)
	}
	if err := checkIssued(c, t, csr, issuer); err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "intermediate CA of domain %q: %w", domain, err)
	}
	return der, nil
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
