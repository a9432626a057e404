package storetest

import (
	"bytes"
	"fmt"
	"math"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

func restoreCases() []testCase {
	return []testCase{
		{name: "RestoredLogGoesOn", run: restoredLogGoesOn, restarts: true},
		{name: "RestoreOfATrimmedLog", run: restoreOfATrimmedLog},
		{name: "HalfARestoreIsNotALog", run: halfARestore, restarts: true},
		{name: "RestoreRefusesALog", run: restoreRefusesALog},
		{name: "OfTwoRestoresTheLaterEnds", run: twoRestores},
	}
}

// backup gives the entries of a log elsewhere: n small ones and a large one.
func (e *env) backup(n int) []store.Entry {
	e.Helper()
	l := e.open(memstore.New(memstore.Options{}).Driver(), store.Options{})
	t, err := l.Campaign(e.ctx, store.Holder{Name: "elsewhere", Above: 6})
	e.ok(err)
	for i := range n + 1 {
		payload := fmt.Appendf(nil, "entry %d", i)
		if i == n {
			payload = content(1, 300<<10)
		}
		_, err := t.Submit(e.ctx, func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: "Test", Author: "spiffe://elsewhere", Payload: payload}, nil
		})
		e.ok(err)
	}
	var all []store.Entry
	for {
		more, err := l.Read(e.ctx, uint64(len(all)), 0)
		e.ok(err)
		if len(more) == 0 {
			return all
		}
		all = append(all, more...)
	}
}

func (e *env) beginRestore(d store.Driver) *store.Restoration {
	e.Helper()
	r, err := store.NewRestoration(d, store.Options{ChunkSize: 100 << 10})
	e.ok(err)
	e.ok(r.Begin(e.ctx))
	return r
}

func (e *env) add(r *store.Restoration, entries []store.Entry) {
	e.Helper()
	for _, x := range entries {
		e.ok(r.Add(e.ctx, x))
	}
}

func (e *env) restarted(r *store.Restoration) store.Driver {
	e.Helper()
	e.ok(r.Close())
	e.Restart(e.T)
	return e.driver()
}

// same checks that the log holds these entries, byte for byte.
func (e *env) same(l *store.Log, want []store.Entry) {
	e.Helper()
	after := want[0].Seq - 1
	for len(want) > 0 {
		got, err := l.Read(e.ctx, after, 0)
		e.ok(err)
		if len(got) == 0 || len(got) > len(want) {
			e.Fatalf("after entry %d the log has %d entries, want %d", after, len(got), len(want))
		}
		for i, x := range got {
			if !bytes.Equal(x.Raw, want[i].Raw) || x.Hash != want[i].Hash {
				e.Fatalf("entry %d is another one", x.Seq)
			}
		}
		want, after = want[len(got):], got[len(got)-1].Seq
	}
}

func restoredLogGoesOn(e *env) {
	all := e.backup(700)
	last := all[len(all)-1]
	r := e.beginRestore(e.driver())
	e.add(r, all)
	e.ok(r.SaveSnapshot(e.ctx, bytes.NewReader(content(last.Seq, 500<<10))))
	own, err := r.Write(e.ctx, 1000, store.Draft{Kind: "Restored", Payload: []byte("here")})
	e.ok(err)
	e.ok(r.Commit(e.ctx))
	d := e.restarted(r)
	l := e.open(d, store.Options{})
	e.same(l, append(all, own))
	e.latest(l, last, 500<<10)
	t, err := l.Campaign(e.ctx, store.Holder{Name: "hub"})
	e.ok(err)
	if t.Term() <= 1000 {
		e.Fatalf("the term after the restore is %d, not above the restored log's 1000", t.Term())
	}
	next, err := t.Submit(e.ctx, func(store.Position) (store.Draft, error) { return store.Draft{Kind: "Test"}, nil })
	e.ok(err)
	if next.Seq != own.Seq+1 || next.Follows(own.Head()) != nil {
		e.Fatalf("entry %d does not go on from entry %d", next.Seq, own.Seq)
	}
}

func restoreOfATrimmedLog(e *env) {
	all := e.backup(20)
	kept, last := all[10:], all[len(all)-1]
	r := e.beginRestore(e.driver())
	if err := r.Add(e.ctx, kept[0]); err != nil {
		e.Fatal(err)
	}
	e.fails(r.Add(e.ctx, kept[2]), fault.CodeChainBroken)
	e.add(r, kept[1:])
	e.ok(r.SaveSnapshot(e.ctx, bytes.NewReader(content(last.Seq, 1000))))
	e.ok(r.Commit(e.ctx))
	l := e.open(e.driver(), store.Options{})
	e.same(l, kept)
	_, err := l.Read(e.ctx, 0, 0)
	e.fails(err, fault.CodeTrimmed)
	if first, err := l.First(e.ctx); err != nil || first != kept[0].Seq {
		e.Fatalf("the log begins with entry %d (%v), want %d", first, err, kept[0].Seq)
	}
}

func halfARestore(e *env) {
	all := e.backup(700)
	r := e.beginRestore(e.driver())
	e.add(r, all[:650])
	e.ok(r.SaveSnapshot(e.ctx, bytes.NewReader(content(9, 1000))))
	d := e.restarted(r)
	_, err := store.Open(e.ctx, d, store.Options{})
	e.fails(err, fault.CodeRestoreUnfinished)
	_, err = d.Read(e.ctx, math.MaxUint64, 0)
	e.fails(err, fault.CodeRestoreUnfinished)
	_, err = d.Campaign(e.ctx, store.Holder{Name: "hub"})
	e.fails(err, fault.CodeRestoreUnfinished)

	r = e.beginRestore(e.driver())
	e.add(r, all[:3])
	e.ok(r.Commit(e.ctx))
	l := e.open(e.driver(), store.Options{})
	e.same(l, all[:3])
	if head, err := l.Head(e.ctx); err != nil || head != all[2].Head() {
		e.Fatalf("the log ends at %v (%v), want entry 3", head, err)
	}
	_, err = l.LatestSnapshot(e.ctx)
	e.fails(err, fault.CodeNoSnapshot)
}

func restoreRefusesALog(e *env) {
	d := e.driver()
	lease := e.campaign(d)
	e.ok(d.Append(e.ctx, store.Batch{Term: lease.Term(), Records: []store.Record{
		{Position: store.Position{Seq: 1, Term: lease.Term()}, Data: []byte("one")},
	}}))
	r, err := store.NewRestoration(e.driver(), store.Options{})
	e.ok(err)
	e.fails(r.Begin(e.ctx), fault.CodeRestoreNotEmpty)
	e.holds(d, "one")
	e.ok(lease.Release(e.ctx))
}

func twoRestores(e *env) {
	all := e.backup(5)
	first := e.beginRestore(e.driver())
	e.add(first, all)
	later := e.beginRestore(e.driver())
	e.add(later, all[:2])
	e.fails(first.Commit(e.ctx), fault.CodeRestoreUnfinished)
	e.ok(later.Commit(e.ctx))
	e.same(e.open(e.driver(), store.Options{}), all[:2])
}
