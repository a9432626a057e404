package cfssl_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/ca/catest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/plugins/ca/cfssl"
)

func open(t testing.TB, issuer *x509.Certificate, key crypto.Signer) ca.Driver {
	t.Helper()
	d, err := cfssl.New(issuer, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) { catest.Run(t, open) }

func TestKeyOfAnotherCAIsRefused(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	if _, err := cfssl.New(p.Issuer, p.RootKey, nil); !errors.Is(err, fault.CodeIssuerInvalid) {
		t.Errorf("issuer with the root's key: %v, want %s", err, fault.CodeIssuerInvalid)
	}
}

// cfssl logs through one variable of the process; nothing of it may reach
// standard error, and the driver opened last decides where it goes.
func TestLogGoesToSlog(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	var out bytes.Buffer // cfssl logs in the goroutine that signs
	if _, err := cfssl.New(p.Issuer, p.IssuerKey, slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	req := ca.Request{CSR: catest.CSR(t, catest.Key(t), nil), ID: identity.ID{Domain: catest.Domain, Kind: identity.Node, Name: "n1"}}
	if _, err := p.Authority.Issue(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "signed certificate with serial number") {
		t.Errorf("slog received %q", out.String())
	}
	open(t, p.Issuer, p.IssuerKey) // must not hold on to this test's buffer
}

func BenchmarkIssue(b *testing.B) {
	p := catest.NewPKI(b, open, time.Now())
	req := ca.Request{CSR: catest.CSR(b, catest.Key(b), nil), ID: identity.ID{Domain: catest.Domain, Kind: identity.Node, Name: "n1"}}
	for b.Loop() {
		if _, err := p.Authority.Issue(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
