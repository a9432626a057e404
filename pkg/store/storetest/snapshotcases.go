package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

func snapshotCases() []testCase {
	return []testCase{
		{name: "SnapshotsLargerThanOneValueComeBack", run: snapshotsComeBack, restarts: true},
		{name: "TornSnapshotIsInvisible", run: tornSnapshot},
		{name: "DamagedSnapshotIsRefused", run: damagedSnapshot},
		{name: "OldSnapshotsGo", run: oldSnapshotsGo},
		{name: "ForeignSnapshotIsRefused", run: foreignSnapshot},
		{name: "TrimStaysBehindSnapshots", run: trimStaysBehind, restarts: true},
		{name: "ReadersSurviveTrims", run: readersSurviveTrims},
	}
}

// content is what a snapshot of an entry has: n bytes that depend on it.
func content(seq uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8)})
	_, _ = r.Read(b)
	return b
}

func (e *env) save(l *store.Log, t *store.Tenure, x store.Entry, n int) {
	e.Helper()
	e.ok(l.SaveSnapshot(e.ctx, t, x.Seq, x.Hash, bytes.NewReader(content(x.Seq, n))))
}

// latest checks that the newest snapshot is of that entry and size.
func (e *env) latest(l *store.Log, x store.Entry, n int) {
	e.Helper()
	s, err := l.LatestSnapshot(e.ctx)
	e.ok(err)
	if s.Seq != x.Seq || s.Hash != x.Hash || s.Size != int64(n) {
		e.Fatalf("the newest snapshot is of entry %d with %d bytes, want %d with %d", s.Seq, s.Size, x.Seq, n)
	}
	got, err := io.ReadAll(s.Open(e.ctx))
	e.ok(err)
	if !bytes.Equal(got, content(x.Seq, n)) {
		e.Fatalf("snapshot %d came back changed", x.Seq)
	}
}

func snapshotsComeBack(e *env) {
	l := e.open(e.driver(), store.Options{})
	_, err := l.LatestSnapshot(e.ctx)
	e.fails(err, fault.CodeNoSnapshot)
	t := e.lead(l)
	for _, n := range []int{0, 1, store.MaxBlob, 3*store.MaxBlob + 7} {
		x := e.submit(t, fmt.Sprint(n))
		e.save(l, t, x, n)
		e.latest(l, x, n)
		e.latest(e.open(e.driver(), store.Options{}), x, n)
	}
	// The same chunk many times is stored once, and read each time.
	x := e.submit(t, "zeros")
	e.ok(l.SaveSnapshot(e.ctx, t, x.Seq, x.Hash, bytes.NewReader(make([]byte, 4*store.MaxBlob))))
	s, err := l.LatestSnapshot(e.ctx)
	e.ok(err)
	if got, err := io.ReadAll(s.Open(e.ctx)); err != nil || !bytes.Equal(got, make([]byte, 4*store.MaxBlob)) {
		e.Fatalf("a snapshot of equal chunks gave %d bytes, %v", len(got), err)
	}
	e.Restart(e.T)
	l = e.open(e.driver(), store.Options{})
	if s, err = l.LatestSnapshot(e.ctx); err != nil || s.Seq != x.Seq {
		e.Fatalf("after a restart the newest snapshot is %d, %v", s.Seq, err)
	}
}

