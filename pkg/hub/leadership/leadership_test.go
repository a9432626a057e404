package leadership

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	leaders "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/omnirelay"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

// candidate is a hub as its replica shows it: its own tenure, and what the store says.
type candidate struct {
	log *store.Log

	mu     sync.Mutex // guards all below
	tenure *store.Tenure
	moved  chan struct{}
	away   error // what the store answers instead
}

func (c *candidate) Tenure() (*store.Tenure, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tenure, c.moved
}

func (c *candidate) Leader(ctx context.Context) (store.Holder, uint64, error) {
	c.mu.Lock()
	away := c.away
	c.mu.Unlock()
	if away != nil {
		return store.Holder{}, 0, away
	}
	return c.log.Leader(ctx)
}

func (c *candidate) Watch() (*replica.Current, <-chan struct{}) { return nil, nil }

func (c *candidate) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.moved)
	c.moved = make(chan struct{})
}

// deaf is a driver whose lease is not confirmed any more once told.
type deaf struct {
	store.Driver
	on *atomic.Bool
}

type deafLease struct {
	store.Lease
	on *atomic.Bool
}

func (d deaf) Campaign(ctx context.Context, h store.Holder) (store.Lease, error) {
	l, err := d.Driver.Campaign(ctx, h)
	return deafLease{l, d.on}, err
}

func (l deafLease) Renew(ctx context.Context) (time.Duration, error) {
	if l.on.Load() {
		return 0, fault.New(fault.CodeStoreUnavailable, "no answer")
	}
	return l.Lease.Renew(ctx)
}

// listener is a subscriber.
type listener struct {
	grpc.ServerStream
	ctx    context.Context
	events chan *leaders.LeadershipEvent
}

func (l listener) Context() context.Context   { return l.ctx }
func (listener) SendHeader(metadata.MD) error { return nil }
func (l listener) Send(e *leaders.LeadershipEvent) error {
	l.events <- e
	return nil
}

// world is two hubs of one domain on one store, in fake time; a listener hears what the
// first hub tells.
type world struct {
	t      *testing.T
	a, b   *candidate
	deaf   atomic.Bool
	events chan *leaders.LeadershipEvent
}

func (w *world) open(s *memstore.Server, wrap bool) *candidate {
	w.t.Helper()
	d := s.Driver()
	opts := store.Options{Blobs: d.(store.Blobs)}
	if wrap {
		d = deaf{d, &w.deaf}
	}
	l, err := store.Open(w.t.Context(), d, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return &candidate{log: l, moved: make(chan struct{})}
}

// run calls f in a bubble, with a tracker for hub a.
func run(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, events: make(chan *leaders.LeadershipEvent, 1000)}
		s := memstore.New(memstore.Options{LeaseTTL: 30 * time.Second})
		w.a, w.b = w.open(s, true), w.open(s, false)
		board := omnirelay.NewBoard("d")
		tracker := New(Options{Domain: "d", Hub: "a", Replica: w.a, Board: board})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = tracker.Run(ctx) })
		running.Go(func() {
			_ = board.Subscribe(&leaders.LeadershipSubscribeRequest{}, listener{ctx: ctx, events: w.events})
		})
		synctest.Wait()
		f(w)
		cancel()
		running.Wait()
		for _, c := range []*candidate{w.a, w.b} {
			if err := c.log.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
}

