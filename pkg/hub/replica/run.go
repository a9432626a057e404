package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// readPage is how many entries one read of the log asks for.
const readPage = 512

// errReopen says that the store's engine must be opened again; errLookAgain that
// the log is to be, which went back and may be whole again.
var (
	errReopen    = errors.New("store engine failed")
	errLookAgain = errors.New("the log is read again")
)

// Run follows the log, campaigns for the lease and leads while it is held, until
// ctx ends: then it resigns, closes the log and returns nil. An error is one
// that no retry mends: before it was ready for the first time, the log could not
// be opened or read, is empty or is another domain's. Once it was ready, it goes
// on with what it has and tries again for as long as it takes.
func (r *Replica) Run(ctx context.Context) error {
	b := backoff.New(backoff.Policy{Base: 100 * time.Millisecond, Cap: 5 * time.Second})
	if err := r.beginPosition(); err != nil {
		return err
	}
	if r.opt.PositionFile != "" {
		var wg sync.WaitGroup
		kctx, stop := context.WithCancel(ctx)
		wg.Go(func() { r.keepPositions(kctx) })
		defer wg.Wait()
		defer stop()
	}
	for {
		l, err := r.opt.Open(ctx)
		if err == nil {
			if err = r.serve(ctx, l); r.isReady() {
				b.Reset()
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if !r.isReady() {
			return fmt.Errorf("open the log: %w", err)
		}
		if !errors.Is(err, errLookAgain) {
			r.noteTrouble(err)
			r.log.Error("store closed; opening it again", "err", err)
		}
		if b.Wait(ctx) != nil {
			return nil
		}
	}
}

// serve uses one opened log until ctx ends or its engine fails.
func (r *Replica) serve(ctx context.Context, l *store.Log) (err error) {
	defer func() {
		r.setLog(nil)
		r.awaitSnapshot()
		if cerr := l.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("close the log: %w", cerr)
		}
	}()
	r.setLog(l)
	l.OnCampaign(r.noteCampaign)
	end, err := l.EndPosition(ctx)
	if err != nil {
		return err
	}
	if err := r.load(ctx, l); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if r.WentBack() {
			r.awaitMended(ctx, l, end)
			return errLookAgain
		}
		if r.isFrozen() {
			<-ctx.Done()
			return nil
		}
		tenure, willing, err := r.campaign(ctx, l)
		if err == nil {
			if err = r.lead(ctx, l, tenure, willing); err != nil && ctx.Err() == nil {
				r.tellLost(err)
			}
		}
		if errors.Is(err, errReopen) || fault.CodeOf(err) == fault.CodeStoreFailed {
			return err
		}
		if err != nil && ctx.Err() == nil {
			_ = backoff.Sleep(ctx, backoff.Jitter(500*time.Millisecond, 0.5))
		}
	}
	return nil
}

// lostEvery paces what the log is told of leases that were lost, each soon after it
// was won: as while the store takes no writes.
const lostEvery = 30 * time.Second

// tellLost logs that the lease was lost. Run's goroutine only.
func (r *Replica) tellLost(err error) {
	level := slog.LevelWarn
	if now := time.Now(); now.Sub(r.lostTold) >= lostEvery {
		r.lostTold = now
	} else {
		level = slog.LevelDebug
	}
	r.log.Log(context.Background(), level, "lease is not held", "err", err)
}

// load replays the log: from what is current, else from the newest snapshot,
// else from the first entry.
func (r *Replica) load(ctx context.Context, l *store.Log) error {
	if r.current.Load() == nil {
		s, err := loadSnapshot(ctx, l)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.current.Store(&Current{State: s, Graph: graphOf(s)})
		r.mu.Unlock()
	} else if err := r.rejoin(ctx, l); err != nil {
		if !isDamage(err) {
			return err // the store is not well yet: it is opened again
		}
		r.lockedFreeze(err)
		return nil
	}
	if err := r.catchUp(ctx, l); err != nil {
		return err
	}
	if r.isReady() {
		return nil
	}
	s := r.current.Load().State
	if err := r.frozenBy(); err != nil && s.Seq() == 0 {
		return err
	}
	if s.Seq() == 0 {
		if err := r.checkSeen(ctx, l); err != nil {
			return err // it was not always empty
		}
		return fault.New(fault.CodeInitIncomplete, "the log is empty: `meshhub init` has not completed")
	}
	if r.opt.Domain != "" && s.Domain() != r.opt.Domain {
		return fault.New(fault.CodeStoreDomain, "the log is of domain %q, not %q", s.Domain(), r.opt.Domain)
	}
	if err := r.checkStart(ctx, l); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.ready)
	close(r.changed) // Watch has something to give from now on
	r.changed = make(chan struct{})
	return nil
}

