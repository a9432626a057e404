package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 10 * time.Second

func open(t *testing.T, d store.Driver) *store.Log {
	t.Helper()
	l, err := store.Open(t.Context(), d, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func lead(t *testing.T, l *store.Log, opts ...store.TenureOption) *store.Tenure {
	t.Helper()
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "hub"}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return tenure
}

func draft(store.Position) (store.Draft, error) {
	return store.Draft{Kind: "Test", Payload: []byte("x")}, nil
}

// renewals is a lease whose renewals go through a hook.
type renewals struct {
	store.Lease
	hook func(ctx context.Context, next func() (time.Duration, error)) (time.Duration, error)
}

func (r renewals) Renew(ctx context.Context) (time.Duration, error) {
	return r.hook(ctx, func() (time.Duration, error) { return r.Lease.Renew(ctx) })
}

func TestLeaseIsKeptWhileTheStoreAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tenure := lead(t, open(t, memstore.New(memstore.Options{LeaseTTL: ttl}).Driver()))
		time.Sleep(24 * time.Hour)
		if _, err := tenure.Submit(t.Context(), draft); err != nil {
			t.Fatal(err)
		}
	})
}

// The answer to a renewal may be slow: the lease counts from before the request,
// so this hub stops to lead before the store gives the lease to another.
func TestLeadershipEndsBeforeTheStoreGivesItAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{LeaseTTL: ttl})
		calls := 0
		d := &storetest.Faults{Driver: s.Driver(), OnCampaign: func(l store.Lease) store.Lease {
			return renewals{l, func(ctx context.Context, next func() (time.Duration, error)) (time.Duration, error) {
				calls++
				if calls > 2 { // the store does not hear of it
					<-ctx.Done()
					return 0, ctx.Err()
				}
				got, err := next()
				if calls == 2 { // the store took it at once, its answer takes 6 s
					time.Sleep(6 * time.Second)
				}
				return got, err
			}}
		}}
		tenure := lead(t, open(t, d))
		other := open(t, s.Driver())
		var taken time.Time
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := other.Campaign(t.Context(), store.Holder{Name: "other"}); err != nil {
				t.Error(err)
			}
			taken = time.Now()
		})
		<-tenure.Context().Done()
		ended := time.Now()
		if cause := context.Cause(tenure.Context()); fault.CodeOf(cause) != fault.CodeLeaseLost {
			t.Fatalf("the cause is %v", cause)
		}
		wg.Wait()
		if ended.After(taken) {
			t.Fatalf("this hub believed to lead for %v after another did", ended.Sub(taken))
		}
	})
}

func TestRenewalIsTriedAgainUntilTheLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 0
		d := &storetest.Faults{Driver: memstore.New(memstore.Options{LeaseTTL: ttl}).Driver(), OnCampaign: func(l store.Lease) store.Lease {
			return renewals{l, func(_ context.Context, next func() (time.Duration, error)) (time.Duration, error) {
				if failures++; failures%3 != 1 {
					return 0, errors.New("no answer")
				}
				return next()
			}}
		}}
		tenure := lead(t, open(t, d))
		time.Sleep(time.Hour)
		if err := tenure.Context().Err(); err != nil {
			t.Fatalf("two failed renewals of three ended leadership: %v", context.Cause(tenure.Context()))
		}
	})
}

func TestStoreThatHangsEndsLeadershipAndAnswersWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{LeaseTTL: ttl})
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		hung := false
		d := &storetest.Faults{
			Driver: s.Driver(),
			OnAppend: func(ctx context.Context, _ store.Batch, _ func() error) error {
				hung = true
				return hang(ctx)
			},
			OnRead: func(ctx context.Context, _ uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
				if hung {
					return store.Page{}, hang(ctx)
				}
				return next()
			},
			OnCampaign: func(l store.Lease) store.Lease {
				first := true
				return renewals{l, func(ctx context.Context, next func() (time.Duration, error)) (time.Duration, error) {
					if first {
						first = false
						return next()
					}
					return 0, hang(ctx)
				}}
			},
		}
		var told error
		tenure := lead(t, open(t, d), store.OnStall(func(err error) { told = err }))
		began := time.Now()
		_, err := tenure.Submit(t.Context(), draft)
		if fault.CodeOf(err) != fault.CodeWriteUnknown {
			t.Errorf("the write gave %v (%s)", err, fault.CodeOf(err))
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the writer was left waiting for %v", took)
		}
		if fault.CodeOf(told) != fault.CodeStoreUnavailable {
			t.Errorf("the hub was told %v", told)
		}
		began = time.Now()
		_, err = tenure.Submit(t.Context(), draft)
		if took := time.Since(began); fault.CodeOf(err) != fault.CodeStoreUnavailable || took > 0 {
			t.Errorf("a write while the store owes an answer gave %v after %v", err, took)
		}
		<-tenure.Context().Done()
		if took := time.Since(began); took > 2*ttl {
			t.Errorf("leadership lasted for %v more", took)
		}
		if _, err = tenure.Submit(t.Context(), draft); fault.CodeOf(err) != fault.CodeLeaseLost {
			t.Errorf("a write after the end of leadership gave %v", err)
		}
		time.Sleep(time.Minute) // the read in flight ends
	})
}

