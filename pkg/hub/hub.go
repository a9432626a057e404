// Package hub is the control-plane daemon of a domain: it joins the log, views,
// the distribution server, the admin and identity services and their guard into
// one program.
//
//	h, err := hub.New(hub.Options{…})
//	err = h.Run(ctx) // until ctx ends; then it drains, resigns and closes
//
// What each part does is told by its package: replica follows and writes the
// log, change computes what operators send, views turns states into signed
// versions, fleet knows what agents report, keyring holds keys and trust,
// join admits nodes, access guards, admin answers operators.
//
// # Several hubs
//
// A hub that does not hold the lease runs the same code: it follows the log,
// serves streams and reads, and answers writes with fault.CodeNotLeader and the
// leader's address. Epochs are terms of the lease, so versions of two leaders
// are ordered.
//
// # A wrong clock
//
// Times in the log never go back: an entry has the hub's time or that of the
// entry before, whichever is later. Terms and versions do not depend on clocks.
// A clock that is ahead makes tokens expire early and its statements be refused
// by agents beyond five minutes of skew; one that is behind makes tokens live
// longer by as much as the log's newest time allows.
//
// New and Run are called once; the other methods are safe for concurrent use.
package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/hub/forward"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/hub/views"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/omnirelay"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/run"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Options of a hub. Fields without a default are required.
type Options struct {
	Domain string
	Name   string
	// Advertise is where agents and operators reach the hub, host:port; empty: the
	// listener's address.
	Advertise string
	// OpenLog opens the domain's log; StoreName names its driver for people.
	OpenLog   func(ctx context.Context) (*store.Log, error)
	StoreName string
	// Keys holds the config key and, unless it is kept elsewhere, the keyset key.
	Keys      sign.Driver
	Authority *ca.Authority
	// HubCA makes the issuing CAs of hubs that join, and HubCAChain is what leads
	// from it to the root; nil when this hub admits none. StoreURL tells them where
	// the log is, with StoreName; empty: where no other hub reaches it.
	HubCA      ca.Driver
	HubCAChain [][]byte
	StoreURL   string
	// Host makes and serves further domains in this process; nil: it does not.
	Host admin.DomainHost
	// TLS is the hub's own certificate; SaveTLS, if set, keeps a renewed one.
	TLS     *mtls.Source
	SaveTLS func() error
	// Port serves gRPC. Whoever runs several domains on one port runs it; nil: the
	// hub runs one of its own on Listener.
	Port     *Port
	Listener net.Listener
	// Metrics, if set, serves /metrics, /healthz, /readyz.
	Metrics  net.Listener
	Registry *observe.Registry
	Logger   *slog.Logger
	// CertificateGrace is how long after its expiry a node's certificate is still
	// accepted; 0 means not at all. See mtls.ServerOptions.Grace.
	CertificateGrace time.Duration
	// Distribution overrides limits of the distribution server; its Backend and
	// Hubs are set here.
	Distribution distribution.ServerConfig
	// Replica overrides the pace of snapshots and probes; its other fields are set
	// here.
	Replica replica.Options
	// Drain bounds how long open streams get to leave; 0 means 2 s.
	Drain time.Duration
}

// Hub is a running hub. Use New.
type Hub struct {
	opt      Options
	log      *slog.Logger
	started  time.Time
	health   *observe.Health
	replica  *replica.Replica
	fleet    *fleet.Fleet
	keys     *keyring.Keyring
	views    *views.Set
	streams  *distribution.Server
	relay    *relayed
	front    *front
	ownPort  bool
	forward  *forward.Forwarder
	peers    *peers.Set
	stopping chan struct{}
	renamed  chan struct{} // the certificate does not name where the hub is reached; one slot
	admits   chan struct{} // the turn of a join that this hub prepares; one slot
	serving  atomic.Bool
	logStats prometheus.Collector // of the open log; replaced when it is reopened
}

