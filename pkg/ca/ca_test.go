package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/ca/catest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// direct is a driver over crypto/x509 alone. spoil, if set, changes the
// certificate before it is signed: a backend gone wrong.
type direct struct {
	issuer *x509.Certificate
	key    crypto.Signer
	spoil  func(*x509.Certificate)
}

func (d *direct) Issuer() *x509.Certificate { return d.issuer }

func (d *direct) Sign(ctx context.Context, t ca.Template) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(t.CSR)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: serial.SetBit(serial, 126, 1), Subject: pkix.Name{CommonName: t.CommonName},
		NotBefore: t.NotBefore, NotAfter: t.NotAfter, DNSNames: t.DNSNames,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		PublicKey:   csr.PublicKey,
	}
	for _, ip := range t.IPs {
		c.IPAddresses = append(c.IPAddresses, ip.AsSlice())
	}
	if t.URI != nil {
		c.URIs = []*url.URL{t.URI}
	}
	switch t.Profile {
	case ca.ProfileNode, ca.ProfileHub:
	case ca.ProfileOperator:
		c.ExtKeyUsage = c.ExtKeyUsage[:1]
	case ca.ProfileIntermediate:
		c.IsCA, c.MaxPathLenZero, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	case ca.ProfileHubCA:
		c.IsCA, c.MaxPathLen, c.KeyUsage, c.ExtKeyUsage = true, 1, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	default:
		return nil, errors.New("unknown profile")
	}
	if d.spoil != nil {
		d.spoil(c)
	}
	return x509.CreateCertificate(rand.Reader, c, d.issuer, c.PublicKey, d.key)
}

func open(t testing.TB, issuer *x509.Certificate, key crypto.Signer) ca.Driver {
	return &checked{direct{issuer: issuer, key: key}}
}

// checked adds what the contract asks of a driver.
type checked struct{ direct }

func (d *checked) Sign(ctx context.Context, t ca.Template) ([]byte, error) {
	_, isCA := t.Profile.PathLen()
	switch {
	case (t.URI == nil) != isCA:
		return nil, errors.New("leaf without URI")
	case t.NotBefore.IsZero() || t.NotAfter.After(d.issuer.NotAfter):
		return nil, errors.New("times")
	}
	for _, name := range t.DNSNames {
		if identity.ValidDomain(name) != nil || net.ParseIP(name) != nil {
			return nil, errors.New("DNS name")
		}
	}
	return d.direct.Sign(ctx, t)
}

// The suite itself can be passed without cfssl.
func TestSuiteAcceptsASoundDriver(t *testing.T) { catest.Run(t, open) }

func node(name string) identity.ID {
	return identity.ID{Domain: catest.Domain, Kind: identity.Node, Name: name}
}

func TestDefectiveDriverLetsNothingOut(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	other, err := url.Parse("spiffe://eu-west/node/n2")
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*x509.Certificate){
		"no names":             func(c *x509.Certificate) { c.URIs = nil },
		"two SPIFFE IDs":       func(c *x509.Certificate) { c.URIs = append(c.URIs, other) },
		"another's SPIFFE ID":  func(c *x509.Certificate) { c.URIs = []*url.URL{other} },
		"a DNS name":           func(c *x509.Certificate) { c.DNSNames = []string{"hub1"} },
		"an address":           func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} },
		"an email":             func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} },
		"another subject":      func(c *x509.Certificate) { c.Subject.Organization = []string{"Evil"} },
		"a longer life":        func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) },
		"a life beyond the CA": func(c *x509.Certificate) { c.NotAfter = p.Issuer.NotAfter.Add(time.Hour) },
		"an earlier start":     func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Minute) },
		"CA rights":            func(c *x509.Certificate) { c.IsCA = true },
		"certificate signing":  func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"any usage":            func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no usage":             func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"a short serial":       func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) },
		"another key":          func(c *x509.Certificate) { c.PublicKey = catest.Key(t).Public() },
		"an unknown extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		},
		"a name of other kinds": func(c *x509.Certificate) { c.URIs = nil; c.ExtraExtensions = []pkix.Extension{otherName(t)} },
	} {
		a, err := ca.New(catest.Domain, &direct{p.Issuer, p.IssuerKey, spoil}, p.Bundle, ca.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Issue(t.Context(), ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: node("n1")})
		if !errors.Is(err, fault.CodeIssueRefused) {
			t.Errorf("%s: %v, want %s", what, err, fault.CodeIssueRefused)
		}
	}
	stranger := catest.NewPKI(t, open, time.Now())
	a, err := ca.New(catest.Domain, &direct{p.Issuer, stranger.IssuerKey, nil}, p.Bundle, ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: node("n1")}); !errors.Is(err, fault.CodeIssueRefused) {
		t.Errorf("another CA's signature: %v", err)
	}
}

// otherName holds n1's SPIFFE ID and, beside it, a name that the standard
// library skips.
func otherName(t testing.TB) pkix.Extension {
	return catest.SANExtension(t,
		asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("spiffe://eu-west/node/n1")},
		asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{6, 3, 42, 3, 4, 0xa0, 4, 12, 2, 'h', 'i'}})
}

