package mtls

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wantCode(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("%s: %v (code %q), want %s", what, err, fault.CodeOf(err), code)
	}
}

func TestBothSidesProveWhoTheyAre(t *testing.T) {
	a := newAuthority(t)
	hub := a.source(hubURI)
	for _, uri := range []string{nodeURI, operatorURI, "spiffe://eu-west/hub/hub2"} {
		r := connect(t, ServerConfig(hub, ServerOptions{}), ClientConfig(a.source(uri), nil))
		if r.server != nil || r.client != nil || r.peer.String() != uri {
			t.Errorf("%s: server %v, client %v, seen as %s", uri, r.server, r.client, r.peer)
		}
	}
}

func TestServerRefusesClients(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	hub := a.source(hubURI)
	noCert := ClientConfig(a.source(nodeURI), nil)
	noCert.GetClientCertificate = nil
	tls12 := ClientConfig(a.source(nodeURI), nil)
	tls12.MinVersion, tls12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	// A client that trusts the hub but has its certificate from elsewhere.
	mixed := func(cert tls.Certificate) *tls.Config {
		c := ClientConfig(a.source(nodeURI), nil)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return c
	}
	now := time.Now()
	alone := a.leaf(nodeURI, now)
	alone.Certificate = alone.Certificate[:1]
	for what, c := range map[string]struct {
		client *tls.Config
		code   fault.Code
	}{
		"of another CA":               {mixed(other.leaf(nodeURI, now)), fault.CodePeerUnverified},
		"of another domain, our CA":   {mixed(a.leaf("spiffe://us-east/node/n1", now)), fault.CodePeerDomain},
		"of another domain and CA":    {mixed(other.leaf("spiffe://us-east/node/n1", now)), fault.CodePeerDomain},
		"with an expired certificate": {mixed(a.leaf(nodeURI, now.Add(-25*time.Hour))), fault.CodePeerExpired},
		"with a future certificate":   {mixed(a.leaf(nodeURI, now.Add(time.Hour))), fault.CodePeerExpired},
		"with a server's certificate": {mixed(a.leaf(nodeURI, now, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })), fault.CodePeerUnverified},
		"with a CA certificate":       {mixed(a.leaf(nodeURI, now, func(c *x509.Certificate) { c.IsCA = true })), fault.CodePeerUnverified},
		"without a SPIFFE ID":         {mixed(a.leaf("https://example.com/", now)), fault.CodePeerUnverified},
		"with two SPIFFE IDs": {mixed(a.leaf(nodeURI, now, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: domain, Path: "/hub/hub1"})
		})), fault.CodePeerUnverified},
		"without the intermediate":     {mixed(alone), fault.CodePeerUnverified},
		"without a certificate":        {noCert, ""},
		"that speaks TLS 1.2 and less": {tls12, ""},
	} {
		r := connect(t, ServerConfig(hub, ServerOptions{}), c.client)
		if r.server == nil || r.client == nil || r.known {
			t.Errorf("client %s: server %v, client %v", what, r.server, r.client)
		}
		if c.code != "" {
			wantCode(t, "client "+what, r.server, c.code)
		}
	}
}

func TestJoiningNeedsNoCertificateButALieIsRefused(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	server := ServerConfig(a.source(hubURI), ServerOptions{OptionalClient: true})
	client, got, err := PinnedClientConfig(a.pin())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Hub().IsZero() {
		t.Error("something is captured before the handshake")
	}
	r := connect(t, server, client)
	if r.server != nil || r.client != nil || r.known {
		t.Errorf("no certificate: server %v, client %v, seen as %s", r.server, r.client, r.peer)
	}
	if got.Hub().String() != hubURI {
		t.Errorf("captured hub %s", got.Hub())
	}
	liar := other.leaf(nodeURI, time.Now())
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &liar, nil }
	r = connect(t, server, client)
	wantCode(t, "certificate of another CA on the joining port", r.server, fault.CodePeerUnverified)
}

func TestClientRefusesServers(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	client := a.source(nodeURI)
	serve := func(s *Source) *tls.Config { return ServerConfig(s, ServerOptions{OptionalClient: true}) }
	old := a.source(hubURI)
	expired := a.leaf(hubURI, time.Now().Add(-25*time.Hour))
	if err := old.SetCertificate(expired); err != nil {
		t.Fatal(err)
	}
	plain12 := serve(a.source(hubURI))
	plain12.MinVersion, plain12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for what, c := range map[string]struct {
		server *tls.Config
		want   func(identity.ID) error
		code   fault.Code
	}{
		"node posing as hub":     {serve(a.source(nodeURI)), nil, fault.CodePeerRole},
		"operator posing as hub": {serve(a.source(operatorURI)), nil, fault.CodePeerRole},
		"hub of another CA":      {serve(other.source(hubURI)), nil, fault.CodePeerUnverified},
		"hub of another domain":  {serve(a.source("spiffe://us-east/hub/hub1")), nil, fault.CodePeerDomain},
		"expired hub":            {serve(old), nil, fault.CodePeerExpired},
		"client's certificate": {serve(a.source(hubURI, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })), nil,
			fault.CodePeerUnverified},
		"another hub than wanted": {serve(a.source(hubURI)), func(id identity.ID) error {
			return fault.New(fault.CodePeerRole, "%s is not hub2", id)
		}, fault.CodePeerRole},
		"TLS 1.2": {plain12, nil, ""},
	} {
		r := connect(t, c.server, ClientConfig(client, c.want))
		if r.client == nil {
			t.Errorf("%s was accepted", what)
		}
		if c.code != "" {
			wantCode(t, what, r.client, c.code)
		}
	}
}

