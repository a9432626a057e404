package distribution_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// localConn gives an in-memory connection the address of a Unix socket, which is what
// it stands for, so that gRPC's local credentials take it.
type localConn struct{ net.Conn }

func (localConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "memory", Net: "unix"} }
func (localConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

type localListener struct{ *bufconn.Listener }

func (l localListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return localConn{c}, nil
}

// lab is one hub with a feed, over memory.
type lab struct {
	t        testing.TB
	server   *distribution.Server
	metrics  *distribution.Metrics
	history  *feed.History
	feed     *feed.Feed
	desk     *desk
	listener *bufconn.Listener
	stop     func()
}

func newLab(t testing.TB, cfg distribution.ServerConfig) *lab {
	metrics := distribution.NewMetrics()
	l := &lab{t: t, metrics: metrics, history: feed.NewHistory(0, 0), listener: bufconn.Listen(256 << 10)}
	l.feed = feed.New(feedtest.View, feed.Options{History: l.history, Metrics: metrics.Feeds})
	l.desk = &desk{offer: distribution.Offer{Accepted: &controlv1.Accepted{Hub: "hub1", Domain: feedtest.Domain, View: feedtest.View}, Feed: l.feed}, visits: map[string]*visit{}}
	cfg.Backend, cfg.Metrics = l.desk, metrics
	if cfg.Identify == nil {
		cfg.Identify = func(context.Context) (distribution.Peer, error) { return distribution.Peer{Address: "memory"}, nil }
	}
	var err error
	if l.server, err = distribution.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(local.NewCredentials()))...)
	controlv1.RegisterControlServiceServer(g, l.server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(localListener{l.listener}) })
	l.stop = func() {
		l.server.Close()
		g.Stop()
		serving.Wait()
	}
	return l
}

func (l *lab) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(local.NewCredentials()),
		grpc.WithContextDialer(dialer(map[string]*lab{"hub1:1": l})),
	}
}

// dialer reaches labs by address; any address reaches a lab that is alone.
func dialer(labs map[string]*lab) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		l, ok := labs[address]
		if !ok {
			for _, l = range labs {
				break
			}
		}
		c, err := l.listener.DialContext(ctx)
		if err != nil {
			return nil, err
		}
		return localConn{c}, nil
	}
}

// conn is a bare connection, for clients that do not behave.
func (l *lab) conn() *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///hub1", append(wire.DialOptions(wire.DialConfig{}), l.dialOptions()...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	return conn
}

// open starts a bare stream with a hello for the node.
func (l *lab) open(ctx context.Context, conn *grpc.ClientConn, hello *controlv1.Hello) controlv1.ControlService_StreamClient {
	s, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	if hello.Protocols == nil {
		hello.Protocols = []string{distribution.Protocol}
	}
	if err := s.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: hello}}); err != nil && !errors.Is(err, io.EOF) { // io.EOF: refused already, Recv says why
		l.t.Fatal(err)
	}
	return s
}

// desk is a Backend that offers every node the same.
type desk struct {
	mu     sync.Mutex // guards all below
	offer  distribution.Offer
	visits map[string]*visit
	fail   error
}

// visit is a Session that remembers.
type visit struct {
	desk   *desk
	wake   func()
	hello  *controlv1.Hello
	mu     sync.Mutex // guards all below
	acks   []*controlv1.Ack
	nacks  []*controlv1.Nack
	status []*controlv1.Status
	closed int
	cause  error
}

func (d *desk) Attach(_ context.Context, _ distribution.Peer, hello *controlv1.Hello, wake func()) (distribution.Session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, d.fail
	}
	v := &visit{desk: d, wake: wake, hello: hello}
	d.visits[hello.GetNode()] = v
	return v, nil
}

func (d *desk) visit(node string) *visit {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.visits[node]
}

// change edits the offer and wakes all.
func (d *desk) change(edit func(*distribution.Offer)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(&d.offer)
	for _, v := range d.visits {
		v.wake()
	}
}

func (v *visit) Offer() distribution.Offer {
	v.desk.mu.Lock()
	defer v.desk.mu.Unlock()
	return v.desk.offer
}

func (v *visit) Acked(a *controlv1.Ack) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.acks = append(v.acks, a)
}

func (v *visit) Nacked(n *controlv1.Nack) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nacks = append(v.nacks, n)
}

func (v *visit) Reported(s *controlv1.Status) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status = append(v.status, s)
}

func (v *visit) Close(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed++
	v.cause = cause
}

