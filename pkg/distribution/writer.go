package distribution

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// writer sends to one stream what its session and feed offer. One goroutine at a
// time uses it: the hand-over from one to the next is stream.idle, under stream.mu.
type writer struct {
	stream  *stream
	session Session

	accepted     *controlv1.Accepted // last sent
	root, keyset uint64              // trust metadata that the node has
	feed         *Feed               // followed
	stop         func()              // ends following
	fresh        *wire.Frame         // last freshness sent
	chunks       []*wire.Frame       // rest of an update on its way
	seen         uint64              // sequence number in feed of the version last sent
	closing      bool                // the closing notice is sent
	behind       *time.Timer         // set while the feed is below what the node has
}

// run sends until nothing is left to send, then ends. A later wake starts another.
func (w *writer) run() {
	st := w.stream
	stall := st.srv.cfg.StallTimeout
	stalled := time.AfterFunc(stall, func() {
		st.cut(fault.New(fault.CodeStalled, "node %s took no bytes for %s", st.node, stall))
	})
	defer stalled.Stop()
	for w.more() {
		for {
			kind, message, err := w.next()
			if err != nil {
				st.cut(err)
				break
			}
			if message == nil {
				break
			}
			stalled.Reset(stall)
			if err := st.g.SendMsg(message); err != nil {
				st.cancel(err) // receiving ends as well, and finds out why
				break
			}
			w.count(kind, message)
		}
	}
}

// more says whether to look again. When it says no, the writer is over.
func (w *writer) more() bool {
	st := w.stream
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dirty && !st.over && st.ctx.Err() == nil {
		st.dirty = false
		return true
	}
	close(st.idle)
	st.idle = nil
	return false
}

// count adds one sent message to the metrics.
func (w *writer) count(kind string, message any) {
	m := w.stream.srv.cfg.Metrics
	m.framesSent.WithLabelValues(kind).Inc()
	if f, ok := message.(*wire.Frame); ok {
		m.bytesSent.Add(float64(f.Size()))
	}
}

// next gives the most urgent message: why the stream ends; what was accepted; trust
// metadata, which manifests may need and which passes an update that is on its way;
// then the update; then freshness.
func (w *writer) next() (kind string, message any, err error) {
	if n, closing := w.final(); closing {
		if n == nil {
			return "", nil, nil
		}
		return "notice", &controlv1.StreamResponse{Message: &controlv1.StreamResponse_Notice{Notice: n}}, nil
	}
	offer := w.session.Offer()
	if offer.Accepted == nil {
		return "", nil, nil
	}
	if offer.Accepted != w.accepted {
		w.accepted = offer.Accepted
		return "accepted", &controlv1.StreamResponse{Message: &controlv1.StreamResponse_Accepted{Accepted: w.stream.srv.complete(offer.Accepted)}}, nil
	}
	w.follow(offer.Feed)
	var p *published
	if w.feed != nil {
		p = w.feed.current.Load()
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
	if what != stepMissing && p != nil && p.freshness != nil && p.freshness != w.fresh {
		w.fresh = p.freshness
		return "freshness", w.fresh, nil
	}
	return "", nil, nil
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
func (w *writer) follow(f *Feed) {
	if f == w.feed {
		return
	}
	w.unfollow()
	w.feed, w.seen = f, 0
	if f != nil {
		w.stop = f.watch(w.stream.wake)
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
func (w *writer) plan(p *published) (step, error) {
	st := w.stream
	for {
		st.mu.Lock()
		before := st.cursor
		what := stepMissing
		if p != nil {
			what = st.cursor.next(p.Point(), p.digest)
		}
		st.waiting = what == stepWindow
		floor := st.cursor.floor
		st.mu.Unlock()
		w.wait(what == stepMissing && floor != Point{}, floor)
		if what != stepSend {
			return what, nil
		}
		u, err := w.feed.update(p, before.base, before.hasBase) // may encode: without the lock
		if err != nil {
			return what, err
		}
		if w.send(p, u, before) {
			return what, nil
		}
	}
}

// send records that u is on its way, unless the node said something meanwhile that
// moves its base.
func (w *writer) send(p *published, u *encoded, before cursor) bool {
	st := w.stream
	st.mu.Lock()
	defer st.mu.Unlock()
	c := &st.cursor
	if c.base != before.base || c.hasBase != before.hasBase || c.next(p.Point(), p.digest) != stepSend {
		return false
	}
	c.sent(p.Point(), p.digest, u.snapshot)
	w.chunks = u.frames
	how := "delta"
	if u.snapshot {
		how = "snapshot"
	}
	m := st.srv.cfg.Metrics
	m.updates.WithLabelValues(how).Inc()
	if w.seen > 0 && p.seq > w.seen+1 {
		m.coalesced.Add(float64(p.seq - w.seen - 1))
	}
	w.seen = p.seq
	return true
}

// wait starts or ends the time in which a feed below the node may catch up.
func (w *writer) wait(behind bool, floor Point) {
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
