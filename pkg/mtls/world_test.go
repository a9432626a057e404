package mtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/identity"
)

const domain = "eu-west"

// authority is a root with an intermediate, made with crypto/x509 alone.
type authority struct {
	t              testing.TB
	root, issuer   *x509.Certificate
	rootKey, intKy crypto.Signer
	serial         int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	from := time.Now().Add(-10 * 24 * time.Hour)
	tmpl := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: from, NotAfter: from.AddDate(10, 0, 0),
		}
	}
	a.root, a.rootKey = a.sign(tmpl("root"), nil, nil)
	a.issuer, a.intKy = a.sign(tmpl("issuer"), a.root, a.rootKey)
	return a
}

// sign makes a certificate with a new key; a nil parent means self-signed.
func (a *authority) sign(tmpl, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	a.serial++
	tmpl.SerialNumber = big.NewInt(a.serial)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}

func (a *authority) pin() string {
	sum := sha256.Sum256(a.root.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// leaf issues a certificate as package ca does: valid from 15 minutes before
// issue, for 24 hours after it. spoil may change it.
func (a *authority) leaf(uri string, issued time.Time, spoil ...func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "x"}, URIs: []*url.URL{u}, BasicConstraintsValid: true,
		NotBefore: issued.Add(-15 * time.Minute), NotAfter: issued.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, f := range spoil {
		f(tmpl)
	}
	c, key := a.sign(tmpl, a.issuer, a.intKy)
	return tls.Certificate{Certificate: [][]byte{c.Raw, a.issuer.Raw}, PrivateKey: key}
}

func (a *authority) source(uri string, spoil ...func(*x509.Certificate)) *Source {
	a.t.Helper()
	s, err := NewSource(a.leaf(uri, time.Now(), spoil...), a.bundle())
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

const (
	hubURI      = "spiffe://eu-west/hub/hub1"
	nodeURI     = "spiffe://eu-west/node/n1"
	operatorURI = "spiffe://eu-west/operator/alice"
)

// result is how a handshake and one byte each way ended on both sides.
type result struct {
	server, client error
	peer           identity.ID // whom the server saw
	known          bool
	resumed        bool
}

// connect runs a real handshake over loopback TCP.
func connect(t testing.TB, server, client *tls.Config) result {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var r result
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			r.server = err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if r.server = c.Handshake(); r.server != nil {
			return
		}
		r.peer, r.known = StateID(c.ConnectionState())
		r.resumed = c.ConnectionState().DidResume
		if _, r.server = c.Read(make([]byte, 1)); r.server == nil {
			_, r.server = c.Write([]byte{1})
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	if r.client = c.Handshake(); r.client == nil {
		_, r.client = c.Write([]byte{1})
		// With TLS 1.3 a client learns only here that its certificate was refused.
		if _, err := c.Read(make([]byte, 1)); r.client == nil {
			r.client = err
		}
	}
	raw.Close()
	<-done
	return r
}
