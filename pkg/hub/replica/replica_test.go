package replica

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// domain is a store with a first entry, and hooks for its faults.
func domain(t *testing.T) *memstore.Server {
	t.Helper()
	s := memstore.New(memstore.Options{})
	l, err := store.Open(t.Context(), s.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	first := &logv1.DomainCreated{Domain: "d", Root: []byte("r"), Keyset: []byte("k")}
	if _, err := Genesis(t.Context(), l, store.Holder{Name: "h"}, "spiffe://d/hub/h", time.Now(), first); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// A domain whose log was emptied while a hub of it ran is not begun anew: that hub's alarm
// is there, and may be raised again. Nothing is made, not even a term.
func TestNoDomainBeginsWhereAHubHasSeenAnother(t *testing.T) {
	s := memstore.New(memstore.Options{})
	l, err := store.Open(t.Context(), s.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mark := store.MarkOf("old", store.Head{Position: store.Position{Seq: 42, Term: 7}})
	if err := l.RaiseAlarm(t.Context(), mark); err != nil {
		t.Fatal(err)
	}
	genesis := func() (bool, error) {
		first := &logv1.DomainCreated{Domain: "d", Root: []byte("r"), Keyset: []byte("k")}
		return Genesis(t.Context(), l, store.Holder{Name: "h"}, "spiffe://d/hub/h", time.Now(), first)
	}
	begun, err := genesis()
	if begun || !errors.Is(err, fault.CodeStoreRemains) || !strings.Contains(err.Error(), "hub old has seen entry 42 of term 7") || !strings.Contains(fault.RemedyOf(err), "stop its hubs") {
		t.Fatalf("begun %t: %v: %q", begun, err, fault.RemedyOf(err))
	}
	if _, term, err := l.Leader(t.Context()); term != 0 {
		t.Errorf("the refused domain has term %d, %v", term, err)
	}
	if err := l.ClearAlarm(t.Context(), mark.Hub); err != nil {
		t.Fatal(err)
	}
	if _, err := genesis(); err != nil {
		t.Errorf("once that was removed: %v", err)
	}
}

func options(s *memstore.Server, wrap func(store.Driver) store.Driver) Options {
	return Options{
		Domain: "d", Holder: store.Holder{Name: "h"}, Author: "spiffe://d/hub/h", Probe: 10 * time.Millisecond,
		Open: func(ctx context.Context) (*store.Log, error) {
			d := s.Driver()
			opts := store.Options{Blobs: d.(store.Blobs)}
			if wrap != nil {
				d = wrap(d)
			}
			return store.Open(ctx, d, opts)
		},
	}
}

// start runs a replica until the test ends, once it is ready.
func start(t *testing.T, opt Options) *Replica {
	t.Helper()
	r := New(opt)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-r.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return r
}

// ends runs a replica that is expected to give up before it is ready.
func ends(t *testing.T, opt Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := New(opt).Run(ctx)
	if ctx.Err() != nil {
		t.Fatal("the replica goes on trying, and nobody is told")
	}
	return err
}

func TestAnEmptyLogOrAnotherDomainsEndsTheStart(t *testing.T) {
	if err := ends(t, options(memstore.New(memstore.Options{}), nil)); !errors.Is(err, fault.CodeInitIncomplete) {
		t.Errorf("empty log: %v, want %s", err, fault.CodeInitIncomplete)
	}
	opt := options(domain(t), nil)
	opt.Domain = "other"
	if err := ends(t, opt); !errors.Is(err, fault.CodeStoreDomain) {
		t.Errorf("log of another domain: %v, want %s", err, fault.CodeStoreDomain)
	}
}

// The engine fails, and when it is opened again the first reads fail too: that
// passes, and the hub must not stay read-only until people come.
func TestAStoreThatIsSlowToComeBackDoesNotFreezeTheReplica(t *testing.T) {
	var fail atomic.Bool // the next append
	var opened atomic.Int32
	r := start(t, options(domain(t), func(d store.Driver) store.Driver {
		n := opened.Add(1)
		var reads atomic.Int32
		return &storetest.Faults{
			Driver: d,
			OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
				if fail.CompareAndSwap(true, false) {
					return fault.New(fault.CodeStoreFailed, "input/output error")
				}
				return next()
			},
			OnRead: func(_ context.Context, _ uint64, limit int, next func() (store.Page, error)) (store.Page, error) {
				// Open has read by then; what fails is the replica's own first read.
				if n == 2 && limit == 1 && reads.Add(1) == 1 {
					return store.Page{}, fault.New(fault.CodeStoreUnavailable, "not reachable yet")
				}
				return next()
			},
		}
	}))
	write := func(ctx context.Context) error {
		_, err := r.Propose(ctx, func(*Current, time.Time) (Proposal, error) {
			return Proposal{Kind: "TermStarted", Payload: &logv1.TermStarted{Hub: "h"}}, nil
		})
		return err
	}
	if err := write(t.Context()); err != nil {
		t.Fatal(err)
	}
	fail.Store(true)
	if err := write(t.Context()); err == nil {
		t.Fatal("a failed engine committed")
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := write(t.Context())
		if err == nil {
			break
		}
		if r.isFrozen() || time.Now().After(deadline) {
			t.Fatalf("frozen by %v; last answer %v", r.frozenBy(), err)
		}
	}
	if opened.Load() < 3 {
		t.Errorf("the store was opened %d times: the read that fails was not met", opened.Load())
	}
}

// A disk with no room for a snapshot has room for small entries: the hub goes on
// writing, and does not wait for another 10 entries before it tries again.
func TestAFailedSnapshotIsTriedAgainAndWritesGoOn(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	failed, saved := make(chan struct{}, 1), make(chan struct{}, 1)
	s := domain(t)
	opt := options(s, nil)
	opt.SnapshotEntries, opt.SnapshotRetry = 10, 20*time.Millisecond
	opt.Open = func(ctx context.Context) (*store.Log, error) {
		return store.Open(ctx, &storetest.Faults{Driver: s.Driver(), OnPut: func(key string, next func() error) error {
			if full.Load() {
				notify(failed)
				return fault.New(fault.CodeStoreFull, "no space")
			}
			err := next()
			if strings.HasSuffix(key, "/manifest") {
				notify(saved)
			}
			return err
		}}, store.Options{})
	}
	r := start(t, opt)
	write := func() {
		t.Helper()
		_, err := r.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) {
			return Proposal{Kind: "TermStarted", Payload: &logv1.TermStarted{Hub: "h"}}, nil
		})
		if err != nil {
			t.Fatalf("a failed snapshot stops writes: %v", err)
		}
	}
	for range 10 {
		write()
	}
	within(t, failed, "no snapshot was tried")
	// No write from here on: the first failure alone must make it due again.
	within(t, failed, "the failed snapshot is not tried again")
	// The second attempt began after the first was noted, and that note stands.
	if err := r.SnapshotFailed(); !errors.Is(err, fault.CodeStoreFull) {
		t.Errorf("the failed snapshot is told as %v", err)
	}
	if err := r.Health(); err != nil {
		t.Errorf("a failed snapshot makes the hub read-only: %v", err)
	}
	write()
	full.Store(false)
	within(t, saved, "no snapshot was saved when there was space")
}

