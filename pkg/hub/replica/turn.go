package replica

import (
	"context"
	"errors"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// A hub leaves the lease to others in three cases: it was asked to for a while
// (Hold), so that a certain other one gets it; another hub leads on another log
// (Split); or an operator has drained it, or it is to stand aside (Options.Aside),
// which is the same here. A drained hub leads all the same when nobody else does for some time: a domain
// whose other hubs are all lost must not stop because of a decision that was made
// when they were not.

// drainedPatience is for how long nobody must hold the lease before a drained hub
// takes it.
const drainedPatience = 5 * time.Second

// drainedLook is how often a drained hub looks whether the lease is held.
const drainedLook = time.Second

var errNotOurTurn = errors.New("this hub leaves the lease to others")

// Hold has this hub leave the lease to others for d: it resigns if it leads, and
// does not campaign. Another Hold replaces the one before; 0 ends it.
func (r *Replica) Hold(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heldUntil = time.Now().Add(d)
	close(r.holdMove)
	r.holdMove = make(chan struct{})
}

// Split has this hub write nothing, for err: another one leads the domain on a log that
// is not this hub's. It resigns, does not campaign, and answers writes with err. nil
// ends it.
func (r *Replica) Split(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.split
	r.split = err
	switch {
	case err != nil && was == nil:
		r.log.Error("the ring is split; this hub is read-only", "err", err)
	case err == nil && was != nil:
		r.log.Info("the ring is split no more")
	default:
		return
	}
	close(r.holdMove)
	r.holdMove = make(chan struct{})
}

// splitBy tells why this hub leaves the domain to another log, or nil.
func (r *Replica) splitBy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.split
}

// held tells for how long this hub leaves the lease to others, and gives a channel
// that is closed when that changes.
func (r *Replica) held() (time.Duration, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.heldUntil), r.holdMove
}

// drained tells whether an operator has drained this hub, or it is to stand aside, as
// far as it has read.
func (r *Replica) drained() bool {
	s := r.current.Load().State
	h, _ := s.Hub(r.opt.Holder.Name)
	return h.GetDrained() || r.opt.Aside != nil && r.opt.Aside(s)
}

// notOurTurn tells whether this hub is to leave the lease to others; willing:
// although it is drained, it may lead.
func (r *Replica) notOurTurn(willing bool) bool {
	d, _ := r.held()
	return d > 0 || r.splitBy() != nil || (r.drained() && !willing)
}

// awaitTurn blocks until this hub may campaign. willing: it is drained, and nobody
// else leads.
func (r *Replica) awaitTurn(ctx context.Context, l *store.Log) (willing bool, err error) {
	var free time.Time // since when nobody is seen to hold the lease; zero: not seen
	for ctx.Err() == nil {
		d, moved := r.held()
		_, changed := r.Watch()
		switch {
		case d > 0:
			free = time.Time{}
			wait := time.NewTimer(d)
			select {
			case <-wait.C:
			case <-moved:
			case <-ctx.Done():
			}
			wait.Stop()
		case r.splitBy() != nil:
			free = time.Time{}
			select {
			case <-moved:
			case <-ctx.Done():
			}
		case !r.drained():
			return false, nil
		default:
			_, _, err := l.Leader(ctx)
			if fault.CodeOf(err) != fault.CodeNoLeader {
				free = time.Time{}
			} else if free.IsZero() {
				free = time.Now()
			} else if time.Since(free) >= drainedPatience {
				return true, nil
			}
			wait := time.NewTimer(backoff.Jitter(drainedLook, 0.2))
			select {
			case <-wait.C:
			case <-changed:
			case <-ctx.Done():
			}
			wait.Stop()
		}
	}
	return false, context.Cause(ctx)
}

// win campaigns when it is this hub's turn, until it holds the lease.
func (r *Replica) win(ctx context.Context, l *store.Log) (t *store.Tenure, willing bool, err error) {
	for {
		if willing, err = r.awaitTurn(ctx, l); err != nil {
			return nil, false, err
		}
		cctx, cancel := context.WithCancelCause(ctx)
		watching := make(chan struct{})
		go func() {
			defer close(watching)
			r.whenNotOurTurn(cctx, willing, func() { cancel(errNotOurTurn) })
		}()
		holder := r.opt.Holder
		holder.Above = r.current.Load().State.Term()
		t, err = l.Campaign(cctx, holder, store.OnCommit(r.committed), store.OnAbort(r.aborted), store.OnStall(r.noteTrouble))
		cancel(nil)
		<-watching
		if err != nil && errors.Is(context.Cause(cctx), errNotOurTurn) && ctx.Err() == nil {
			r.noteCampaign(nil) // it does not even want to
			continue
		}
		return t, willing, err
	}
}

// whenNotOurTurn calls stop once this hub is to leave the lease to others, or
// returns when ctx ends.
func (r *Replica) whenNotOurTurn(ctx context.Context, willing bool, stop func()) {
	for ctx.Err() == nil {
		_, moved := r.held()
		_, changed := r.Watch()
		if r.notOurTurn(willing) {
			stop()
			return
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
		}
	}
}