// TestALateAnswerEndsTheStall: the store is silent for ten seconds, and has done
// the write. A large write may take longer than a small one.
func TestALateAnswerEndsTheStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &storetest.Faults{Driver: memstore.New(memstore.Options{}).Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			time.Sleep(10 * time.Second)
			return next()
		}}
		l := open(t, d)
		tenure := lead(t, l)
		if _, err := tenure.Submit(t.Context(), draft); fault.CodeOf(err) != fault.CodeWriteUnknown {
			t.Fatalf("a write without an answer gave %v", err)
		}
		time.Sleep(10 * time.Second)
		e, err := tenure.Submit(t.Context(), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Payload: make([]byte, 8<<20)}, nil
		})
		if err != nil || e.Seq != 2 {
			t.Fatalf("8 MiB in ten seconds, after the late answer: entry %d, %v", e.Seq, err)
		}
	})
}

// TestALogThatWentBackIsTold holds what a follower knows against logs that were
// put back, and written on since.
func TestALogThatWentBackIsTold(t *testing.T) {
	s := memstore.New(memstore.Options{})
	l := open(t, s.Driver())
	tenure := lead(t, l)
	known := func(e store.Entry) store.Head {
		return store.Head{Position: store.Position{Seq: e.GetSeq(), Term: e.GetTerm()}, Hash: e.Hash}
	}
	write := func(tenure *store.Tenure) store.Head {
		t.Helper()
		e, err := tenure.Submit(t.Context(), draft)
		if err != nil {
			t.Fatal(err)
		}
		return known(e)
	}
	write(tenure)
	early := write(tenure)
	backup := s.Copy()
	seen := write(tenure)
	check := func(name string, l *store.Log, h store.Head, want fault.Code) {
		t.Helper()
		_, _, err := l.Follow(t.Context(), h, 0)
		for what, err := range map[string]error{"Follow": err, "Holds": l.Holds(t.Context(), h)} {
			if (want == "" && err != nil) || (want != "" && !errors.Is(err, want)) {
				t.Errorf("%s: %s gave %v, want %q", name, what, err, want)
			}
		}
	}
	check("as it was", l, seen, "")
	s.Restore(backup)
	next := open(t, s.Driver())
	check("put back", next, seen, fault.CodeLogWentBack)
	check("put back, by one who has not seen more", next, early, "")
	if err := next.Wait(t.Context(), seen.Seq); !errors.Is(err, fault.CodeLogWentBack) {
		t.Errorf("waiting on a log that went back gave %v", err)
	}
	on := lead(t, next)
	write(on)
	check("as long as it was", next, seen, fault.CodeLogWentBack)
	write(on)
	check("longer than it was", next, seen, fault.CodeLogWentBack)
	check("longer, by one who has not seen more", next, early, "")
}

// stuck is a log whose append, once begun, ignores its ctx until release is
// closed, as a write to a hung disk does.
func stuck(t *testing.T) (l *store.Log, tenure *store.Tenure, release chan struct{}, answer chan error) {
	t.Helper()
	release, answer = make(chan struct{}), make(chan error, 1)
	d := &storetest.Faults{Driver: memstore.New(memstore.Options{}).Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
		<-release
		return next()
	}}
	l = open(t, d)
	tenure = lead(t, l)
	go func() {
		_, err := tenure.Submit(context.Background(), draft)
		answer <- err
	}()
	synctest.Wait()
	return l, tenure, release, answer
}

func TestResignLeavesAStuckWriteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, tenure, release, answer := stuck(t)
		unstick := sync.OnceFunc(func() { close(release) })
		// Without a bound Resign would wait for this, and the test fail by its time.
		defer time.AfterFunc(time.Hour, unstick).Stop()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		if err := tenure.Resign(ctx); fault.CodeOf(err) != fault.CodeTimeout {
			t.Errorf("resigned with %v, want %s", err, fault.CodeTimeout)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v to resign within 2 s", took)
		}
		// A new campaign waits for that write, but not longer than it is asked to.
		cctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := l.Campaign(cctx, store.Holder{Name: "hub"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a campaign beside a stuck write gave %v", err)
		}
		unstick()
		<-answer
		// The lease was released by what was left behind.
		if _, err := l.Campaign(t.Context(), store.Holder{Name: "hub"}); err != nil {
			t.Errorf("no campaign after the write ended: %v", err)
		}
	})
}

func TestCloseLeavesAStuckWriteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, release, answer := stuck(t)
		unstick := sync.OnceFunc(func() { close(release) })
		defer time.AfterFunc(time.Hour, unstick).Stop()
		began := time.Now()
		if err := l.Close(); fault.CodeOf(err) != fault.CodeTimeout {
			t.Errorf("closed with %v, want %s", err, fault.CodeTimeout)
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("it took %v to close", took)
		}
		unstick()
		<-answer
	})
}

