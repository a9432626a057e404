package distribution

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
)

// endGrace is how long a client has to close its stream after a closing notice.
const endGrace = 3 * time.Second

// A node may ask for this many snapshots at once, and for one more in this time: a
// snapshot is the dearest thing that one message can cause.
const (
	resyncEvery = 30 * time.Second
	resyncBurst = 5
)

// What the hub sends asks for answers: an update for an ack or a nack, and for statuses
// as it goes from staging to active; a freshness that moves a version for an ack and a
// status. They are as many as the hub's own messages, so they count against no rate: a
// node that answers is not ended for how fast things change. Answers not given do not add
// up to more than owedMost, which those to a full window of updates stay well below.
const (
	answers  = 4
	owedMost = 4 * window * answers
)

// lastWrite is how long the writer may go on when the handler is done.
const lastWrite = 100 * time.Millisecond

// stream is one node's stream. Its handler goroutine receives for as long as the
// stream lives; the server's senders write to it while there is something to send, so
// ten thousand streams cost ten thousand goroutines and not twice that.
type stream struct {
	srv    *Server
	g      controlv1.ControlService_StreamServer
	ctx    context.Context
	peer   Peer
	cancel context.CancelCauseFunc
	limit  *rate.Limiter // messages that nothing asked for; used by the handler
	resync *rate.Limiter // snapshots that the node asked for; used by the handler
	node   string        // set by the handler under srv.mu

	owed atomic.Int32 // answers that the node may still give; only the writer adds, only the handler takes

	settled chan struct{} // closed when Attach has returned or will not be called

	// events serializes the session's callbacks and guards the two below.
	events   sync.Mutex
	session  Session
	released bool

	mu      sync.Mutex // guards all below
	cursor  cursor
	waiting bool          // the writer waits for an ack
	started bool          // the session is there
	running bool          // the writer runs or is about to
	idle    chan struct{} // closed when the running writer ends; nil: nobody waits for that
	dirty   bool          // something changed since the writer looked
	over    bool          // no writer may start
	cause   error
	final   *controlv1.Notice
	timers  []*time.Timer

	writer writer // owned by the one goroutine that runs it
}

func newStream(s *Server, g controlv1.ControlService_StreamServer, peer Peer, cancel context.CancelCauseFunc) *stream {
	st := &stream{
		srv: s, g: g, ctx: g.Context(), peer: peer, cancel: cancel, settled: make(chan struct{}),
		limit:  rate.NewLimiter(rate.Limit(s.cfg.MessageRate), s.cfg.MessageBurst),
		resync: rate.NewLimiter(rate.Every(resyncEvery), resyncBurst),
	}
	st.writer.stream = st
	st.cursor.back = s.cfg.Back
	return st
}

// serve runs the stream from hello to end and gives the reason that it ended.
func (st *stream) serve() error {
	err := st.begin()
	if err == nil {
		err = st.receive()
	}
	err = st.finish(err)
	select {
	case <-st.settled:
	default:
		close(st.settled)
	}
	_ = st.release(context.Background(), err) // settled: does not wait
	return err
}

// begin takes the hello and opens the session.
func (st *stream) begin() error {
	hello, err := st.hello()
	if err != nil {
		return err
	}
	if err := checkHello(hello, st.peer); err != nil {
		return err
	}
	at, content, has := pointOf(hello.GetResume())
	highest, _, _ := pointOf(hello.GetHighest())
	st.mu.Lock()
	st.cursor.resume(content, has, at, highest)
	st.mu.Unlock()
	st.writer.root, st.writer.keyset = hello.GetRootVersion(), hello.GetKeysetVersion()
	if err := st.srv.claim(st, hello.GetNode()); err != nil {
		return err
	}
	session, err := st.srv.cfg.Backend.Attach(st.ctx, st.peer, hello, st.wake)
	if err != nil {
		return err
	}
	st.events.Lock()
	st.session = session
	st.events.Unlock()
	st.writer.session = session
	st.mu.Lock()
	st.started = true
	st.mu.Unlock()
	close(st.settled)
	st.wake()
	return nil
}

