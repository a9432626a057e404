package distribution

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// ServerConfig configures a Server. Zero fields mean the
// default, where there is one.
type ServerConfig struct {
	// Backend decides what nodes are given. Required.
	Backend Backend
	// Identify tells who is on the other end; nil takes the SPIFFE id of the client
	// certificate and refuses what is not a node. A local socket that checks the peer's
	// user in its credentials gives a Peer without ID.
	Identify func(ctx context.Context) (Peer, error)
	// AdmissionRate and AdmissionBurst bound streams opened per second; default 300, 400.
	AdmissionRate  float64
	AdmissionBurst int
	// MaxStreams bounds open streams; default 20,000.
	MaxStreams int
	// MessageRate and MessageBurst bound messages per second from one node, beside its
	// answers to what it is sent; default 20, 200.
	MessageRate  float64
	MessageBurst int
	// HelloTimeout bounds the wait for the hello; default 10 s.
	HelloTimeout time.Duration
	// StallTimeout bounds how long a stream may take no bytes; default 20 s.
	StallTimeout time.Duration
	// BehindWait is how long a node that is ahead waits for this hub to catch up; default 5 s.
	BehindWait time.Duration
	// Backoff is what clients are told to use; default 250 ms to 30 s.
	Backoff backoff.Policy
	// Limits are what clients are told.
	Limits Limits
	// Hubs gives the other hubs of the domain, for notices; may be nil.
	Hubs func() []string
	// Back lets nodes be taken to an earlier version when their feed is replaced by
	// one that is behind. It is for an agent that went back to an earlier generation
	// and takes its local processes along; a hub never does that.
	Back bool
	// Metrics; nil counts nothing that anyone sees.
	Metrics *Metrics
	// Logger; nil discards.
	Logger *slog.Logger
}

func (c ServerConfig) withDefaults() ServerConfig {
	or(&c.AdmissionRate, 300)
	or(&c.AdmissionBurst, 400)
	or(&c.MaxStreams, 20_000)
	or(&c.MessageRate, 20)
	or(&c.MessageBurst, 200)
	or(&c.HelloTimeout, 10*time.Second)
	or(&c.StallTimeout, 20*time.Second)
	or(&c.BehindWait, 5*time.Second)
	or(&c.Backoff, defaultBackoff)
	c.Limits = c.Limits.WithDefaults()
	if c.Identify == nil {
		c.Identify = nodeOfCertificate
	}
	if c.Hubs == nil {
		c.Hubs = func() []string { return nil }
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

var defaultBackoff = backoff.Policy{Base: 250 * time.Millisecond, Cap: 30 * time.Second}

// or sets *p to the default when it is zero.
func or[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// nodeOfCertificate is the default Identify.
func nodeOfCertificate(ctx context.Context) (Peer, error) {
	id, ok := mtls.PeerID(ctx)
	if !ok || id.Kind != identity.Node {
		return Peer{}, fault.New(fault.CodeUnauthenticated, "a control stream needs a node's certificate")
	}
	return Peer{ID: id, Address: addressOf(ctx)}, nil
}

func addressOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// Server serves control streams. Register it with
// controlv1.RegisterControlServiceServer on a grpc.Server made with
// wire.ServerOptions, without which a stream cannot be ended from the hub's side.
type Server struct {
	controlv1.UnimplementedControlServiceServer
	cfg       ServerConfig
	admission *admission
	pacing    *pacing // of streams
	crowd     *pacing // of guests
	trust     trustFrames
	senders   senders
	running   sync.WaitGroup // handlers, each of which waits for its writer

	mu      sync.Mutex // guards all below
	streams map[*stream]struct{}
	nodes   map[string]*stream // the one stream of each node
	guests  map[*Guest]struct{}
	drain   *draining // nil: not draining
	closed  bool
}

type draining struct {
	hubs  []string
	empty chan struct{} // closed when the last stream has ended
}

// NewServer makes a server. It fails when the configuration lacks a backend.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Backend == nil {
		return nil, fault.New(fault.CodeInternal, "distribution server without a backend")
	}
	cfg = cfg.withDefaults()
	return &Server{
		cfg: cfg, admission: newAdmission(cfg.AdmissionRate, cfg.AdmissionBurst), pacing: newPacing(maxNodeStreams, nodeBurst), crowd: newPacing(maxNodeGuests, guestBurst),
		streams: make(map[*stream]struct{}), nodes: make(map[string]*stream),
	}, nil
}

// Streams gives the number of open streams.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Stream implements meshkit.control.v1.
func (s *Server) Stream(g controlv1.ControlService_StreamServer) error {
	peer, err := s.cfg.Identify(g.Context())
	if err != nil {
		return s.refuse(g, err)
	}
	if !peer.ID.IsZero() {
		wait, ok := s.pacing.admit(peer.ID.Name, time.Now())
		if !ok {
			return s.refuse(g, wire.WithRetry(tooManyOf(peer.ID.Name), wait))
		}
		defer s.pacing.leave(peer.ID.Name)
	}
	st, err := s.open(g, peer)
	if err != nil {
		return s.refuse(g, err)
	}
	s.cfg.Metrics.admitted.Inc()
	s.cfg.Metrics.streams.Inc()
	err = st.serve()
	s.forget(st)
	s.cfg.Metrics.streams.Dec()
	s.cfg.Metrics.ended.WithLabelValues(string(fault.CodeOf(err))).Inc()
	s.logEnd(st, err)
	s.running.Done()
	return err
}

// tooManyOf says that a node has used up its own share of streams, which no setting of
// the hub makes larger.
func tooManyOf(node string) error {
	return fault.New(fault.CodeAdmission, "node %s opens more streams than one node may", node).
		WithRemedy("Look on node %s: several processes use its certificate, or one opens streams again and again (4 may be open, and 1 opened per second). An agent needs one; join further processes under names of their own.", node)
}

// open admits a stream and takes its place among the others.
func (s *Server) open(g controlv1.ControlService_StreamServer, peer Peer) (*stream, error) {
	cancel, ok := wire.CancelCall(g.Context())
	if !ok {
		return nil, fault.New(fault.CodeInternal, "the gRPC server was made without wire.ServerOptions")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(); err != nil {
		return nil, err
	}
	st := newStream(s, g, peer, cancel)
	s.streams[st] = struct{}{}
	s.running.Add(1)
	return st, nil
}

// refuse tells a client why it is not served, in a notice with other hubs and in
// the status with RetryInfo.
func (s *Server) refuse(g controlv1.ControlService_StreamServer, err error) error {
	s.cfg.Metrics.refused.WithLabelValues(string(fault.CodeOf(err))).Inc()
	wait, _ := wire.RetryAfter(err)
	n := notice(err, wait, s.otherHubs())
	if sendErr := g.Send(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Notice{Notice: n}}); sendErr != nil {
		return sendErr
	}
	return err
}

// notice puts an error that ends a stream into words for the client.
func notice(err error, wait time.Duration, hubs []string) *controlv1.Notice {
	n := &controlv1.Notice{Code: string(fault.CodeOf(err)), Message: err.Error(), Remediation: fault.RemedyOf(err), Hubs: hubs, Closing: true}
	if wait > 0 {
		n.RetryAfter = durationpb.New(wait)
	}
	return n
}

func (s *Server) otherHubs() []string {
	s.mu.Lock()
	d := s.drain
	s.mu.Unlock()
	if d != nil {
		return d.hubs
	}
	return s.cfg.Hubs()
}

// claim makes st the one stream of its node. An older one is told, its session is
// closed, and it is gone from the backend when claim returns.
func (s *Server) claim(st *stream, node string) error {
	s.mu.Lock()
	old := s.nodes[node]
	s.nodes[node] = st
	st.node = node
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	cause := fault.New(fault.CodeReplaced, "node %s opened a newer stream", node)
	old.end(cause, notice(cause, backoff.Jitter(30*time.Second, 0.5), nil))
	return old.release(st.ctx, cause)
}

// forget gives up st's place.
func (s *Server) forget(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if s.nodes[st.node] == st {
		delete(s.nodes, st.node)
	}
	s.emptied()
}

// spread is a jittered wait that brings n clients back at the admission rate.
func (s *Server) spread(n int) time.Duration {
	most := max(time.Second, time.Duration(float64(n)/s.cfg.AdmissionRate*float64(time.Second)))
	return minRetry + rand.N(min(most, maxRetry))
}

// Drain refuses new streams, tells each open one to go to one of hubs (or, without
// any, to come back after a wait), and returns when all have ended. When ctx ends
// first it cuts the rest and returns ctx's cause.
func (s *Server) Drain(ctx context.Context, hubs []string) error {
	empty := s.SendAway(hubs)
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		s.Close()
		return context.Cause(ctx)
	}
}

