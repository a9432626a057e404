package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// MaxCSR is the largest certificate request that is read, in bytes.
const MaxCSR = 16 << 10

const maxNames = 32

var (
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}

	// expectedExtensions are all that a certificate of ours carries.
	expectedExtensions = []asn1.ObjectIdentifier{
		{2, 5, 29, 14}, // subject key id
		{2, 5, 29, 15}, // key usage
		oidSAN,
		oidBasicConstraints,
		{2, 5, 29, 35}, // authority key id
		{2, 5, 29, 37}, // extended key usage
	}
)

// Tags of GeneralName, RFC 5280 4.2.1.6.
const (
	tagDNS = 2
	tagURI = 6
	tagIP  = 7
)

// CheckRequest checks what Issue checks before the CA is asked: for a caller that has
// much to do before a CA is there. Codes as Issue.
func CheckRequest(req Request) error {
	if _, err := identity.New(req.ID.Domain, req.ID.Kind, req.ID.Name); err != nil {
		return err
	}
	_, err := checkCSR(req)
	return err
}

// checkCSR checks a request on its own and against the identity that it may be
// issued for. Names in it are not used; they are checked because a request for
// another's name is worth refusing aloud.
func checkCSR(req Request) (*x509.CertificateRequest, error) {
	if len(req.CSR) == 0 || len(req.CSR) > MaxCSR {
		return nil, fault.New(fault.CodeCSRInvalid, "certificate request of %d bytes is not between 1 and %d", len(req.CSR), MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fault.New(fault.CodeCSRInvalid, "parse certificate request for %s: %w", req.ID, err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fault.New(fault.CodeWeakKey, "certificate request for %s: %w", req.ID, err)
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
	default:
		return nil, fault.New(fault.CodeCSRInvalid, "certificate request for %s is signed with %s", req.ID, csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.New(fault.CodeCSRInvalid, "certificate request for %s is not signed by its own key", req.ID)
	}
	if err := checkFurtherNames(req); err != nil {
		return nil, err
	}
	if err := checkCSRSubject(csr, req.ID); err != nil {
		return nil, err
	}
	return csr, checkCSRExtensions(csr, req)
}

func checkKey(key any) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("key on curve %s is neither P-256 nor P-384", k.Curve.Params().Name)
	}
	return fmt.Errorf("key of type %T is none of P-256, P-384, Ed25519", key)
}

// checkFurtherNames checks the names that the caller, not the request, adds.
func checkFurtherNames(req Request) error {
	if len(req.DNSNames)+len(req.IPs) > 0 && req.ID.Kind != identity.Hub {
		return fault.New(fault.CodeCSRInvalid, "%s is not a hub and gets no DNS names or addresses", req.ID)
	}
	if len(req.DNSNames)+len(req.IPs) > maxNames {
		return fault.New(fault.CodeCSRInvalid, "%d names for %s are more than %d", len(req.DNSNames)+len(req.IPs), req.ID, maxNames)
	}
	for i, name := range req.DNSNames {
		if err := checkDNSName(name); err != nil {
			return fault.New(fault.CodeCSRInvalid, "name for %s: %w", req.ID, err)
		}
		if slices.Contains(req.DNSNames[:i], name) {
			return fault.New(fault.CodeCSRInvalid, "name %q for %s is given twice", name, req.ID)
		}
	}
	for i, ip := range req.IPs {
		if !ip.IsValid() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() || slices.Contains(req.IPs[:i], ip) {
			return fault.New(fault.CodeCSRInvalid, "address %q for %s is not one that a hub can have, or given twice", ip, req.ID)
		}
	}
	return nil
}

// checkDNSName refuses what is no DNS name, and above all what a lenient
// backend would take for another kind of name: an address, a URI, an email.
func checkDNSName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("DNS name %q is an IP address", name)
	}
	if err := identity.ValidDomain(name); err != nil {
		return fmt.Errorf("DNS name %q is not valid", name)
	}
	return nil
}

func checkCSRSubject(csr *x509.CertificateRequest, id identity.ID) error {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(csr.RawSubject, &seq); err != nil || len(rest) > 0 {
		return fault.New(fault.CodeCSRInvalid, "subject of the certificate request for %s cannot be parsed", id)
	}
	for _, set := range seq {
		for _, attr := range set {
			value, _ := attr.Value.(string)
			if !attr.Type.Equal(oidCommonName) || value != id.Name && value != id.String() {
				return fault.New(fault.CodeForeignCSR, "certificate request for %s has subject %.200q", id, csr.Subject.String())
			}
		}
	}
	return nil
}

func checkCSRExtensions(csr *x509.CertificateRequest, req Request) error {
	for _, ext := range csr.Extensions {
		switch {
		case ext.Id.Equal(oidSAN):
			if err := checkCSRNames(ext.Value, req); err != nil {
				return err
			}
		case ext.Id.Equal(oidBasicConstraints):
			var bc struct {
				IsCA       bool `asn1:"optional"`
				MaxPathLen int  `asn1:"optional,default:-1"`
			}
			if _, err := asn1.Unmarshal(ext.Value, &bc); err != nil || bc.IsCA {
				return fault.New(fault.CodeCSRInvalid, "certificate request for %s asks to be a CA", req.ID)
			}
		}
	}
	return nil
}