func loadSnapshot(ctx context.Context, l *store.Log) (*state.State, error) {
	snap, err := l.LatestSnapshot(ctx)
	if fault.KindOf(err) == fault.NotFound && err != nil {
		return state.New(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the newest snapshot: %w", err)
	}
	in := snap.Open(ctx)
	defer in.Close()
	s, err := state.ReadSnapshot(in)
	if err != nil {
		return nil, err
	}
	if s.Seq() != snap.Seq || s.Position().Hash != snap.Hash {
		return nil, fault.New(fault.CodeBadSnapshot, "the snapshot of entry %d holds the state of entry %d", snap.Seq, s.Seq())
	}
	return s, nil
}

// isDamage tells an error that people must mend from one that passes.
func isDamage(err error) bool {
	return fault.KindOf(err) == fault.Corrupt || fault.CodeOf(err) == fault.CodeBadEntry
}

// catchUp applies what the log has beyond the current state. An entry that
// cannot be applied freezes the replica and is no error here.
func (r *Replica) catchUp(ctx context.Context, l *store.Log) error {
	for !r.isFrozen() {
		entries, all, err := l.Follow(ctx, known(r.current.Load().State), readPage)
		if fault.CodeOf(err) == fault.CodeTrimmed {
			if err = r.jump(ctx, l); err == nil {
				continue
			}
		}
		if err != nil {
			if isDamage(err) {
				r.lockedFreeze(err)
				return nil
			}
			return err
		}
		r.mu.Lock()
		for _, e := range entries {
			if err := r.advance(e); err != nil {
				r.freeze(err)
				break
			}
		}
		r.mu.Unlock()
		if all {
			return nil
		}
	}
	return nil
}

// jump goes to the newest snapshot, for a replica that was away so long that the
// log was trimmed beyond it.
func (r *Replica) jump(ctx context.Context, l *store.Log) error {
	s, err := loadSnapshot(ctx, l)
	if err != nil {
		return err
	}
	if s.Seq() <= r.current.Load().State.Seq() {
		return fault.New(fault.CodeBadSnapshot, "the log is trimmed beyond entry %d and no newer snapshot exists", r.current.Load().State.Seq())
	}
	if cur := r.current.Load().State; s.Term() < cur.Term() {
		return fault.New(fault.CodeLogWentBack, "the log went back: its snapshot of entry %d is of term %d, after it had term %d", s.Seq(), s.Term(), cur.Term())
	}
	r.replace(s)
	return nil
}

// campaign follows the log until this hub holds the lease. See win for willing.
func (r *Replica) campaign(ctx context.Context, l *store.Log) (t *store.Tenure, willing bool, err error) {
	fctx, stop := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		failed := true // what was in trouble as leader may be well now
		for fctx.Err() == nil && !r.isFrozen() {
			err := r.catchUp(fctx, l)
			if err == nil && failed {
				failed = false
				r.clearTrouble()
			}
			if err == nil {
				err = l.Wait(fctx, r.current.Load().State.Seq())
			}
			if err != nil && fctx.Err() == nil {
				failed = true
				r.noteTrouble(err)
				_ = backoff.Sleep(fctx, backoff.Jitter(time.Second, 0.3))
			}
		}
		if r.isFrozen() {
			stop(errFrozen)
		}
	})
	if t, willing, err = r.win(fctx, l); err == nil || fctx.Err() == nil {
		r.noteCampaign(err)
	}
	stop(nil)
	wg.Wait()
	if err != nil {
		return nil, false, fmt.Errorf("campaign for the lease: %w", err)
	}
	return t, willing, nil
}

var errFrozen = errors.New("replica is frozen")

// snapshotGrace is how long a snapshot may take to end before the log is closed under
// it: its leadership is over, but a call of the store may not return.
const snapshotGrace = time.Second

