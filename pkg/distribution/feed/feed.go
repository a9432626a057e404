// Package feed holds what is published of one view, and encodes what leads there once
// for all who follow it.
//
//	f := feed.New(view, feed.Options{History: history})
//	err := f.Publish(version)   // wakes the followers
//
// A follower asks for the wake with Watch, or waits for Changed, and then looks at what
// is current: it is told that something changed, never what, so one that is slow misses
// nothing but what was overtaken. The control streams of package distribution take the
// encoded update from the content that their node has (Update); others take the version
// itself (Current). A History keeps the content of earlier versions, to compute deltas
// from; the feeds of a domain share one.
//
// Order: (epoch, version), lexicographic (Point). A feed never goes back.
//
// Feed, History and Metrics are safe for concurrent use and start no goroutines.
// What a feed gives out is immutable and shared: published versions, encoded updates,
// frames.
package feed

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// DefaultFrameBytes bounds the encoded deltas that a feed caches beside the
// content that they refer to.
const DefaultFrameBytes = 16 << 20

// Options configure a Feed. The zero value is usable.
type Options struct {
	// History is shared by the feeds of a domain; nil makes one of default size.
	History *History
	// Metrics counts frames and views; nil counts nothing that anyone sees.
	Metrics *Metrics
	// ChunkBytes bounds one message; 0 means DefaultChunkBytes.
	ChunkBytes int
	// FrameBytes bounds the cached frames; 0 means DefaultFrameBytes.
	FrameBytes int
}

// Feed is the published versions of one view. Any number of streams follow it.
type Feed struct {
	view string
	opts Options

	// current is what streams read, without a lock.
	current atomic.Pointer[Published]

	mu       sync.Mutex // guards all below, and the order of stores to current
	watchers map[*watcher]struct{}
	changed  chan struct{} // closed and replaced by each change; nil until someone asks
	closed   bool
}

type watcher struct{ wake func() }

// Published is one version with everything that is derived from it. All but what the
// mutex of its frames guards is immutable.
type Published struct {
	Version
	Digest    digest.Hash  // of the content
	Signer    string       // id of the key that signed the manifest
	Seq       uint64       // counts contents, from 1
	Freshness *wire.Frame  // newest statement for this version, or nil
	previous  *digest.Trie // content before this one, kept whatever the history's bounds
	frames    *frameCache
}

// frameCache holds the encoded updates that lead to one version, by base.
type frameCache struct {
	mu    sync.Mutex // guards all below
	made  map[frameKey]*lazyUpdate
	order []frameKey // oldest first
	own   int
}

type frameKey struct {
	base  digest.Hash
	delta bool
}

// lazyUpdate is encoded by the first who needs it, while others wait.
type lazyUpdate struct {
	once sync.Once
	made atomic.Pointer[Encoded]
	err  error // set within once
}

// New makes a feed without content for the view with this id.
func New(view string, o Options) *Feed {
	if o.History == nil {
		o.History = NewHistory(0, 0)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = DefaultChunkBytes
	}
	if o.FrameBytes <= 0 {
		o.FrameBytes = DefaultFrameBytes
	}
	o.Metrics.views.Inc()
	return &Feed{view: view, opts: o, watchers: make(map[*watcher]struct{})}
}

// View is the id of the feed's view.
func (f *Feed) View() string { return f.view }

// Publish makes v current and wakes the streams that follow the feed. It refuses
// to go back (CodeVersionBack), and a second content at the same point
// (CodeTwoContents). Publishing the same content at the same point replaces the
// manifest for later frames, as after a key rotation; publishing the same content
// at a later point makes no data frame: the nodes learn the new point from the
// next freshness statement.
func (f *Feed) Publish(v Version) error {
	if v.View != f.view {
		return fault.New(fault.CodeInternal, "publish %s of view %q into the feed of view %q", v.Point(), v.View, f.view)
	}
	next := &Published{Version: v, Digest: v.Trie.Root(), Signer: signer(v), Seq: 1, frames: &frameCache{made: make(map[frameKey]*lazyUpdate)}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fault.New(fault.CodeInternal, "publish %s into the closed feed of view %s", v.Point(), f.view)
	}
	cur := f.current.Load()
	cost := int64(v.Trie.Len()) * nodeOverhead
	if cur != nil {
		switch order := v.Point().Compare(cur.Point()); {
		case order < 0:
			return fault.New(fault.CodeVersionBack, "view %s: publish %s after %s", f.view, v.Point(), cur.Point())
		case order == 0 && next.Digest != cur.Digest:
			return fault.New(fault.CodeTwoContents, "view %s at %s: digest %s after %s", f.view, v.Point(), next.Digest, cur.Digest)
		case order == 0:
			next.Freshness = cur.Freshness
		}
		next.previous, next.Seq = cur.previous, cur.Seq
		if next.Digest != cur.Digest {
			next.previous = cur.Trie
			next.Seq++
			cost = stepCost(cur.Trie, v.Trie)
		}
	}
	f.opts.History.put(v.Trie, cost)
	f.store(next)
	return nil
}

