package storetest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

func failureCases() []testCase {
	return []testCase{
		{name: "FailedWriteThatWasNotAppliedIsTriedAgain", run: failedNotApplied},
		{name: "FailedWriteThatWasAppliedIsNotRepeated", run: failedApplied},
		{name: "DelayedWriteLandsOnce", run: delayedWrite},
		{name: "RefusedWriteIsForgotten", run: refusedWrite},
		{name: "RejectionIsNotJudgedByLostState", run: rejectionByLostState},
		{name: "LeaseLostMidBatch", run: leaseLostMidBatch},
		{name: "WriteThatBeatTheLossIsCommitted", run: writeBeatLoss},
		{name: "DoubtEndsWhereAnotherHubWrote", run: doubtEnds},
		{name: "UnknownStaysUnknown", run: unknownStaysUnknown},
		{name: "DeviceFailureEndsTheTenure", run: deviceFailure},
		{name: "TermThatGoesBackIsRefused", run: termGoesBack},
	}
}

// twice submits two entries on a driver whose appends go through hook, and
// checks that they are in the log once.
func twice(e *env, hook AppendHook) {
	e.Helper()
	d := e.driver()
	l := e.open(&Faults{Driver: d, OnAppend: hook}, store.Options{})
	t := e.lead(l, store.OnAbort(func() { e.Error("nothing was to be dropped") }))
	a, b := e.submit(t, "a"), e.submit(t, "b")
	if a.Seq != 1 || b.Seq != 2 {
		e.Fatalf("the entries stand at %d and %d", a.Seq, b.Seq)
	}
	e.logHolds(e.open(e.driver(), store.Options{}), "a", "b")
}

func failedNotApplied(e *env) { twice(e, NotApplied(1)) }
func failedApplied(e *env)    { twice(e, AppliedButFailed(1)) }

// delayedWrite: the first attempt times out and arrives later, just before the
// second one at the same place.
func delayedWrite(e *env) {
	var calls atomic.Int64
	var late func() error
	twice(e, func(_ context.Context, _ store.Batch, next func() error) error {
		switch calls.Add(1) {
		case 1:
			late = next
			return errLink
		case 2:
			// The context of the first call is still good: it ends with the tenure.
			if err := late(); err != nil {
				e.Errorf("the delayed write: %v", err)
			}
		}
		return next()
	})
}

func refusedWrite(e *env) {
	for i, code := range []fault.Code{fault.CodeStoreFull, fault.CodeStoreUnavailable, fault.CodeEntryTooLarge} {
		aborts := 0
		l := e.open(&Faults{Driver: e.driver(), OnAppend: Refused(1, code)}, store.Options{})
		t := e.lead(l, store.OnAbort(func() { aborts++ }))
		_, err := t.Submit(e.ctx, draft("refused"))
		e.fails(err, code)
		if x := e.submit(t, "next"); x.Seq != uint64(i+1) {
			e.Fatalf("after a refused write the next stands at %d, want %d", x.Seq, i+1)
		}
		e.ok(t.Resign(e.ctx))
		if aborts != 1 {
			e.Fatalf("OnAbort was called %d times, want once", aborts)
		}
	}
	e.logHolds(e.open(e.driver(), store.Options{}), "next", "next", "next")
}

// rejectionByLostState: a proposal is answered from a draft that then fails to
// be written, as "that request id is known, it was done at 2" would be.
func rejectionByLostState(e *env) {
	g := newGate()
	refuse := Refused(2, fault.CodeStoreFull)
	l := e.open(&Faults{Driver: e.driver(), OnAppend: func(ctx context.Context, b store.Batch, next func() error) error {
		return g.hook(ctx, b, func() error { return refuse(ctx, b, next) })
	}}, store.Options{})
	t := e.lead(l)
	first := spawn(func() error { _, err := t.Submit(e.ctx, draft("first")); return err })
	receive(e, g.entered)
	done := pile(e, l, t, 2, func(i int) func(store.Position) (store.Draft, error) {
		if i == 1 {
			return func(store.Position) (store.Draft, error) { return store.Draft{}, fmt.Errorf("known already") }
		}
		return draft("lost")
	})
	close(g.open)
	e.ok(receive(e, first))
	e.fails(receive(e, done[0]), fault.CodeStoreFull)
	e.fails(receive(e, done[1]), fault.CodeStoreFull)
	e.logHolds(l, "first")
}

