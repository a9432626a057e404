package ca_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/ca/catest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// Verify takes what an Authority makes of the request, and nothing that only the domain's
// CA signed.
func TestACertificateOfAnotherHubIsWhatItWouldBeHere(t *testing.T) {
	p, other := catest.NewPKI(t, open, time.Now()), catest.NewPKI(t, open, time.Now())
	id := identity.ID{Domain: catest.Domain, Kind: identity.Hub, Name: "hub4"}
	req := ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: id, DNSNames: []string{"localhost"}}
	sound, err := p.Authority.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ca.Verify(p.Bundle, sound.Chain, req, p.Now)
	if err != nil || got.Fingerprint != sound.Fingerprint || got.Serial != sound.Serial || got.Profile != sound.Profile || !got.NotAfter.Equal(sound.NotAfter) {
		t.Fatalf("what the Authority made: %+v (%v), want %+v", got, err, sound)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	spoiled := func(spoil func(*x509.Certificate)) [][]byte {
		t.Helper()
		d := &direct{issuer: p.Issuer, key: p.IssuerKey, spoil: spoil}
		der, err := d.Sign(t.Context(), ca.Template{
			Profile: ca.ProfileHub, CSR: req.CSR, CommonName: "hub4", URI: uri, DNSNames: req.DNSNames, NotBefore: sound.NotBefore, NotAfter: sound.NotAfter,
		})
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{der, p.Issuer.Raw}
	}
	if _, err := ca.Verify(p.Bundle, spoiled(nil), req, p.Now); err != nil {
		t.Fatalf("not spoiled: %v", err)
	}
	for name, chain := range map[string][][]byte{
		"none":                 nil,
		"no chain to the root": sound.Chain[:1],
		"the root":             {p.Root.Raw},
		"not DER":              {[]byte("none")},
		"too many":             append(append([][]byte{}, sound.Chain...), make([][]byte, 8)...),
		"a longer life":        spoiled(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) }),
		"another name":         spoiled(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "hub1") }),
		"another subject":      spoiled(func(c *x509.Certificate) { c.Subject.CommonName = "hub1" }),
		"a CA":                 spoiled(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }),
		"an extension": spoiled(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		}),
	} {
		if _, err := ca.Verify(p.Bundle, chain, req, p.Now); fault.CodeOf(err) != fault.CodeIssueRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tc := range map[string]struct {
		bundle []byte
		now    time.Time
	}{
		"another root": {other.Bundle, p.Now}, "once it has expired": {p.Bundle, sound.NotAfter.Add(time.Second)}, "before its time": {p.Bundle, sound.NotBefore.Add(-time.Second)},
	} {
		if _, err := ca.Verify(tc.bundle, sound.Chain, req, tc.now); fault.CodeOf(err) != fault.CodeIssueRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An issuing CA is made by a CA that may make such, and for the hub's key.
func TestAnIssuingCAOfAnotherHubIsWhatItWouldBeHere(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	id := identity.ID{Domain: catest.Domain, Kind: identity.Hub, Name: "hub4"}
	hubKey := catest.Key(t)
	der, err := ca.NewHubCA(t.Context(), p.RootDriver, catest.Domain, hubKey, p.Now)
	if err != nil {
		t.Fatal(err)
	}
	hubCA, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	csr := catest.CSR(t, catest.Key(t), nil)
	sound, err := ca.IssueIntermediate(t.Context(), open(t, hubCA, hubKey), id, csr, p.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.VerifyIntermediate(p.Bundle, [][]byte{sound, der}, id, csr, p.Now); err != nil {
		t.Fatal(err)
	}
	// The standard library does not count a CA that is the first of a chain.
	below, err := p.IssuingDriver.Sign(t.Context(), ca.Template{
		Profile: ca.ProfileIntermediate, CSR: csr, CommonName: "MeshKit issuing CA " + catest.Domain + " hub4", NotBefore: p.Now.UTC().Truncate(time.Second), NotAfter: p.Now.UTC().Truncate(time.Second).Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	other := identity.ID{Domain: catest.Domain, Kind: identity.Hub, Name: "hub5"}
	for name, tc := range map[string]struct {
		chain [][]byte
		id    identity.ID
		csr   []byte
	}{
		"below an issuing CA": {[][]byte{below, p.Issuer.Raw}, id, csr},
		"of another hub":      {[][]byte{sound, der}, other, csr},
		"for another key":     {[][]byte{sound, der}, id, catest.CSR(t, catest.Key(t), nil)},
		"a hub CA":            {[][]byte{der}, id, csr},
	} {
		if err := ca.VerifyIntermediate(p.Bundle, tc.chain, tc.id, tc.csr, p.Now); fault.CodeOf(err) != fault.CodeIssueRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ca.VerifyIntermediate(p.Bundle, [][]byte{sound, der}, id, []byte("none"), p.Now); fault.CodeOf(err) != fault.CodeCSRInvalid {
		t.Errorf("without a request: %v", err)
	}
}
