package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Tenure is held leadership: the only way to write to the log. It ends with its
// Context; a new one needs a new Campaign. Safe for concurrent use.
type Tenure struct {
	log      *Log
	lease    Lease
	onCommit func([]Entry)
	onAbort  func()
	onStall  func(error)

	ctx context.Context
	end context.CancelCauseFunc

	queue chan *proposal
	// stop is closed by Resign: the writer finishes its batch and ends.
	stop     chan struct{}
	stopOnce sync.Once
	// written is closed when the writer has ended: nothing is in flight any more.
	written chan struct{}
	wg      sync.WaitGroup
	// releases are the ends of Resign, which wait for wg.
	releases sync.WaitGroup
	// pings asks the writer to close what it gets; storing is true while it waits
	// for the store. See alive.
	pings   chan chan struct{}
	storing atomic.Bool

	stallMu sync.Mutex // guards both below
	// stalled is closed while the store owes an answer for too long; it is replaced
	// when the answer has come.
	stalled chan struct{}
	stalls  bool

	// head is the end of the log, took how long the last append took, expected how many
	// proposals are likely to come for the next one. Only the writer's goroutine uses them.
	head     Head
	took     time.Duration
	expected int
}

// Causes of the end of a tenure's Context, beside the store's own word: errors.Is finds
// them below fault.CodeLeaseLost.
var (
	// ErrUnconfirmed: the lease could have expired.
	ErrUnconfirmed = errors.New("the store did not confirm it in time")
	// ErrResigned: Resign was called.
	ErrResigned = errors.New("this hub resigned")
)

// TenureOption adjusts a tenure.
type TenureOption func(*Tenure)

// OnCommit has f called with the entries of each batch that was committed, in
// order, in the writer's goroutine and before the Submits of that batch return.
// f must not call Submit, Trim or Resign, and holds up the next batch.
func OnCommit(f func([]Entry)) TenureOption { return func(t *Tenure) { t.onCommit = f } }

// OnAbort has f called, in the writer's goroutine, when proposals were asked for
// drafts that will not be committed: state that they built upon must be dropped.
// It comes before the next proposal is asked. When the tenure ends with a write
// of unknown outcome, it is called as well.
func OnAbort(f func()) TenureOption { return func(t *Tenure) { t.onAbort = f } }

// OnStall has f called when the store has not answered a write for so long that
// who waits for it is told, after f returns, that its outcome is not known. Until the
// answer comes, proposals are refused at once. f must not call the tenure.
func OnStall(f func(error)) TenureOption { return func(t *Tenure) { t.onStall = f } }

// Campaign blocks until this hub holds the log's lease, or ctx ends. A Log has
// one tenure at a time (CodeTenureOpen). The caller should read the log up to
// its head before it proposes: entries of the term before may have come in.
func (l *Log) Campaign(ctx context.Context, holder Holder, opts ...TenureOption) (*Tenure, error) {
	if err := l.startCampaign(); err != nil {
		return nil, err
	}
	t, err := l.campaign(ctx, holder, opts)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.campaigning = false
	if err != nil {
		return nil, err
	}
	if l.closed {
		// Close did not see this tenure; its lease goes with the driver.
		t.finish(fault.New(fault.CodeStoreClosed, "campaign: the log was closed"))
		return nil, fault.New(fault.CodeStoreClosed, "campaign: the log was closed")
	}
	l.tenure = t
	return t, nil
}

// OnCampaign has f called with what keeps a campaign from standing for the lease, and
// with nil once it stands. What Campaign returns it is not told. It is called before
// Campaign; f must not call the log.
func (l *Log) OnCampaign(f func(error)) {
	if d, ok := l.driver.(Reporting); ok {
		d.OnCampaign(f)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onCampaign = f
}

func (l *Log) startCampaign() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fault.New(fault.CodeStoreClosed, "campaign: the log is closed")
	}
	if l.campaigning || (l.tenure != nil && l.tenure.ctx.Err() == nil) {
		return fault.New(fault.CodeTenureOpen, "campaign: this log's lease is held or asked for already")
	}
	l.campaigning = true
	return nil
}

func (l *Log) campaign(ctx context.Context, holder Holder, opts []TenureOption) (*Tenure, error) {
	l.mu.Lock()
	last, stands := l.tenure, l.onCampaign
	l.mu.Unlock()
	if last != nil {
		if err := last.gone(ctx); err != nil {
			return nil, err
		}
	}
	if stands != nil {
		stands(nil)
	}
	for {
		lease, err := l.driver.Campaign(ctx, holder)
		if err != nil {
			return nil, err
		}
		t, err := l.begin(ctx, lease, opts)
		if err == nil {
			return t, nil
		}
		l.release(lease)
		if !errors.Is(err, fault.CodeLeaseLost) {
			return nil, err
		}
	}
}

