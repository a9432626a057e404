package distribution

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// room is how many bytes may be waiting in gRPC for a send still not to block: half of
// what gRPC takes.
const room = 32 << 10

// writer sends to one stream what its session and feed offer. One goroutine at a
// time uses it: the hand-over from one to the next is stream.running, under stream.mu.
type writer struct {
	stream  *stream
	session Session

	accepted     *controlv1.Accepted // last sent
	root, keyset uint64              // trust metadata that the node has
	feed         *feed.Feed          // followed
	stop         func()              // ends following
	fresh        *wire.Frame         // last freshness sent
	chunks       []*wire.Frame       // rest of an update on its way
	seen         uint64              // sequence number in feed of the version last sent
	closing      bool                // the closing notice is sent
	behind       *time.Timer         // set while the feed is below what the node has

	looking bool         // the last look found something: look again
	kind    string       // of message
	message *wire.Frame  // chosen, and not sent yet
	backlog wire.Backlog // messages that gRPC has not written
	queued  int          // bytes sent since backlog was empty
}

// run sends until nothing is left to send, then ends; a later wake starts it again. One
// of the senders calls it, and must not be held up by a node that takes no bytes: where
// a send might block, a goroutine of the stream's own goes on.
func (w *writer) run() {
	for w.pick() {
		if !w.roomy() {
			go w.persist()
			return
		}
		w.send()
	}
}

// persist is run with time to wait: a node that takes no bytes for too long loses its
// stream.
func (w *writer) persist() {
	st := w.stream
	stall := st.srv.cfg.StallTimeout
	stalled := time.AfterFunc(stall, func() {
		st.cut(fault.New(fault.CodeStalled, "node %s took no bytes for %s", st.node, stall))
	})
	defer stalled.Stop()
	for w.pick() {
		stalled.Reset(stall)
		w.send()
	}
}

// pick chooses the next message, unless one is chosen. It gives false when nothing is
// left to send, and then the writer is over.
func (w *writer) pick() bool {
	for w.message == nil {
		if !w.looking && !w.more() {
			return false
		}
		var err error
		if w.kind, w.message, err = w.next(); err != nil {
			w.stream.cut(err)
		}
		w.looking = w.message != nil && !w.through()
	}
	return true
}

// through tells whether the chosen message is the last that the look at offer and feed
// can give: the rest of an update, with no freshness after it. Whatever changes
// later wakes the writer.
func (w *writer) through() bool {
	if w.kind != "update" || len(w.chunks) > 0 || w.feed == nil {
		return false
	}
	p := w.feed.Published()
	return p != nil && (p.Freshness == nil || p.Freshness == w.fresh)
}

// more says whether to look again. When it says no, the writer is over.
func (w *writer) more() bool {
	st := w.stream
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dirty && !st.over { // a stream whose context ended fails to send, and is over soon
		st.dirty = false
		return true
	}
	st.running = false
	if st.idle != nil {
		close(st.idle)
		st.idle = nil
	}
	return false
}

// roomy tells whether the next send is sure not to block.
func (w *writer) roomy() bool {
	if w.backlog.Len() == 0 {
		w.queued = 0
	}
	return w.queued < room
}

// send sends the chosen message.
func (w *writer) send() {
	m := w.message
	w.message = nil
	if len(w.chunks) == 0 { // nothing answers a part of an update
		w.stream.asked()
	}
	if err := w.stream.g.SendMsg(w.backlog.Message(m)); err != nil {
		w.stream.cancel(err) // receiving ends as well, and finds out why
		w.looking = false
		return
	}
	w.queued += m.Size()
	metrics := w.stream.srv.cfg.Metrics
	metrics.sent[w.kind].Inc()
	metrics.bytesSent.Add(float64(m.Size()))
}

// next gives the most urgent message: why the stream ends; what was accepted; trust
// metadata, which manifests may need and which passes an update that is on its way;
// then the update; then freshness.
func (w *writer) next() (kind string, message *wire.Frame, err error) {
	if n, closing := w.final(); closing {
		if n == nil {
			return "", nil, nil
		}
		return encode("notice", &controlv1.StreamResponse{Message: &controlv1.StreamResponse_Notice{Notice: n}})
	}
	offer := w.session.Offer()
	if offer.Accepted == nil {
		return "", nil, nil
	}
	if offer.Accepted != w.accepted {
		w.accepted = offer.Accepted
		return encode("accepted", &controlv1.StreamResponse{Message: &controlv1.StreamResponse_Accepted{Accepted: w.stream.srv.complete(offer.Accepted)}})
	}
	w.follow(offer.Feed)
	var p *feed.Published
	if w.feed != nil {
		p = w.feed.Published()
	}
	// Asked for again, since the feed was read after the first offer: metadata that
	// was there before a manifest was published is sent before it.
	if t := w.session.Offer().Trust; t != nil && (t.RootVersion() > w.root || t.KeysetVersion() > w.keyset) {
		f, err := w.stream.srv.trust.frame(t, w.root, w.keyset)
		if err != nil {
			return "", nil, fmt.Errorf("encode trust metadata: %w", err)
		}
		w.root, w.keyset = max(w.root, t.RootVersion()), max(w.keyset, t.KeysetVersion())
		return "trust", f, nil
	}
	what := stepNone
	if len(w.chunks) == 0 {
		if what, err = w.plan(p); err != nil {
			return "", nil, err
		}
	}
	if len(w.chunks) > 0 {
		f := w.chunks[0]
		w.chunks = w.chunks[1:]
		return "update", f, nil
	}
	if what != stepMissing && p != nil && p.Freshness != nil && p.Freshness != w.fresh {
		w.fresh = p.Freshness
		return "freshness", w.fresh, nil
	}
	return "", nil, nil
}

