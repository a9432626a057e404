package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

func logCases() []testCase {
	return []testCase{
		{name: "EntriesFormAChain", run: entriesFormAChain},
		{name: "WaitingProposalsShareOneAppend", run: waitingProposalsShare},
		{name: "BatchesAreBounded", run: batchesAreBounded},
		{name: "RejectedProposalHurtsNobodyElse", run: rejectedProposal},
		{name: "OversizeEntryIsRejectedAlone", run: oversizeEntry},
		{name: "RestartKeepsWhatWasAcknowledged", run: restartKeeps, restarts: true},
		{name: "CanceledProposals", run: canceledProposals},
		{name: "ResignHandsOver", run: resignHandsOver},
		{name: "TamperedLogIsRefused", run: tamperedLog},
		{name: "ReadersOfOneLogDoNotDisturbEachOther", run: readersApart},
	}
}

func entriesFormAChain(e *env) {
	l := e.open(e.driver(), store.Options{})
	if h, err := l.Head(e.ctx); err != nil || h != (store.Head{}) {
		e.Fatalf("the head of an empty log is %+v, %v", h, err)
	}
	t := e.lead(l)
	prev := [32]byte{}
	for i := range 5 {
		x := e.submit(t, fmt.Sprint(i))
		if x.Seq != uint64(i+1) || x.Term != t.Term() || !bytes.Equal(x.PreviousHash, prev[:]) || x.Hash != sha256.Sum256(x.Raw) {
			e.Fatalf("entry %d does not continue the chain: %v", i+1, x)
		}
		prev = x.Hash
	}
	h, err := e.open(e.driver(), store.Options{}).Head(e.ctx)
	e.ok(err)
	if h.Seq != 5 || h.Hash != prev || h.Term != t.Term() {
		e.Fatalf("another hub sees the head %+v", h)
	}
	e.logHolds(l, "0", "1", "2", "3", "4")
	who, term, err := l.Leader(e.ctx)
	e.ok(err)
	if who.Name != "hub" || term != t.Term() {
		e.Fatalf("the leader is told as %v of term %d", who, term)
	}
}

// gate holds the first append until it is opened, and counts.
type gate struct {
	entered chan struct{}
	open    chan struct{}
	mu      sync.Mutex // guards sizes
	sizes   []int
}