// node is a small agent: it verifies what this package is about, and keeps what fits.
type node struct {
	name   string
	client *subscriber.Client
	limits distribution.Limits

	mu           sync.Mutex // guards all below
	trie         *digest.Trie
	has          bool
	at, highest  feed.Point
	updates      []*subscriber.Update
	fresh        []*trustv1.Envelope
	trusts       []*trustv1.Metadata
	notices      []*controlv1.Notice
	log          []string // kinds in order of arrival
	disconnects  []error
	waits        []time.Duration
	silent       bool                         // neither acks nor nacks
	unhandled    []*subscriber.Update         // while silent
	refuse       func(*trustv1.Manifest) bool // refuses content
	acceptedAt   time.Time
	resyncsAsked int
	goesBack     bool // takes older content, as a local process does from its agent
}

func (n *node) Hello() *controlv1.Hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &controlv1.Hello{Node: n.name, Highest: &controlv1.ResumePoint{Epoch: n.highest.Epoch, Version: n.highest.Version}}
	if n.has {
		root := n.trie.Root()
		h.Resume = &controlv1.ResumePoint{Epoch: n.at.Epoch, Version: n.at.Version, Digest: root[:], View: feedtest.View}
	}
	return h
}

func (n *node) note(kind string) { n.log = append(n.log, kind) }

func (n *node) Accepted(context.Context, string, *controlv1.Accepted) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("accepted")
	n.acceptedAt = time.Now()
}

func (n *node) Update(_ context.Context, u *subscriber.Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("update")
	n.updates = append(n.updates, u)
	if n.silent {
		n.unhandled = append(n.unhandled, u)
		return
	}
	n.handle(u)
}

// comeToItsSenses ends the silence: what arrived meanwhile is handled, in order,
// before anything that arrives from now on.
func (n *node) comeToItsSenses() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = false
	for _, u := range n.unhandled {
		n.handle(u)
	}
	n.unhandled = nil
}

// handle applies and answers. n.mu is held.
func (n *node) handle(u *subscriber.Update) {
	var m trustv1.Manifest
	if err := proto.Unmarshal(u.Manifest.GetPayload(), &m); err != nil {
		panic(err)
	}
	at := feedtest.At(m.GetEpoch(), m.GetVersion())
	nack := &controlv1.Nack{Epoch: at.Epoch, Version: at.Version, Digest: m.GetDigest()}
	switch next, err := subscriber.Apply(n.trie, &m, u, n.limits); {
	case m.GetDomain() != feedtest.Domain:
		nack.Message = "wrong domain"
		n.client.Nack(nack)
	case at.Compare(n.highest) < 0 && !n.goesBack:
		nack.Message = "replayed"
		n.client.Nack(nack)
	case err != nil:
		nack.Code, nack.Message, nack.Resync = string(fault.CodeOf(err)), err.Error(), true
		n.resyncsAsked++
		n.client.Nack(nack)
	case n.refuse != nil && n.refuse(&m):
		nack.Message = "refused"
		n.client.Nack(nack)
	default:
		n.trie, n.has, n.at, n.highest = next, true, at, at
		n.client.Ack(&controlv1.Ack{Epoch: at.Epoch, Version: at.Version, Digest: m.GetDigest()})
	}
}

func (n *node) Freshness(_ context.Context, e *trustv1.Envelope) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("freshness")
	n.fresh = append(n.fresh, e)
}

func (n *node) Trust(_ context.Context, m *trustv1.Metadata) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("trust")
	n.trusts = append(n.trusts, m)
}

func (n *node) Notice(_ context.Context, m *controlv1.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("notice")
	n.notices = append(n.notices, m)
}

func (n *node) Disconnected(_ string, err error, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disconnects = append(n.disconnects, err)
	n.waits = append(n.waits, wait)
}

// root gives the digest of what the node holds.
func (n *node) root() digest.Hash {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trie.Root()
}

func (n *node) with(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// join runs a node against the lab until the returned function is called.
func (l *lab) join(n *node) (leave func()) {
	c, err := subscriber.New(subscriber.Config{Hubs: []string{"hub1:1"}, DialOptions: l.dialOptions(), Handler: n, Limits: n.limits})
	if err != nil {
		l.t.Fatal(err)
	}
	n.client = c
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = c.Run(ctx) })
	return func() {
		cancel()
		done.Wait()
	}
}

func (l *lab) publish(at feed.Point, t *digest.Trie) {
	l.t.Helper()
	if err := l.feed.Publish(feedtest.Version(at, t)); err != nil {
		l.t.Fatal(err)
	}
}

// count adds up the counters of this name, of those with labels the ones with this value.
func (l *lab) count(name, label string) (sum float64) {
	l.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(l.metrics.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "meshkit_control_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			if len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue()
			}
		}
		return sum
	}
	l.t.Fatalf("no metric is named %s", name)
	return 0
}

// bubble runs f with fake time; f's lab is stopped at its end.
func bubble(t *testing.T, cfg distribution.ServerConfig, f func(t *testing.T, l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, cfg)
		defer l.stop()
		f(t, l)
	})
}