// hello receives the first message, within the time that it may take.
func (st *stream) hello() (*controlv1.Hello, error) {
	wait := st.srv.cfg.HelloTimeout
	late := time.AfterFunc(wait, func() { st.cut(fault.New(fault.CodeHelloTimeout, "no hello within %s", wait)) })
	defer late.Stop()
	m, err := st.g.Recv()
	if err != nil {
		return nil, st.lost(err)
	}
	if m.GetHello() == nil {
		return nil, fault.New(fault.CodeMessageOrder, "the first message is not a hello")
	}
	return m.GetHello(), nil
}

// receive takes messages until the stream ends.
func (st *stream) receive() error {
	for {
		m, err := st.g.Recv()
		if err != nil {
			return st.lost(err)
		}
		if !st.answered() && !st.limit.Allow() {
			return fault.New(fault.CodeFlood, "node %s sends more than %g messages per second that nothing asks for", st.node, st.srv.cfg.MessageRate)
		}
		if err := st.take(m); err != nil {
			return err
		}
	}
}

// asked makes room for the answers to a message. It is called before the message is
// sent, so that no answer is there first.
func (st *stream) asked() {
	if st.owed.Load() < owedMost {
		st.owed.Add(answers)
	}
}

// answered tells whether a message can be an answer to what was sent.
func (st *stream) answered() bool {
	if st.owed.Load() == 0 {
		return false
	}
	st.owed.Add(-1)
	return true
}

// lost says why receiving ended: the reason of the hub's own when it ended the
// stream, nil when the node closed it in order.
func (st *stream) lost(err error) error {
	st.mu.Lock()
	cause := st.cause
	st.mu.Unlock()
	switch {
	case cause != nil:
		return cause
	case errors.Is(err, io.EOF):
		return nil
	case fault.CodeOf(context.Cause(st.ctx)) != "":
		return context.Cause(st.ctx) // the backend ended it, through wire.CancelCall
	case st.ctx.Err() != nil:
		return fault.New(fault.CodeCanceled, "the node went away")
	}
	return fault.New(fault.CodeNodeMessage, "receive from node %s: %w", st.node, err)
}

// take handles one message after the hello.
func (st *stream) take(m *controlv1.StreamRequest) error {
	took := st.srv.cfg.Metrics.took
	switch m := m.GetMessage().(type) {
	case *controlv1.StreamRequest_Ack:
		d, err := digest.HashOf(m.Ack.GetDigest())
		if err != nil {
			return fault.New(fault.CodeNodeMessage, "ack: %w", err)
		}
		if !st.acked(feed.Point{Epoch: m.Ack.GetEpoch(), Version: m.Ack.GetVersion()}, d) {
			took["ignored"].Inc()
			return nil
		}
		took["ack"].Inc()
		st.tell(func(s Session) { s.Acked(m.Ack) })
	case *controlv1.StreamRequest_Nack:
		d, err := digest.HashOf(m.Nack.GetDigest())
		if err != nil {
			return fault.New(fault.CodeNodeMessage, "nack: %w", err)
		}
		if len(m.Nack.GetMessage()) > maxMessage || len(m.Nack.GetCode()) > maxWord || len(m.Nack.GetResource()) > 2*maxText {
			return fault.New(fault.CodeNodeMessage, "nack: a field is too long")
		}
		if m.Nack.GetResync() && !st.resync.Allow() {
			return fault.New(fault.CodeFlood, "node %s asks for snapshots too often", st.node)
		}
		if !st.nacked(feed.Point{Epoch: m.Nack.GetEpoch(), Version: m.Nack.GetVersion()}, d, m.Nack.GetResync()) {
			took["ignored"].Inc()
			return nil
		}
		took["nack"].Inc()
		st.tell(func(s Session) { s.Nacked(m.Nack) })
		st.wake()
	case *controlv1.StreamRequest_Status:
		if err := errors.Join(checkPoint(m.Status.GetActive()), checkPoint(m.Status.GetHighest())); err != nil {
			return fault.New(fault.CodeNodeMessage, "status: %w", err)
		}
		if len(m.Status.GetMessage()) > maxMessage {
			return fault.New(fault.CodeNodeMessage, "status: message is too long")
		}
		took["status"].Inc()
		st.active(m.Status.GetActive())
		st.tell(func(s Session) { s.Reported(m.Status) })
	case *controlv1.StreamRequest_Hello:
		return fault.New(fault.CodeMessageOrder, "a second hello")
	default:
		took["unknown"].Inc() // of a newer revision: not for us
	}
	return nil
}