func TestAFailedSnapshotIsPacedByTime(t *testing.T) {
	r := New(Options{SnapshotEntries: 10})
	r.snapshotEnded(backlog{entries: 10}, fault.New(fault.CodeStoreFull, "no space"), false)
	if r.snapshotDue() {
		t.Error("it is tried again at once")
	}
	if pause := time.Until(r.snapshotAfter); pause < 59*time.Second || pause > 2*time.Minute {
		t.Errorf("it is tried again after %v", pause)
	}
	r.snapshotAfter = time.Now()
	if !r.snapshotDue() {
		t.Error("what it would have covered is forgotten")
	}
}

// A snapshot whose store does not even heed the end of its context holds up neither
// the lease nor this hub, and stores nothing more once that call returns.
func TestASnapshotUnderWayHoldsUpNoHandOver(t *testing.T) {
	s := domain(t)
	hung, goOn := make(chan struct{}, 1), make(chan struct{})
	unstick := sync.OnceFunc(func() { close(goOn) })
	var puts atomic.Int32
	opt := options(s, nil)
	opt.SnapshotEntries = 10
	opt.Open = func(ctx context.Context) (*store.Log, error) {
		return store.Open(ctx, &storetest.Faults{Driver: s.Driver(), OnPut: func(string, func() error) error {
			puts.Add(1)
			notify(hung)
			<-goOn
			return nil
		}}, store.Options{ChunkSize: 16})
	}
	r := start(t, opt)
	t.Cleanup(unstick) // before the replica ends
	write(t, r)
	other := options(s, nil)
	other.Holder.Name = "other"
	o := start(t, other)
	for range 10 {
		write(t, r)
	}
	within(t, hung, "no snapshot was begun")
	began := time.Now()
	r.Hold(time.Hour)
	write(t, o)
	if took := time.Since(began); took > time.Second {
		t.Errorf("another hub writes after %v", took)
	}
	// This hub follows and campaigns although that call has not returned.
	for end := o.Current().State.Seq(); r.Current().State.Seq() < end; {
		if cur, changed := r.Watch(); cur.State.Seq() < end {
			within(t, changed, "it does not follow the log")
		}
	}
	r.Hold(0)
	o.Hold(time.Hour)
	write(t, r)
	unstick()
	r.awaitSnapshot()
	if n := puts.Load(); n != 1 {
		t.Errorf("%d chunks were stored after leadership had ended", n-1)
	}
	if err := r.SnapshotFailed(); err != nil {
		t.Errorf("what was given up counts as failed: %v", err)
	}
}

