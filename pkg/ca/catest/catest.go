// Package catest is the suite that every ca.Driver passes: a driver's own test
// opens it over an issuer and calls Run.
//
// The suite drives the driver both directly, with requests made to lead it
// astray, and through a ca.Authority.
package catest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

// Domain is the domain of all certificates in the suite.
const Domain = "eu-west"

// Open makes a driver that signs as issuer with its key.
type Open func(t testing.TB, issuer *x509.Certificate, key crypto.Signer) ca.Driver

// PKI is a root and an issuing intermediate with drivers for both.
type PKI struct {
	Root, Issuer   *x509.Certificate
	RootKey        crypto.Signer
	IssuerKey      crypto.Signer
	RootDriver     ca.Driver
	IssuingDriver  ca.Driver
	Bundle         []byte // PEM of Root
	Authority      *ca.Authority
	Now            time.Time
	BeginningOfAll time.Time // when the CAs were made
}

// NewPKI makes a root and an intermediate through the driver, a while before
// now, and an Authority whose clock stands at now.
func NewPKI(t testing.TB, open Open, now time.Time) *PKI {
	t.Helper()
	p := &PKI{RootKey: Key(t), IssuerKey: Key(t), Now: now, BeginningOfAll: now.Add(-time.Hour)}
	p.Root = parse(t)(ca.NewRoot(Domain, p.RootKey, p.BeginningOfAll))
	p.RootDriver = open(t, p.Root, p.RootKey)
	p.Issuer = parse(t)(ca.NewIntermediate(t.Context(), p.RootDriver, Domain, p.IssuerKey, p.BeginningOfAll))
	p.IssuingDriver = open(t, p.Issuer, p.IssuerKey)
	p.Bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Root.Raw})
	var err error
	p.Authority, err = ca.New(Domain, p.IssuingDriver, p.Bundle, ca.Options{Now: func() time.Time { return p.Now }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Key makes a P-256 key.
func Key(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// CSR makes a request for key from a template; nil means an empty one.
func CSR(t testing.TB, key crypto.Signer, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	if tmpl == nil {
		tmpl = &x509.CertificateRequest{}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB) func(der []byte, err error) *x509.Certificate {
	return func(der []byte, err error) *x509.Certificate {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func id(t testing.TB, kind identity.Kind, name string) identity.ID {
	t.Helper()
	v, err := identity.New(Domain, kind, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// SANExtension encodes names of any kind, also those that the standard library
// cannot write: tag 0 is otherName.
func SANExtension(t testing.TB, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

// Run runs the suite.
func Run(t *testing.T, open Open) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	newPKI := func(t *testing.T) *PKI { return NewPKI(t, open, now) }
	t.Run("EachProfileSaysWhatItShould", func(t *testing.T) { eachProfile(t, newPKI(t)) })
	t.Run("IntermediateSignsLeavesOnly", func(t *testing.T) { intermediate(t, newPKI(t), open) })
	t.Run("HubCAMakesIssuersOfHubsOnly", func(t *testing.T) { hubCA(t, newPKI(t), open) })
	t.Run("RequestDecidesNothingButTheKey", func(t *testing.T) { hostileRequest(t, newPKI(t)) })
	t.Run("NamesAreNotTakenForAnotherKind", func(t *testing.T) { misreadNames(t, newPKI(t)) })
	t.Run("LeafHasExactlyOneURI", func(t *testing.T) { oneURI(t, newPKI(t)) })
	t.Run("TimesAreExact", func(t *testing.T) { exactTimes(t, newPKI(t)) })
	t.Run("NothingOutlivesTheCA", func(t *testing.T) { outlives(t, newPKI(t)) })
	t.Run("UnknownProfileIsRefused", func(t *testing.T) { unknownProfile(t, newPKI(t)) })
	t.Run("EveryKeyTypeIsSigned", func(t *testing.T) { keyTypes(t, newPKI(t)) })
	t.Run("SerialsAreLongAndDistinct", func(t *testing.T) { serials(t, newPKI(t)) })
	t.Run("CanceledContextIssuesNothing", func(t *testing.T) { canceled(t, newPKI(t)) })
}

func eachProfile(t *testing.T, p *PKI) {
	for _, c := range []struct {
		id    identity.ID
		dns   []string
		ips   []netip.Addr
		usage x509.ExtKeyUsage
	}{
		{id(t, identity.Node, "n1"), nil, nil, x509.ExtKeyUsageClientAuth},
		{id(t, identity.Node, "n1"), nil, nil, x509.ExtKeyUsageServerAuth},
		{id(t, identity.Hub, "h1"), []string{"localhost", "hub.example.com"}, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, x509.ExtKeyUsageServerAuth},
		{id(t, identity.Operator, "alice"), nil, nil, x509.ExtKeyUsageClientAuth},
	} {
		got, err := p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: c.id, DNSNames: c.dns, IPs: c.ips})
		if err != nil {
			t.Errorf("%s: %v", c.id, err)
			continue
		}
		leaf := parse(t)(got.Chain[0], nil)
		roots, middle := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(p.Root)
		middle.AddCert(parse(t)(got.Chain[1], nil))
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: p.Now, KeyUsages: []x509.ExtKeyUsage{c.usage}}); err != nil {
			t.Errorf("%s as %v: %v", c.id, c.usage, err)
		}
		if named, err := identity.FromCertificate(leaf); err != nil || named != c.id || got.ID != c.id {
			t.Errorf("certificate names %s (%v), want %s", named, err, c.id)
		}
		if !slices.Equal(leaf.DNSNames, c.dns) || len(leaf.IPAddresses) != len(c.ips) {
			t.Errorf("%s: names %v %v, want %v %v", c.id, leaf.DNSNames, leaf.IPAddresses, c.dns, c.ips)
		}
	}
	if p.Authority.Pin() != ca.Pin(p.Root) || !bytes.Equal(p.Authority.Bundle(), p.Bundle) {
		t.Error("pin or bundle is not the root's")
	}
}

func intermediate(t *testing.T, p *PKI, open Open) {
	if !p.Issuer.IsCA || !p.Issuer.MaxPathLenZero || len(p.Issuer.URIs)+len(p.Issuer.DNSNames) > 0 {
		t.Errorf("intermediate: CA %t, path length zero %t, names %v", p.Issuer.IsCA, p.Issuer.MaxPathLenZero, p.Issuer.URIs)
	}
	if _, err := ca.NewIntermediate(t.Context(), p.IssuingDriver, Domain, Key(t), p.Now); !errors.Is(err, fault.CodeIssuerInvalid) {
		t.Errorf("a CA below the intermediate: %v, want %s", err, fault.CodeIssuerInvalid)
	}
	// Past that check, the driver refuses, or no one accepts what the CA below signs.
	subKey := Key(t)
	tmpl := ca.Template{
		Profile: ca.ProfileIntermediate, CSR: CSR(t, subKey, nil), CommonName: "below",
		NotBefore: p.Now.Add(-ca.Backdate), NotAfter: p.Now.Add(time.Hour),
	}
	der, err := p.IssuingDriver.Sign(t.Context(), tmpl)
	if err != nil {
		return
	}
	sub := parse(t)(der, nil)
	tmpl = template(t, p, CSR(t, Key(t), nil))
	tmpl.NotAfter = sub.NotAfter
	leaf := parse(t)(open(t, sub, subKey).Sign(t.Context(), tmpl))
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(p.Root)
	middle.AddCert(p.Issuer)
	middle.AddCert(sub)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: p.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("a leaf of a CA below the intermediate is accepted")
	}
}

// hubCA has a hub CA make the issuing CA of a hub, and asks it for more.
func hubCA(t *testing.T, p *PKI, open Open) {
	key := Key(t)
	above := parse(t)(ca.NewHubCA(t.Context(), p.RootDriver, Domain, key, p.Now))
	if !above.IsCA || above.MaxPathLen != 1 || len(above.URIs)+len(above.DNSNames) > 0 {
		t.Errorf("hub CA: CA %t, path length %d, names %v", above.IsCA, above.MaxPathLen, above.URIs)
	}
	driver := open(t, above, key)
	hub, hubKey := id(t, identity.Hub, "hub2"), Key(t)
	below := parse(t)(ca.IssueIntermediate(t.Context(), driver, hub, CSR(t, hubKey, nil), p.Now))
	authority, err := ca.New(Domain, open(t, below, hubKey), p.Bundle, ca.Options{
		Intermediates: [][]byte{above.Raw}, Now: func() time.Time { return p.Now },
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Node, "n1")})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Chain) != 3 {
		t.Fatalf("the chain has %d certificates, want leaf, issuing CA and hub CA", len(got.Chain))
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(p.Root)
	for _, der := range got.Chain[1:] {
		middle.AddCert(parse(t)(der, nil))
	}
	leaf := parse(t)(got.Chain[0], nil)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: p.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if authority.Pin() != ca.Pin(p.Root) {
		t.Error("the pin is not the root's")
	}
	for what, err := range map[string]error{
		"a hub CA below a hub CA":    second(ca.NewHubCA(t.Context(), driver, Domain, Key(t), p.Now)),
		"a CA below an issuing CA":   second(ca.IssueIntermediate(t.Context(), open(t, below, hubKey), hub, CSR(t, Key(t), nil), p.Now)),
		"a CA below the first hub's": second(ca.IssueIntermediate(t.Context(), p.IssuingDriver, hub, CSR(t, Key(t), nil), p.Now)),
	} {
		if !errors.Is(err, fault.CodeIssuerInvalid) {
			t.Errorf("%s: %v, want %s", what, err, fault.CodeIssuerInvalid)
		}
	}
	if _, err := ca.IssueIntermediate(t.Context(), driver, id(t, identity.Node, "n1"), CSR(t, hubKey, nil), p.Now); err == nil {
		t.Error("a node got a CA")
	}
	if _, err := ca.IssueIntermediate(t.Context(), driver, hub, []byte("no request"), p.Now); !errors.Is(err, fault.CodeCSRInvalid) {
		t.Errorf("bytes that are no request: %v", err)
	}
}

func second(_ []byte, err error) error { return err }

// template is a proper template for node n1.
func template(t testing.TB, p *PKI, csr []byte) ca.Template {
	t.Helper()
	uri, err := url.Parse(id(t, identity.Node, "n1").String())
	if err != nil {
		t.Fatal(err)
	}
	return ca.Template{
		Profile: ca.ProfileNode, CSR: csr, CommonName: "n1", URI: uri,
		NotBefore: p.Now.Add(-ca.Backdate), NotAfter: p.Now.Add(ca.DefaultTTL),
	}
}

// hostileRequest asks for everything that a driver might copy, past the
// Authority's own check of the request.
func hostileRequest(t *testing.T, p *PKI) {
	evil, err := url.Parse("spiffe://eu-west/hub/hub1")
	if err != nil {
		t.Fatal(err)
	}
	isCA, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	certSign, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x04}, BitLength: 6})
	if err != nil {
		t.Fatal(err)
	}
	serverAuth, err := asn1.Marshal([]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}})
	if err != nil {
		t.Fatal(err)
	}
	for what, tmpl := range map[string]*x509.CertificateRequest{
		"names": {
			Subject: pkix.Name{CommonName: "hub1", Organization: []string{"Evil"}}, DNSNames: []string{"hub1"},
			EmailAddresses: []string{"a@b.example"}, IPAddresses: []net.IP{{10, 0, 0, 1}}, URIs: []*url.URL{evil},
		},
		"CA":        {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA}}},
		"key usage": {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: certSign}}},
		"any usage": {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: serverAuth}}},
		"unknown":   {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}}}},
		"delegation": {ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 44}, Value: []byte{5, 0}},
		}},
	} {
		t.Run(what, func(t *testing.T) {
			der, err := p.IssuingDriver.Sign(t.Context(), template(t, p, CSR(t, Key(t), tmpl)))
			if err != nil {
				return // refusing is right too
			}
			c := parse(t)(der, nil)
			if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://eu-west/node/n1" || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
				t.Errorf("names from the request: %v %v %v %v", c.URIs, c.DNSNames, c.EmailAddresses, c.IPAddresses)
			}
			if c.Subject.String() != "CN=n1" {
				t.Errorf("subject from the request: %s", c.Subject)
			}
			if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
				t.Errorf("usage from the request: CA %t, %v, %v", c.IsCA, c.KeyUsage, c.ExtKeyUsage)
			}
			for _, ext := range c.Extensions {
				// cfssl copies DelegationUsage whatever the profile says; the
				// whitelist is what stops it.
				if ext.Id.Equal(asn1.ObjectIdentifier{1, 2, 3, 4}) || ext.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 44}) {
					t.Errorf("extension %s from the request", ext.Id)
				}
			}
		})
	}
}

