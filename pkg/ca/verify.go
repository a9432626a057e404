package ca

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// maxVerified bounds a chain that Verify and VerifyIntermediate read.
const maxVerified = 8

// Verify checks a certificate that an Authority elsewhere issued for req: its chain,
// DER, leaf first, leads to a root of the bundle at now, and the leaf is what Issue
// would have made of the request, at most as long-lived. Whether who signed it still
// may is for the caller to ask. The error of a certificate that is something else has
// CodeIssueRefused; those of the request are Issue's.
func Verify(bundle []byte, chain [][]byte, req Request, now time.Time) (Certificate, error) {
	csr, err := checkCSR(req)
	if err != nil {
		return Certificate{}, err
	}
	leaf, issuer, err := lead(bundle, chain, now)
	if err != nil {
		return Certificate{}, fault.New(fault.CodeIssueRefused, "certificate for %s: %w", req.ID, err)
	}
	uri, err := url.Parse(req.ID.String())
	if err != nil {
		return Certificate{}, fault.New(fault.CodeIdentityInvalid, "identity %q: %w", req.ID, err)
	}
	t := Template{
		Profile: ProfileOf(req.ID), CommonName: req.ID.Name, URI: uri, DNSNames: req.DNSNames, IPs: req.IPs,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
	ttl := req.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if err = checkLife(leaf, ttl); err == nil {
		err = checkIssued(leaf, t, csr, issuer)
	}
	if err != nil {
		return Certificate{}, fault.New(fault.CodeIssueRefused, "certificate for %s: %w", req.ID, err)
	}
	return certificate(chain, leaf, req.ID), nil
}

// VerifyIntermediate checks the issuing CA of a hub that a hub CA elsewhere made, as
// Verify does: it is what IssueIntermediate would have made of the request.
func VerifyIntermediate(bundle []byte, chain [][]byte, hub identity.ID, csrDER []byte, now time.Time) error {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err == nil {
		err = checkKey(csr.PublicKey)
	}
	if err != nil {
		return fault.New(fault.CodeCSRInvalid, "request for the issuing CA of %s: %w", hub, err)
	}
	c, issuer, err := lead(bundle, chain, now)
	if err == nil && !maySign(issuer, ProfileIntermediate) {
		err = fmt.Errorf("CA %q may not sign it", issuer.Subject.CommonName)
	}
	if err == nil {
		err = checkLife(c, IntermediateTTL)
	}
	if err == nil {
		t := Template{Profile: ProfileIntermediate, CommonName: issuingCA + hub.Domain + " " + hub.Name, NotBefore: c.NotBefore, NotAfter: c.NotAfter}
		err = checkIssued(c, t, csr, issuer)
	}
	if err != nil {
		return fault.New(fault.CodeIssueRefused, "issuing CA of %s: %w", hub, err)
	}
	return nil
}

// lead parses a chain, lowest first, and gives its first certificate and who signed
// that, if it leads to a root of the bundle at now.
func lead(bundle []byte, chain [][]byte, now time.Time) (first, issuer *x509.Certificate, err error) {
	if len(chain) == 0 || len(chain) > maxVerified {
		return nil, nil, fmt.Errorf("a chain of %d certificates, not 1 to %d", len(chain), maxVerified)
	}
	roots, err := parseBundle(bundle)
	if err != nil {
		return nil, nil, err
	}
	verify := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: now,
	}
	for _, r := range roots {
		verify.Roots.AddCert(r)
	}
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("parse certificate %d of the chain: %w", i+1, err)
		}
		if i == 0 {
			first = c
			continue
		}
		verify.Intermediates.AddCert(c)
	}
	found, err := first.Verify(verify)
	if err != nil {
		return nil, nil, err
	}
	if len(found[0]) < 2 {
		return nil, nil, fmt.Errorf("it is a root itself")
	}
	return first, found[0][1], nil
}

// checkLife checks that a certificate lives no longer than one that was made for ttl.
func checkLife(c *x509.Certificate, ttl time.Duration) error {
	if life := c.NotAfter.Sub(c.NotBefore); life > ttl+Backdate {
		return fmt.Errorf("it is valid for %s, longer than %s", life, ttl)
	}
	return nil
}
