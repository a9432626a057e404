package omnirelay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

const domain = "eu-west"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a server over one view that a test publishes into.
type lab struct {
	t       testing.TB
	metrics *distribution.Metrics
	streams *distribution.Server
	conn    *grpc.ClientConn
	board   *Board
	stop    func()
	root    []byte
	keyset  []byte
	signer  *sign.Signer
	keys    *sign.Signer

	mu      sync.Mutex // guards all below
	anchors *trust.Anchors
	feed    *feed.Feed
	wakes   map[*labSession]func()
	offers  int // how often sessions were asked
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

// newCA makes a CA bundle, which a keyset needs.
func newCA(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// newLab serves node-a; adjust may change limits and the configuration.
func newLab(t testing.TB, adjust ...func(*distribution.ServerConfig, *Config)) *lab {
	t.Helper()
	l := &lab{t: t, metrics: distribution.NewMetrics(), signer: newSigner(t), keys: newSigner(t), wakes: make(map[*labSession]func()), feed: feed.New("view-1", feed.Options{})}
	var err error
	expires := time.Now().Add(time.Hour)
	if l.root, err = trust.NewRoot(domain, []*sign.Signer{newSigner(t)}, 1, []*sign.Signer{l.keys}, expires); err != nil {
		t.Fatal(err)
	}
	ca := newCA(t)
	if l.keyset, err = trust.NewKeyset(l.root, 1, map[string][]sign.PublicKey{"hub1": {l.signer.Public()}}, ca, expires, l.keys); err != nil {
		t.Fatal(err)
	}
	if l.anchors, err = trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{l.root}, Keyset: l.keyset, CaBundle: ca}, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, err := identity.New(domain, identity.Node, "node-a")
	if err != nil {
		t.Fatal(err)
	}
	sc := distribution.ServerConfig{Backend: l, Metrics: l.metrics, BehindWait: 50 * time.Millisecond, Identify: func(context.Context) (distribution.Peer, error) {
		return distribution.Peer{ID: id, Address: "lab"}, nil
	}}
	cfg := Config{Domain: domain, Backend: l}
	for _, f := range adjust {
		f(&sc, &cfg)
	}
	if l.streams, err = distribution.NewServer(sc); err != nil {
		t.Fatal(err)
	}
	cfg.Streams = l.streams
	g := grpc.NewServer(wire.ServerOptions(wire.ServerConfig{SendBytes: MaxMessage})...)
	NewServer(cfg).Register(g)
	l.board = NewBoard(domain)
	l.board.Register(g)
	lis := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(lis) })
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) })
	l.conn, err = grpc.NewClient("passthrough:lab", append(wire.DialOptions(wire.DialConfig{ReceiveBytes: MaxMessage, Window: 64 << 10}), dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	l.stop = sync.OnceFunc(func() {
		_ = l.conn.Close()
		l.streams.Close()
		g.Stop()
		serving.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

// trie is count resources of about size bytes whose content depends on version.
func trie(version uint64, count, size int) *digest.Trie {
	var t *digest.Trie
	for i := range count {
		text := fmt.Sprintf("%d %s", version, strings.Repeat("x", size))
		t = t.Set(fmt.Sprintf("Route/default/r%d", i), fmt.Appendf(nil, `{"kind":"Route","metadata":{"name":"r%d","namespace":"default"},"spec":{"service":%q}}`, i, text))
	}
	return t
}

// publish signs and publishes a version.
func (l *lab) publish(epoch, version uint64, count, size int, required ...string) feed.Version {
	l.t.Helper()
	return l.publishAs(l.signer, epoch, version, trie(version, count, size), required...)
}

func (l *lab) publishAs(signer *sign.Signer, epoch, version uint64, content *digest.Trie, required ...string) feed.Version {
	l.t.Helper()
	env, err := trust.SignManifest(context.Background(), signer, &trustv1.Manifest{
		Domain: domain, View: "view-1", Epoch: epoch, Version: version, Digest: content.Root().Bytes(), Count: uint64(content.Len()), TotalBytes: uint64(content.Bytes()),
		RequiredCapabilities: required, IssuedAt: timestamppb.Now(), KeysetVersion: l.anchors.KeysetVersion(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	v := feed.Version{Epoch: epoch, Version: version, View: "view-1", Trie: content, Manifest: env, Required: required, At: time.Now()}
	l.mu.Lock()
	current := l.feed
	l.mu.Unlock()
	if err := current.Publish(v); err != nil {
		l.t.Fatal(err)
	}
	return v
}

// rotate replaces the hub's key in the keyset, and tells all sessions.
func (l *lab) rotate() {
	l.t.Helper()
	next := newSigner(l.t)
	keyset, err := trust.EditKeyset(l.keyset, trust.KeysetEdit{Add: map[string][]sign.PublicKey{"hub1": {next.Public()}}, DropKeys: []string{l.signer.KeyID()}}, l.keys)
	if err != nil {
		l.t.Fatal(err)
	}
	anchors, err := l.anchors.Update(&trustv1.Metadata{Keyset: keyset}, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anchors, l.keyset, l.signer = anchors, keyset, next
	for _, wake := range l.wakes {
		wake()
	}
}

// back replaces the feed by one that begins anew, as an agent does that goes back.
func (l *lab) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.feed = feed.New("view-1", feed.Options{})
	for _, wake := range l.wakes {
		wake()
	}
}

type labSession struct{ lab *lab }

func (l *lab) Attach(_ context.Context, _ distribution.Peer, _ *controlv1.Hello, wake func()) (distribution.Session, error) {
	s := &labSession{l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakes[s] = wake
	return s, nil
}

func (s *labSession) Offer() distribution.Offer {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	s.lab.offers++
	return distribution.Offer{Accepted: &controlv1.Accepted{}, Feed: s.lab.feed, Trust: s.lab.anchors}
}
func (*labSession) Acked(*controlv1.Ack)       {}
func (*labSession) Nacked(*controlv1.Nack)     {}
func (*labSession) Reported(*controlv1.Status) {}
func (s *labSession) Close(error) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	delete(s.lab.wakes, s)
}

// watch opens a stream by hand.
func (l *lab) watch(token *relay.WatchResumeToken, capabilities ...string) relay.ControlPlaneWatch_WatchClient {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	l.t.Cleanup(cancel)
	s, err := relay.NewControlPlaneWatchClient(l.conn).Watch(ctx, &relay.ControlWatchRequest{Capabilities: &relay.CapabilitySet{Items: capabilities}, ResumeToken: token})
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// next receives one response.
func next(t testing.TB, s relay.ControlPlaneWatch_WatchClient) *relay.ControlWatchResponse {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ended checks that a stream ends in order.
func ended(t testing.TB, s relay.ControlPlaneWatch_WatchClient) {
	t.Helper()
	if m, err := s.Recv(); err != io.EOF {
		t.Errorf("the stream goes on with %v, %v", m, err)
	}
}