// begin starts a tenure with a lease that was just given. The first Renew shows
// how long it lasts: the lease may be old already when the campaign returns.
func (l *Log) begin(ctx context.Context, lease Lease, opts []TenureOption) (*Tenure, error) {
	asked := time.Now()
	ttl, err := lease.Renew(ctx)
	if err != nil {
		return nil, err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return nil, err
	}
	if lease.Term() <= head.Term {
		return nil, fault.New(fault.CodeCorrupt, "the store gave a lease of term %d, but entry %d is of term %d: its term counter went back", lease.Term(), head.Seq, head.Term)
	}
	t := &Tenure{
		log: l, lease: lease, head: head,
		queue: make(chan *proposal, l.opts.QueueSize), stop: make(chan struct{}), written: make(chan struct{}),
		pings:    make(chan chan struct{}),
		onCommit: func([]Entry) {}, onAbort: func() {}, onStall: func(error) {}, stalled: make(chan struct{}),
	}
	for _, o := range opts {
		o(t)
	}
	t.ctx, t.end = context.WithCancelCause(context.Background())
	l.metrics.leading.Set(1)
	l.metrics.term.Set(float64(lease.Term()))
	t.wg.Go(t.write)
	t.wg.Go(func() { t.keepAlive(asked, ttl) })
	return t, nil
}

func (l *Log) release(lease Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// Failing that, the lease expires, or goes with the driver.
	_ = lease.Release(ctx)
}

// Context ends when leadership does; its cause says why. Work that only a
// leader may do runs under it.
func (t *Tenure) Context() context.Context { return t.ctx }

// Term is the fencing term: higher than that of any tenure before.
func (t *Tenure) Term() uint64 { return t.lease.Term() }

// Resign lets the batch in flight finish, ends the tenure, and releases the
// lease so that the next hub need not wait for it to expire. It returns when the
// tenure's goroutines have ended. Resigning again does nothing.
//
// When ctx ends first, the write in flight is given up; its Submits learn what
// became of it. A driver that does not return even then (a hung disk) cannot be
// stopped: Resign leaves it behind with CodeTimeout, and the lease is released
// when it returns after all.
func (t *Tenure) Resign(ctx context.Context) error {
	t.stopOnce.Do(func() { close(t.stop) })
	select {
	case <-t.written:
	case <-ctx.Done():
	}
	t.end(fault.New(fault.CodeLeaseLost, "leadership of term %d ended: %w", t.Term(), ErrResigned))
	released := make(chan error, 1)
	t.releases.Go(func() {
		t.wg.Wait()
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		released <- t.lease.Release(rctx)
	})
	select {
	case err := <-released:
		return err
	case <-ctx.Done():
	}
	// ctx may have ended before there was a chance to stop.
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case err := <-released:
		return err
	case <-grace.C:
		return fault.New(fault.CodeTimeout, "resign leadership of term %d: the store does not answer, its call is left behind: %w", t.Term(), context.Cause(ctx))
	}
}

// finish ends the tenure and waits for its goroutines.
func (t *Tenure) finish(cause error) {
	t.end(cause)
	t.wg.Wait()
}

// gone waits until nothing of the tenure runs any more: its writer may still be
// reading back, or hang in the store.
func (t *Tenure) gone(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		t.wg.Wait()
		t.releases.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("campaign: wait for the end of the tenure before: %w", context.Cause(ctx))
	}
}

// keepAlive renews the lease until the tenure ends, and ends it when the lease
// is lost or could have expired. The time of a renewal counts from before the
// request: the store counts from when it got it, which is later.
func (t *Tenure) keepAlive(asked time.Time, ttl time.Duration) {
	defer t.log.metrics.leading.Set(0)
	var lost <-chan struct{} // nil, never ready, unless the engine can tell
	if w, ok := t.lease.(Watched); ok {
		lost = w.Lost()
	}
	if ttl <= 0 {
		t.await(lost, nil)
		return
	}
	expired := fault.New(fault.CodeLeaseLost, "leadership of term %d expired: %w", t.Term(), ErrUnconfirmed)
	// A timer of its own: Renew may hang.
	expiry := time.AfterFunc(time.Until(asked.Add(ttl)), func() { t.end(expired) })
	defer expiry.Stop()
	retry := backoff.New(backoff.Policy{Base: ttl / 20, Cap: ttl / 4})
	next := time.NewTimer(ttl / 3)
	defer next.Stop()
	for t.await(lost, next.C) {
		asked = time.Now()
		got, err := t.lease.Renew(t.ctx)
		switch {
		case err == nil:
			expiry.Reset(time.Until(asked.Add(got)))
			ttl = got
			retry.Reset()
			next.Reset(ttl / 3)
		case errors.Is(err, fault.CodeLeaseLost):
			t.end(err)
			return
		default:
			next.Reset(retry.Next())
		}
	}
}

// await blocks until next fires (true) or the tenure is over (false).
func (t *Tenure) await(lost <-chan struct{}, next <-chan time.Time) bool {
	select {
	case <-t.ctx.Done():
		return false
	case <-lost:
		t.end(fault.New(fault.CodeLeaseLost, "the store ended leadership of term %d", t.Term()))
		return false
	case <-next:
		return true
	}
}