// encode makes a message for one stream only.
func encode(kind string, m *controlv1.StreamResponse) (string, *wire.Frame, error) {
	f, err := wire.Encode(m)
	return kind, f, err
}

// final gives the closing notice once; closing stays true after it, and is true
// when the handler is done and nothing may be sent any more.
func (w *writer) final() (n *controlv1.Notice, closing bool) {
	if w.closing {
		return nil, true
	}
	st := w.stream
	st.mu.Lock()
	defer st.mu.Unlock()
	w.closing = st.cause != nil || st.over
	if st.over {
		return nil, true
	}
	return st.final, w.closing
}

// complete fills in what the server knows better than the session.
func (s *Server) complete(a *controlv1.Accepted) *controlv1.Accepted {
	a = proto.CloneOf(a)
	a.Protocol = Protocol
	if a.Limits == nil {
		a.Limits = s.cfg.Limits.proto()
	}
	if a.BackoffBase == nil || a.BackoffCap == nil {
		a.BackoffBase, a.BackoffCap = durationpb.New(s.cfg.Backoff.Base), durationpb.New(s.cfg.Backoff.Cap)
	}
	return a
}

// follow makes f the feed that wakes the stream.
func (w *writer) follow(f *feed.Feed) {
	if f == w.feed {
		return
	}
	w.unfollow()
	w.feed, w.seen = f, 0
	if f != nil {
		w.stop = f.Watch(w.stream.wake)
	}
}

func (w *writer) unfollow() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
	w.feed = nil
	if w.behind != nil {
		w.behind.Stop()
		w.behind = nil
	}
}

// plan decides whether p is to be sent now, and from what.
func (w *writer) plan(p *feed.Published) (step, error) {
	st := w.stream
	for {
		st.mu.Lock()
		before := st.cursor
		what := stepMissing
		if p != nil {
			what = st.cursor.next(targetOf(p))
		}
		st.waiting = what == stepWindow
		floor := st.cursor.floor
		st.mu.Unlock()
		w.wait(what == stepMissing && floor != feed.Point{}, floor)
		if what != stepSend {
			return what, nil
		}
		u, err := w.feed.Update(p, before.base, before.hasBase) // may encode: without the lock
		if err != nil {
			return what, err
		}
		if w.commit(p, u, before) {
			return what, nil
		}
	}
}

// commit records that u is on its way, unless the node said something meanwhile that
// moves its base.
func (w *writer) commit(p *feed.Published, u *feed.Encoded, before cursor) bool {
	st := w.stream
	st.mu.Lock()
	defer st.mu.Unlock()
	c := &st.cursor
	if c.base != before.base || c.hasBase != before.hasBase || c.next(targetOf(p)) != stepSend {
		return false
	}
	c.sent(targetOf(p), u.Snapshot)
	w.chunks = u.Frames
	m := st.srv.cfg.Metrics
	if u.Snapshot {
		m.snapshots.Inc()
	} else {
		m.deltas.Inc()
	}
	if w.seen > 0 && p.Seq > w.seen+1 {
		m.coalesced.Add(float64(p.Seq - w.seen - 1))
	}
	w.seen = p.Seq
	return true
}

// wait starts or ends the time in which a feed below the node may catch up.
func (w *writer) wait(behind bool, floor feed.Point) {
	switch {
	case !behind && w.behind != nil:
		w.behind.Stop()
		w.behind = nil
	case behind && w.behind == nil:
		st := w.stream
		limit := st.srv.cfg.BehindWait
		w.behind = time.AfterFunc(limit, func() {
			cause := fault.New(fault.CodeBehind, "node %s has %s, which this hub has not reached within %s", st.node, floor, limit)
			st.end(cause, notice(cause, backoff.Jitter(limit, 0.5), st.srv.otherHubs()))
		})
	}
}