func misreadNames(t *testing.T, p *PKI) {
	for _, name := range []string{"spiffe://eu-west/hub/hub1", "10.0.0.1", "::1", "a@b.example", "/path", ""} {
		tmpl := template(t, p, CSR(t, Key(t), nil))
		tmpl.DNSNames = []string{name}
		if _, err := p.IssuingDriver.Sign(t.Context(), tmpl); err == nil {
			t.Errorf("driver took DNS name %q", name)
		}
		_, err := p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Hub, "h1"), DNSNames: []string{name}})
		if !errors.Is(err, fault.CodeCSRInvalid) {
			t.Errorf("authority, DNS name %q: %v", name, err)
		}
	}
}

func oneURI(t *testing.T, p *PKI) {
	tmpl := template(t, p, CSR(t, Key(t), &x509.CertificateRequest{DNSNames: []string{"n1"}}))
	tmpl.URI = nil
	if _, err := p.IssuingDriver.Sign(t.Context(), tmpl); err == nil {
		t.Error("driver issued a leaf without a SPIFFE ID")
	}
}

func exactTimes(t *testing.T, p *PKI) {
	tmpl := template(t, p, CSR(t, Key(t), nil))
	tmpl.NotBefore, tmpl.NotAfter = p.Now.Add(-7*time.Second), p.Now.Add(61*time.Second)
	c := parse(t)(p.IssuingDriver.Sign(t.Context(), tmpl))
	if !c.NotBefore.Equal(tmpl.NotBefore) || !c.NotAfter.Equal(tmpl.NotAfter) {
		t.Errorf("valid from %s to %s, want %s to %s", c.NotBefore, c.NotAfter, tmpl.NotBefore, tmpl.NotAfter)
	}
	tmpl.NotBefore = time.Time{}
	if _, err := p.IssuingDriver.Sign(t.Context(), tmpl); err == nil {
		t.Error("driver chose a NotBefore of its own")
	}
	got, err := p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Node, "n1"), TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if !got.NotBefore.Equal(p.Now.Add(-ca.Backdate)) || !got.NotAfter.Equal(p.Now.Add(time.Hour)) {
		t.Errorf("issued from %s to %s", got.NotBefore, got.NotAfter)
	}
}

