// Package agent is the runtime of one node: it keeps a stream to a hub, verifies
// what arrives, carries it through activation, stores last-known-good, re-serves it
// to local processes, and renews its own certificate. Its parts:
//
//	activation   decides, as a pure step machine
//	lkg          stores, so that every crash point recovers
//	local        serves the Unix socket and the loopback port
//	join         admits the node to its domain
//	fleet        runs many agents in one process
//
// An Agent is made with New and lives as long as Run:
//
//	a, err := agent.New(cfg, agent.Options{Logger: log})
//	err = a.Run(ctx) // nil after ctx has ended
//
// # Goroutines and ownership
//
// One goroutine (loop) owns the activation machine and the bundles. The stream's
// goroutine verifies what arrives and hands it over by message; a worker, at most
// one at a time, carries out validation, persistence and activation in order; what
// readers see (status, metrics, hello) is an immutable value that the loop
// publishes after each step.
//
// # Trust
//
// Nothing is handed to the loop before its manifest's signature, domain and digest
// are verified against the anchors that were pinned at join. The hub, the network
// and the disk are all untrusted.
package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	"github.com/meshkit/meshkit/pkg/agent/local"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/run"
)

// stopGrace is how long the parts may take to stop.
const stopGrace = 4 * time.Second

// Options are what an agent is given beside its configuration. The zero value is
// usable.
type Options struct {
	// Logger; nil discards.
	Logger *slog.Logger
	// Metrics may be shared by several agents; nil makes its own.
	Metrics *Metrics
	// Shared lets several agents hold equal content once; nil: each its own.
	Shared *Shared
	// FS; nil is the operating system's.
	FS durable.FS
	// DialOptions are added to those of every connection to a hub.
	DialOptions []grpc.DialOption
	// NoLocal leaves out the Unix socket and the loopback port.
	NoLocal bool
	// Changed is called after each activation with the bytes of content that it
	// brought. It must not block.
	Changed func(bytes int64)
	// Ready is called once, when the local endpoints serve and what was stored is
	// active again.
	Ready func(Endpoints)
}

// Endpoints are the addresses on which an agent serves.
type Endpoints struct {
	Socket string `json:"socket,omitempty"`
	Listen string `json:"listen,omitempty"`
}

// Agent is one node. Use New.
type Agent struct {
	cfg     Config
	opts    Options
	log     *slog.Logger
	fs      durable.FS
	files   mtls.Files
	source  *mtls.Source
	anchors *anchorage
	store   *lkg.Store
	found   *lkg.Found
	metrics *Metrics
	feeds   *local.Feeds
	unlock  func()

	messages chan message
	started  chan struct{} // closed when the first state is published
	settled  chan struct{} // closed when what was stored is active again
	stopped  chan struct{} // closed when the loop has ended

	state    atomic.Pointer[state]
	accepted atomic.Pointer[controlv1.Accepted]
	client   atomic.Pointer[subscriber.Client]

	// issued is when the newest freshness statement was issued; the stream's goroutine
	// owns it.
	issued time.Time

	mu        sync.Mutex         // guards below
	reconnect context.CancelFunc // ends the present stream; nil: none
	pemSaves  sync.Mutex         // orders writes of the identity's files
}

// state is what others see of the loop. It is immutable.
type state struct {
	report  activation.Report
	active  *bundle
	bundles map[activation.Point]*bundle
}

