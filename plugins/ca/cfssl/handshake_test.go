package cfssl_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/ca/catest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// What cfssl issues is what mtls accepts: first by pin, as a joining node does,
// then with certificates on both sides.
func TestIssuedCertificatesConnect(t *testing.T) {
	p := catest.NewPKI(t, open, time.Now())
	source := func(id identity.ID, ips ...netip.Addr) *mtls.Source {
		t.Helper()
		key := catest.Key(t)
		csr, err := ca.NewCSR(key, id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Authority.Issue(t.Context(), ca.Request{CSR: csr, ID: id, IPs: ips})
		if err != nil {
			t.Fatal(err)
		}
		s, err := mtls.NewSource(mtls.Certificate(got.Chain, key), p.Authority.Bundle())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	hub := source(identity.ID{Domain: catest.Domain, Kind: identity.Hub, Name: "hub1"}, netip.MustParseAddr("127.0.0.1"))
	server := mtls.ServerConfig(hub, mtls.ServerOptions{OptionalClient: true})
	pinned, captured, err := mtls.PinnedClientConfig(p.Authority.Pin())
	if err != nil {
		t.Fatal(err)
	}
	if _, known, err := handshake(t, server, pinned); err != nil || known {
		t.Fatalf("by pin: known %t, %v", known, err)
	}
	if captured.Hub() != hub.ID() {
		t.Errorf("captured hub %s, want %s", captured.Hub(), hub.ID())
	}
	for _, kind := range []identity.Kind{identity.Node, identity.Operator, identity.Hub} {
		id := identity.ID{Domain: catest.Domain, Kind: kind, Name: "x1"}
		seen, known, err := handshake(t, server, mtls.ClientConfig(source(id), nil))
		if err != nil || !known || seen != id {
			t.Errorf("%s: seen as %s, %v", id, seen, err)
		}
	}
}

func handshake(t *testing.T, server, client *tls.Config) (seen identity.ID, known bool, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		err = c.Handshake()
		seen, known = mtls.StateID(c.ConnectionState())
		served <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	err = tls.Client(raw, client).Handshake()
	if err != nil {
		raw.Close()
	}
	if serverErr := <-served; err == nil {
		err = serverErr
	}
	return seen, known, err
}