func TestPinIsHeldAgainstTheChain(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	for what, c := range map[string]struct {
		server *Source
		pin    string
		code   fault.Code
	}{
		"another CA":         {other.source(hubURI), a.pin(), fault.CodePinMismatch},
		"node under the pin": {a.source(nodeURI), a.pin(), fault.CodePeerRole},
		"expired hub":        {a.source(hubURI, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), a.pin(), fault.CodePeerExpired},
		"matching pin":       {a.source(hubURI), a.pin(), ""},
	} {
		client, got, err := PinnedClientConfig(c.pin)
		if err != nil {
			t.Fatal(err)
		}
		r := connect(t, ServerConfig(c.server, ServerOptions{OptionalClient: true}), client)
		if fault.CodeOf(r.client) != c.code {
			t.Errorf("%s: %v, want code %q", what, r.client, c.code)
		}
		if got.Hub().IsZero() != (c.code != "") {
			t.Errorf("%s: captured %s", what, got.Hub())
		}
	}
	for _, pin := range []string{"", "sha256:", "sha256:00", a.pin()[7:], "sha1:" + a.pin()[7:], a.pin() + "00", "sha256:zz" + a.pin()[9:]} {
		_, _, err := PinnedClientConfig(pin)
		wantCode(t, "pin "+pin, err, fault.CodePinInvalid)
	}
}

// Someone in between can append the true root, which is public, to a chain of
// their own, or put the pinned key into a certificate that they wrote; so can a
// compromised hub, whose own chain is good.
func TestPinnedRootMustHaveSignedTheChain(t *testing.T) {
	a, attacker := newAuthority(t), newAuthority(t)
	client, got, err := PinnedClientConfig(a.pin())
	if err != nil {
		t.Fatal(err)
	}
	tmpl := *a.root
	forged, err := x509.CreateCertificate(rand.Reader, &tmpl, attacker.root, a.root.PublicKey, attacker.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		chain *authority
		root  []byte
	}{
		"foreign chain, true root":   {attacker, a.root.Raw},
		"foreign chain, forged root": {attacker, forged},
		"true chain, forged root":    {a, forged},
	} {
		cert := c.chain.leaf(hubURI, time.Now())
		cert.Certificate = append(cert.Certificate, c.root)
		server := ServerConfig(a.source(hubURI), ServerOptions{OptionalClient: true})
		server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
		wantCode(t, what, connect(t, server, client).client, fault.CodePeerUnverified)
	}
	if !got.Hub().IsZero() {
		t.Error("a refused peer was captured")
	}
}

func TestBundleRotatesWithoutRestart(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	hub, node := old.source(hubURI), old.source(nodeURI)
	server, client := ServerConfig(hub, ServerOptions{}), ClientConfig(node, nil)
	// A client that would like to resume, under a name that stays the same.
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(8), "hub"
	ok := func(step string) {
		t.Helper()
		if r := connect(t, server, client); r.server != nil || r.client != nil || r.resumed {
			t.Fatalf("%s: server %v, client %v, resumed %t", step, r.server, r.client, r.resumed)
		}
	}
	ok("old CA on both sides")
	both := append(bytes.Clone(old.bundle()), next.bundle()...)
	for _, s := range []*Source{hub, node} {
		if err := s.SetBundle(both); err != nil {
			t.Fatal(err)
		}
	}
	ok("both CAs known")
	if err := node.SetCertificate(next.leaf(nodeURI, time.Now())); err != nil {
		t.Fatal(err)
	}
	ok("node has moved to the new CA")
	if err := hub.SetCertificate(next.leaf(hubURI, time.Now())); err != nil {
		t.Fatal(err)
	}
	ok("hub has moved too")
	if err := hub.SetBundle(next.bundle()); err != nil {
		t.Fatal(err)
	}
	ok("hub has forgotten the old CA")
	// A straggler with an old certificate, connected before or not, is out.
	if err := node.SetCertificate(old.leaf(nodeURI, time.Now())); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "straggler", connect(t, server, client).server, fault.CodePeerUnverified)
}

