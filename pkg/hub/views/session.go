package views

import (
	"context"
	"sync/atomic"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

// session is one node's stream.
type session struct {
	set    *Set
	node   string
	member uint64 // the entry with which the node joined that opened the stream
	caps   []string
	wake   func()
	end    func(error)
	conn   *fleet.Conn // nil: a silent session
	latest atomic.Pointer[distribution.Offer]

	active *activeView // Set.mu
}

var _ distribution.Backend = (*Set)(nil)

// Attach implements distribution.Backend.
func (s *Set) Attach(ctx context.Context, peer distribution.Peer, hello *controlv1.Hello, wake func()) (distribution.Session, error) {
	return s.attach(ctx, peer, hello, wake, true)
}

// attach opens a session; a silent one says nothing of its node to the fleet.
func (s *Set) attach(ctx context.Context, peer distribution.Peer, hello *controlv1.Hello, wake func(), speaks bool) (distribution.Session, error) {
	select {
	case <-s.first:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// The guard let the node pass by the replica's state: the views must know it too.
	if err := s.await(ctx, s.opt.Replica.Current().State.Seq()); err != nil {
		return nil, err
	}
	sess := &session{set: s, node: hello.GetNode(), caps: hello.GetCapabilities(), wake: wake, end: func(error) {}}
	if cancel, ok := wire.CancelCall(ctx); ok {
		sess.end = cancel
	}
	for recalled := false; ; {
		s.mu.Lock()
		cur := s.cur
		s.mu.Unlock()
		class, labels, err := s.classOf(sess)
		if err != nil {
			return nil, err
		}
		a, err := s.ensure(ctx, class)
		if err != nil {
			return nil, err
		}
		if s.cur != cur { // the class may have changed in between
			s.mu.Unlock()
			continue
		}
		if !recalled && s.forgotten(a, hello) {
			s.mu.Unlock()
			s.recall(a, hello)
			recalled = true
			continue
		}
		if err := s.recognize(ctx, sess); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if err := s.raise(ctx, a, seen(hello)); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if speaks {
			sess.conn = s.opt.Fleet.Connect(sess.node, labels, peer.Address, class.ID(), hello)
		}
		s.sessions[sess] = struct{}{}
		s.follow(sess, a)
		s.mu.Unlock()
		return sess, nil
	}
}

// recognize notes which member opened the stream. The guard let the stream in when
// it was opened; the hello may have been long in coming, and another node may have
// the name by now. s.mu is held.
func (s *Set) recognize(ctx context.Context, sess *session) error {
	n, ok := s.cur.State.Node(sess.node)
	if !ok {
		return fault.New(fault.CodeNodeForgotten, "node %q is not a member of domain %s", sess.node, s.opt.Domain)
	}
	sess.member = n.GetJoinedSeq()
	return access.Owns(ctx, n)
}

// seen is the highest point that a hello names.
func seen(h *controlv1.Hello) feed.Point {
	out := feed.Point{Epoch: h.GetHighest().GetEpoch(), Version: h.GetHighest().GetVersion()}
	if active := (feed.Point{Epoch: h.GetResume().GetEpoch(), Version: h.GetResume().GetVersion()}); active.Compare(out) > 0 {
		return active
	}
	return out
}

// await waits until Run, which has taken the first state, takes one that holds
// entry seq.
func (s *Set) await(ctx context.Context, seq uint64) error {
	for {
		s.mu.Lock()
		there, taken := s.cur.State.Seq() >= seq, s.taken
		s.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-taken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// classOf gives the class and labels of a session's node at the newest state that
// the set has. s.mu is not held.
func (s *Set) classOf(sess *session) (view.Class, map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.classLocked(sess)
}

func (s *Set) classLocked(sess *session) (view.Class, map[string]string, error) {
	n, ok := s.cur.State.Node(sess.node)
	if !ok {
		return view.Class{}, nil, fault.New(fault.CodeNodeForgotten, "node %q is not a member of domain %s", sess.node, s.opt.Domain)
	}
	return view.ClassOf(s.cur.Graph, sess.caps, n.GetLabels()), n.GetLabels(), nil
}

// placeAll puts every session on the view of its class, after classes may have
// changed, and drops the views that nobody follows any more. It gives the views
// that were made. s.mu is held.
func (s *Set) placeAll(ctx context.Context) (made []string) {
	s.expel()
	var homeless []*session
	// Those whose view is there first: their views are then not taken for idle.
	for sess := range s.sessions {
		class, labels, err := s.classLocked(sess)
		if err != nil {
			sess.end(err)
			s.leave(sess)
			continue
		}
		if sess.active != nil && sess.active.view.Class.ID() == class.ID() {
			sess.conn.Moved(class.ID(), labels)
			continue
		}
		s.leave(sess)
		if !s.settle(sess, class.ID(), labels) {
			homeless = append(homeless, sess)
		}
	}
	for id, a := range s.active {
		if a.sessions == 0 {
			s.drop(id, a)
		}
	}
	for _, sess := range homeless {
		if id := s.place(ctx, sess); id != "" {
			made = append(made, id)
		}
	}
	return made
}

// settle moves a session to a view that is active; false when it is not.
// s.mu is held.
func (s *Set) settle(sess *session, id string, labels map[string]string) bool {
	a, ok := s.active[id]
	if !ok {
		return false
	}
	// The node may have seen a newer version than this view's.
	a.lift = a.lift || a.base != s.cur
	s.follow(sess, a)
	sess.conn.Moved(id, labels)
	return true
}

// place moves a session to the view of its class, which is made if need be; one
// whose view cannot be had loses its stream. It gives the view if it was made.
// s.mu is held.
func (s *Set) place(ctx context.Context, sess *session) (made string) {
	class, labels, err := s.classLocked(sess)
	if err != nil {
		sess.end(err)
		return ""
	}
	id := class.ID()
	if s.settle(sess, id, labels) {
		return ""
	}
	if err := s.insert(ctx, id, view.Build(s.cur.Graph, class), s.cur); err != nil {
		s.log.Error("node cannot be given its view; its stream is closed", "node", sess.node, "view", id, "err", err)
		sess.end(err)
		return ""
	}
	s.settle(sess, id, labels)
	return id
}

// expel ends the streams of nodes that were forgotten, also when another node
// joined under the name since. s.mu is held.
func (s *Set) expel() {
	for sess := range s.sessions {
		n, ok := s.cur.State.Node(sess.node)
		if ok && n.GetJoinedSeq() != sess.member {
			sess.end(fault.New(fault.CodeNodeForgotten, "another node has joined as %q since", sess.node))
		}
	}
}

// leave takes a session off its view. s.mu is held.
func (s *Set) leave(sess *session) {
	if sess.active != nil {
		sess.active.sessions--
		sess.active.idle = s.opt.Now()
		sess.active = nil
	}
}

// follow puts a session on a view. s.mu is held.
func (s *Set) follow(sess *session, a *activeView) {
	s.leave(sess)
	a.sessions++
	sess.active = a
	s.offer(sess)
}

// offer renews what a session offers and wakes its stream. s.mu is held.
func (s *Set) offer(sess *session) {
	if sess.active == nil {
		return // its stream is being closed
	}
	o := &distribution.Offer{Accepted: sess.active.accepted, Feed: sess.active.feed}
	if s.anchors != nil {
		o.Trust = s.anchors
	}
	sess.latest.Store(o)
	sess.wake()
}

// Offer implements distribution.Session.
func (s *session) Offer() distribution.Offer { return *s.latest.Load() }

// Acked implements distribution.Session.
func (s *session) Acked(a *controlv1.Ack) { s.conn.Acked(a) }

// Nacked implements distribution.Session.
func (s *session) Nacked(n *controlv1.Nack) { s.conn.Nacked(n) }

// Reported implements distribution.Session.
func (s *session) Reported(r *controlv1.Status) { s.conn.Reported(r) }

// Close implements distribution.Session.
func (s *session) Close(error) {
	s.set.mu.Lock()
	delete(s.set.sessions, s)
	s.set.leave(s)
	s.set.mu.Unlock()
	s.conn.Close()
}
