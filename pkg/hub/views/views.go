// Package views turns states into what nodes are given: for each class of nodes
// that is connected, a view that follows the state incrementally, a manifest
// signed once per view and version, and a feed.Feed that all streams of
// the view share. It is the distribution server's Backend.
//
// One goroutine, Run, advances all views to the newest state; versions that came
// in between are coalesced. A view whose content a change does not touch keeps
// its version. The cost of a change is in what it changes and in the number of
// views, not in the number of streams.
//
// All methods are safe for concurrent use.
package views

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

// idleViews is how long a view without streams is kept up to date, so that nodes
// which reconnect after a pause find it.
const idleViews = 5 * time.Minute

// maxDownlevels bounds what Accepted lists; describing an agent shows all.
const maxDownlevels = 200

// Options of a set of views. All but Logger, Now and Metrics are required.
type Options struct {
	Domain  string
	Hub     string
	Replica *replica.Replica
	Keys    *keyring.Keyring
	Fleet   *fleet.Fleet
	// Hubs gives the addresses of the domain's hubs, this one included.
	Hubs    func() []string
	Metrics *feed.Metrics
	Logger  *slog.Logger
	Now     func() time.Time
}

// Set is the active views of a domain. Use New and Run.
type Set struct {
	opt     Options
	log     *slog.Logger
	history *feed.History
	builds  singleflight.Group
	metrics metrics
	resign  chan chan error

	first chan struct{} // closed when Run has taken the first state

	mu       sync.Mutex // guards all below
	cur      *replica.Current
	taken    chan struct{} // closed and replaced when cur moves
	anchors  *trust.Anchors
	active   map[string]*activeView
	sessions map[*session]struct{}
	settled  uint64          // config sequence up to which all is published
	unsigned error           // why the newest content is not published, nil when it is
	moved    map[string]bool // views that were published since settled moved
	recalled map[string]bool // what recall has tried, by recallID
	recalls  *rate.Limiter
}

// activeView is a view that nodes follow, or followed lately. Set.mu guards it.
type activeView struct {
	view     *view.View
	feed     *feed.Feed
	base     *replica.Current // what view was computed from
	point    feed.Point
	previous digest.Hash
	key      string // id of the key that signed what is published
	lift     bool   // a session came from another view: publish at the newest point
	accepted *controlv1.Accepted
	sessions int
	idle     time.Time // since when there is no session
}

// New makes an empty set.
func New(opt Options) *Set {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Metrics == nil {
		opt.Metrics = feed.NewMetrics()
	}
	return &Set{
		opt: opt, log: opt.Logger, history: feed.NewHistory(0, 0), metrics: newMetrics(), resign: make(chan chan error),
		first: make(chan struct{}), taken: make(chan struct{}),
		active: make(map[string]*activeView), sessions: make(map[*session]struct{}), moved: make(map[string]bool),
		recalled: make(map[string]bool), recalls: rate.NewLimiter(recallsPerSecond, recallBurst),
	}
}

// Collectors gives the metrics of the set.
func (s *Set) Collectors() []prometheus.Collector { return s.metrics.collectors() }

// Ready is closed once views can be given and keys are known: the first state has
// been taken.
func (s *Set) Ready() <-chan struct{} { return s.first }

// Run follows the replica until ctx ends. Call it once.
func (s *Set) Run(ctx context.Context) error {
	select {
	case <-s.opt.Replica.Ready():
	case <-ctx.Done():
		return nil
	}
	defer s.close()
	var interval time.Duration // of freshness statements, as the timer knows it
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		cur, changed := s.opt.Replica.Watch()
		s.advance(ctx, cur)
		if first {
			s.opt.Fleet.Serving()
			close(s.first)
		}
		settings := cur.Graph.Settings()
		if want := time.Duration(settings.Freshness.Interval); want != interval {
			if interval > want { // agents know already that they will hear more often
				timer.Reset(want)
			}
			interval = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-timer.C:
			s.refresh(ctx)
			timer.Reset(interval)
		case reply := <-s.resign:
			// The newest state first: a node must have the keyset that lists a key
			// before it is sent what the key signed.
			cur, _ = s.opt.Replica.Watch()
			s.advance(ctx, cur)
			reply <- s.resignAll(ctx)
		}
	}
}

// Resign signs everything that is published again, with the keyring's present
// key, and returns when that is done.
func (s *Set) Resign(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case s.resign <- reply:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Set) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.active {
		a.feed.Close()
	}
}