// closeHook is a driver whose Close goes through a hook.
type closeHook struct {
	*storetest.Faults
	hook func()
}

func (c closeHook) Close() error { c.hook(); return c.Faults.Close() }

func TestCloseLeavesADriverBehindThatDoesNotClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		unstick := sync.OnceFunc(func() { close(release) })
		defer unstick()
		defer time.AfterFunc(time.Hour, unstick).Stop()
		l := open(t, closeHook{&storetest.Faults{Driver: memstore.New(memstore.Options{}).Driver()}, func() { <-release }})
		if err := l.Close(); fault.CodeOf(err) != fault.CodeTimeout {
			t.Errorf("closed with %v, want %s", err, fault.CodeTimeout)
		}
	})
}

func TestResignWithAContextThatEndedIsNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tenure := lead(t, open(t, memstore.New(memstore.Options{}).Driver()))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := tenure.Resign(ctx); err != nil {
			t.Errorf("an idle tenure resigned with %v", err)
		}
	})
}

func TestFullQueueHoldsCallersBackUntilTheyLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := &storetest.Faults{Driver: memstore.New(memstore.Options{}).Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			<-release
			return next()
		}}
		l, err := store.Open(t.Context(), d, store.Options{QueueSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		tenure := lead(t, l)
		var wg sync.WaitGroup
		for range 3 { // one in flight, two in the queue
			wg.Go(func() {
				if _, err := tenure.Submit(t.Context(), draft); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := tenure.Submit(ctx, draft); fault.CodeOf(err) != fault.CodeTimeout || l.Queued() != 2 {
			t.Fatalf("with a full queue of %d: %v", l.Queued(), err)
		}
		close(release)
		wg.Wait()
		if h, err := l.Head(t.Context()); err != nil || h.Seq != 3 {
			t.Fatalf("the log ends at %d, %v", h.Seq, err)
		}
	})
}

func Example() {
	ctx := context.Background()
	l, err := store.Open(ctx, memstore.New(memstore.Options{}).Driver(), store.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	t, err := l.Campaign(ctx, store.Holder{Name: "hub1", Address: "127.0.0.1:8443"})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := t.Submit(ctx, func(next store.Position) (store.Draft, error) {
		return store.Draft{Kind: "TermStarted", Author: "spiffe://eu-west/hub/hub1"}, nil
	})
	fmt.Println(e.Seq, e.Term, e.Kind, err)
	// Output: 1 1 TermStarted <nil>
}

// slow gives a store whose appends take some time, and a count of them.
func slow(d time.Duration) (store.Driver, *int) {
	appends := new(int)
	return &storetest.Faults{
		Driver: memstore.New(memstore.Options{LeaseTTL: ttl}).Driver(),
		OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			*appends++
			time.Sleep(d)
			return next()
		},
	}, appends
}

// Writers that were answered together come back one after the other; the first to come
// must not take the store for itself while the others are on their way.
func TestWritersThatWereAnsweredTogetherShareTheNextAppend(t *testing.T) {
	const writers, rounds, took = 8, 50, 4 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d, appends := slow(took)
		tenure := lead(t, open(t, d))
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for range rounds {
					time.Sleep(time.Duration(i) * took / 4 / writers) // its way back
					if _, err := tenure.Submit(t.Context(), draft); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if *appends > rounds+2 { // the first writer's first is its own, and so is the last
			t.Errorf("%d appends for %d rounds of %d writers", *appends, rounds, writers)
		}
	})
}

func TestASingleWriterWaitsForNobody(t *testing.T) {
	const rounds, took = 50, 4 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d, _ := slow(took)
		tenure := lead(t, open(t, d))
		began := time.Now()
		for range rounds {
			if _, err := tenure.Submit(t.Context(), draft); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != rounds*took {
			t.Errorf("%d writes took %s, the store %s of it", rounds, got, rounds*took)
		}
	})
}

// A writer that stays away costs the others half an append, once.
func TestABatchDoesNotWaitLongForWhoDoesNotComeBack(t *testing.T) {
	const took = 4 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d, _ := slow(took)
		tenure := lead(t, open(t, d))
		submit := func() {
			if _, err := tenure.Submit(t.Context(), draft); err != nil {
				t.Error(err)
			}
		}
		var wg sync.WaitGroup
		for range 3 { // one alone, then two together
			wg.Go(submit)
		}
		wg.Wait()
		began := time.Now()
		submit()
		if got := time.Since(began); got != took+took/2 {
			t.Errorf("the first write without the other took %s, an append takes %s", got, took)
		}
		began = time.Now()
		submit()
		if got := time.Since(began); got != took {
			t.Errorf("the second took %s", got)
		}
	})
}