// refusing is a driver whose campaigns are refused until it is let, and who says so.
type refusing struct {
	store.Driver
	let  chan struct{}
	told func(error)
}

func (d *refusing) OnCampaign(f func(error)) { d.told = f }

func (d *refusing) Campaign(ctx context.Context, h store.Holder) (store.Lease, error) {
	select {
	case <-d.let:
	default:
		d.told(fault.New(fault.CodeStoreUnavailable, "the token is refused"))
	}
	select {
	case <-d.let:
		d.told(nil)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return d.Driver.Campaign(ctx, h)
}

// A hub that follows the log and is refused the lease says so, until it is not.
func TestAHubThatCannotCampaignSaysSo(t *testing.T) {
	s := domain(t)
	let := make(chan struct{})
	read := make(chan struct{}, 100)
	r := start(t, options(s, func(d store.Driver) store.Driver {
		return &refusing{let: let, Driver: &storetest.Faults{Driver: d, OnWait: func(_ context.Context, _ uint64, next func() error) error {
			notify(read) // it has caught up
			return next()
		}}}
	}))
	within(t, read, "it does not follow the log")
	_, err := r.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) { return Proposal{}, nil })
	for what, err := range map[string]error{"health": r.Health(), "a write": err} {
		if !errors.Is(err, fault.CodeReadOnly) || !strings.Contains(err.Error(), "the token is refused") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Away(); err != nil {
		t.Errorf("it is said not to follow the log: %v", err)
	}
	close(let)
	write(t, r)
	if err := r.Health(); err != nil {
		t.Errorf("after it has won: %v", err)
	}
}

// An error that ends a campaign is told as well.
func TestACampaignThatFailsIsTold(t *testing.T) {
	r := start(t, options(domain(t), func(d store.Driver) store.Driver { return failing{d} }))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for r.Health() == nil && ctx.Err() == nil {
		if _, err := r.Propose(ctx, func(*Current, time.Time) (Proposal, error) { return Proposal{}, nil }); err == nil {
			t.Fatal("it writes")
		}
	}
	if err := r.Health(); err == nil || !strings.Contains(err.Error(), "cannot listen") {
		t.Errorf("health: %v", err)
	}
}

type failing struct{ store.Driver }

func (failing) OnCampaign(func(error)) {}

func (failing) Campaign(context.Context, store.Holder) (store.Lease, error) {
	return nil, fault.New(fault.CodeConfig, "the health check cannot listen")
}

// write appends an entry as r.
func write(t *testing.T, r *Replica) {
	t.Helper()
	if _, err := r.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) {
		return Proposal{Kind: "TermStarted", Payload: &logv1.TermStarted{Hub: r.opt.Holder.Name}}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func within(t *testing.T, c <-chan struct{}, otherwise string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal(otherwise)
	}
}

func TestTheRingOfCommitsIsBounded(t *testing.T) {
	r := New(Options{})
	for seq := range uint64(3 * commitsKept) {
		r.keepCommit(Commit{Seq: seq})
	}
	if n := len(r.commits); n != commitsKept || r.commits[n-1].Seq != 3*commitsKept-1 {
		t.Errorf("%d commits are kept, the newest %v", n, r.commits[n-1])
	}
}

// A hub that starts reads its log in pages. What it has read of it so far is older
// than what it answered before it was restarted.
func TestNothingOfALogIsShownBeforeAllOfItIsRead(t *testing.T) {
	s := domain(t)
	first := New(options(s, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	<-first.Ready()
	for range readPage + 10 {
		if _, err := first.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) {
			return Proposal{Kind: "TermStarted", Payload: &logv1.TermStarted{Hub: "h"}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	seen := first.Current().State.Seq()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	halfway, goOn := make(chan struct{}, 1), make(chan struct{})
	var opened atomic.Bool // opening a log looks at its end
	opt := options(s, func(d store.Driver) store.Driver {
		return &storetest.Faults{Driver: d, OnRead: func(_ context.Context, after uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
			if opened.Load() && after >= readPage {
				notify(halfway)
				<-goOn
			}
			return next()
		}}
	})
	open := opt.Open
	opt.Open = func(ctx context.Context) (*store.Log, error) {
		l, err := open(ctx)
		opened.Store(true)
		return l, err
	}
	again := New(opt)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- again.Run(ctx) }()
	within(t, halfway, "the log is not read in pages")
	if cur := again.Current(); cur != nil {
		t.Errorf("entry %d is shown, and %d was before the restart", cur.State.Seq(), seen)
	}
	cur, changed := again.Watch()
	if cur != nil {
		t.Errorf("entry %d is given to watchers, and %d was before the restart", cur.State.Seq(), seen)
	}
	close(goOn)
	within(t, changed, "watchers are not told of the first state")
	within(t, again.Ready(), "the replica does not become ready")
	if got := again.Current().State.Seq(); got < seen {
		t.Errorf("ready at entry %d, and %d was shown before the restart", got, seen)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