// advance brings trust, views and sessions to a newer state. Only Run calls it.
func (s *Set) advance(ctx context.Context, cur *replica.Current) {
	trustChanged, err := s.opt.Keys.Follow(ctx, cur.State)
	if err != nil {
		s.log.Error("trust metadata in the log not usable; keeping the one before", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.cur
	if before == cur && !trustChanged {
		return
	}
	s.cur = cur
	close(s.taken)
	s.taken = make(chan struct{})
	if f := s.opt.Keys.Current(); f != nil && f.Anchors != s.anchors {
		s.anchors = f.Anchors
		trustChanged = true
	}
	scopes := before != nil && !slices.Equal(before.Graph.ScopeKeys(), cur.Graph.ScopeKeys())
	nodes := before != nil && before.State.ConfigSeq() != cur.State.ConfigSeq() && !before.State.SameNodes(cur.State)
	// Sessions move first: a stream must never see the new version of a view that
	// its node has left.
	var fresh []string
	if nodes {
		s.opt.Fleet.Retain(func(name string) bool {
			_, ok := cur.State.Node(name)
			return ok
		})
	}
	if scopes || nodes {
		fresh = s.placeAll(ctx)
	}
	if trustChanged {
		for sess := range s.sessions {
			s.offer(sess)
		}
	}
	for _, id := range fresh {
		s.moved[id] = true
	}
	if before == nil || before.State.ConfigSeq() != cur.State.ConfigSeq() || s.unsigned != nil {
		s.publishAll(ctx)
	} else {
		led := before.State.Term() != cur.State.Term()
		for _, a := range s.active { // no view can have changed
			a.base = cur
			if led {
				s.describe(a)
			}
		}
	}
	if trustChanged {
		s.resignStale(ctx)
	}
	s.sweep()
}

// publishAll publishes every view whose content changed. What cannot be
// published is tried again by the next state, and by refresh. s.mu is held.
func (s *Set) publishAll(ctx context.Context) {
	begin := time.Now()
	s.unsigned = nil
	point := feed.Point{Epoch: s.cur.State.ConfigEpoch(), Version: s.cur.State.ConfigSeq()}
	for id, a := range s.active {
		moved, err := s.update(ctx, a, point)
		if err != nil {
			s.unsigned = err
			s.metrics.failures.Inc()
			s.log.Error("view not published", "view", id, "version", point.Version, "err", err)
			continue
		}
		if moved {
			s.moved[id] = true
		}
	}
	if s.unsigned != nil {
		return
	}
	var commits []fleet.Commit
	for _, c := range s.opt.Replica.CommitsAfter(s.settled) {
		// What was committed since s.cur is another publication's.
		if c.Seq <= point.Version {
			commits = append(commits, fleet.Commit{Version: c.Seq, At: c.At})
		}
	}
	changed := slices.Sorted(maps.Keys(s.moved))
	clear(s.moved)
	s.settled = point.Version
	s.opt.Fleet.Published(point, changed, commits)
	if len(changed) > 0 {
		s.metrics.publish.Observe(time.Since(begin).Seconds())
	}
}

// update brings one view to s.cur and publishes it if its content changed.
// s.mu is held.
func (s *Set) update(ctx context.Context, a *activeView, point feed.Point) (moved bool, err error) {
	if a.base == s.cur {
		return false, nil
	}
	next := a.view.Update(s.cur.Graph, changedKeys(a.base, s.cur))
	previous := a.view.Trie.Root()
	if next.Trie.Root() == previous {
		if !a.lift {
			a.view, a.base = next, s.cur
			s.describe(a)
			return false, nil
		}
		previous = a.previous
	}
	if err := s.publish(ctx, a, next, point, previous); err != nil {
		return false, err
	}
	a.view, a.base, a.point, a.previous, a.lift = next, s.cur, point, previous, false
	s.describe(a)
	return true, nil
}

// raise publishes a view's content again, at the newest point, for a node that has
// seen a version of another view which is newer than this view's: it would have to
// refuse this one. s.mu is held.
func (s *Set) raise(ctx context.Context, a *activeView, seen feed.Point) error {
	newest := feed.Point{Epoch: s.cur.State.ConfigEpoch(), Version: s.cur.State.ConfigSeq()}
	if a.point.Compare(seen) >= 0 || newest.Compare(seen) < 0 || a.base != s.cur {
		return nil // it need not, or it would not help, or publishAll has still to do it
	}
	if err := s.publish(ctx, a, a.view, newest, a.previous); err != nil {
		return err
	}
	a.point = newest
	return nil
}

// changedKeys lists the resources that differ between two states.
func changedKeys(from, to *replica.Current) []resource.Key {
	var keys []resource.Key
	for c := range digest.Diff(from.State.Trie(), to.State.Trie()) {
		if k, err := resource.ParseKey(c.Key); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// describe refreshes what streams of the view are told first, if it differs.
// s.mu is held.
func (s *Set) describe(a *activeView) {
	settings := s.cur.Graph.Settings()
	next := &controlv1.Accepted{
		Hub: s.opt.Hub, Domain: s.opt.Domain, View: a.view.Class.ID(), Hubs: s.opt.Hubs(),
		FreshnessInterval: durationpb.New(time.Duration(settings.Freshness.Interval)),
		Limits:            &controlv1.Limits{MaxResources: uint64(settings.Limits.MaxResources), MaxBundleBytes: uint64(settings.Limits.MaxBundleBytes)},
		Downlevels:        Downlevels(a.view, maxDownlevels),
		Leader:            leaderOf(s.cur),
	}
	if a.accepted != nil && sameAccepted(a.accepted, next) {
		return
	}
	a.accepted = next
	for sess := range s.sessions {
		if sess.active == a {
			s.offer(sess)
		}
	}
}

// leaderOf gives the hub that began the newest term of a state; nil before the first.
func leaderOf(cur *replica.Current) (out *controlv1.Leader) {
	for h := range cur.State.Hubs() {
		if h.GetLastTerm() > out.GetTerm() {
			out = &controlv1.Leader{Hub: h.GetHub(), Term: h.GetLastTerm()}
		}
	}
	return out
}

// Downlevels lists what a view leaves out, at most limit (0: all).
func Downlevels(v *view.View, limit int) []*controlv1.Downlevel {
	list := v.Downlevels()
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	out := make([]*controlv1.Downlevel, len(list))
	for i, d := range list {
		out[i] = &controlv1.Downlevel{Resource: d.Key.String(), Capability: d.Capability, Withheld: d.Withheld, Reason: d.Reason}
	}
	return out
}

// ensure gives the view of a class at the newest state, building it if nobody
// follows it yet. s.mu is not held; on success it is, and the caller unlocks it.
func (s *Set) ensure(ctx context.Context, class view.Class) (*activeView, error) {
	id := class.ID()
	for {
		s.mu.Lock()
		if a, ok := s.active[id]; ok {
			return a, nil
		}
		cur := s.cur
		err := s.roomFor(cur)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		_, err, _ = s.builds.Do(id, func() (any, error) {
			built := view.Build(cur.Graph, class)
			s.mu.Lock()
			defer s.mu.Unlock()
			// Others wait for this too: not under the context of one stream.
			return nil, s.insert(context.WithoutCancel(ctx), id, built, cur)
		})
		if err != nil {
			return nil, err
		}
	}
}

// roomFor makes sure that one more view is within the domain's limit. s.mu is held.
func (s *Set) roomFor(cur *replica.Current) error {
	settings := cur.Graph.Settings()
	if len(s.active) < settings.Limits.MaxViews {
		return nil
	}
	for id, a := range s.active {
		if a.sessions == 0 {
			s.drop(id, a)
			return nil
		}
	}
	s.metrics.refused.Inc()
	return wire.WithRetry(fault.New(fault.CodeViewLimit, "%d views are in use, which is the domain's limit", len(s.active)), time.Minute)
}

// insert publishes a view that was built from cur. s.mu is held.
func (s *Set) insert(ctx context.Context, id string, built *view.View, cur *replica.Current) error {
	if _, ok := s.active[id]; ok {
		return nil
	}
	if err := s.roomFor(s.cur); err != nil {
		return err
	}
	if cur != s.cur {
		built = built.Update(s.cur.Graph, changedKeys(cur, s.cur))
	}
	a := &activeView{view: built, base: s.cur, idle: s.opt.Now(), feed: feed.New(id, feed.Options{History: s.history, Metrics: s.opt.Metrics})}
	a.point = feed.Point{Epoch: s.cur.State.ConfigEpoch(), Version: s.cur.State.ConfigSeq()}
	if err := s.publish(ctx, a, built, a.point, digest.Hash{}); err != nil {
		a.feed.Close()
		return err
	}
	s.describe(a)
	s.active[id] = a
	return nil
}

// sweep drops views that nobody has followed for long. s.mu is held.
func (s *Set) sweep() {
	now := s.opt.Now()
	for id, a := range s.active {
		if a.sessions == 0 && now.Sub(a.idle) > idleViews {
			s.drop(id, a)
		}
	}
}

func (s *Set) drop(id string, a *activeView) {
	a.feed.Close()
	delete(s.active, id)
	s.opt.Fleet.Withdrawn(id)
}

// Count is the number of active views.
func (s *Set) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.active)
}

// Health tells why the newest version is not published; nil when it is.
func (s *Set) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsigned
}

// Of gives the view that a node of a class should have, and the version that it
// was published at. When no node of the class is connected, it is built for the
// occasion and the version is the domain's.
func (s *Set) Of(cur *replica.Current, class view.Class) (*view.View, feed.Point) {
	s.mu.Lock()
	a, ok := s.active[class.ID()]
	if ok {
		v, p := a.view, a.point
		s.mu.Unlock()
		return v, p
	}
	s.mu.Unlock()
	return view.Build(cur.Graph, class), feed.Point{Epoch: cur.State.ConfigEpoch(), Version: cur.State.ConfigSeq()}
}

// Target gives the version that a class's nodes should have, without building
// anything; false when no such view is active.
func (s *Set) Target(class view.Class) (feed.Point, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.active[class.ID()]
	if !ok {
		return feed.Point{}, false
	}
	return a.point, true
}