// New puts a hub together. It opens nothing and starts nothing; the listeners
// are the hub's from then on.
func New(opt Options) (*Hub, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Registry == nil {
		opt.Registry = observe.NewRegistry("meshhub")
	}
	if opt.Drain == 0 {
		opt.Drain = 2 * time.Second
	}
	ownPort := opt.Port == nil
	if ownPort {
		opt.Port = NewPort(opt.Listener, opt.Logger)
	}
	if opt.Advertise == "" {
		opt.Advertise = opt.Port.Addr().String()
	}
	id, err := identity.New(opt.Domain, identity.Hub, opt.Name)
	if err != nil {
		return nil, err
	}
	if opt.TLS.ID() != id {
		return nil, fault.New(fault.CodeConfig, "the hub's certificate is for %s, and the configuration says %s", opt.TLS.ID(), id)
	}
	h := &Hub{opt: opt, log: opt.Logger, started: time.Now(), health: observe.NewHealth(), stopping: make(chan struct{}), renamed: make(chan struct{}, 1), admits: make(chan struct{}, 1), ownPort: ownPort}
	h.assemble(id)
	dist := h.opt.Distribution
	dist.Backend, dist.Hubs, dist.Logger = h.views, h.otherHubs, opt.Logger
	if h.streams, err = distribution.NewServer(dist); err != nil {
		return nil, err
	}
	h.relay = newRelayed(h)
	names := []string{mtls.DomainServerName(opt.Domain), mtls.PinServerName(opt.Authority.Pin())}
	h.front = newFront(opt.Port, names, mtls.ServerConfig(opt.TLS, mtls.ServerOptions{OptionalClient: true, Grace: opt.CertificateGrace}), h.known(), h.nodes(), h.strangers())
	h.front.hub = h
	opt.Port.add(h.front)
	h.observe(dist.Metrics)
	return h, nil
}

func (h *Hub) assemble(id identity.ID) {
	o := h.opt
	ropt := o.Replica
	ropt.Open, ropt.Domain, ropt.Author, ropt.Logger = h.openLog, o.Domain, id.String(), o.Logger
	ropt.Holder = store.Holder{Name: o.Name, Address: o.Advertise}
	h.keys = keyring.New(keyring.Options{Domain: o.Domain, Hub: o.Name, Keys: o.Keys, Publish: h.publish, Logger: o.Logger})
	ropt.Aside = h.keys.Dropped // the others neither hand it writes nor take its calls
	h.replica = replica.New(ropt)
	h.fleet = fleet.New(fleet.Options{Target: func(region string) (time.Duration, bool) {
		cur := h.replica.Current()
		if cur == nil {
			return 0, false
		}
		return cur.Graph.Target(region)
	}})
	if h.opt.Distribution.Metrics == nil {
		h.opt.Distribution.Metrics = distribution.NewMetrics()
	}
	h.peers = peers.New(peers.Options{
		Domain: o.Domain, Hub: o.Name, TLS: o.TLS, State: h.state, Listed: h.listed, Stands: h.guard().Stands, MessageBytes: resource.DefaultLimits().AdminMessageBytes,
	})
	h.forward = forward.New(forward.Options{
		Domain: o.Domain, Hub: o.Name, Replica: h.replica, Peers: h.peers, Stands: h.guard().Stands, Logger: o.Logger,
		Ready:  func() <-chan struct{} { return h.views.Ready() },
		Verify: func(chain []*x509.Certificate) error { return mtls.VerifyClient(o.TLS, chain, o.CertificateGrace) },
	})
	h.views = views.New(views.Options{
		Domain: o.Domain, Hub: o.Name, Replica: h.replica, Keys: h.keys, Fleet: h.fleet, Hubs: h.hubs,
		Metrics: h.opt.Distribution.Metrics.Feeds, Logger: o.Logger,
	})
}

func (h *Hub) guard() *access.Guard {
	return &access.Guard{Domain: h.opt.Domain, Members: h.state, Listed: func(hub string) (listed, known bool) {
		return h.listed(hub), h.keys.Current() != nil
	}}
}

// known is the server for operators and hubs.
func (h *Hub) known() *grpc.Server {
	guard := h.guard()
	limits := resource.DefaultLimits()
	opts := wire.ServerOptions(wire.ServerConfig{ReceiveBytes: limits.AdminMessageBytes, SendBytes: limits.AdminMessageBytes, Logger: h.log})
	opts = append(opts, grpc.ChainUnaryInterceptor(h.forward.Accept))
	opts = append(append(opts, guard.Options()...), barriers{h.replica}.options()...)
	s := grpc.NewServer(append(opts, grpc.ChainUnaryInterceptor(h.forward.Send), grpc.Creds(handshaken{}))...)
	admin.Register(s, h.adminOptions())
	controlv1.RegisterControlServiceServer(s, lazyStreams{hub: h})
	identityv1.RegisterIdentityServiceServer(s, h.joinService())
	h.relay.register(s)
	return s
}

