package local

import (
	"context"
	"sync"
	"sync/atomic"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/omnirelay"
	"github.com/meshkit/meshkit/pkg/trust"
)

// historyVersions and historyBytes bound what deltas to local processes are computed
// from: the generations that the agent holds anyway, and little beside them.
const (
	historyVersions = 3
	historyBytes    = 1 << 20
)

// FeedsConfig configures Feeds.
type FeedsConfig struct {
	Domain, Node string
	// Trust is the metadata that local clients are given.
	Trust *trust.Anchors
	// Nacked is told of a refusal by a local process; Lost of a stream that had the
	// present content and broke. They do not block for long.
	Nacked func(epoch, version uint64, message string)
	Lost   func()
}

// Feeds is what an agent offers to local processes: its active content, whoever
// they are. It implements distribution.Backend. When the agent goes back to an
// earlier generation, so do they: then Feeds begins a new feed.
type Feeds struct {
	cfg     FeedsConfig
	history *feed.History
	leaders *omnirelay.Board

	offer atomic.Pointer[distribution.Offer]

	mu       sync.Mutex // guards all below, and the order of stores to offer
	sessions map[*session]struct{}
	accepted *controlv1.Accepted // of the hub
	leader   omnirelay.Leader    // of the newest term that a hub told of
	hubKnown bool                // a hub is connected that told of it
}

// NewFeeds makes Feeds that offer nothing yet.
func NewFeeds(cfg FeedsConfig) *Feeds {
	f := &Feeds{cfg: cfg, history: feed.NewHistory(historyVersions, historyBytes), sessions: make(map[*session]struct{}), leaders: omnirelay.NewBoard(cfg.Domain)}
	o := &distribution.Offer{}
	if cfg.Trust != nil {
		o.Trust = cfg.Trust
	}
	f.offer.Store(o)
	return f
}

// Publish makes v what local processes should have.
func (f *Feeds) Publish(v feed.Version) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := *f.offer.Load()
	if o.Feed != nil && o.Feed.View() == v.View {
		cur, ok := o.Feed.Current()
		order := v.Point().Compare(cur.Point())
		if !ok || order > 0 || order == 0 && cur.Trie.Root() == v.Trie.Root() {
			return o.Feed.Publish(v)
		}
	}
	// Another view, or back to an earlier generation.
	next := feed.New(v.View, feed.Options{History: f.history})
	if err := next.Publish(v); err != nil {
		return err
	}
	if o.Feed != nil {
		o.Feed.Close()
	}
	if o.Feed == nil || o.Feed.View() != v.View {
		o.Accepted = f.describe(v.View)
	}
	o.Feed = next
	f.store(o)
	return nil
}

// Prove takes over the proofs of v (manifest and vouch) if v is the present content at
// its present point, and does nothing if another was published meanwhile.
func (f *Feeds) Prove(v feed.Version) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	offered := f.offer.Load().Feed
	if offered == nil || offered.View() != v.View {
		return nil
	}
	if cur, ok := offered.Current(); !ok || cur.Point() != v.Point() || cur.Trie.Root() != v.Trie.Root() {
		return nil
	}
	return offered.Publish(v)
}

// Freshness passes a hub's statement about the present content on.
func (f *Feeds) Freshness(env *trustv1.Envelope) error {
	if offered := f.offer.Load().Feed; offered != nil {
		return offered.Freshness(env)
	}
	return nil
}

// Trust passes trust metadata on.
func (f *Feeds) Trust(a *trust.Anchors) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := *f.offer.Load()
	o.Trust = a
	f.store(o)
}

// Accepted takes over what the hub said of the view: what was withheld, and how
// often it is confirmed.
func (f *Feeds) Accepted(a *controlv1.Accepted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = a
	f.heardLeader(a)
	o := *f.offer.Load()
	if o.Feed == nil {
		return
	}
	o.Accepted = f.describe(o.Feed.View())
	f.store(o)
}

// describe is what local processes are told first. f.mu is held.
func (f *Feeds) describe(view string) *controlv1.Accepted {
	return &controlv1.Accepted{
		Hub: "agent/" + f.cfg.Node, Domain: f.cfg.Domain, View: view,
		FreshnessInterval: f.accepted.GetFreshnessInterval(), Downlevels: f.accepted.GetDownlevels(),
	}
}

// store replaces the offer and wakes all. f.mu is held.
func (f *Feeds) store(o distribution.Offer) {
	f.offer.Store(&o)
	for s := range f.sessions {
		s.wake()
	}
}

// Attach implements distribution.Backend. All that come this far are processes of
// this node.
func (f *Feeds) Attach(_ context.Context, _ distribution.Peer, _ *controlv1.Hello, wake func()) (distribution.Session, error) {
	s := &session{feeds: f, wake: wake}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions[s] = struct{}{}
	return s, nil
}

// Sessions counts the local streams.
func (f *Feeds) Sessions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sessions)
}

// session is one local stream.
type session struct {
	feeds *Feeds
	wake  func()
	acked atomic.Pointer[digest.Hash] // newest content that it has
}

// Offer implements distribution.Session.
func (s *session) Offer() distribution.Offer { return *s.feeds.offer.Load() }

// Acked implements distribution.Session.
func (s *session) Acked(a *controlv1.Ack) {
	if h, err := digest.HashOf(a.GetDigest()); err == nil {
		s.acked.Store(&h)
	}
}

// Nacked implements distribution.Session.
func (s *session) Nacked(n *controlv1.Nack) {
	if n.GetResync() {
		return // only asks for a snapshot
	}
	s.feeds.cfg.Nacked(n.GetEpoch(), n.GetVersion(), n.GetCode()+" "+n.GetMessage())
}

// Reported implements distribution.Session.
func (s *session) Reported(*controlv1.Status) {}

// Close implements distribution.Session.
func (s *session) Close(cause error) {
	s.feeds.mu.Lock()
	delete(s.feeds.sessions, s)
	s.feeds.mu.Unlock()
	had := s.acked.Load()
	if offered := s.feeds.offer.Load().Feed; cause != nil && had != nil && offered != nil {
		if v, ok := offered.Current(); ok && v.Trie.Root() == *had {
			s.feeds.cfg.Lost()
		}
	}
}