func newGate() *gate { return &gate{entered: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) hook(ctx context.Context, b store.Batch, next func() error) error {
	g.mu.Lock()
	g.sizes = append(g.sizes, len(b.Records))
	first := len(g.sizes) == 1
	g.mu.Unlock()
	if first {
		close(g.entered)
		select {
		case <-g.open:
		case <-ctx.Done():
		}
	}
	return next()
}

// waitQueued waits until n proposals are in the writer's queue.
func waitQueued(e *env, l *store.Log, n int) {
	e.Helper()
	for l.Queued() < n {
		if e.ctx.Err() != nil {
			e.Fatalf("%d proposals are queued, want %d", l.Queued(), n)
		}
		runtime.Gosched()
	}
}

// pile hands in n proposals in order while the gate holds an append. Each is
// known to be queued before the next is handed in.
func pile(e *env, l *store.Log, t *store.Tenure, n int, propose func(i int) func(store.Position) (store.Draft, error)) []<-chan error {
	e.Helper()
	var done []<-chan error
	for i := range n {
		p := propose(i)
		done = append(done, spawn(func() error { _, err := t.Submit(e.ctx, p); return err }))
		waitQueued(e, l, i+1)
	}
	return done
}

func waitingProposalsShare(e *env) {
	g := newGate()
	l := e.open(&Faults{Driver: e.driver(), OnAppend: g.hook}, store.Options{})
	var committed []string
	var mu sync.Mutex // guards committed
	t := e.lead(l, store.OnCommit(func(entries []store.Entry) {
		mu.Lock()
		defer mu.Unlock()
		for _, x := range entries {
			committed = append(committed, string(x.Payload))
		}
	}))
	first := spawn(func() error { _, err := t.Submit(e.ctx, draft("first")); return err })
	receive(e, g.entered)
	want := []string{"first"}
	done := pile(e, l, t, 10, func(i int) func(store.Position) (store.Draft, error) {
		want = append(want, fmt.Sprint(i))
		return draft(fmt.Sprint(i))
	})
	close(g.open)
	e.ok(receive(e, first))
	for i, c := range done {
		e.ok(receive(e, c))
		mu.Lock()
		seen := slices.Contains(committed, fmt.Sprint(i))
		mu.Unlock()
		if !seen {
			e.Fatalf("Submit of %d returned before OnCommit", i)
		}
	}
	if !slices.Equal(g.sizes, []int{1, 10}) {
		e.Fatalf("the appends had %v records, want one and then all that waited", g.sizes)
	}
	e.logHolds(l, want...)
	if !slices.Equal(committed, want) {
		e.Fatalf("OnCommit saw %v, want %v", committed, want)
	}
}

func batchesAreBounded(e *env) {
	g := newGate()
	l := e.open(&Faults{Driver: e.driver(), OnAppend: g.hook, MaxLimits: store.Limits{BatchRecords: 4, BatchBytes: 2000}}, store.Options{})
	t := e.lead(l)
	first := spawn(func() error { _, err := t.Submit(e.ctx, draft("first")); return err })
	receive(e, g.entered)
	// Six small ones, then three of which two fill a batch.
	done := pile(e, l, t, 9, func(i int) func(store.Position) (store.Draft, error) {
		if i < 6 {
			return draft("s")
		}
		return draft(string(bytes.Repeat([]byte("x"), 1500)))
	})
	close(g.open)
	e.ok(receive(e, first))
	for _, c := range done {
		e.ok(receive(e, c))
	}
	if want := []int{1, 4, 4, 1}; !slices.Equal(g.sizes, want) {
		e.Fatalf("the appends had %v records, want %v", g.sizes, want)
	}
}

func rejectedProposal(e *env) {
	g := newGate()
	l := e.open(&Faults{Driver: e.driver(), OnAppend: g.hook}, store.Options{})
	t := e.lead(l, store.OnAbort(func() { e.Error("a rejection must not drop what the others built") }))
	reject := errors.New("no")
	first := spawn(func() error { _, err := t.Submit(e.ctx, draft("first")); return err })
	receive(e, g.entered)
	done := pile(e, l, t, 3, func(i int) func(store.Position) (store.Draft, error) {
		if i == 1 {
			return func(next store.Position) (store.Draft, error) {
				if next.Seq != 3 {
					e.Errorf("the rejected proposal was asked for position %d, want 3", next.Seq)
				}
				return store.Draft{}, reject
			}
		}
		return draft(fmt.Sprint(i))
	})
	close(g.open)
	e.ok(receive(e, first))
	e.ok(receive(e, done[0]))
	if err := receive(e, done[1]); !errors.Is(err, reject) {
		e.Fatalf("the rejected one got %v", err)
	}
	e.ok(receive(e, done[2]))
	e.logHolds(l, "first", "0", "2")
	if _, err := t.Submit(e.ctx, func(store.Position) (store.Draft, error) { return store.Draft{}, reject }); !errors.Is(err, reject) {
		e.Fatalf("rejected alone, it got %v", err)
	}
}

func oversizeEntry(e *env) {
	g := newGate()
	l := e.open(&Faults{Driver: e.driver(), OnAppend: g.hook, MaxLimits: store.Limits{RecordBytes: 1000}}, store.Options{})
	var aborts int
	t := e.lead(l, store.OnAbort(func() { aborts++ }))
	first := spawn(func() error { _, err := t.Submit(e.ctx, draft("first")); return err })
	receive(e, g.entered)
	done := pile(e, l, t, 3, func(i int) func(store.Position) (store.Draft, error) {
		if i == 1 {
			return draft(string(make([]byte, 1001)))
		}
		return draft(fmt.Sprint(i))
	})
	close(g.open)
	e.ok(receive(e, first))
	e.ok(receive(e, done[0]))
	e.fails(receive(e, done[1]), fault.CodeEntryTooLarge)
	e.ok(receive(e, done[2]))
	e.logHolds(l, "first", "0", "2")
	e.ok(t.Resign(e.ctx))
	if aborts != 1 {
		e.Fatalf("OnAbort was called %d times, want once: the state held a draft that was not written", aborts)
	}
}

func restartKeeps(e *env) {
	l := e.open(e.driver(), store.Options{})
	t := e.lead(l)
	var want []store.Entry
	for i := range 20 {
		want = append(want, e.submit(t, fmt.Sprint(i)))
	}
	e.Restart(e.T)
	l = e.open(e.driver(), store.Options{})
	got := e.entries(l)
	if len(got) != len(want) {
		e.Fatalf("%d entries are left of %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i].Raw, want[i].Raw) || !proto.Equal(got[i].Entry, want[i].Entry) {
			e.Fatalf("entry %d changed over the restart", i+1)
		}
	}
	if x := e.submit(e.lead(l), "after"); x.Seq != 21 || x.Term <= t.Term() {
		e.Fatalf("the first entry after the restart is %d of term %d", x.Seq, x.Term)
	}
}

func canceledProposals(e *env) {
	g := newGate()
	l := e.open(&Faults{Driver: e.driver(), OnAppend: g.hook}, store.Options{})
	t := e.lead(l)
	gone, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err := t.Submit(gone, draft("never"))
	e.fails(err, fault.CodeCanceled)

	inFlight, cancelFlight := context.WithCancel(e.ctx)
	flying := spawn(func() error { _, err := t.Submit(inFlight, draft("in flight")); return err })
	receive(e, g.entered)
	queued, cancelQueued := context.WithCancel(e.ctx)
	waiting := spawn(func() error {
		_, err := t.Submit(queued, func(store.Position) (store.Draft, error) {
			e.Error("a withdrawn proposal was asked")
			return store.Draft{}, nil
		})
		return err
	})
	waitQueued(e, l, 1)
	cancelQueued()
	e.fails(receive(e, waiting), fault.CodeCanceled)
	cancelFlight()
	e.fails(receive(e, flying), fault.CodeWriteUnknown)
	close(g.open)
	e.submit(t, "last")
	e.logHolds(l, "in flight", "last")
}

func resignHandsOver(e *env) {
	l, other := e.open(e.driver(), store.Options{}), e.open(e.driver(), store.Options{})
	t := e.lead(l)
	_, err := l.Campaign(e.ctx, store.Holder{})
	e.fails(err, fault.CodeTenureOpen)
	next := spawn(func() *store.Tenure {
		t, err := other.Campaign(e.ctx, store.Holder{Name: "other"})
		if err != nil {
			e.Error(err)
		}
		return t
	})
	e.submit(t, "a")
	e.ok(t.Resign(e.ctx))
	e.ok(t.Resign(e.ctx))
	receive(e, t.Context().Done())
	e.fails(context.Cause(t.Context()), fault.CodeLeaseLost)
	_, err = t.Submit(e.ctx, draft("late"))
	e.fails(err, fault.CodeLeaseLost)
	if x := e.submit(receive(e, next), "b"); x.Seq != 2 {
		e.Fatalf("the next leader's first entry is %d", x.Seq)
	}
	e.logHolds(l, "a", "b")
}

// tamperedLog alters what the engine gives back.
func tamperedLog(e *env) {
	d := e.driver()
	l := e.open(d, store.Options{})
	t := e.lead(l)
	for i := range 4 {
		e.submit(t, fmt.Sprint(i))
	}
	reseal := func(r store.Record) store.Record {
		sum := sha256.Sum256(r.Data[34:])
		copy(r.Data[2:], sum[:])
		return r
	}
	cases := []struct {
		name   string
		code   fault.Code
		tamper func(p *store.Page)
	}{
		{"flipped byte in the newest entry", fault.CodeCorrupt, func(p *store.Page) { last(p).Data[40] ^= 1 }},
		{"entry forged with a fitting hash", fault.CodeChainBroken, func(p *store.Page) {
			for i, r := range p.Records {
				if r.Seq == 2 {
					r.Data[bytes.IndexByte(r.Data[34:], '1')+34] = 'X'
					p.Records[i] = reseal(r)
				}
			}
		}},
		{"missing entry", fault.CodeChainBroken, func(p *store.Page) {
			p.Records = slices.DeleteFunc(p.Records, func(r store.Record) bool { return r.Seq == 3 })
		}},
		{"exchanged entries", fault.CodeChainBroken, func(p *store.Page) {
			if len(p.Records) > 2 {
				p.Records[1].Data, p.Records[2].Data = p.Records[2].Data, p.Records[1].Data
			}
		}},
		{"truncated entry", fault.CodeCorrupt, func(p *store.Page) { last(p).Data = last(p).Data[:20] }},
		{"cut short", fault.CodeChainBroken, func(p *store.Page) {
			p.Records = slices.DeleteFunc(p.Records, func(r store.Record) bool { return r.Seq == 4 })
		}},
		{"unknown format", fault.CodeStoreFormat, func(p *store.Page) { last(p).Data[0], last(p).Data[1] = 9, ^byte(9) }},
	}
	for _, c := range cases {
		e.Run(c.name, func(sub *testing.T) {
			f := &Faults{Driver: d, OnRead: func(_ context.Context, _ uint64, limit int, next func() (store.Page, error)) (store.Page, error) {
				p, err := next()
				if err == nil && limit > 1 && len(p.Records) > 0 {
					c.tamper(&p)
				}
				return p, err
			}}
			_, err := store.Open(e.ctx, f, store.Options{})
			if got := fault.CodeOf(err); got != c.code {
				sub.Fatalf("Open gave %v (%s), want %s", err, got, c.code)
			}
		})
	}
}

func last(p *store.Page) *store.Record { return &p.Records[len(p.Records)-1] }

func readersApart(e *env) {
	l := e.open(e.driver(), store.Options{})
	t := e.lead(l)
	for i := range 60 {
		e.submit(t, fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	for from := range uint64(4) {
		wg.Go(func() {
			for after := from * 7; after < 60; {
				got, err := l.Read(e.ctx, after, 5)
				if err != nil || len(got) == 0 || got[0].Seq != after+1 {
					e.Errorf("read after %d gave %d entries, %v", after, len(got), err)
					return
				}
				after = got[len(got)-1].Seq
			}
		})
	}
	wg.Wait()
	if got, err := l.Read(e.ctx, 1000, 5); err != nil || len(got) != 0 {
		e.Fatalf("reading beyond the head gave %d entries, %v", len(got), err)
	}
}
