// Package fleet keeps the live facts about nodes that are in no log: who is
// connected, what each has active, what it refused, and how far each version has
// got and how fast. Facts live in memory and start empty with the process; nodes
// report again when they connect.
//
// Only joined nodes have facts, so the log's bound on nodes bounds the memory.
// All methods are safe for concurrent use; none blocks.
package fleet

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/view"
)

// Options of a fleet.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Target gives the propagation target of a region, if it has one.
	Target func(region string) (time.Duration, bool)
}

// Live is what is known of a node at this moment. It is a copy; its messages are
// not modified.
type Live struct {
	Node         string
	Connected    bool
	Address      string
	Build        string
	Capabilities []string
	// Reported are the labels that the node claims, for people only.
	Reported map[string]string
	View     string
	Phase    controlv1.Phase
	Active   *controlv1.ResumePoint
	Highest  *controlv1.ResumePoint
	Message  string
	Pinned   bool
	// LastSeen is now while a stream is open, then the time of the last message.
	LastSeen time.Time
	NotAfter time.Time
	Nack     *controlv1.Nack
	// Since is when the newest stream was opened.
	Since time.Time
}

// Fleet holds the facts. Use New.
type Fleet struct {
	opt     Options
	metrics metrics

	mu      sync.Mutex // guards all below
	nodes   map[string]*node
	views   map[string]digest.Hash // content that each active view offers
	waves   []*wave                // oldest first
	settled uint64                 // config sequence up to which views are published
	serving time.Time              // since when nodes can connect; zero: not yet
	changed chan struct{}          // closed by the next change; nil until someone asks
	online  int

	capabilities uint64 // see CapabilitiesVersion
}

// node is the facts about one node. Fleet.mu guards it.
type node struct {
	Live
	region  string
	ackedAt time.Time // of the newest acknowledgement on the open stream
	conn    *Conn     // the open stream, nil when there is none
	// owes has the bits of the waves that wait for the node's answer: what an ack costs
	// is paid by all nodes for each change. Those that are in late as well began when it
	// was not connected: its time says nothing about propagation.
	owes, late uint64
}

// New makes an empty fleet.
func New(opt Options) *Fleet {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Target == nil {
		opt.Target = func(string) (time.Duration, bool) { return 0, false }
	}
	return &Fleet{opt: opt, metrics: newMetrics(), nodes: make(map[string]*node), views: make(map[string]digest.Hash)}
}

// Serving notes that nodes can connect from now on.
func (f *Fleet) Serving() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serving = f.opt.Now()
	f.notify()
}

// Offered notes what a view is about to offer. A view that is new is one whose
// nodes have yet to show what they have of the versions before.
func (f *Fleet) Offered(view string, content digest.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.views[view]; !known {
		for _, w := range f.waves {
			w.views[view] = true
		}
	}
	f.views[view] = content
}

// Withdrawn notes that a view offers nothing any more.
func (f *Fleet) Withdrawn(view string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.views, view)
	for _, w := range f.waves {
		delete(w.views, view)
	}
}

// holds tells whether n has the content that its view offers. f.mu is held.
func (f *Fleet) holds(n *node) bool {
	offered, ok := f.views[n.View]
	return ok && n.Active != nil && string(n.Active.GetDigest()) == string(offered[:])
}

// Collectors gives the fleet's metrics.
func (f *Fleet) Collectors() []prometheus.Collector { return f.metrics.collectors() }

// Conn is one stream of a node. Its methods are called one at a time. What happens on
// a nil Conn is not noted.
type Conn struct {
	fleet *Fleet
	node  *node // its conn is this one, unless a newer stream took over or the node was forgotten
}

// Connect notes that a node opened a stream. labels are those bound to its
// identity. A stream that was open before is thereby over.
func (f *Fleet) Connect(name string, labels map[string]string, address, viewID string, h *controlv1.Hello) *Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil {
		n = &node{Live: Live{Node: name, Capabilities: view.Known()}}
		f.nodes[name] = n
	}
	if !slices.Equal(n.Capabilities, h.GetCapabilities()) {
		f.capabilities++
	}
	if n.conn == nil {
		f.online++
	}
	active := h.GetResume()
	if h.GetPhase() == controlv1.Phase_PHASE_STAGING {
		active = nil // held, and perhaps not active yet: the first status tells
	}
	now := f.opt.Now()
	n.conn = &Conn{fleet: f, node: n}
	n.region, n.ackedAt = labels["region"], time.Time{}
	n.Live = Live{
		Node: name, Connected: true, Address: address, Build: h.GetBuild(), Capabilities: h.GetCapabilities(),
		Reported: h.GetLabels(), View: viewID, Phase: h.GetPhase(), Active: active, Highest: h.GetHighest(),
		LastSeen: now, Since: now, NotAfter: n.NotAfter, Nack: n.Nack,
	}
	for _, w := range f.waves {
		if f.concerns(w, n) {
			w.await(n, true)
		}
	}
	f.notify()
	return n.conn
}

// with runs fn on the facts of the connection's node, unless a newer stream took
// over or the node was forgotten. All streams meet at the lock when they ack a change:
// little is done under it.
func (c *Conn) with(fn func(n *node)) {
	if c == nil {
		return
	}
	now := c.fleet.opt.Now()
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	n := c.node
	if n.conn != c {
		return
	}
	n.LastSeen = now
	fn(n)
	c.fleet.notify()
}