// lead makes a hub the leader.
func (w *world) lead(c *candidate, name string) *store.Tenure {
	w.t.Helper()
	tenure, err := c.log.Campaign(w.t.Context(), store.Holder{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	c.set(func() { c.tenure = tenure })
	return tenure
}

// heard gives the events of the time that passes, without renewals.
func (w *world) heard(d time.Duration) (kinds []leaders.LeadershipEventKind, last *leaders.LeadershipEvent) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	for {
		select {
		case e := <-w.events:
			if e.GetKind() != leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED {
				kinds, last = append(kinds, e.GetKind()), e
			}
		default:
			return kinds, last
		}
	}
}

// expect is heard for what must be one event.
func (w *world) expect(d time.Duration, kind leaders.LeadershipEventKind, leader string) *leaders.LeadershipEvent {
	w.t.Helper()
	kinds, e := w.heard(d)
	if len(kinds) != 1 || kinds[0] != kind || e.GetLeaderId() != leader {
		w.t.Fatalf("heard %v, last %v; want %s of %s alone", kinds, e, kind, leader)
	}
	return e
}

const (
	observed    = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED
	elected     = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED
	renewed     = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED
	lost        = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST
	expired     = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED
	steppedDown = leaders.LeadershipEventKind_LEADERSHIP_EVENT_KIND_STEPPED_DOWN
)

func TestAHubThatResignsHasSteppedDown(t *testing.T) {
	run(t, func(w *world) {
		tenure := w.lead(w.a, "a")
		e := w.expect(0, elected, "a")
		if e.GetToken().GetTerm() != int64(tenure.Term()) || e.GetToken().GetFenceToken() != int64(tenure.Term()) {
			t.Errorf("the token is %v, the term %d", e.GetToken(), tenure.Term())
		}
		if kinds, _ := w.heard(time.Hour); kinds != nil {
			t.Errorf("in an hour of leading: %v", kinds)
		}
		w.a.set(func() { w.a.tenure = nil }) // as a replica does, before it resigns
		w.expect(0, steppedDown, "a")
		if err := tenure.Resign(w.t.Context()); err != nil {
			t.Fatal(err)
		}
		if kinds, _ := w.heard(time.Minute); kinds != nil {
			t.Errorf("afterwards: %v", kinds)
		}
	})
}

func TestAResignedTenureHasSteppedDownAlsoWhenItIsSeenLate(t *testing.T) {
	run(t, func(w *world) {
		tenure := w.lead(w.a, "a")
		w.expect(0, elected, "a")
		if err := tenure.Resign(w.t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(0, steppedDown, "a")
	})
}

func TestALeaseThatIsNotConfirmedHasExpired(t *testing.T) {
	run(t, func(w *world) {
		w.lead(w.a, "a")
		w.expect(0, elected, "a")
		w.deaf.Store(true)
		w.expect(40*time.Second, expired, "a")
		w.a.set(func() { w.a.tenure = nil })
		w.lead(w.b, "b") // the store let it go
		w.expect(10*time.Second, observed, "b")
	})
}

func TestAFollowerObservesAndConfirms(t *testing.T) {
	run(t, func(w *world) {
		tenure := w.lead(w.b, "b")
		first := w.expect(5*time.Second, observed, "b")
		time.Sleep(7 * time.Second)
		synctest.Wait()
		again := <-w.events
		if again.GetKind() != renewed || again.GetToken().GetTerm() != first.GetToken().GetTerm() || !again.GetToken().GetIssuedAt().AsTime().Equal(first.GetToken().GetIssuedAt().AsTime()) ||
			!again.GetToken().GetExpiresAt().AsTime().After(first.GetToken().GetExpiresAt().AsTime()) {
			t.Errorf("after %v came %v", first, again)
		}
		if err := tenure.Resign(w.t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(6*time.Second, lost, "b")
		second := w.lead(w.b, "b")
		if e := w.expect(6*time.Second, observed, "b"); e.GetToken().GetTerm() != int64(second.Term()) {
			t.Errorf("the next term is %d: %v", second.Term(), e)
		}
	})
}

func TestWhatNobodyConfirmsExpires(t *testing.T) {
	run(t, func(w *world) {
		w.lead(w.b, "b")
		w.expect(5*time.Second, observed, "b")
		w.a.set(func() { w.a.away = fault.New(fault.CodeStoreUnavailable, "cut off") })
		if kinds, _ := w.heard(14 * time.Second); kinds != nil {
			t.Errorf("within the token's time: %v", kinds)
		}
		w.expect(10*time.Second, expired, "b")
		if kinds, _ := w.heard(time.Minute); kinds != nil {
			t.Errorf("afterwards: %v", kinds)
		}
		w.a.set(func() { w.a.away = nil })
		w.expect(6*time.Second, observed, "b")
	})
}
