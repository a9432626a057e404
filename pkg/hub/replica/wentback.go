package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// When the store is put back to an older log, each hub that has seen more stops:
// it serves what it has and raises an alarm in the store, which also stops hubs
// that have not seen as much. They go on by themselves when the log holds again
// what they saw, or when it says that an operator gave that up. See docs/adr/0005.

// wentBack tells the error of a log that was put back.
func wentBack(err error) bool { return errors.Is(err, fault.CodeLogWentBack) }

// WentBack tells whether this hub stopped because the log went back.
func (r *Replica) WentBack() bool { return wentBack(r.frozenBy()) }

// Fold reads the whole log into a state.
func Fold(ctx context.Context, l *store.Log) (*state.State, error) {
	s, err := loadSnapshot(ctx, l)
	if err != nil {
		return nil, err
	}
	for {
		entries, all, err := l.Follow(ctx, known(s), readPage)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if s, _, err = s.Apply(e.Entry, e.Hash); err != nil {
				return nil, err
			}
		}
		if all {
			return s, nil
		}
	}
}

// lost tells whether the log, which s is the fold of, has lost an entry that was
// seen: CodeLogWentBack if so, and nobody accepted it.
func lost(ctx context.Context, l *store.Log, s *state.State, seen store.Mark) error {
	h, ok := seen.Head()
	if !ok || s.GaveUp(h.Seq, h.Term) {
		return nil
	}
	err := l.Holds(ctx, h)
	if wentBack(err) {
		return fault.New(fault.CodeLogWentBack, "hub %s has seen entry %d of term %d: %w", seen.Hub, h.Seq, h.Term, err).
			WithRemedy("%s", fault.RemedyOf(err))
	}
	return err
}

// checkSeen holds the log that was just read against what this hub has seen before it
// was started, and against the alarms of others.
func (r *Replica) checkSeen(ctx context.Context, l *store.Log) error {
	s := r.current.Load().State
	r.mu.Lock()
	seen := r.position
	r.mu.Unlock()
	if seen != nil {
		err := lost(ctx, l, s, seen.Mark)
		switch {
		case wentBack(err) && seen.elsewhere(r.opt.Place):
			// The others lost nothing.
			return fault.New(fault.CodeLogWentBack, "%w; it has seen that in %s, and now the log is in %s", err, seen.Place, r.opt.Place).
				WithRemedy("If the domain was restored here, what this hub saw elsewhere is given up: move %s away, and start it again. Otherwise correct store.url.", r.opt.PositionFile)
		case wentBack(err):
			r.raise(ctx, l, seen.Mark)
		}
		if err != nil {
			return err
		}
	}
	return r.checkAlarms(ctx, l)
}

// checkStart is checkSeen, from which on the position is kept.
func (r *Replica) checkStart(ctx context.Context, l *store.Log) error {
	if err := r.checkSeen(ctx, l); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keepPosition = r.opt.PositionFile != ""
	r.noteTerm(known(r.current.Load().State))
	return nil
}

// checkAlarms looks for hubs that have seen more than the log holds. An alarm of
// this hub that is settled is taken back.
func (r *Replica) checkAlarms(ctx context.Context, l *store.Log) error {
	marks, err := l.Alarms(ctx)
	if err != nil {
		return err
	}
	for _, m := range marks {
		if err := lost(ctx, l, r.current.Load().State, m); err != nil {
			return err
		}
		if m.Hub == r.opt.Holder.Name {
			if err := l.ClearAlarm(ctx, m.Hub); err != nil {
				return err
			}
		}
	}
	return nil
}

// raise puts this hub's alarm into the store. It is raised again by awaitMended.
func (r *Replica) raise(ctx context.Context, l *store.Log, m store.Mark) {
	if err := l.RaiseAlarm(ctx, m); err != nil && ctx.Err() == nil {
		r.log.Error("other hubs not told that the log went back; trying again", "err", err)
	}
}

// rejoin holds a log that was opened again against what came from it before, and
// goes over to it if an operator accepted that it lost something.
func (r *Replica) rejoin(ctx context.Context, l *store.Log) error {
	cur := r.current.Load().State
	err := l.Holds(ctx, known(cur))
	if wentBack(err) {
		s, ferr := Fold(ctx, l)
		if ferr != nil || !s.GaveUp(cur.Seq(), cur.Term()) {
			r.raise(ctx, l, store.MarkOf(r.opt.Holder.Name, known(cur)))
			return err
		}
		r.log.Warn("following a log that lost entries, which an operator accepted", "seen", cur.Seq(), "seq", s.Seq(), "term", s.Term())
		r.replace(s)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read entry %d again: %w", cur.Seq(), err)
	}
	if err := r.checkAlarms(ctx, l); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if wentBack(r.frozen) {
		r.log.Info("the log is whole again")
		r.frozen = nil
	}
	return nil
}

// replace makes a state current that does not follow the one before.
func (r *Replica) replace(s *state.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = nil
	r.noteTerm(known(s))
	r.current.Store(&Current{State: s, Graph: graphOf(s)})
	r.keepCommit(Commit{Seq: s.ConfigSeq(), Term: s.ConfigEpoch(), At: time.Now()})
	close(r.changed)
	r.changed = make(chan struct{})
}

// checkLead is the leader's look whether the log is still there. A store that does
// not answer is trouble, not loss.
func (r *Replica) checkLead(ctx context.Context, l *store.Log) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := l.EndsNotBefore(ctx, known(r.current.Load().State))
	if err == nil {
		err = r.checkAlarms(ctx, l)
	}
	switch {
	case wentBack(err):
		r.lockedFreeze(err)
	case ctx.Err() != nil:
		r.noteTrouble(fault.New(fault.CodeStoreUnavailable, "the store did not answer within %s", checkTimeout))
	case err != nil:
		r.noteTrouble(err)
	}
}

// checkTimeout bounds one look at the log.
const checkTimeout = 3 * time.Second

// awaitMended waits, frozen by a log that went back, until it is worth looking at
// it again: its end moved to where this hub was or beyond, or nobody has lost
// anything any more. Meanwhile it keeps its own alarm up.
func (r *Replica) awaitMended(ctx context.Context, l *store.Log, judged store.Position) {
	cur := known(r.current.Load().State)
	for backoff.Sleep(ctx, backoff.Jitter(r.opt.Probe, 0.2)) == nil {
		end, err := l.EndPosition(ctx)
		if err != nil {
			return // it is opened again, with a pause
		}
		if end != judged && end.Seq >= cur.Seq {
			return
		}
		switch err := l.Holds(ctx, cur); {
		case wentBack(err):
			r.keepRaised(ctx, l, store.MarkOf(r.opt.Holder.Name, cur))
		case err == nil && r.checkAlarms(ctx, l) == nil:
			return
		}
	}
}

// keepRaised raises this hub's alarm unless it is there.
func (r *Replica) keepRaised(ctx context.Context, l *store.Log, m store.Mark) {
	if there, err := l.Alarms(ctx); err == nil && !slices.Contains(there, m) {
		r.raise(ctx, l, m)
	}
}