// lead writes while the lease is held, and until it is another hub's turn. It
// resigns before it returns.
func (r *Replica) lead(ctx context.Context, l *store.Log, tenure *store.Tenure, willing bool) error {
	sctx, stop := context.WithCancel(tenure.Context())
	defer func() {
		r.setTenure(nil)
		stop()
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := tenure.Resign(rctx); err != nil {
			r.log.Warn("lease not released", "err", err)
		}
		r.aborted()
		r.setSnapshotFailed(nil) // saving is the next leader's concern
	}()
	r.aborted()
	if err := r.catchUp(ctx, l); err != nil || r.isFrozen() {
		return err
	}
	if err := r.checkAlarms(ctx, l); err != nil {
		if wentBack(err) {
			r.lockedFreeze(err)
			return nil
		}
		return err
	}
	r.setTenure(tenure)
	if err := r.startTerm(ctx); err != nil && tenure.Context().Err() == nil {
		r.log.Error("first entry of the term not written", "term", tenure.Term(), "err", err)
		r.noteTrouble(err)
	} else {
		r.log.Info("leading", "term", tenure.Term())
	}
	tick := time.NewTicker(r.opt.Probe)
	defer tick.Stop()
	for {
		_, changed := r.Watch()
		_, moved := r.held()
		willing = willing && r.drained()
		if r.notOurTurn(willing) {
			r.log.Info("handing over", "term", tenure.Term())
			return nil
		}
		if r.snapshotDue() {
			select {
			case r.snapshotting <- struct{}{}:
				go func() {
					defer func() { <-r.snapshotting }()
					r.snapshot(sctx, l, tenure)
				}()
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tenure.Context().Done():
			return fmt.Errorf("lease lost: %w", context.Cause(tenure.Context()))
		case <-changed:
		case <-moved:
		case <-tick.C:
			if err := r.probe(ctx); err != nil {
				return err
			}
			r.checkLead(ctx, l)
		}
		if r.isFrozen() {
			return nil
		}
	}
}

// probe tries to write when the last write failed.
func (r *Replica) probe(ctx context.Context) error {
	r.mu.Lock()
	trouble := r.trouble
	r.mu.Unlock()
	if trouble == nil {
		return nil
	}
	if fault.CodeOf(trouble) == fault.CodeStoreFailed {
		return fmt.Errorf("%w: %w", errReopen, trouble)
	}
	pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.startTerm(pctx); err != nil {
		return nil // noted by Propose; tried again
	}
	r.log.Info("store takes writes again")
	return nil
}

// startTerm appends TermStarted: the first entry of a term, and harmless again.
func (r *Replica) startTerm(ctx context.Context) error {
	_, err := r.Propose(ctx, func(*Current, time.Time) (Proposal, error) {
		return Proposal{Kind: state.KindTermStarted, Payload: &logv1.TermStarted{Hub: r.opt.Holder.Name, Address: r.opt.Holder.Address}}, nil
	})
	return err
}

func (r *Replica) snapshotDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.snapshotAfter) {
		return false // lead asks again at its next tick or entry
	}
	return r.backlog.entries >= r.opt.SnapshotEntries || r.backlog.bytes >= r.opt.SnapshotBytes
}

// awaitSnapshot waits for the end of a snapshot that was given up with the lease, if
// there is one. Until it ends no other is begun.
func (r *Replica) awaitSnapshot() {
	limit := time.NewTimer(snapshotGrace)
	defer limit.Stop()
	select {
	case r.snapshotting <- struct{}{}:
		<-r.snapshotting
	case <-limit.C:
		r.log.Warn("snapshot left behind: the store does not answer")
	}
}

// snapshot saves the current state and trims the log behind it. It runs beside
// the writer: the state is immutable. A failure is no reason to stop writing:
// the log keeps what the snapshot would cover, and it is tried again later.
func (r *Replica) snapshot(ctx context.Context, l *store.Log, tenure *store.Tenure) {
	r.mu.Lock()
	s, covered := r.current.Load().State, r.backlog
	r.backlog = backlog{}
	r.mu.Unlock()
	pos, begin := s.Position(), time.Now()
	pr, pw := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { pw.CloseWithError(s.WriteSnapshot(pw)) })
	err := l.SaveSnapshot(ctx, tenure, pos.Seq, pos.Hash, pr)
	pr.CloseWithError(io.ErrClosedPipe)
	wg.Wait()
	if err == nil {
		err = tenure.Trim(ctx, pos.Seq)
	}
	given := err != nil && ctx.Err() != nil
	r.snapshotEnded(covered, err, given)
	switch {
	case err == nil:
		r.log.Info("snapshot saved", "seq", pos.Seq, "took", time.Since(begin).Round(time.Millisecond))
	case given:
		r.log.Info("snapshot given up with the lease", "seq", pos.Seq)
	default:
		r.log.Warn("snapshot not saved or log not trimmed; tried again later", "seq", pos.Seq, "err", err)
	}
	if fault.CodeOf(err) == fault.CodeStoreFailed {
		r.noteTrouble(err) // the engine takes no writes either until it is opened again
	}
}

// snapshotEnded remembers how a snapshot went. After a failure its backlog is due
// again, paced by time: on a full disk each attempt costs writes. given: it was given
// up with the lease, which is no failure.
func (r *Replica) snapshotEnded(covered backlog, err error, given bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !given {
		r.snapshotFailed = err
	}
	if err == nil {
		return
	}
	r.backlog.entries += covered.entries
	r.backlog.bytes += covered.bytes
	// From once to twice the pause, so that the hubs of one machine spread.
	r.snapshotAfter = time.Now().Add(backoff.Jitter(r.opt.SnapshotRetry*3/2, 1.0/3))
}

func (r *Replica) setTenure(t *store.Tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tenure = t
	close(r.tenureMove)
	r.tenureMove = make(chan struct{})
}

func (r *Replica) setSnapshotFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshotFailed = err
}

func (r *Replica) clearTrouble() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = nil
}

func (r *Replica) setLog(l *store.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logOpen = l
}

func (r *Replica) isFrozen() bool { return r.frozenBy() != nil }

func (r *Replica) frozenBy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.frozen
}

func (r *Replica) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

func (r *Replica) lockedFreeze(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freeze(err)
}
