package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

const (
	// sessionTTL is the shortest that Consul takes. It ends sessions after up to
	// twice that.
	sessionTTL = 10 * time.Second
	// goneAfter is when Consul forgets the service instance of a hub that is gone;
	// the shortest that it takes.
	goneAfter = time.Minute
)

// lease implements store.Lease and store.Watched.
type lease struct {
	d       *Driver
	session string
	term    uint64
	lost    chan struct{}
	once    sync.Once
	// unwatch stops the watcher, watched is closed when it has ended.
	unwatch context.CancelFunc
}

func (l *lease) Term() uint64          { return l.term }
func (l *lease) Lost() <-chan struct{} { return l.lost }

// over marks the lease as lost.
func (l *lease) over() {
	l.once.Do(func() {
		close(l.lost)
		l.unwatch()
		l.d.mu.Lock()
		defer l.d.mu.Unlock()
		if l.d.lease == l {
			l.d.lease = nil
		}
	})
}

// Renew implements store.Lease.
func (l *lease) Renew(ctx context.Context) (time.Duration, error) {
	const doing = "renew lease"
	ctx, cancel, err := l.d.call(ctx, doing, l.d.cfg.Timeout)
	if err != nil {
		return 0, err
	}
	defer cancel()
	over := fault.New(fault.CodeLeaseLost, "%s: term %d is over", doing, l.term)
	select {
	case <-l.lost:
		return 0, over
	default:
	}
	switch err := l.d.renew(ctx, l.session); {
	case errors.Is(err, errNoSession):
		l.over()
		return 0, over
	case err != nil:
		return 0, l.d.failure(ctx, doing, false, err)
	}
	return sessionTTL, nil
}