func TestSourceRefusesWhatDoesNotBelongTogether(t *testing.T) {
	a := newAuthority(t)
	s := a.source(nodeURI)
	wantCode(t, "another identity", s.SetCertificate(a.leaf("spiffe://eu-west/node/n2", time.Now())), fault.CodeCertificateInvalid)
	mixed := a.leaf(nodeURI, time.Now())
	mixed.PrivateKey = a.rootKey
	wantCode(t, "another key", s.SetCertificate(mixed), fault.CodeKeyInvalid)
	wantCode(t, "no certificate", s.SetCertificate(tls.Certificate{}), fault.CodeCertificateInvalid)
	wantCode(t, "empty bundle", s.SetBundle(nil), fault.CodeCertificateInvalid)
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.leaf(nodeURI, time.Now()).Certificate[0]})
	wantCode(t, "leaf as CA", s.SetBundle(leaf), fault.CodeCertificateInvalid)
	if r := connect(t, ServerConfig(a.source(hubURI), ServerOptions{}), ClientConfig(s, nil)); r.client != nil {
		t.Errorf("after refused changes: %v", r.client)
	}
}

// The judging clock is off by so much against the one that issued.
func TestClockSkewIsJudgedAsDocumented(t *testing.T) {
	a := newAuthority(t)
	issued := time.Now()
	for _, c := range []struct {
		skew, grace time.Duration
		code        fault.Code
	}{
		{0, 0, ""},
		{-10 * time.Minute, 0, ""},
		{10 * time.Minute, 0, ""},
		{12*time.Hour + 10*time.Minute, 0, ""}, // about to be renewed, ten minutes ahead
		{-24 * time.Hour, 0, fault.CodePeerExpired},
		{24*time.Hour + time.Minute, 0, fault.CodePeerExpired},
		{-24 * time.Hour, 48 * time.Hour, ""},
		{25 * time.Hour, 48 * time.Hour, ""},
		{-72 * time.Hour, 48 * time.Hour, fault.CodePeerExpired},
		{80 * time.Hour, 48 * time.Hour, fault.CodePeerExpired},
	} {
		hub, err := NewSource(a.leaf(hubURI, issued), a.bundle())
		if err != nil {
			t.Fatal(err)
		}
		node, err := NewSource(a.leaf(nodeURI, issued), a.bundle())
		if err != nil {
			t.Fatal(err)
		}
		hub.now = func() time.Time { return issued.Add(c.skew) }
		r := connect(t, ServerConfig(hub, ServerOptions{Grace: c.grace}), ClientConfig(node, nil))
		if fault.CodeOf(r.server) != c.code {
			t.Errorf("hub's clock off by %s, grace %s: %v, want code %q", c.skew, c.grace, r.server, c.code)
		}
		if c.grace != 0 {
			continue // clients give none
		}
		hub.now, node.now = time.Now, func() time.Time { return issued.Add(c.skew) }
		r = connect(t, ServerConfig(hub, ServerOptions{}), ClientConfig(node, nil))
		if fault.CodeOf(r.client) != c.code {
			t.Errorf("node's clock off by %s: %v, want code %q", c.skew, r.client, c.code)
		}
	}
}

func TestRenewalSpreadsAroundHalfLife(t *testing.T) {
	a := newAuthority(t)
	s := a.source(nodeURI)
	leaf := s.Certificate().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	from, to := leaf.NotBefore.Add(life*4/10), leaf.NotBefore.Add(life*6/10)
	var first, last time.Time
	for range 200 {
		at := s.Renewal(leaf.NotBefore)
		if at.Before(from) || at.After(to) {
			t.Fatalf("renewal at %s, not between %s and %s", at, from, to)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if last.Sub(first) < life/10 {
		t.Errorf("200 renewals within %s of a life of %s", last.Sub(first), life)
	}
	if late := leaf.NotAfter.Add(time.Hour); !s.Renewal(late).Equal(late) {
		t.Errorf("overdue renewal at %s, want now (%s)", s.Renewal(late), late)
	}
}

func TestHandlersSeeThePeerThatTLSProved(t *testing.T) {
	a := newAuthority(t)
	seen := make(chan identity.ID, 1)
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(ServerConfig(a.source(hubURI), ServerOptions{OptionalClient: true}))),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			id, _ := PeerID(ctx)
			seen <- id
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	pinned, _, err := PinnedClientConfig(a.pin())
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]*tls.Config{nodeURI: ClientConfig(a.source(nodeURI), nil), "": pinned} {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(c)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("call as %q: %v", want, err)
		} else if got := <-seen; got.String() != want {
			t.Errorf("handler saw %q, want %q", got, want)
		}
		conn.Close()
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestPeerIDIsNoOneWithoutTLS(t *testing.T) {
	if id, ok := PeerID(context.Background()); ok {
		t.Errorf("no connection gives %s", id)
	}
}
