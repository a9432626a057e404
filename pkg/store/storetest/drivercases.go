package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// batch makes a batch of records after a sequence number.
func batch(term, after uint64, data ...string) store.Batch {
	b := store.Batch{Term: term, After: after}
	for i, d := range data {
		b.Records = append(b.Records, store.Record{Position: store.Position{Seq: after + 1 + uint64(i), Term: term}, Data: []byte(d)})
	}
	return b
}

func driverCases() []testCase {
	return []testCase{
		{name: "AppendsAreReadInOrder", run: appendsAreReadInOrder},
		{name: "GapsAndDuplicatesAreRefusedWhole", run: gapsAndDuplicates},
		{name: "BytesBelongToTheirSide", run: bytesBelongToTheirSide},
		{name: "PagesAreBounded", run: pagesAreBounded},
		{name: "WaitReturnsWhenTheLogIsLonger", run: waitReturns},
		{name: "TrimmedRangeIsTold", run: trimmedRange, restarts: true},
		{name: "EndedContextStopsCalls", run: endedContext},
		{name: "BlobsKeepWhatWasPut", run: blobsKeep, restarts: true},
		{name: "ClosedDriverRefuses", run: closedDriver},
	}
}

func appendsAreReadInOrder(e *env) {
	d := e.driver()
	p, err := d.Read(e.ctx, 0, 10)
	e.ok(err)
	if p.Head != (store.Position{}) || p.Held || p.Trimmed != 0 || len(p.Records) != 0 {
		e.Fatalf("an empty log reads as %+v", p)
	}
	l := e.campaign(d)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a", "b")))
	e.ok(d.Append(e.ctx, batch(l.Term(), 2, "c")))
	other := e.driver()
	e.holds(other, "a", "b", "c")
	p, err = other.Read(e.ctx, math.MaxUint64, 0)
	e.ok(err)
	want := store.Page{Head: store.Position{Seq: 3, Term: l.Term()}, Holder: store.Holder{Name: "hub", Address: "127.0.0.1:1"}, Term: l.Term(), Held: true}
	if fmt.Sprint(p) != fmt.Sprint(want) {
		e.Fatalf("state is %+v, want %+v", p, want)
	}
	for i, r := range e.read(other) {
		if r.Seq != uint64(i+1) || r.Term != l.Term() {
			e.Fatalf("record %d stands at %+v", i, r.Position)
		}
	}
}

func gapsAndDuplicates(e *env) {
	d := e.driver()
	l := e.campaign(d)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a", "b")))
	for _, after := range []uint64{0, 1, 3, 100} {
		e.fails(d.Append(e.ctx, batch(l.Term(), after, "x", "y")), fault.CodeSeqTaken)
	}
	e.holds(d, "a", "b")
	e.ok(d.Append(e.ctx, batch(l.Term(), 2, "c")))
	e.holds(d, "a", "b", "c")
}

func bytesBelongToTheirSide(e *env) {
	d := e.driver()
	b := batch(e.campaign(d).Term(), 0, "given")
	e.ok(d.Append(e.ctx, b))
	copy(b.Records[0].Data, "XXXXX")
	e.holds(d, "given")
	copy(e.read(d)[0].Data, "YYYYY")
	e.holds(d, "given")
}

func pagesAreBounded(e *env) {
	d := e.driver()
	l := e.campaign(d)
	big := strings.Repeat("x", 3<<20)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a", "b", "c")))
	for i := range uint64(3) {
		e.ok(d.Append(e.ctx, batch(l.Term(), 3+i, big)))
	}
	p, err := d.Read(e.ctx, 0, 2)
	e.ok(err)
	if len(p.Records) != 2 || p.Head.Seq != 6 {
		e.Fatalf("limit 2 gave %d records, head %d", len(p.Records), p.Head.Seq)
	}
	p, err = d.Read(e.ctx, 3, 10)
	e.ok(err)
	if len(p.Records) == 0 || len(p.Records) == 3 {
		e.Fatalf("a page of %d records of 3 MiB; it should end at about 4 MiB, with one at least", len(p.Records))
	}
	if got := e.read(d); len(got) != 6 {
		e.Fatalf("reading page by page gave %d records, want 6", len(got))
	}
}

func waitReturns(e *env) {
	d, other := e.driver(), e.driver()
	l := e.campaign(d)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a")))
	waiting := spawn(func() error { return other.Wait(e.ctx, 1) })
	e.holds(other, "a")
	select {
	case err := <-waiting:
		e.Fatalf("Wait(1) returned %v with one record in the log", err)
	default:
	}
	e.ok(d.Append(e.ctx, batch(l.Term(), 1, "b")))
	e.ok(receive(e, waiting))
	e.ok(other.Wait(e.ctx, 0)) // at once: there is something already

	ctx, cancel := context.WithCancel(e.ctx)
	waiting = spawn(func() error { return other.Wait(ctx, 2) })
	cancel()
	if err := receive(e, waiting); err == nil {
		e.Fatal("Wait returned nil when its context ended")
	}
	// It can only have been that long before it was put back.
	e.fails(other.Wait(e.ctx, 3), fault.CodeLogWentBack)
}

