// Package leadership watches who leads a hub's domain, for OmniRelay clients that
// subscribe to it. What it knows comes from two places: of this hub's own leadership
// from its replica, at once; of another hub's from the store, which is asked when the
// log shows a new term and every few seconds.
//
//	t := leadership.New(leadership.Options{…})
//	go t.Run(ctx)
//
// A token is good for three confirmations. That says how long to rely on what was
// said, and nothing of the lease: what fences is the term, in the store.
package leadership

import (
	"context"
	"errors"
	"fmt"
	"time"

	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/omnirelay"
	"github.com/meshkit/meshkit/pkg/store"
)

const (
	defaultConfirm = 5 * time.Second
	// confirmations that a token outlives.
	confirmations = 3
	// askTime bounds one question to the store.
	askTime = 2 * time.Second
)

// Replica is what leadership is known from.
type Replica interface {
	// Tenure is this hub's own leadership, nil for none, and a channel that is closed
	// when that changes.
	Tenure() (*store.Tenure, <-chan struct{})
	// Leader asks the store.
	Leader(ctx context.Context) (store.Holder, uint64, error)
	// Watch gives the newest state and a channel that is closed by the next.
	Watch() (*replica.Current, <-chan struct{})
}

// Options of a Tracker. All but Confirm are required.
type Options struct {
	Domain, Hub string
	Replica     Replica
	Board       *omnirelay.Board
	// Confirm is the time between two confirmations; 0 means 5 s.
	Confirm time.Duration
}

// Tracker publishes who leads. Use New and Run.
type Tracker struct {
	opt  Options
	last belief // Run's
}

// New makes a tracker that knows nothing yet.
func New(opt Options) *Tracker {
	if opt.Confirm == 0 {
		opt.Confirm = defaultConfirm
	}
	return &Tracker{opt: opt}
}

// belief is what is held true of the leader. The zero belief is that nobody is known to
// lead.
type belief struct {
	leader omnirelay.Leader
	mine   *store.Tenure // this hub's own leadership, nil if it is another's
	held   bool
}

// Run follows until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	tick := time.NewTicker(t.opt.Confirm)
	defer tick.Stop()
	for due := true; ; {
		tenure, moved := t.opt.Replica.Tenure()
		cur, changed := t.opt.Replica.Watch()
		var over <-chan struct{}
		if tenure != nil {
			over = tenure.Context().Done()
		}
		newTerm := cur != nil && cur.State.Term() > t.last.leader.Term
		if mine := tenure != nil && tenure.Context().Err() == nil; due || newTerm || mine != (t.last.mine != nil) || mine && tenure != t.last.mine {
			t.observe(ctx, tenure)
		}
		if tenure != nil && tenure.Context().Err() != nil {
			over = nil // seen; the replica lets go of it next
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		case <-over:
		case <-changed:
		case <-tick.C:
			due = true
		}
	}
}

// observe finds out who leads, and publishes what is new.
func (t *Tracker) observe(ctx context.Context, tenure *store.Tenure) {
	now := time.Now()
	if tenure != nil && tenure.Context().Err() == nil {
		t.believe(t.step(tenure, store.Holder{Name: t.opt.Hub}, tenure.Term(), now))
		return
	}
	if t.last.mine != nil {
		t.believe(ended(t.last, t.opt, now))
	}
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	holder, term, err := t.opt.Replica.Leader(ask)
	now = time.Now()
	switch {
	case err == nil && holder.Name != t.opt.Hub:
		t.believe(t.step(nil, holder, term, now))
	case err == nil:
		// This hub's own lease, which it has not begun to use or is giving up.
	case errors.Is(err, fault.CodeNoLeader):
		if t.last.held {
			t.believe(over(t.last, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST, t.opt, "no hub holds the lease: it was given up or has expired", now))
		}
	case t.last.held && now.After(t.last.leader.Until):
		t.believe(over(t.last, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED, t.opt, "the store could not be asked for too long: "+err.Error(), now))
	}
}

// believe publishes an event, if there is one, and keeps what follows from it.
func (t *Tracker) believe(b belief, e *omnirelay.Event) {
	t.last = b
	if e != nil {
		t.opt.Board.Publish(*e)
	}
}

// step is what follows from hearing that holder leads term at now; mine is this hub's
// own tenure, if it is the holder.
func (t *Tracker) step(mine *store.Tenure, holder store.Holder, term uint64, now time.Time) (belief, *omnirelay.Event) {
	if term < t.last.leader.Term {
		return t.last, nil // an old answer
	}
	next := belief{mine: mine, held: true, leader: omnirelay.Leader{Hub: holder.Name, Term: term, Since: now, Until: now.Add(confirmations * t.opt.Confirm)}}
	e := &omnirelay.Event{Scope: t.opt.Domain, At: now}
	switch {
	case t.last.held && t.last.leader.Hub == holder.Name && t.last.leader.Term == term:
		next.leader.Since = t.last.leader.Since
		e.Kind, e.Reason = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED, "still the leader"
	case mine != nil:
		e.Kind, e.Reason = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED, fmt.Sprintf("this hub leads term %d", term)
	default:
		e.Kind, e.Reason = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED, fmt.Sprintf("hub %s leads term %d", holder.Name, term)
	}
	e.Leader = next.leader
	return next, e
}

// ended is what follows from the end of this hub's own leadership.
func ended(last belief, opt Options, now time.Time) (belief, *omnirelay.Event) {
	cause := context.Cause(last.mine.Context())
	switch {
	case cause == nil || errors.Is(cause, store.ErrResigned):
		return over(last, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_STEPPED_DOWN, opt, "this hub gave leadership up", now)
	case errors.Is(cause, store.ErrUnconfirmed):
		return over(last, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED, opt, cause.Error(), now)
	}
	return over(last, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST, opt, cause.Error(), now)
}

// over is the end of what was believed.
func over(last belief, kind mesh.LeadershipEventKind, opt Options, reason string, now time.Time) (belief, *omnirelay.Event) {
	led := last.leader
	// The term is kept: an older one is not believed any more.
	return belief{leader: omnirelay.Leader{Term: led.Term}}, &omnirelay.Event{Kind: kind, Scope: opt.Domain, Leader: led, Reason: reason, At: now}
}