func (h *Hub) adminOptions() admin.Options {
	return admin.Options{
		Domain: h.opt.Domain, Hub: h.opt.Name, Build: version.String(), Store: h.opt.StoreName, Started: h.started,
		Replica: h.replica, Views: h.views, Fleet: h.fleet, Keys: h.keys, CAPin: h.opt.Authority.Pin(), Host: h.opt.Host,
		Peers: h.peers, Hand: h.forward.Hand, Address: func() string { return h.opt.Advertise }, Limits: resource.DefaultLimits(), Stopping: h.stopping,
		CertificateGrace: h.opt.CertificateGrace, AdmitsHubs: h.opt.HubCA != nil, WhyNot: h.whyNot,
	}
}

// nodes is the server for nodes: a stream, and renewal. What else they call is
// refused by the guard, as a method that they may not call.
func (h *Hub) nodes() *grpc.Server {
	guard := h.guard()
	opts := wire.ServerOptions(wire.ServerConfig{Streams: 8, ReceiveBytes: wire.MaxControlRequest, SendBytes: omnirelay.MaxMessage, Window: 64 << 10, Logger: h.log})
	opts = append(append(opts, guard.Options()...), grpc.ChainUnaryInterceptor(h.forward.Send), grpc.Creds(handshaken{}), grpc.UnknownServiceHandler(notForNodes))
	s := grpc.NewServer(opts...)
	controlv1.RegisterControlServiceServer(s, lazyStreams{hub: h})
	identityv1.RegisterIdentityServiceServer(s, h.joinService())
	h.relay.register(s)
	return s
}

// notForNodes answers calls that the guard let pass although this server does
// not have them: there are none, unless the guard's table is wrong.
func notForNodes(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return fault.New(fault.CodeNotPermitted, "method %s is not open to nodes", method)
}

// strangers is the server for callers without a certificate: they can join, in
// small messages, and nothing else.
func (h *Hub) strangers() *grpc.Server {
	guard := h.guard()
	opts := wire.ServerOptions(wire.ServerConfig{Streams: 4, ReceiveBytes: 64 << 10, Window: 64 << 10, SendBytes: 4 << 20, UnaryTimeout: 30 * time.Second, ConnectionAge: 5 * time.Minute, Logger: h.log})
	s := grpc.NewServer(append(append(opts, guard.Options()...), grpc.ChainUnaryInterceptor(h.forward.Send), grpc.Creds(handshaken{}))...)
	identityv1.RegisterIdentityServiceServer(s, h.joinService())
	return s
}

func (h *Hub) joinService() *join.Service {
	return join.New(join.Options{
		Domain: h.opt.Domain, Hub: h.opt.Name, Replica: h.replica, Authority: h.opt.Authority, Hubs: h.hubs,
		Admission: join.HubAdmission{
			CA: h.opt.HubCA, Chain: h.opt.HubCAChain, Keyset: h.keys.WithHub, CheckKeyset: h.keys.CheckWithHub, SignerStands: h.guard().SignerStands,
			Turn: h.admits, Admit: h.admit, HandOn: h.handOn, Follow: h.keys.Follow, StoreDriver: h.opt.StoreName, StoreURL: h.opt.StoreURL,
		},
		Anchors: func() *trust.Anchors {
			if f := h.keys.Current(); f != nil {
				return f.Anchors
			}
			return nil
		},
	})
}

// lazyStreams breaks the circle between the gRPC server, which New makes, and
// the distribution server, which is there when the first stream arrives.
type lazyStreams struct {
	controlv1.UnimplementedControlServiceServer
	hub *Hub
}

func (l lazyStreams) Stream(g controlv1.ControlService_StreamServer) error {
	return l.hub.streams.Stream(g)
}

func (h *Hub) state() *state.State {
	if cur := h.replica.Current(); cur != nil {
		return cur.State
	}
	return nil
}

// listed tells whether the keyset lists a key of a hub.
func (h *Hub) listed(name string) bool {
	f := h.keys.Current()
	return f != nil && slices.ContainsFunc(f.Anchors.Hubs(), func(k trust.HubKey) bool { return k.Hub == name })
}