func signer(v Version) string {
	if sigs := v.Manifest.GetSignatures(); len(sigs) > 0 {
		return sigs[0].GetKeyId()
	}
	return ""
}

// stepCost estimates the bytes that b holds and a does not share.
func stepCost(a, b *digest.Trie) int64 {
	depth := int64(1)
	for n := b.Len(); n > 0; n >>= 1 {
		depth++
	}
	var cost int64
	for c := range digest.Diff(a, b) {
		cost += depth * nodeOverhead
		if c.After != nil {
			cost += int64(len(c.After.Content))
		}
	}
	return cost
}

// Freshness makes env, a signed freshness statement, the newest one of the current
// version, and sends it to every stream. A statement for anything else than the
// current version is refused with CodeFreshnessFor.
func (f *Feed) Freshness(env *trustv1.Envelope) error {
	var says trustv1.Freshness
	if err := proto.Unmarshal(env.GetPayload(), &says); err != nil {
		return fault.New(fault.CodeFreshnessFor, "decode freshness: %w", err)
	}
	frame, err := wire.Encode(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Freshness{Freshness: env}})
	if err != nil {
		return fmt.Errorf("encode freshness: %w", err)
	}
	f.opts.Metrics.Encoded(frame.Size())
	f.mu.Lock()
	defer f.mu.Unlock()
	cur := f.current.Load()
	if cur == nil {
		return fault.New(fault.CodeFreshnessFor, "view %s has no content yet", f.view)
	}
	of := Point{Epoch: says.GetEpoch(), Version: says.GetVersion()}
	if of != cur.Point() || says.GetView() != f.view || string(says.GetDigest()) != string(cur.Digest[:]) {
		return fault.New(fault.CodeFreshnessFor, "freshness is for view %s at %s, not for view %s at %s", says.GetView(), of, f.view, cur.Point())
	}
	next := *cur
	next.Freshness = frame
	f.store(&next)
	return nil
}

// store makes p current and wakes all. f.mu is held.
func (f *Feed) store(p *Published) {
	f.current.Store(p)
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
	for w := range f.watchers {
		w.wake()
	}
}

// Current gives the current version, false when nothing was published yet.
func (f *Feed) Current() (Version, bool) {
	p := f.current.Load()
	if p == nil {
		return Version{}, false
	}
	return p.Version, true
}

// Published gives the current version with what is derived from it, nil when nothing
// was published yet. It takes no lock.
func (f *Feed) Published() *Published { return f.current.Load() }

// Changed gives a channel that is closed by the next change. Take the channel, then
// look at Current, then wait: no change is missed.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// Followers gives the number of streams on the feed.
func (f *Feed) Followers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers)
}

// Close ends publication. Streams on the feed keep what they have until their
// session offers another; the content stays a base for deltas as long as the
// history keeps it.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		f.opts.Metrics.views.Dec()
	}
}

// Watch calls wake after every change, until the returned function is called. wake
// must not block nor call into the feed.
func (f *Feed) Watch(wake func()) (stop func()) {
	w := &watcher{wake: wake}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[w] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}
}

// base finds a trie that a node holds, to compute a delta from.
func (f *Feed) base(p *Published, root digest.Hash) (*digest.Trie, bool) {
	if root.IsZero() {
		return nil, true
	}
	if p.previous.Root() == root {
		return p.previous, true
	}
	return f.opts.History.get(root)
}

// Update gives the encoded step to p, which f published, from the content with this
// root, or a snapshot when known is false or the base is gone. It is encoded by the first
// that asks, while others that want the same wait.
func (f *Feed) Update(p *Published, root digest.Hash, known bool) (*Encoded, error) {
	key := frameKey{}
	var base *digest.Trie
	if known {
		if base, known = f.base(p, root); known {
			key = frameKey{base: root, delta: true}
		}
	}
	u := p.frames.entry(key)
	u.once.Do(func() {
		e, err := encodeUpdate(&p.Version, base, known, f.opts.ChunkBytes)
		if err != nil {
			u.err = fmt.Errorf("encode update of view %s to %s: %w", f.view, p.Point(), err)
			return
		}
		u.made.Store(e)
		for _, frame := range e.Frames {
			f.opts.Metrics.Encoded(frame.Size())
		}
		p.frames.charge(key, e.own, f.opts.FrameBytes)
	})
	return u.made.Load(), u.err
}

func (c *frameCache) entry(key frameKey) *lazyUpdate {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.made[key]
	if !ok {
		u = &lazyUpdate{}
		c.made[key] = u
		c.order = append(c.order, key)
	}
	return u
}

// charge accounts for a new entry and drops the oldest others while the cache is
// over its bound. Streams that send a dropped one keep it until they are through.
func (c *frameCache) charge(key frameKey, own, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own += own
	kept := c.order[:0]
	for _, k := range c.order {
		if u := c.made[k].made.Load(); c.own > limit && k != key && u != nil {
			c.own -= u.own
			delete(c.made, k)
			continue
		}
		kept = append(kept, k)
	}
	c.order = kept
}
