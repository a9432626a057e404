package replica

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

// A follower whose notice of new entries is late answers a barrier only once it has
// read what another hub had committed before.
func TestABarrierWaitsForWhatAnotherHubCommitted(t *testing.T) {
	server := domain(t)
	leader := start(t, options(server, nil))
	propose := func() uint64 {
		e, err := leader.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) {
			return Proposal{Kind: state.KindTermStarted, Payload: &logv1.TermStarted{Hub: "h"}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return e.Seq
	}
	propose()
	late := make(chan struct{})     // closed: the follower is told of new entries
	asked := make(chan struct{}, 1) // the end of the log was read
	waits := make(chan struct{}, 1) // the follower has read all that there is
	var broken atomic.Bool
	opt := options(server, func(d store.Driver) store.Driver {
		return &storetest.Faults{
			Driver: d,
			OnWait: func(ctx context.Context, _ uint64, next func() error) error {
				notify(waits)
				select {
				case <-late:
					return next()
				case <-ctx.Done():
					return ctx.Err()
				}
			},
			OnRead: func(_ context.Context, _ uint64, limit int, next func() (store.Page, error)) (store.Page, error) {
				if broken.Load() {
					return store.Page{}, fault.New(fault.CodeStoreUnavailable, "not reachable")
				}
				page, err := next()
				if limit == 0 {
					notify(asked)
				}
				return page, err
			},
		}
	})
	opt.Holder.Name = "follower"
	follower := start(t, opt)
	within(t, waits, "the follower does not wait for new entries")
	if err := follower.Barrier(t.Context()); err != nil {
		t.Fatalf("barrier with nothing new: %v", err)
	}
	<-asked
	seq := propose()
	ctx, cancel := context.WithCancel(t.Context())
	passed := make(chan error, 1)
	go func() { passed <- follower.Barrier(ctx) }()
	<-asked
	cancel()
	if err := <-passed; err == nil {
		t.Fatalf("a barrier passed at entry %d, and %d was committed", follower.Current().State.Seq(), seq)
	}
	go func() { passed <- follower.Barrier(t.Context()) }()
	close(late)
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	if got := follower.Current().State.Seq(); got < seq {
		t.Errorf("after the barrier the follower is at entry %d, not %d", got, seq)
	}
	broken.Store(true)
	if err := follower.Barrier(t.Context()); !errors.Is(err, fault.CodeReadOnly) {
		t.Errorf("barrier without a store: %v, want %s", err, fault.CodeReadOnly)
	}
}