// checkCSRNames reads the names as ASN.1, because the standard library skips the
// kinds that it does not know, such as otherName.
func checkCSRNames(san []byte, req Request) error {
	names, err := generalNames(san)
	if err != nil {
		return fault.New(fault.CodeCSRInvalid, "names in the certificate request for %s: %w", req.ID, err)
	}
	for _, n := range names {
		own := false
		switch n.Tag {
		case tagURI:
			own = string(n.Bytes) == req.ID.String()
		case tagDNS:
			own = slices.Contains(req.DNSNames, string(n.Bytes))
		case tagIP:
			ip, ok := netip.AddrFromSlice(n.Bytes)
			own = ok && slices.Contains(req.IPs, ip)
		}
		if !own {
			return fault.New(fault.CodeForeignCSR, "certificate request for %s holds the name %.200q (kind %d)", req.ID, n.Bytes, n.Tag)
		}
	}
	return nil
}

func generalNames(san []byte) ([]asn1.RawValue, error) {
	var seq []asn1.RawValue
	rest, err := asn1.Unmarshal(san, &seq)
	if err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("the list of names cannot be parsed")
	}
	for _, n := range seq {
		if n.Class != asn1.ClassContextSpecific {
			return nil, fmt.Errorf("the list of names holds something else")
		}
	}
	return seq, nil
}

// checkIssued compares a certificate with what was asked of the driver.
func checkIssued(c *x509.Certificate, t Template, csr *x509.CertificateRequest, issuer *x509.Certificate) error {
	if err := c.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("it is not signed by the issuer: %w", err)
	}
	if string(c.RawSubjectPublicKeyInfo) != string(csr.RawSubjectPublicKeyInfo) {
		return fmt.Errorf("it is for another key than the request's")
	}
	if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() < 64 || c.SerialNumber.BitLen() > 159 {
		return fmt.Errorf("its serial number has %d bits", c.SerialNumber.BitLen())
	}
	if want := (pkix.Name{CommonName: t.CommonName}).String(); c.Subject.String() != want {
		return fmt.Errorf("its subject is %q, not %q", c.Subject, want)
	}
	if !c.NotBefore.Equal(t.NotBefore) || !c.NotAfter.Equal(t.NotAfter) {
		return fmt.Errorf("it is valid from %s to %s, not from %s to %s", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), t.NotBefore.Format(time.RFC3339), t.NotAfter.Format(time.RFC3339))
	}
	if c.NotAfter.After(issuer.NotAfter) || c.NotBefore.Before(issuer.NotBefore) {
		return fmt.Errorf("it is valid from %s to %s, beyond the issuer's life", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	for _, ext := range c.Extensions {
		if !slices.ContainsFunc(expectedExtensions, ext.Id.Equal) {
			return fmt.Errorf("it carries the extension %s", ext.Id)
		}
	}
	if err := checkIssuedNames(c, t); err != nil {
		return err
	}
	return checkIssuedUsage(c, t.Profile)
}

func checkIssuedNames(c *x509.Certificate, t Template) error {
	var want []string
	if t.URI != nil {
		want = append(want, t.URI.String())
	}
	want = append(want, t.DNSNames...)
	for _, ip := range t.IPs {
		want = append(want, ip.String())
	}
	got := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, uri := range c.URIs {
		got = append(got, uri.String())
	}
	for _, raw := range c.IPAddresses {
		ip, _ := netip.AddrFromSlice(raw)
		got = append(got, ip.String())
	}
	if !slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))) {
		return fmt.Errorf("its names are %q, not %q", got, want)
	}
	// Kinds of name that the parser skips would not be in got.
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		names, err := generalNames(ext.Value)
		if err != nil || len(names) != len(want) {
			return fmt.Errorf("it carries %d names, not %d", len(names), len(want))
		}
	}
	return nil
}

func checkIssuedUsage(c *x509.Certificate, p Profile) error {
	if !c.BasicConstraintsValid {
		return fmt.Errorf("it does not say whether it is a CA")
	}
	if below, isCA := p.PathLen(); isCA {
		if !c.IsCA || c.MaxPathLen != below || c.MaxPathLenZero != (below == 0) || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) > 0 {
			return fmt.Errorf("it is not a CA with at most %d CAs below it", below)
		}
		return nil
	}
	want := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if p == ProfileOperator {
		want = want[:1]
	}
	got := slices.Clone(c.ExtKeyUsage)
	slices.SortFunc(got, func(a, b x509.ExtKeyUsage) int { return int(b) - int(a) }) // client (2), server (1)
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(got, want) || len(c.UnknownExtKeyUsage) > 0 {
		return fmt.Errorf("it may be used for other things than profile %q allows", p)
	}
	return nil
}