func outlives(t *testing.T, p *PKI) {
	tmpl := template(t, p, CSR(t, Key(t), nil))
	tmpl.NotAfter = p.Issuer.NotAfter.Add(time.Second)
	if _, err := p.IssuingDriver.Sign(t.Context(), tmpl); err == nil {
		t.Error("driver issued a leaf that outlives its CA")
	}
	p.Now = p.Issuer.NotAfter.Add(-time.Hour)
	got, err := p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Node, "n1")})
	if err != nil || !got.NotAfter.Equal(p.Issuer.NotAfter) {
		t.Errorf("an hour before the CA's end: until %s, %v; want the CA's end", got.NotAfter, err)
	}
	for _, at := range []time.Time{p.Issuer.NotAfter.Add(time.Second), p.Issuer.NotBefore.Add(-time.Second)} {
		p.Now = at
		_, err = p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Node, "n1")})
		if !errors.Is(err, fault.CodeIssuerExpired) {
			t.Errorf("at %s: %v, want %s", at, err, fault.CodeIssuerExpired)
		}
	}
}

func unknownProfile(t *testing.T, p *PKI) {
	tmpl := template(t, p, CSR(t, Key(t), nil))
	for _, profile := range []ca.Profile{"", "default", "Node"} {
		tmpl.Profile = profile
		if _, err := p.IssuingDriver.Sign(t.Context(), tmpl); err == nil {
			t.Errorf("driver took profile %q", profile)
		}
	}
}