func TestRequestForAnothersNameIsRefused(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	for what, c := range map[string]struct {
		csr  x509.CertificateRequest
		code fault.Code
	}{
		"nothing":                    {x509.CertificateRequest{}, ""},
		"own name":                   {x509.CertificateRequest{Subject: pkix.Name{CommonName: "n1"}, URIs: uri("spiffe://eu-west/node/n1")}, ""},
		"another's SPIFFE ID":        {x509.CertificateRequest{URIs: uri("spiffe://eu-west/node/n2")}, fault.CodeForeignCSR},
		"a hub's SPIFFE ID":          {x509.CertificateRequest{URIs: uri("spiffe://eu-west/hub/n1")}, fault.CodeForeignCSR},
		"own and another's":          {x509.CertificateRequest{URIs: append(uri("spiffe://eu-west/node/n1"), uri("spiffe://eu-west/node/n2")...)}, fault.CodeForeignCSR},
		"another common name":        {x509.CertificateRequest{Subject: pkix.Name{CommonName: "n2"}}, fault.CodeForeignCSR},
		"an organization":            {x509.CertificateRequest{Subject: pkix.Name{CommonName: "n1", Organization: []string{"Ops"}}}, fault.CodeForeignCSR},
		"a DNS name":                 {x509.CertificateRequest{DNSNames: []string{"n1"}}, fault.CodeForeignCSR},
		"an address":                 {x509.CertificateRequest{IPAddresses: []net.IP{{127, 0, 0, 1}}}, fault.CodeForeignCSR},
		"an email":                   {x509.CertificateRequest{EmailAddresses: []string{"n1@example.com"}}, fault.CodeForeignCSR},
		"a name of an unknown kind":  {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{otherName(t)}}, fault.CodeForeignCSR},
		"CA rights":                  {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}}, fault.CodeCSRInvalid},
		"that it is no CA (openssl)": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0}}}}, ""},
	} {
		_, err := p.Authority.Issue(t.Context(), ca.Request{CSR: catest.CSR(t, catest.Key(t), &c.csr), ID: node("n1")})
		if fault.CodeOf(err) != c.code {
			t.Errorf("request holds %s: %v, want code %q", what, err, c.code)
		}
	}
	// What a hub may have is given by the server, and may then be in the request.
	hub := identity.ID{Domain: catest.Domain, Kind: identity.Hub, Name: "h1"}
	csr := catest.CSR(t, catest.Key(t), &x509.CertificateRequest{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{{127, 0, 0, 1}}})
	_, err := p.Authority.Issue(t.Context(), ca.Request{CSR: csr, ID: hub, DNSNames: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Errorf("hub's own names: %v", err)
	}
	_, err = p.Authority.Issue(t.Context(), ca.Request{CSR: csr, ID: hub})
	if !errors.Is(err, fault.CodeForeignCSR) {
		t.Errorf("names that the server did not give: %v", err)
	}
	_, err = p.Authority.Issue(t.Context(), ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: node("n1"), DNSNames: []string{"localhost"}})
	if !errors.Is(err, fault.CodeCSRInvalid) {
		t.Errorf("DNS name for a node: %v", err)
	}
	_, err = p.Authority.Issue(t.Context(), ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: identity.ID{Domain: "us-east", Kind: identity.Node, Name: "n1"}})
	if !errors.Is(err, fault.CodeForeignCSR) {
		t.Errorf("identity of another domain: %v", err)
	}
}

func TestBadRequestIsRefused(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := catest.CSR(t, catest.Key(t), nil)
	broken := append([]byte{}, good...)
	broken[len(broken)-3] ^= 1
	for what, c := range map[string]struct {
		csr  []byte
		code fault.Code
	}{
		"nothing":         {nil, fault.CodeCSRInvalid},
		"garbage":         {[]byte("garbage"), fault.CodeCSRInvalid},
		"trailing bytes":  {append(append([]byte{}, good...), 0), fault.CodeCSRInvalid},
		"bad signature":   {broken, fault.CodeCSRInvalid},
		"oversize":        {make([]byte, ca.MaxCSR+1), fault.CodeCSRInvalid},
		"RSA":             {catest.CSR(t, rsaKey, nil), fault.CodeWeakKey},
		"P-521":           {catest.CSR(t, p521, nil), fault.CodeWeakKey},
		"sound after all": {good, ""},
	} {
		_, err := p.Authority.Issue(t.Context(), ca.Request{CSR: c.csr, ID: node("n1")})
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want code %q", what, err, c.code)
		}
	}
	for _, ttl := range []time.Duration{-time.Hour, time.Second, ca.MaxTTL + time.Hour} {
		if _, err := p.Authority.Issue(t.Context(), ca.Request{CSR: good, ID: node("n1"), TTL: ttl}); !errors.Is(err, fault.CodeCSRInvalid) {
			t.Errorf("life of %s: %v", ttl, err)
		}
	}
}

func TestAuthorityNeedsAnIssuerOfItsRoot(t *testing.T) {
	p, other := catest.NewPKI(t, open, time.Now()), catest.NewPKI(t, open, time.Now())
	if _, err := ca.New(catest.Domain, p.IssuingDriver, other.Bundle, ca.Options{}); !errors.Is(err, fault.CodeIssuerInvalid) {
		t.Errorf("issuer of another root: %v", err)
	}
	if _, err := ca.New(catest.Domain, p.IssuingDriver, []byte("none"), ca.Options{}); !errors.Is(err, fault.CodeIssuerInvalid) {
		t.Errorf("no bundle: %v", err)
	}
	if !strings.HasPrefix(p.Authority.Pin(), "sha256:") || p.Authority.Pin() == other.Authority.Pin() {
		t.Errorf("pins %s and %s", p.Authority.Pin(), other.Authority.Pin())
	}
}

func FuzzIssue(f *testing.F) {
	p := catest.NewPKI(f, open, time.Now())
	f.Add(catest.CSR(f, catest.Key(f), nil))
	f.Add(catest.CSR(f, catest.Key(f), &x509.CertificateRequest{DNSNames: []string{"n1"}, ExtraExtensions: []pkix.Extension{otherName(f)}}))
	f.Fuzz(func(t *testing.T, csr []byte) {
		_, _ = p.Authority.Issue(context.Background(), ca.Request{CSR: csr, ID: node("n1")})
	})
}