// Release implements store.Lease: the lock first, so that the next campaign
// succeeds while the session is still there.
func (l *lease) Release(ctx context.Context) error {
	const doing = "release lease"
	l.over()
	ctx, cancel, err := l.d.call(ctx, doing, l.d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	_, _, err = l.d.client.KV().Release(&api.KVPair{Key: l.d.leaderKey(), Session: l.session}, l.d.write(ctx))
	if derr := l.d.destroy(ctx, l.session); err == nil {
		err = derr
	}
	if err != nil {
		return l.d.failure(ctx, doing, false, err)
	}
	return nil
}

var errNoSession = errors.New("the session is over")

func (d *Driver) renew(ctx context.Context, session string) error {
	entry, _, err := d.client.Session().Renew(session, d.write(ctx))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound || err == nil && entry == nil {
		return errNoSession
	}
	if err == nil {
		err = d.retell(ctx)
	}
	return err
}

// Campaign implements store.Driver.
func (d *Driver) Campaign(ctx context.Context, holder store.Holder) (store.Lease, error) {
	const doing = "campaign"
	ctx, cancel, err := d.call(ctx, doing, 0)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if err := d.register(ctx, holder); err != nil {
		return nil, err
	}
	retry := retryIn()
	var failing time.Time // since when; zero: it is not
	stands := func() {
		failing = time.Time{}
		retry.Reset()
		d.report(nil)
	}
	for again := false; ; again = true {
		var err error
		if again {
			err = d.register(ctx, holder)
		}
		var l *lease
		if err == nil {
			l, err = d.candidate(ctx, holder, stands)
		}
		switch {
		case err == nil:
			return l, nil
		case ctx.Err() != nil:
			return nil, d.failure(ctx, doing, false, err)
		case errors.Is(err, fault.CodeCorrupt), errors.Is(err, fault.CodeRestoreUnfinished):
			return nil, err
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		if err = d.reading(ctx, doing, err); d.refused(doing, err) != nil || time.Since(failing) > reportAfter {
			d.report(err)
		}
		if werr := retry.Wait(ctx); werr != nil {
			return nil, fmt.Errorf("%s: %w (%v)", doing, werr, err)
		}
	}
}

// reportAfter is how long a campaign may fail before that is told: Consul elects a
// leader in less.
const reportAfter = 5 * time.Second

// OnCampaign implements store.Reporting.
func (d *Driver) OnCampaign(f func(error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onCampaign = f
}

func (d *Driver) report(err error) {
	d.mu.Lock()
	f := d.onCampaign
	d.mu.Unlock()
	f(err)
}

// candidate makes a session, waits for the lock with it, and begins a term. Meanwhile
// it destroys the sessions of before that are left: one of them may hold the lock. stands
// is called when only another holder is in the way.
func (d *Driver) candidate(ctx context.Context, holder store.Holder, stands func()) (*lease, error) {
	session, err := d.newSession(ctx, holder)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	wg.Go(func() { end(d.keepSession(ctx, session)) })
	wg.Go(func() { d.destroyOrphans(ctx) })
	won, err := d.await(ctx, session, holder, stands)
	if err == nil {
		var l *lease
		if l, err = d.begin(ctx, won, holder); err == nil {
			end(nil)
			wg.Wait()
			return l, nil
		}
	}
	end(nil)
	wg.Wait()
	d.drop(ctx, session)
	return nil, err
}

// drop destroys a session that is of no use, which releases what it holds.
func (d *Driver) drop(ctx context.Context, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
	defer cancel()
	_ = d.destroy(ctx, session) // it is remembered
}

// orphansKept bounds the sessions that are remembered; older ones expire.
const orphansKept = 16

// destroy ends a session. One that Consul does not confirm is remembered: while
// Consul has no leader it does not expire, and the next leader gives it its whole
// time again.
func (d *Driver) destroy(ctx context.Context, session string) error {
	_, err := d.client.Session().Destroy(session, d.write(ctx))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orphans = slices.DeleteFunc(d.orphans, func(s string) bool { return s == session })
	if err != nil {
		d.orphans = append(d.orphans, session)
		d.orphans = d.orphans[max(0, len(d.orphans)-orphansKept):]
	}
	return err
}

// destroyOrphans destroys the sessions that are remembered, until none is left or
// ctx ends.
func (d *Driver) destroyOrphans(ctx context.Context) {
	retry := retryIn()
	for {
		d.mu.Lock()
		left := slices.Clone(d.orphans)
		d.mu.Unlock()
		if len(left) == 0 {
			return
		}
		for _, session := range left {
			rctx, cancel, err := d.call(ctx, "destroy session", d.cfg.Timeout)
			if err != nil {
				return
			}
			_ = d.destroy(rctx, session)
			cancel()
		}
		if retry.Wait(ctx) != nil {
			return
		}
	}
}

// ask makes one request of a campaign, in the time of one: an agent that takes it and
// hangs must not hold the campaign up.
func (d *Driver) ask(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel, err := d.call(ctx, "campaign", d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	if err = request(ctx); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// newSession makes a session that lives as long as this hub does.
func (d *Driver) newSession(ctx context.Context, holder store.Holder) (string, error) {
	d.mu.Lock()
	c := d.check
	d.mu.Unlock()
	// Not Session().Create: it leaves out a lock-delay of 0, and Consul then takes 15 s.
	body := map[string]any{
		"Name":       "meshkit " + d.cfg.Domain + " " + holder.Name,
		"NodeChecks": []string{"serfHealth"}, "ServiceChecks": []api.ServiceCheck{{ID: c.checkID, Namespace: d.cfg.Namespace}},
		"LockDelay": "0s", "Behavior": api.SessionBehaviorRelease, "TTL": sessionTTL.String(),
	}
	var made struct{ ID string }
	err := d.ask(ctx, func(ctx context.Context) error {
		_, err := d.client.Raw().Write("/v1/session/create", body, &made, d.write(ctx))
		return err
	})
	return made.ID, err
}

// keepSession renews a session until ctx ends; an error says that it is over.
func (d *Driver) keepSession(ctx context.Context, session string) error {
	for {
		if err := backoff.Sleep(ctx, backoff.Jitter(sessionTTL/3, 0.2)); err != nil {
			return nil
		}
		err := d.ask(ctx, func(ctx context.Context) error { return d.renew(ctx, session) })
		if errors.Is(err, errNoSession) {
			return err
		}
	}
}

// await blocks until the session holds the lock, and gives the locked pair. stands is
// called while another has it.
func (d *Driver) await(ctx context.Context, session string, holder store.Holder, stands func()) (*api.KVPair, error) {
	retry := backoff.New(backoff.Policy{Base: 10 * time.Millisecond, Cap: time.Second})
	for {
		locked := false
		err := d.ask(ctx, func(ctx context.Context) (err error) {
			locked, _, err = d.client.KV().Acquire(&api.KVPair{Key: d.leaderKey(), Value: []byte(holder.Name), Session: session}, d.write(ctx))
			return err
		})
		if err != nil {
			return nil, err
		}
		var now *api.KVPair
		looked := 0
		err = d.follow(ctx, d.leaderKey(), 0, func(pair *api.KVPair) (bool, error) {
			now, looked = pair, looked+1
			free := pair == nil || pair.Session == "" || pair.Session == session
			if !free {
				stands()
			}
			return free, nil
		}, func(err error) error { return err })
		switch {
		case err != nil:
			return nil, err
		case now != nil && now.Session == session:
			return now, nil
		case locked: // and lost again
			return nil, errNoSession
		case looked > 1:
			retry.Reset() // it was held, and has just become free
		default:
			// Free, and yet not to be had: another program's session set a lock-delay.
			if err := retry.Wait(ctx); err != nil {
				return nil, err
			}
		}
	}
}

// begin makes the new term durable, fenced by the lock.
func (d *Driver) begin(ctx context.Context, won *api.KVPair, holder store.Holder) (*lease, error) {
	const doing = "campaign"
	for {
		var at versioned
		err := d.ask(ctx, func(ctx context.Context) (err error) {
			_, at, err = d.state(ctx, doing)
			return err
		})
		if err != nil {
			return nil, err
		}
		if at.Session == won.Session && at.Lease > 0 {
			return d.hold(won.Session, at), nil // the answer to the write was lost
		}
		next := at.head
		// The lock's count goes back when Consul is restored from a snapshot, and so
		// does what the log says; what the holder has seen does not.
		next.Lease = max(at.Lease, at.head.Term, won.LockIndex, holder.Above) + 1
		next.Session, next.Holder, next.Address = won.Session, holder.Name, holder.Address
		wctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
		if err != nil {
			return nil, err
		}
		written, failed, err := d.txn(wctx, doing, []*api.TxnOp{d.fence(won.Session), d.casHead(next, at.index)})
		cancel()
		switch {
		case failed != nil && failed.OpIndex == 0:
			return nil, errNoSession
		case failed != nil:
			continue // the last append of the term before came in between
		case errors.Is(err, fault.CodeStoreUnavailable):
			return nil, err
		case err != nil:
			if ctx.Err() != nil {
				return nil, err
			}
			continue // not known: look again
		}
		return d.hold(won.Session, versioned{head: next, index: written}), nil
	}
}

// hold makes the lease of a term that has begun, and watches it.
func (d *Driver) hold(session string, at versioned) *lease {
	ctx, cancel := context.WithCancel(d.ctx)
	l := &lease{d: d, session: session, term: at.Lease, lost: make(chan struct{}), unwatch: cancel}
	d.mu.Lock()
	d.lease, d.head = l, at
	d.mu.Unlock()
	d.wg.Go(func() {
		defer cancel()
		d.watch(ctx, l)
	})
	return l
}

// watch ends the lease as soon as Consul shows that the lock went.
func (d *Driver) watch(ctx context.Context, l *lease) {
	retry := retryIn()
	err := d.follow(ctx, d.leaderKey(), 0, func(pair *api.KVPair) (bool, error) {
		retry.Reset()
		return pair == nil || pair.Session != l.session, nil
	}, func(error) error { return retry.Wait(ctx) })
	if err == nil {
		l.over()
	}
}
