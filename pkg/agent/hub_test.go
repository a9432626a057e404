package agent_test

import (
	"context"
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
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

const domain = "eu-west"

// patience is how long a test waits for what must come; it only bounds failures.
const patience = 20 * time.Second

// testCA issues certificates for tests.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	life atomic.Int64 // of leaves, time.Duration
}

func newCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{t: t, cert: cert, key: key}
	ca.life.Store(int64(time.Hour))
	return ca
}

func (ca *testCA) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

func (ca *testCA) pin() string {
	sum := sha256.Sum256(ca.cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// issue makes a chain for a public key.
func (ca *testCA) issue(kind identity.Kind, name string, public crypto.PublicKey) ([][]byte, error) {
	id, err := identity.New(domain, kind, name)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(time.Duration(ca.life.Load())),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.cert, public, ca.key)
	return [][]byte{der, ca.cert.Raw}, err
}

func (ca *testCA) source(kind identity.Kind, name string) *mtls.Source {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	chain, err := ca.issue(kind, name, key.Public())
	if err != nil {
		ca.t.Fatal(err)
	}
	s, err := mtls.NewSource(tls.Certificate{Certificate: chain, PrivateKey: key}, ca.bundle())
	if err != nil {
		ca.t.Fatal(err)
	}
	return s
}

// testHub is a hub without a log: it publishes what a test says.
type testHub struct {
	identityv1.UnimplementedIdentityServiceServer
	t       testing.TB
	ca      *testCA
	keys    [2]*sign.Signer // root, keyset
	signer  *sign.Signer
	address string
	control controlv1.ControlServiceServer // instead of the real one, if set

	acks  chan *controlv1.Ack
	nacks chan *controlv1.Nack
	joins chan *identityv1.JoinRequest
	renew chan struct{}
	// loseAnswers makes that many joins succeed and their answers get lost.
	loseAnswers atomic.Int32

	mu       sync.Mutex // guards all below
	anchors  *trust.Anchors
	keyset   []byte
	feed     *feed.Feed
	accepted *controlv1.Accepted
	wakes    map[*hubSession]func()
	stop     func()
	statuses int               // taken
	status   *controlv1.Status // the last one
	reported chan struct{}     // holds one while a status came that nobody looked at
}

func newSigner(t testing.TB) *sign.Signer {
	t.Helper()
	key, err := sign.Generate(sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newHub(t testing.TB) *testHub {
	t.Helper()
	h := &testHub{
		t: t, ca: newCA(t), keys: [2]*sign.Signer{newSigner(t), newSigner(t)}, signer: newSigner(t),
		acks: make(chan *controlv1.Ack, 100), nacks: make(chan *controlv1.Nack, 100),
		joins: make(chan *identityv1.JoinRequest, 100), renew: make(chan struct{}, 100),
		feed: feed.New("view-1", feed.Options{}), wakes: make(map[*hubSession]func()), reported: make(chan struct{}, 1),
		accepted: &controlv1.Accepted{Hub: "hub1", Domain: domain, View: "view-1", FreshnessInterval: durationpb.New(10 * time.Second)},
	}
	expires := time.Now().Add(24 * time.Hour)
	root, err := trust.NewRoot(domain, h.keys[:1], 1, h.keys[1:], expires)
	if err != nil {
		t.Fatal(err)
	}
	h.keyset, err = trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {h.signer.Public()}}, h.ca.bundle(), expires, h.keys[1])
	if err != nil {
		t.Fatal(err)
	}
	h.anchors, err = trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{root}, Keyset: h.keyset, CaBundle: h.ca.bundle()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h.start()
	return h
}

// start serves; the address stays the same over restarts.
func (h *testHub) start() {
	h.t.Helper()
	if h.address == "" {
		h.address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.address = l.Addr().String()
	srv, err := distribution.NewServer(distribution.ServerConfig{Backend: h})
	if err != nil {
		h.t.Fatal(err)
	}
	creds := credentials.NewTLS(mtls.ServerConfig(h.ca.source(identity.Hub, "hub1"), mtls.ServerOptions{OptionalClient: true}))
	g := grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(creds))...)
	if h.control != nil {
		controlv1.RegisterControlServiceServer(g, h.control)
	} else {
		controlv1.RegisterControlServiceServer(g, srv)
	}
	identityv1.RegisterIdentityServiceServer(g, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	h.stop = sync.OnceFunc(func() {
		srv.Close()
		g.Stop()
		<-done
	})
	h.t.Cleanup(h.stop)
}

// Join implements identityv1.IdentityServiceServer.
func (h *testHub) Join(_ context.Context, r *identityv1.JoinRequest) (*identityv1.JoinResponse, error) {
	h.joins <- r
	if r.GetToken() != "good-token" {
		return nil, fault.New(fault.CodeUnauthenticated, "token is not valid")
	}
	csr, err := x509.ParseCertificateRequest(r.GetCsr())
	if err != nil {
		return nil, err
	}
	chain, err := h.ca.issue(identity.Node, r.GetNode(), csr.PublicKey)
	if err != nil {
		return nil, err
	}
	if h.loseAnswers.Add(-1) >= 0 {
		return nil, fault.New(fault.CodeNoConnection, "the answer was lost")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return &identityv1.JoinResponse{Domain: domain, CertificateChain: chain, Trust: h.anchors.Metadata(0, 0), Hubs: []string{h.address}}, nil
}

// Renew implements identityv1.IdentityServiceServer.
func (h *testHub) Renew(ctx context.Context, r *identityv1.RenewRequest) (*identityv1.RenewResponse, error) {
	id, ok := mtls.PeerID(ctx)
	if !ok {
		return nil, fault.New(fault.CodeUnauthenticated, "no certificate")
	}
	csr, err := x509.ParseCertificateRequest(r.GetCsr())
	if err != nil {
		return nil, err
	}
	h.ca.life.Store(int64(time.Hour))
	chain, err := h.ca.issue(id.Kind, id.Name, csr.PublicKey)
	h.renew <- struct{}{}
	return &identityv1.RenewResponse{CertificateChain: chain}, err
}

// Attach implements distribution.Backend.
func (h *testHub) Attach(_ context.Context, _ distribution.Peer, _ *controlv1.Hello, wake func()) (distribution.Session, error) {
	s := &hubSession{hub: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakes[s] = wake
	return s, nil
}

type hubSession struct{ hub *testHub }

func (s *hubSession) Offer() distribution.Offer {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return distribution.Offer{Accepted: s.hub.accepted, Feed: s.hub.feed, Trust: s.hub.anchors}
}
func (s *hubSession) Acked(a *controlv1.Ack)   { s.hub.acks <- a }
func (s *hubSession) Nacked(n *controlv1.Nack) { s.hub.nacks <- n }
func (s *hubSession) Reported(r *controlv1.Status) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.statuses++
	s.hub.status = r
	select {
	case s.hub.reported <- struct{}{}:
	default:
	}
}
func (s *hubSession) Close(error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.wakes, s)
}

// cluster is one resource's canonical content.
func cluster(name string, port int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"%s","namespace":"default"},"spec":{"endpoints":[{"address":"10.0.0.1:%d"}]}}`, name, port)
}

// content is a view of clusters, by name and port.
func content(clusters map[string]int) *digest.Trie {
	var t *digest.Trie
	for name, port := range clusters {
		t = t.Set("Cluster/default/"+name, cluster(name, port))
	}
	return t
}

func (h *testHub) manifest(version uint64, t *digest.Trie, signer *sign.Signer) *trustv1.Envelope {
	h.t.Helper()
	env, err := trust.SignManifest(context.Background(), signer, &trustv1.Manifest{
		Domain: domain, View: "view-1", Epoch: 1, Version: version, Digest: t.Root().Bytes(), Count: uint64(t.Len()), TotalBytes: uint64(t.Bytes()),
		IssuedAt: timestamppb.Now(), KeysetVersion: h.anchors.KeysetVersion(),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return env
}

// publish signs and publishes a version.
func (h *testHub) publish(version uint64, t *digest.Trie) {
	h.t.Helper()
	h.publishSigned(version, t, h.signer)
}

func (h *testHub) publishSigned(version uint64, t *digest.Trie, signer *sign.Signer) {
	h.t.Helper()
	err := h.feed.Publish(feed.Version{Epoch: 1, Version: version, View: "view-1", Trie: t, Manifest: h.manifest(version, t, signer), At: time.Now()})
	if err != nil {
		h.t.Fatal(err)
	}
}

// confirm signs that version is still the newest.
func (h *testHub) confirm(version uint64, t *digest.Trie) {
	h.t.Helper()
	env, err := trust.SignFreshness(context.Background(), h.signer, &trustv1.Freshness{
		Domain: domain, View: "view-1", Epoch: 1, Version: version, Digest: t.Root().Bytes(), IssuedAt: timestamppb.Now(), KeysetVersion: h.anchors.KeysetVersion(),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.feed.Freshness(env); err != nil {
		h.t.Fatal(err)
	}
}

// rotate makes the hub sign with a new key; the old one is dropped.
func (h *testHub) rotate() {
	h.t.Helper()
	next := newSigner(h.t)
	keyset, err := trust.EditKeyset(h.keyset, trust.KeysetEdit{Add: map[string][]sign.PublicKey{"hub1": {next.Public()}}, DropKeys: []string{h.signer.KeyID()}}, h.keys[1])
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	anchors, err := h.anchors.Update(&trustv1.Metadata{Keyset: keyset}, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	h.anchors, h.keyset, h.signer = anchors, keyset, next
	for _, wake := range h.wakes {
		wake()
	}
}

// awaitAck waits until a version is acknowledged, kept when kept is set.
func (h *testHub) awaitAck(version uint64, kept bool) {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case a := <-h.acks:
			if a.GetVersion() == version && (a.GetKept() || !kept) {
				return
			}
		case n := <-h.nacks:
			h.t.Fatalf("version %d was refused: %s %s", n.GetVersion(), n.GetCode(), n.GetMessage())
		case <-deadline:
			h.t.Fatalf("no ack of version %d", version)
		}
	}
}

// awaitStatus waits until the last status names a version as active, and gives how
// many there were.
func (h *testHub) awaitStatus(version uint64) int {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		n, s := h.statuses, h.status
		h.mu.Unlock()
		if s.GetActive().GetVersion() == version {
			return n
		}
		select {
		case <-h.reported:
		case <-deadline:
			h.t.Fatalf("the last status is %v, want one that has version %d active", s, version)
		}
	}
}

func (h *testHub) awaitNack(code fault.Code) *controlv1.Nack {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case n := <-h.nacks:
			if n.GetCode() == string(code) {
				return n
			}
		case <-h.acks:
		case <-deadline:
			h.t.Fatalf("no nack with %s", code)
		}
	}
}
