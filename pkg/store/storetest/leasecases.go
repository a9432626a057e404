package storetest

import (
	"context"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

func leaseCases() []testCase {
	return []testCase{
		{name: "LaterTenureFencesTheOldHolder", run: laterTenureFences},
		{name: "AppendWithoutLeaseIsRefused", run: appendWithoutLease},
		{name: "CampaignWaitsForRelease", run: campaignWaits},
		{name: "WithdrawnCampaignGetsNothing", run: withdrawnCampaign},
		{name: "TermsOnlyGrow", run: termsOnlyGrow, restarts: true},
		{name: "LostLeaseCannotBeRenewed", run: lostLeaseRenewed},
	}
}

func laterTenureFences(e *env) {
	old, next := e.driver(), e.driver()
	first := e.campaign(old)
	e.ok(old.Append(e.ctx, batch(first.Term(), 0, "a")))
	e.Expire(e.T)
	second := e.campaign(next)
	// The old holder has not heard of it yet, and its position is still free.
	e.fails(old.Append(e.ctx, batch(first.Term(), 1, "old")), fault.CodeLeaseLost)
	// Nor does it help to know the new term.
	e.fails(old.Append(e.ctx, batch(second.Term(), 1, "forged")), fault.CodeLeaseLost)
	e.fails(old.Append(e.ctx, store.Batch{Term: first.Term(), After: 1, Trim: 1}), fault.CodeLeaseLost)
	e.ok(first.Release(e.ctx)) // of a lease that is over: takes nothing from the next
	e.ok(next.Append(e.ctx, batch(second.Term(), 1, "b")))
	e.fails(old.Append(e.ctx, batch(first.Term(), 2, "old")), fault.CodeLeaseLost)
	e.holds(next, "a", "b")
}

func appendWithoutLease(e *env) {
	d := e.driver()
	e.fails(d.Append(e.ctx, batch(0, 0, "a")), fault.CodeLeaseLost)
	e.fails(d.Append(e.ctx, batch(1, 0, "a")), fault.CodeLeaseLost)
	l := e.campaign(d)
	e.fails(d.Append(e.ctx, batch(l.Term()+1, 0, "a")), fault.CodeLeaseLost)
	e.ok(l.Release(e.ctx))
	e.fails(d.Append(e.ctx, batch(l.Term(), 0, "a")), fault.CodeLeaseLost)
	e.holds(d)
}

func campaignWaits(e *env) {
	d, other := e.driver(), e.driver()
	l := e.campaign(d)
	won := spawn(func() store.Lease {
		l, err := other.Campaign(e.ctx, store.Holder{Name: "other"})
		if err != nil {
			e.Error(err)
		}
		return l
	})
	for range 20 {
		e.ok(d.Append(e.ctx, batch(l.Term(), uint64(len(e.read(d))), "a")))
	}
	select {
	case <-won:
		e.Fatal("a second hub got the lease while the first held it")
	default:
	}
	e.ok(l.Release(e.ctx))
	next := receive(e, won)
	if next.Term() <= l.Term() {
		e.Fatalf("term went from %d to %d", l.Term(), next.Term())
	}
	p, err := d.Read(e.ctx, 0, 0)
	e.ok(err)
	if p.Holder.Name != "other" || !p.Held || p.Term != next.Term() {
		e.Fatalf("the holder is told as %+v of term %d", p.Holder, p.Term)
	}
	e.ok(next.Release(e.ctx))
	if p, err = d.Read(e.ctx, 0, 0); err != nil || p.Held || p.Term != next.Term() {
		e.Fatalf("after release the lease is told as held %v, term %d, %v", p.Held, p.Term, err)
	}
}

func withdrawnCampaign(e *env) {
	d, other, third := e.driver(), e.driver(), e.driver()
	l := e.campaign(d)
	ctx, cancel := context.WithCancel(e.ctx)
	given := spawn(func() error { _, err := other.Campaign(ctx, store.Holder{Name: "other"}); return err })
	cancel()
	if receive(e, given) == nil {
		e.Fatal("a campaign whose context ended got a lease that was held")
	}
	e.ok(l.Release(e.ctx))
	e.campaign(third)
}

func termsOnlyGrow(e *env) {
	last := uint64(0)
	step := func(l store.Lease) {
		e.Helper()
		if l.Term() <= last {
			e.Fatalf("term went from %d to %d", last, l.Term())
		}
		last = l.Term()
	}
	d := e.driver()
	for range 3 {
		l := e.campaign(d)
		step(l)
		e.ok(l.Release(e.ctx))
	}
	step(e.campaign(d))
	e.Expire(e.T)
	step(e.campaign(e.driver()))
	e.Restart(e.T)
	d = e.driver()
	l := e.campaign(d)
	step(l)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a")))
	e.Restart(e.T)
	d = e.driver()
	l = e.campaign(d)
	step(l)
	e.ok(l.Release(e.ctx))
	// As after a restore from a backup: the holder has seen more than the store.
	last += 1000
	l, err := d.Campaign(e.ctx, store.Holder{Name: "hub", Above: last})
	e.ok(err)
	step(l)
	e.ok(d.Append(e.ctx, batch(l.Term(), 1, "b")))
	e.ok(l.Release(e.ctx))
	step(e.campaign(d))
}

func lostLeaseRenewed(e *env) {
	d := e.driver()
	l := e.campaign(d)
	_, err := l.Renew(e.ctx)
	e.ok(err)
	e.Expire(e.T)
	_, err = l.Renew(e.ctx)
	e.fails(err, fault.CodeLeaseLost)
	if w, ok := l.(store.Watched); ok {
		receive(e, w.Lost())
	}
}