// New opens an agent's directory: its lock, identity, trust and last-known-good. It
// fails with fault.CodeNotJoined, fault.CodeAgentDirectoryInUse, or with what makes
// identity or trust unusable. Damage to last-known-good is no error: it is logged,
// and the agent starts with what is left.
func New(cfg Config, opts Options) (*Agent, error) {
	a := &Agent{
		cfg: cfg, opts: opts, log: opts.Logger, fs: opts.FS, metrics: opts.Metrics,
		files:    mtls.Files{Cert: cfg.certFile(), Key: cfg.keyFile(), CA: cfg.caFile()},
		messages: make(chan message, 16), started: make(chan struct{}), settled: make(chan struct{}), stopped: make(chan struct{}),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.fs == nil {
		a.fs = durable.OS
	}
	if a.metrics == nil {
		a.metrics = NewMetrics()
	}
	unlock, err := LockDirectory(cfg.Data)
	if err != nil {
		return nil, err
	}
	a.unlock = unlock
	if err := a.open(); err != nil {
		unlock()
		return nil, err
	}
	return a, nil
}

// open loads everything from the locked directory.
func (a *Agent) open() (err error) {
	if a.source, err = mtls.LoadFiles(a.files); err != nil {
		return fmt.Errorf("load identity: %w", err)
	}
	if id := a.source.ID(); id.Domain != a.cfg.Domain || id.Name != a.cfg.Node || id.Kind != identity.Node {
		return fault.New(fault.CodeConfig, "the certificate in %s is for %s, and the configuration is for node %q of domain %q", a.files.Cert, id, a.cfg.Node, a.cfg.Domain)
	}
	if a.anchors, err = openAnchors(a.fs, a.cfg.trustFile(), a.cfg.Domain, a.cfg.TrustPin); err != nil {
		return err
	}
	if damage := a.anchors.damage; damage != nil {
		a.log.Warn("trust metadata damaged; a kept copy takes its place", "err", damage)
	}
	a.adoptBundle()
	a.store, a.found, err = lkg.Open(lkg.Options{
		FS: a.fs, Dir: a.cfg.lkgDir(), Domain: a.cfg.Domain, Node: a.cfg.Node,
		MaxBytes: a.cfg.LKG.MaxBytes, Verify: a.anchors.verifyStored, Logger: a.log,
	})
	if err != nil {
		return err
	}
	for _, what := range a.found.Lost {
		a.log.Warn("last-known-good damaged", "what", what)
	}
	a.feeds = local.NewFeeds(local.FeedsConfig{
		Domain: a.cfg.Domain, Node: a.cfg.Node, Trust: a.anchors.get(),
		Nacked: func(epoch, version uint64, message string) {
			a.post(eventOnly(activation.DataPlaneNack{Epoch: epoch, Version: version, Message: message}))
		},
		Lost: func() { a.post(eventOnly(activation.DataPlaneLost{})) },
	})
	return nil
}

// adoptBundle brings the CA bundle in line with the trust metadata: the two are written
// one after the other, and a crash or a full disk may come between.
func (a *Agent) adoptBundle() {
	bundle := a.anchors.get().CABundle()
	if len(bundle) == 0 || bytes.Equal(bundle, a.source.Bundle()) {
		return
	}
	if err := a.source.SetBundle(bundle); err != nil {
		a.log.Error("CA bundle not usable", "err", err)
		return
	}
	if err := a.saveIdentity(); err != nil {
		a.log.Error("CA bundle not saved", "err", err)
	}
}

// eventOnly is a message that brings nothing beside its event.
func eventOnly(ev activation.Event) message { return message{ev: ev} }

// Run carries the agent until ctx ends, and then stops it cleanly within a few
// seconds. It is called once; afterwards the agent is closed.
func (a *Agent) Run(ctx context.Context) error {
	a.metrics.add(a)
	defer a.metrics.remove(a)
	defer a.unlock()
	g := run.New(ctx)
	g.Go("activation", a.loop)
	g.Go("hub stream", a.stream)
	g.Go("certificate renewal", a.renew)
	if !a.opts.NoLocal {
		g.Go("local endpoints", a.serve)
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return errors.Join(err, a.store.Close())
	case <-g.Context().Done():
	}
	late := time.NewTimer(stopGrace)
	defer late.Stop()
	select {
	case err := <-done:
		return errors.Join(err, a.store.Close())
	case <-late.C:
		return fault.New(fault.CodeAgentShutdownSlow, "the agent's parts did not stop within %s", stopGrace)
	}
}

// Close gives back what New took, of an agent that is never run.
func (a *Agent) Close() {
	_ = a.store.Close() // nothing was written
	a.unlock()
}

// serve runs the local endpoints.
func (a *Agent) serve(ctx context.Context) error {
	<-a.started
	s, err := local.Listen(local.Config{
		Socket: a.cfg.Socket, Listen: a.cfg.Listen, Source: a.source, Feeds: a.feeds, Agent: a, Earlier: a.anchors.copies, Logger: a.log,
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		select {
		case <-a.settled:
		case <-ctx.Done():
			return
		}
		if a.opts.Ready != nil {
			a.opts.Ready(Endpoints{Socket: a.cfg.Socket, Listen: s.Address()})
		}
	})
	return s.Serve(ctx)
}

// Settled is closed when the agent has activated what it had stored, or found that
// it had nothing.
func (a *Agent) Settled() <-chan struct{} { return a.settled }

// Source is the agent's certificate, for other ports of its program.
func (a *Agent) Source() *mtls.Source { return a.source }

// Config gives the configuration that the agent was made with.
func (a *Agent) Config() Config { return a.cfg }

// Started is closed when the agent knows what it has.
func (a *Agent) Started() <-chan struct{} { return a.started }

// post hands a message to the loop; it is dropped once the loop has ended.
func (a *Agent) post(m message) {
	select {
	case a.messages <- m:
	case <-a.stopped:
	}
}

// send calls f with the client of the present stream, if there is one.
func (a *Agent) send(f func(*subscriber.Client)) {
	if c := a.client.Load(); c != nil {
		f(c)
	}
}

// resume opens the stream to a hub anew, so that the hub offers what it has.
func (a *Agent) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reconnect != nil {
		a.reconnect()
	}
}

// saveIdentity writes certificate, key and CA bundle.
func (a *Agent) saveIdentity() error {
	a.pemSaves.Lock()
	defer a.pemSaves.Unlock()
	return a.source.SaveFiles(a.files)
}

// stagedPath is where a bundle lies for the external validation.
func (a *Agent) stagedPath() string { return filepath.Join(a.cfg.stagingDir(), "bundle.json") }