// TakeBack admits streams again after SendAway.
func (s *Server) TakeBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain = nil
}

// SendAway refuses new streams and tells each open one to go to one of hubs, or,
// without any, to come back after a wait. The channel is closed when all have
// ended.
func (s *Server) SendAway(hubs []string) (empty <-chan struct{}) {
	s.mu.Lock()
	if s.drain == nil {
		s.drain = &draining{hubs: hubs, empty: make(chan struct{})}
		s.emptied()
	}
	s.dismiss()
	d := s.drain
	open := s.snapshot()
	s.mu.Unlock()
	cause := fault.New(fault.CodeDraining, "this hub is draining")
	for _, st := range open {
		st.end(cause, notice(cause, s.spread(len(open)), d.hubs))
	}
	return d.empty
}

// Close ends all streams at once, waits for them, and refuses new ones.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	open := s.snapshot()
	for g := range s.guests {
		g.cancel(fault.New(fault.CodeDraining, "this hub stops"))
	}
	s.mu.Unlock()
	for _, st := range open {
		st.cut(fault.New(fault.CodeDraining, "this hub stops"))
	}
	s.running.Wait()
	s.senders.wait()
}

// snapshot lists the open streams. s.mu is held.
func (s *Server) snapshot() []*stream {
	out := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		out = append(out, st)
	}
	return out
}

func (s *Server) logEnd(st *stream, err error) {
	level := slog.LevelDebug
	switch fault.CodeOf(err) {
	case fault.CodeFlood, fault.CodeStalled, fault.CodeNodeMessage, fault.CodeMessageOrder, fault.CodeHello, fault.CodeHelloNode, fault.CodeHelloTimeout, fault.CodeReplaced:
		level = slog.LevelWarn
	}
	s.cfg.Logger.LogAttrs(context.Background(), level, "control stream ended", slog.String("node", st.node), slog.String("address", addressOf(st.ctx)), slog.String("code", string(fault.CodeOf(err))), slog.Any("err", err))
}