func keyTypes(t *testing.T, p *PKI) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{Key(t), p384, ed} {
		if _, err := p.Authority.Issue(t.Context(), ca.Request{CSR: CSR(t, key, nil), ID: id(t, identity.Node, "n1")}); err != nil {
			t.Errorf("%T: %v", key, err)
		}
	}
}

// serials issues concurrently, which also tells about the driver's locking
// under -race.
func serials(t *testing.T, p *PKI) {
	const n = 64
	csr := CSR(t, Key(t), nil)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[string]bool{} // guarded by mu
	)
	for range n {
		wg.Go(func() {
			got, err := p.Authority.Issue(context.Background(), ca.Request{CSR: csr, ID: identity.ID{Domain: Domain, Kind: identity.Node, Name: "n1"}})
			if err != nil {
				t.Errorf("issue: %v", err)
				return
			}
			serial, ok := new(big.Int).SetString(got.Serial, 16)
			if !ok || serial.BitLen() < 64 {
				t.Errorf("serial %s has fewer than 64 bits", got.Serial)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[got.Serial] = true
		})
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d distinct serials of %d", len(seen), n)
	}
}

func canceled(t *testing.T, p *PKI) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Authority.Issue(ctx, ca.Request{CSR: CSR(t, Key(t), nil), ID: id(t, identity.Node, "n1")}); err == nil {
		t.Error("issued under a canceled context")
	}
}