func leaseLostMidBatch(e *env) {
	aborted := make(chan struct{})
	usurp := func() {
		e.Expire(e.T)
		other := e.driver()
		next := e.campaign(other)
		p, err := other.Read(e.ctx, 0, 10)
		e.ok(err)
		e.ok(other.Append(e.ctx, forge(next.Term(), p.Records[0])))
	}
	var calls atomic.Int64
	d := e.driver()
	l := e.open(&Faults{Driver: d, OnAppend: func(_ context.Context, b store.Batch, next func() error) error {
		if calls.Add(1) == 2 {
			usurp()
		}
		// Not the tenure's context: the request is on its way.
		return d.Append(e.ctx, b)
	}}, store.Options{})
	t := e.lead(l, store.OnAbort(func() { close(aborted) }))
	e.submit(t, "mine")
	_, err := t.Submit(e.ctx, draft("too late"))
	e.fails(err, fault.CodeLeaseLost)
	receive(e, aborted)
	receive(e, t.Context().Done())
	e.fails(context.Cause(t.Context()), fault.CodeLeaseLost)
	_, err = t.Submit(e.ctx, draft("later still"))
	e.fails(err, fault.CodeLeaseLost)
	if all := e.read(d); len(all) != 2 || all[1].Term <= t.Term() {
		e.Fatalf("the log has %d records; want ours and then the other hub's", len(all))
	}
}

// forge makes the batch that another hub appends after a record.
func forge(term uint64, after store.Record) store.Batch {
	return batch(term, after.Seq, "of another hub")
}

func writeBeatLoss(e *env) {
	d := e.driver()
	l := e.open(&Faults{Driver: d, OnAppend: func(_ context.Context, b store.Batch, _ func() error) error {
		if err := d.Append(e.ctx, b); err != nil {
			return err
		}
		e.Expire(e.T)
		return errLink
	}}, store.Options{})
	t := e.lead(l)
	e.submit(t, "a") // it is in the log, so it must not be reported as lost
	e.logHolds(l, "a")
}

// doubtEnds: the connection broke, and another hub's entry stands at the place:
// ours can never get there, so it is known not to be done.
func doubtEnds(e *env) {
	l := e.open(&Faults{Driver: e.driver(), OnAppend: func(context.Context, store.Batch, func() error) error {
		e.Expire(e.T)
		other := e.driver()
		e.ok(other.Append(e.ctx, batch(e.campaign(other).Term(), 0, "of another hub")))
		return errLink
	}}, store.Options{})
	_, err := e.lead(l).Submit(e.ctx, draft("a"))
	e.fails(err, fault.CodeLeaseLost)
}

// unknownStaysUnknown: the store is gone after a write, and so is leadership.
func unknownStaysUnknown(e *env) {
	asked := make(chan struct{}, 100) // read-backs; more than there can be
	var down atomic.Bool
	l := e.open(&Faults{
		Driver: e.driver(),
		OnAppend: func(context.Context, store.Batch, func() error) error {
			down.Store(true)
			return errLink
		},
		OnRead: func(_ context.Context, _ uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
			if down.Load() {
				asked <- struct{}{}
				return store.Page{}, errLink
			}
			return next()
		},
	}, store.Options{})
	t := e.lead(l)
	answer := spawn(func() error { _, err := t.Submit(e.ctx, draft("a")); return err })
	receive(e, asked)
	select {
	case err := <-answer:
		e.Fatalf("Submit answered %v while nobody could know", err)
	default:
	}
	e.Expire(e.T)
	resign, cancel := context.WithCancel(e.ctx)
	cancel()
	t.Resign(resign)
	e.fails(receive(e, answer), fault.CodeWriteUnknown)
}

func deviceFailure(e *env) {
	l := e.open(&Faults{Driver: e.driver(), OnAppend: Refused(1, fault.CodeStoreFailed)}, store.Options{})
	t := e.lead(l)
	_, err := t.Submit(e.ctx, draft("a"))
	e.fails(err, fault.CodeStoreFailed)
	receive(e, t.Context().Done())
	e.fails(context.Cause(t.Context()), fault.CodeStoreFailed)
}

func termGoesBack(e *env) {
	l := e.open(e.driver(), store.Options{})
	e.submit(e.lead(l), "a")
	e.ok(l.Close())
	l = e.open(&Faults{Driver: e.driver(), OnCampaign: func(l store.Lease) store.Lease { return oldTerm{l} }}, store.Options{})
	_, err := l.Campaign(e.ctx, store.Holder{Name: "hub"})
	e.fails(err, fault.CodeCorrupt)
	e.ok(l.Close())
	// The refused lease was given back.
	e.submit(e.lead(e.open(e.driver(), store.Options{})), "b")
}

type oldTerm struct{ store.Lease }

func (oldTerm) Term() uint64 { return 1 }