// Acked notes that a version is active on the node.
func (c *Conn) Acked(a *controlv1.Ack) {
	active := &controlv1.ResumePoint{Epoch: a.GetEpoch(), Version: a.GetVersion(), Digest: a.GetDigest()}
	c.with(func(n *node) {
		active.View = n.View
		n.Active = active
		if !below(n.Active, n.Highest) {
			n.Highest = n.Active
		}
		if n.Nack != nil && !below(n.Active, &controlv1.ResumePoint{Epoch: n.Nack.GetEpoch(), Version: n.Nack.GetVersion()}) {
			n.Nack = nil
		}
		switch {
		case n.Phase == controlv1.Phase_PHASE_DEGRADED && n.Nack != nil:
		case a.GetKept():
			n.Phase = controlv1.Phase_PHASE_ACTIVE
		default:
			n.Phase = controlv1.Phase_PHASE_STAGING // in probation
		}
		n.ackedAt = n.LastSeen
		c.fleet.acked(n, a)
	})
}

// Nacked notes that the node refused or reverted a version. A request for a full
// snapshot is no refusal.
func (c *Conn) Nacked(k *controlv1.Nack) {
	c.with(func(n *node) {
		code := "other"
		if _, known := fault.Lookup(fault.Code(k.GetCode())); known {
			code = k.GetCode()
		}
		c.fleet.metrics.nacks.WithLabelValues(code).Inc()
		if k.GetResync() {
			return
		}
		n.Nack = proto.CloneOf(k)
		c.fleet.nacked(n, n.Nack)
	})
}

// Reported notes what the node says of itself.
func (c *Conn) Reported(s *controlv1.Status) {
	c.with(func(n *node) {
		n.Phase, n.Message, n.Pinned = s.GetPhase(), s.GetMessage(), s.GetPinned()
		if s.GetActive() != nil {
			n.Active = s.GetActive()
		}
		if s.GetHighest() != nil {
			n.Highest = s.GetHighest()
		}
		if s.GetCertificateNotAfter() != nil {
			n.NotAfter = s.GetCertificateNotAfter().AsTime()
		}
	})
}

// Moved notes that the node follows another view from now on.
func (c *Conn) Moved(view string, labels map[string]string) {
	c.with(func(n *node) {
		n.View, n.region = view, labels["region"]
		for _, w := range c.fleet.waves {
			if !w.awaits(n) && c.fleet.concerns(w, n) {
				w.await(n, true)
			}
		}
	})
}

// Close notes the end of the stream.
func (c *Conn) Close() {
	c.with(func(n *node) {
		n.conn, n.Connected = nil, false
		c.fleet.online--
	})
}

// Retain forgets the nodes that joined does not name.
func (f *Fleet) Retain(joined func(name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, n := range f.nodes {
		if !joined(name) {
			f.forget(name, n)
		}
	}
	f.notify()
}

// Forget drops all facts about a node.
func (f *Fleet) Forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[name]; n != nil {
		f.forget(name, n)
		f.notify()
	}
}

// forget drops a node. f.mu is held.
func (f *Fleet) forget(name string, n *node) {
	if n.conn != nil {
		f.online--
		n.conn = nil
	}
	if !slices.Equal(n.Capabilities, view.Known()) {
		f.capabilities++
	}
	delete(f.nodes, name)
	for _, w := range f.waves {
		w.strike(n)
		delete(w.refused, name)
	}
}

// Get gives the facts about a node; false when it has not connected since this
// process started.
func (f *Fleet) Get(name string) (Live, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil {
		return Live{Node: name}, false
	}
	live := n.Live
	if n.conn != nil {
		live.LastSeen = f.opt.Now() // an open stream is proof of life, however quiet
	}
	return live, true
}

// Capabilities are those in the node's newest hello. A node that has not connected since
// this process started is taken to know everything that this build does.
func (f *Fleet) Capabilities(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[name]; n != nil {
		return n.Capabilities
	}
	return view.Known()
}

// CapabilitiesVersion changes when any node's Capabilities do.
func (f *Fleet) CapabilitiesVersion() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.capabilities
}

// Online counts the connected nodes.
func (f *Fleet) Online() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.online
}

// Changed gives a channel that is closed by the next change of any fact.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// notify wakes whoever waits on Changed. f.mu is held.
func (f *Fleet) notify() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
	f.metrics.connected.Set(float64(f.online))
}

// below tells whether p comes before q; a nil p is below everything but nil.
func below(p, q *controlv1.ResumePoint) bool {
	if q == nil {
		return false
	}
	return pointOf(p).Compare(pointOf(q)) < 0
}

func pointOf(p *controlv1.ResumePoint) feed.Point {
	return feed.Point{Epoch: p.GetEpoch(), Version: p.GetVersion()}
}

// Phases counts the connected nodes by phase.
func (f *Fleet) Phases() map[controlv1.Phase]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[controlv1.Phase]int)
	for _, n := range f.nodes {
		if n.conn != nil {
			out[n.Phase]++
		}
	}
	return out
}

// percentile gives the p-th percentile of sorted values, 0 for none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

func sortedCopy(d []time.Duration) []time.Duration {
	out := slices.Clone(d)
	slices.Sort(out)
	return out
}