// acked moves the cursor and wakes the writer when it waits for room.
func (st *stream) acked(at feed.Point, d digest.Hash) bool {
	st.mu.Lock()
	ok := st.cursor.ack(at, d)
	wake := ok && st.waiting
	st.waiting = st.waiting && !wake
	st.mu.Unlock()
	if wake {
		st.wake()
	}
	return ok
}

func (st *stream) nacked(at feed.Point, d digest.Hash, resync bool) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.cursor.nack(at, d, resync)
}

// active takes what a status says is active. It is a statement about now only when
// nothing is on its way.
func (st *stream) active(p *controlv1.ResumePoint) {
	_, d, has := pointOf(p)
	if !has {
		return
	}
	st.mu.Lock()
	changed := st.cursor.active(d)
	st.mu.Unlock()
	if changed {
		st.wake()
	}
}

// tell calls the session, unless it is closed.
func (st *stream) tell(f func(Session)) {
	st.events.Lock()
	defer st.events.Unlock()
	if !st.released {
		f(st.session)
	}
}

// release closes the session, once, after Attach has returned. A newer stream of
// the node calls it too, and gives up when its own ctx ends.
func (st *stream) release(ctx context.Context, cause error) error {
	select {
	case <-st.settled:
	default:
		st.cut(cause) // Attach of a stream that nobody wants any more ends with its context
		select {
		case <-st.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	st.events.Lock()
	defer st.events.Unlock()
	if st.released {
		return nil
	}
	st.released = true
	if st.session != nil {
		st.session.Close(cause)
	}
	return nil
}

// end ends the stream from the hub's side in order: the writer sends n and nothing
// after it, the client closes, and the handler returns cause as the status. A client
// that does not close in time is cut off.
func (st *stream) end(cause error, n *controlv1.Notice) {
	st.mu.Lock()
	if st.cause != nil || st.over {
		st.mu.Unlock()
		return
	}
	st.cause, st.final = cause, n
	st.timers = append(st.timers, time.AfterFunc(endGrace, func() { st.cancel(cause) }))
	st.mu.Unlock()
	st.wake()
}

// cut ends the stream at once: receiving and sending return. The client sees
// CANCELLED, since there is no saying more to one that does not read.
func (st *stream) cut(cause error) {
	st.mu.Lock()
	if st.cause == nil {
		st.cause = cause
	}
	st.mu.Unlock()
	st.cancel(cause)
}

// finish stops the timers and waits for the writer, whose last message may be the
// notice that says why; one that is stuck is cut off. It gives err.
func (st *stream) finish(err error) error {
	st.mu.Lock()
	st.over = true
	for _, t := range st.timers {
		t.Stop()
	}
	if st.running {
		st.idle = make(chan struct{})
	}
	idle := st.idle
	st.mu.Unlock()
	if idle != nil {
		stuck := time.AfterFunc(lastWrite, func() { st.cancel(err) })
		<-idle
		stuck.Stop()
	}
	st.writer.unfollow()
	return err
}

// wake makes sure that a writer looks at the session's offer and the feed after now.
func (st *stream) wake() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dirty = true
	if !st.running && st.started && !st.over {
		st.running = true
		st.srv.senders.put(st)
	}
}