func tornSnapshot(e *env) {
	var puts, failAt atomic.Int64
	f := &Faults{Driver: e.driver(), OnPut: func(_ string, next func() error) error {
		if puts.Add(1) == failAt.Load() {
			return errLink
		}
		return next()
	}}
	l := e.open(f, store.Options{ChunkSize: 1000})
	t := e.lead(l)
	first := e.submit(t, "a")
	e.save(l, t, first, 2500)
	// Three chunks and the manifest: cut before each of the four.
	for cut := int64(1); cut <= 4; cut++ {
		x := e.submit(t, "b")
		puts.Store(0)
		failAt.Store(cut)
		err := l.SaveSnapshot(e.ctx, t, x.Seq, x.Hash, bytes.NewReader(content(x.Seq, 2500)))
		if !errors.Is(err, errLink) {
			e.Fatalf("a snapshot cut at write %d gave %v", cut, err)
		}
		e.latest(l, first, 2500)
		e.latest(e.open(e.driver(), store.Options{}), first, 2500)
	}
	failAt.Store(0)
	// A reader that fails is not the end of a snapshot either.
	x := e.submit(t, "c")
	broken := io.MultiReader(strings.NewReader("begin"), failingReader{})
	if err := l.SaveSnapshot(e.ctx, t, x.Seq, x.Hash, broken); !errors.Is(err, errLink) {
		e.Fatalf("a snapshot whose source fails gave %v", err)
	}
	e.latest(l, first, 2500)
	x = e.submit(t, "d")
	e.save(l, t, x, 2500)
	e.latest(l, x, 2500)
	keys, err := f.List(e.ctx, "snapshot/")
	e.ok(err)
	if want := 2 * 4; len(keys) != want {
		e.Fatalf("%d keys are left, want %d of two snapshots: torn ones stay", len(keys), want)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errLink }

func damagedSnapshot(e *env) {
	d := e.driver()
	l := e.open(d, store.Options{ChunkSize: 1000})
	t := e.lead(l)
	old := e.submit(t, "a")
	e.save(l, t, old, 2500)
	x := e.submit(t, "b")
	e.save(l, t, x, 2500)
	blobs := d.(store.Blobs)
	keys, err := blobs.List(e.ctx, fmt.Sprintf("snapshot/%020d/", x.Seq))
	e.ok(err)
	for _, k := range keys {
		e.Run(strings.TrimLeft(k[len("snapshot/"):], "0"), func(sub *testing.T) {
			good, err := blobs.Get(e.ctx, k)
			if err != nil {
				sub.Fatal(err)
			}
			defer func() { e.ok(blobs.Put(e.ctx, k, good)) }()
			damages := map[string]func() error{
				"flipped":   func() error { b := bytes.Clone(good); b[len(b)/2] ^= 4; return blobs.Put(e.ctx, k, b) },
				"truncated": func() error { return blobs.Put(e.ctx, k, good[:len(good)/2]) },
				"emptied":   func() error { return blobs.Put(e.ctx, k, nil) },
				"removed":   func() error { return blobs.Delete(e.ctx, k) },
			}
			for name, damage := range damages {
				if err := damage(); err != nil {
					sub.Fatal(err)
				}
				e.refusesDamage(sub, l, k, name, old, x)
			}
		})
	}
	e.latest(l, x, 2500)
}

// refusesDamage: a damaged chunk is an error; a damaged or removed manifest
// leads back to the snapshot before, which is intact.
func (e *env) refusesDamage(sub *testing.T, l *store.Log, key, damage string, old, x store.Entry) {
	s, err := l.LatestSnapshot(e.ctx)
	if err != nil {
		sub.Fatalf("%s: %v", damage, err)
	}
	got, err := io.ReadAll(s.Open(e.ctx))
	if strings.HasSuffix(key, "/manifest") {
		if err != nil || s.Seq != old.Seq || !bytes.Equal(got, content(old.Seq, 2500)) {
			sub.Fatalf("manifest %s: got snapshot %d with %d bytes, %v", damage, s.Seq, len(got), err)
		}
		return
	}
	if fault.CodeOf(err) != fault.CodeCorrupt {
		sub.Fatalf("chunk %s: got %d bytes and %v, want CodeCorrupt", damage, len(got), err)
	}
	if !bytes.HasPrefix(content(x.Seq, 2500), got) {
		sub.Fatalf("chunk %s: bytes that were not verified were given out", damage)
	}
}

func oldSnapshotsGo(e *env) {
	d := e.driver()
	l := e.open(d, store.Options{ChunkSize: 1000})
	t := e.lead(l)
	x := e.submit(t, "0")
	e.save(l, t, x, 2500)
	s, err := l.LatestSnapshot(e.ctx)
	e.ok(err)
	reading := s.Open(e.ctx)
	if _, err := io.ReadFull(reading, make([]byte, 500)); err != nil {
		e.Fatal(err)
	}
	for i := range 4 {
		x = e.submit(t, fmt.Sprint(i+1))
		e.save(l, t, x, 2500)
		e.save(l, t, x, 999) // of the same entry: nothing to do
	}
	e.latest(l, x, 2500)
	keys, err := d.(store.Blobs).List(e.ctx, "")
	e.ok(err)
	if len(keys) != 2*4 {
		e.Fatalf("%d keys are left of two snapshots: %q", len(keys), keys)
	}
	// The one that was being read is gone, and the reader is told so.
	_, err = io.ReadAll(reading)
	e.fails(err, fault.CodeBlobMissing)
}

func foreignSnapshot(e *env) {
	l := e.open(e.driver(), store.Options{})
	t := e.lead(l)
	x := e.submit(t, "a")
	e.fails(l.SaveSnapshot(e.ctx, t, x.Seq, [32]byte{1}, strings.NewReader("x")), fault.CodeSnapshotForeign)
	e.fails(l.SaveSnapshot(e.ctx, t, x.Seq+1, x.Hash, strings.NewReader("x")), fault.CodeSnapshotForeign)
	e.fails(l.SaveSnapshot(e.ctx, t, 0, [32]byte{}, strings.NewReader("x")), fault.CodeSnapshotForeign)
	_, err := l.LatestSnapshot(e.ctx)
	e.fails(err, fault.CodeNoSnapshot)
	e.ok(t.Resign(e.ctx))
	e.fails(l.SaveSnapshot(e.ctx, t, x.Seq, x.Hash, strings.NewReader("x")), fault.CodeLeaseLost)
}

func trimStaysBehind(e *env) {
	d := e.driver()
	l := e.open(d, store.Options{Retain: 3})
	t := e.lead(l)
	var all []store.Entry
	for i := range 20 {
		all = append(all, e.submit(t, fmt.Sprint(i+1)))
	}
	trimmed := func(upTo, want uint64) {
		e.Helper()
		e.ok(t.Trim(e.ctx, upTo))
		p, err := d.Read(e.ctx, 0, 0)
		e.ok(err)
		if p.Trimmed != want {
			e.Fatalf("Trim(%d) trimmed to %d, want %d", upTo, p.Trimmed, want)
		}
	}
	trimmed(20, 0) // no snapshot
	e.save(l, t, all[9], 10)
	trimmed(2, 2)
	trimmed(20, 7) // entry 10 less three kept
	trimmed(5, 7)  // never back
	e.save(l, t, all[14], 10)
	trimmed(20, 7) // the older of the two kept could still be needed
	e.save(l, t, all[19], 10)
	trimmed(20, 12)
	_, err := l.Read(e.ctx, 11, 5)
	e.fails(err, fault.CodeTrimmed)
	got, err := l.Read(e.ctx, 12, 50)
	e.ok(err)
	if len(got) != 8 {
		e.Fatalf("%d entries are left, want 8", len(got))
	}
	e.submit(t, "21")
	e.Restart(e.T)
	l = e.open(e.driver(), store.Options{Retain: 3})
	e.latest(l, all[19], 10)
	if x := e.submit(e.lead(l), "22"); x.Seq != 22 {
		e.Fatalf("the entry after the trim and a restart is %d", x.Seq)
	}
}

// readersSurviveTrims: while the leader writes, snapshots and trims, readers
// get each entry in order, or are told to start from a snapshot, and then can.
func readersSurviveTrims(e *env) {
	const total = 150
	l := e.open(e.driver(), store.Options{Retain: 1, ChunkSize: 500})
	t := e.lead(l)
	var wg sync.WaitGroup
	for range 3 {
		reader := e.open(e.driver(), store.Options{})
		wg.Go(func() {
			for after := uint64(0); after < total; {
				next, err := follow(e.ctx, reader, after)
				if err != nil {
					e.Errorf("reader at %d: %v", after, err)
					return
				}
				after = next
			}
		})
	}
	for i := range total {
		x := e.submit(t, fmt.Sprint(i+1))
		if i%10 == 9 {
			e.save(l, t, x, 1200)
			e.ok(t.Trim(e.ctx, x.Seq))
		}
	}
	wg.Wait()
}

// follow takes one step of a reader and gives the entry that it has reached.
func follow(ctx context.Context, l *store.Log, after uint64) (uint64, error) {
	got, err := l.Read(ctx, after, 4)
	switch {
	case errors.Is(err, fault.CodeTrimmed):
		return fromSnapshot(ctx, l, after)
	case err != nil:
		return 0, err
	case len(got) == 0:
		return after, l.Wait(ctx, after)
	}
	for i, x := range got {
		if x.Seq != after+1+uint64(i) || string(x.Payload) != fmt.Sprint(x.Seq) {
			return 0, fmt.Errorf("entry %d with payload %s came after %d", x.Seq, x.Payload, after)
		}
	}
	return got[len(got)-1].Seq, nil
}

func fromSnapshot(ctx context.Context, l *store.Log, after uint64) (uint64, error) {
	s, err := l.LatestSnapshot(ctx)
	if err != nil {
		return 0, err
	}
	if s.Seq <= after {
		return 0, fmt.Errorf("the log after %d is trimmed, but the newest snapshot is %d", after, s.Seq)
	}
	data, err := io.ReadAll(s.Open(ctx))
	if errors.Is(err, fault.CodeBlobMissing) {
		return after, nil // dropped meanwhile: again
	}
	if err == nil && !bytes.Equal(data, content(s.Seq, 1200)) {
		err = fmt.Errorf("snapshot %d has another's content", s.Seq)
	}
	return s.Seq, err
}