func trimmedRange(e *env) {
	d := e.driver()
	l := e.campaign(d)
	e.ok(d.Append(e.ctx, batch(l.Term(), 0, "a", "b", "c", "d")))
	e.fails(d.Append(e.ctx, store.Batch{Term: l.Term(), After: 3, Trim: 2}), fault.CodeSeqTaken)
	e.ok(d.Append(e.ctx, store.Batch{Term: l.Term(), After: 4, Trim: 2}))
	for after := range uint64(2) {
		p, err := d.Read(e.ctx, after, 10)
		e.ok(err)
		if p.Trimmed != 2 || len(p.Records) != 0 || p.Head.Seq != 4 {
			e.Fatalf("read after %d in a log trimmed to 2: %+v", after, p)
		}
	}
	p, err := d.Read(e.ctx, 2, 10)
	e.ok(err)
	if len(p.Records) != 2 || string(p.Records[0].Data) != "c" {
		e.Fatalf("what follows the trimmed part reads as %+v", p.Records)
	}
	e.ok(d.Append(e.ctx, batch(l.Term(), 4, "e")))
	e.Restart(e.T)
	d = e.driver()
	rest := ""
	for after := uint64(2); after < 5; {
		p, err = d.Read(e.ctx, after, 10)
		e.ok(err)
		if p.Trimmed != 2 || len(p.Records) == 0 {
			e.Fatalf("after a restart: trimmed %d, %d records after %d", p.Trimmed, len(p.Records), after)
		}
		for _, r := range p.Records {
			rest += string(r.Data)
			after = r.Seq
		}
	}
	if rest != "cde" {
		e.Fatalf("after a restart %q follows the trimmed part", rest)
	}
}

func endedContext(e *env) {
	d := e.driver()
	l := e.campaign(d)
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if d.Append(ctx, batch(l.Term(), 0, "a")) == nil {
		e.Fatal("Append did not mind that its context had ended")
	}
	if _, err := d.Read(ctx, 0, 1); err == nil {
		e.Fatal("Read did not mind that its context had ended")
	}
	if d.Wait(ctx, 0) == nil {
		e.Fatal("Wait did not mind that its context had ended")
	}
	if _, err := e.driver().Campaign(ctx, store.Holder{Name: "other"}); err == nil {
		e.Fatal("Campaign did not mind that its context had ended")
	}
}

func blobsKeep(e *env) {
	d := e.driver()
	b, ok := d.(store.Blobs)
	if !ok {
		e.Skip("this driver keeps no blobs")
	}
	_, err := b.Get(e.ctx, "snapshot/1/a")
	e.fails(err, fault.CodeBlobMissing)
	full := bytes.Repeat([]byte{0xfe}, store.MaxBlob)
	e.ok(b.Put(e.ctx, "snapshot/1/a", full))
	e.ok(b.Put(e.ctx, "snapshot/1/b", []byte("old")))
	e.ok(b.Put(e.ctx, "snapshot/1/b", []byte("new")))
	e.ok(b.Put(e.ctx, "snapshot/2/c", []byte{}))
	e.ok(b.Put(e.ctx, "other/c", []byte("x")))
	if err := b.Put(e.ctx, "large", append(full, 0)); err == nil {
		e.Fatal("a blob beyond MaxBlob was taken")
	}
	e.Restart(e.T)
	b = e.driver().(store.Blobs)
	keys, err := b.List(e.ctx, "snapshot/")
	e.ok(err)
	if want := []string{"snapshot/1/a", "snapshot/1/b", "snapshot/2/c"}; !slices.Equal(keys, want) {
		e.Fatalf("List gave %q, want %q", keys, want)
	}
	got, err := b.Get(e.ctx, "snapshot/1/a")
	e.ok(err)
	if !bytes.Equal(got, full) {
		e.Fatal("a full blob came back changed")
	}
	clear(got)
	got, err = b.Get(e.ctx, "snapshot/1/b")
	e.ok(err)
	if string(got) != "new" {
		e.Fatalf("a replaced blob reads %q", got)
	}
	e.ok(b.Delete(e.ctx, "snapshot/1/a", "snapshot/none", "snapshot/1/b"))
	e.ok(b.Delete(e.ctx))
	if keys, err = b.List(e.ctx, "snapshot/"); err != nil || !slices.Equal(keys, []string{"snapshot/2/c"}) {
		e.Fatalf("after Delete there are %q, %v", keys, err)
	}
}

func closedDriver(e *env) {
	d, other := e.driver(), e.driver()
	l := e.campaign(d)
	waiting := spawn(func() error { return d.Wait(e.ctx, 0) })
	campaigning := spawn(func() error {
		l, err := other.Campaign(e.ctx, store.Holder{Name: "next"})
		if err == nil {
			err = l.Release(e.ctx)
		}
		return err
	})
	e.ok(d.Close())
	e.fails(receive(e, waiting), fault.CodeStoreClosed)
	e.ok(receive(e, campaigning)) // the lease went with the driver that held it
	e.fails(d.Append(e.ctx, batch(l.Term(), 0, "a")), fault.CodeStoreClosed)
	_, err := d.Read(e.ctx, 0, 1)
	e.fails(err, fault.CodeStoreClosed)
	e.fails(d.Wait(e.ctx, 0), fault.CodeStoreClosed)
	_, err = d.Campaign(e.ctx, store.Holder{})
	e.fails(err, fault.CodeStoreClosed)
	e.ok(d.Close())
}