// hubs lists where streams may go, this hub first unless it is drained. One that was
// dropped is of no use to agents.
func (h *Hub) hubs() []string {
	others := h.otherHubs()
	switch s := h.state(); {
	case len(others) > 0 && !h.listed(h.opt.Name):
		return others
	case s != nil && isDrained(s, h.opt.Name):
		return append(others, h.opt.Advertise)
	}
	return append([]string{h.opt.Advertise}, others...)
}

// otherHubs lists the addresses of the domain's other hubs that are in use: neither
// drained nor dropped.
func (h *Hub) otherHubs() []string {
	var out []string
	if s := h.state(); s != nil {
		for other := range s.Hubs() {
			if other.GetHub() != h.opt.Name && other.GetAddress() != "" && !other.GetDrained() && h.listed(other.GetHub()) {
				out = append(out, other.GetAddress())
			}
		}
	}
	return out
}

// openLog opens the log and shows its metrics in place of those of the one
// before. Only the replica's goroutine calls it.
func (h *Hub) openLog(ctx context.Context) (*store.Log, error) {
	l, err := h.opt.OpenLog(ctx)
	if err != nil {
		return nil, err
	}
	if h.logStats != nil {
		h.opt.Registry.Unregister(h.logStats)
	}
	h.logStats = collectors(l.Collectors())
	if err := h.opt.Registry.Register(h.logStats); err != nil {
		return nil, errors.Join(fmt.Errorf("register the log's metrics: %w", err), l.Close())
	}
	return l, nil
}

// collectors makes several one.
type collectors []prometheus.Collector

// Describe implements prometheus.Collector.
func (c collectors) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range c {
		x.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c collectors) Collect(ch chan<- prometheus.Metric) {
	for _, x := range c {
		x.Collect(ch)
	}
}

// Ready is closed once the hub has read its log and taken its keys and views from
// it.
func (h *Hub) Ready() <-chan struct{} { return h.views.Ready() }

// Addresses are where the hub listens.
func (h *Hub) Addresses() (listen, metrics string) {
	if h.opt.Metrics != nil {
		metrics = h.opt.Metrics.Addr().String()
	}
	return h.opt.Port.Addr().String(), metrics
}

// Run serves until ctx ends or a part fails. When ctx ends, it resigns the lease if
// there are other hubs, tells streams to leave, answers the calls under way, and
// closes the log; altogether within about five seconds.
func (h *Hub) Run(ctx context.Context) error {
	// The core outlives the servers, which need it until their last answer.
	core := run.New(context.WithoutCancel(ctx))
	core.Go("log", h.replica.Run)
	core.Go("views", h.views.Run)
	core.Go("upkeep", h.upkeep)
	core.Go("drain", h.followDrain)
	core.Go("address", h.followAddress)
	core.Go("split", h.followSplit)
	core.Go("leadership", h.relay.tracker.Run)
	h.serving.Store(true)

	serve := run.New(core.Context())
	serve.Go("connections", func(context.Context) error { return h.front.serve() })
	if h.ownPort {
		serve.Go("port", func(context.Context) error { return h.opt.Port.Run() })
	}
	var web *http.Server
	if h.opt.Metrics != nil {
		web = h.webServer()
		serve.Go("metrics", func(context.Context) error {
			if err := web.ServeTLS(h.opt.Metrics, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	select {
	case <-ctx.Done():
	case <-serve.Context().Done(): // a part failed, or the core did
	}
	h.serving.Store(false)
	h.shutdown(web)
	serve.Stop()
	err := serve.Wait()
	core.Stop()
	err = errors.Join(err, core.Wait())
	h.log.Info("stopped")
	return err
}

// shutdownHold is longer than any shutdown.
const shutdownHold = time.Hour

func (h *Hub) shutdown(web *http.Server) {
	if len(h.otherHubs()) > 0 {
		// Before the rest, which takes seconds: writes that still come here are
		// forwarded. Alone, this hub leads until it has answered the last one.
		h.replica.Hold(shutdownHold)
	}
	close(h.stopping)
	h.relay.board.Close()
	ctx, cancel := context.WithTimeout(context.Background(), h.opt.Drain)
	defer cancel()
	if err := h.streams.Drain(ctx, h.otherHubs()); err != nil {
		h.log.Warn("streams cut that did not leave in time", "err", err)
	}
	h.streams.Close()
	h.opt.Port.remove(h.front)
	if h.ownPort {
		h.opt.Port.Close()
	}
	h.front.close(time.Second)
	h.peers.Close()
	if web != nil {
		_ = web.Close()
	}
}
