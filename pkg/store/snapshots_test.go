package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/store/storetest"
)

// snapshotLog is a log of three entries, over a driver whose blobs can be made to
// misbehave.
func snapshotLog(t *testing.T, f *storetest.Faults) (*store.Log, *store.Tenure, store.Head) {
	t.Helper()
	f.Driver = memstore.New(memstore.Options{}).Driver()
	l, err := store.Open(t.Context(), f, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := tenure.Submit(t.Context(), func(store.Position) (store.Draft, error) { return store.Draft{Kind: "X"}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	head, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l, tenure, head
}

func TestATornSnapshotAloneIsNoSnapshot(t *testing.T) {
	f := &storetest.Faults{OnPut: func(key string, next func() error) error {
		if strings.HasSuffix(key, "/manifest") {
			return errors.New("killed before the manifest")
		}
		return next()
	}}
	l, tenure, head := snapshotLog(t, f)
	if err := l.SaveSnapshot(t.Context(), tenure, head.Seq, head.Hash, strings.NewReader("state")); err == nil {
		t.Fatal("saved without a manifest")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := l.LatestSnapshot(ctx); !errors.Is(err, fault.CodeNoSnapshot) {
		t.Fatalf("%v, want %s", err, fault.CodeNoSnapshot)
	}
}

func TestAManifestThatIsListedAndNeverThereEndsTheSearch(t *testing.T) {
	var gone atomic.Bool
	f := &storetest.Faults{OnGet: func(key string, next func() ([]byte, error)) ([]byte, error) {
		if gone.Load() && strings.HasSuffix(key, "/manifest") {
			return nil, fault.New(fault.CodeBlobMissing, "not here")
		}
		return next()
	}}
	l, tenure, head := snapshotLog(t, f)
	if err := l.SaveSnapshot(t.Context(), tenure, head.Seq, head.Hash, strings.NewReader("state")); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	answered := make(chan error, 1)
	go func() {
		_, err := l.LatestSnapshot(t.Context())
		answered <- err
	}()
	select {
	case err := <-answered:
		if !errors.Is(err, fault.CodeCorrupt) {
			t.Fatalf("%v, want %s", err, fault.CodeCorrupt)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the search goes on for ever")
	}
}

func TestANewSnapshotReplacesADamagedOne(t *testing.T) {
	var damaged atomic.Bool
	f := &storetest.Faults{OnGet: func(key string, next func() ([]byte, error)) ([]byte, error) {
		data, err := next()
		if err == nil && damaged.Load() && strings.HasSuffix(key, "00002/manifest") {
			data[0]++
		}
		return data, err
	}}
	l, tenure, head := snapshotLog(t, f)
	entries, err := l.Read(t.Context(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SaveSnapshot(t.Context(), tenure, 2, entries[0].Hash, strings.NewReader("state")); err != nil {
		t.Fatal(err)
	}
	damaged.Store(true)
	if err := l.SaveSnapshot(t.Context(), tenure, head.Seq, head.Hash, strings.NewReader("newer")); err != nil {
		t.Fatalf("a damaged snapshot keeps new ones from being saved: %v", err)
	}
	if snap, err := l.LatestSnapshot(t.Context()); err != nil || snap.Seq != head.Seq {
		t.Fatalf("newest %d (%v), want %d", snap.Seq, err, head.Seq)
	}
}

// On a nearly full disk a snapshot that cannot be finished must not keep the
// space that small log entries need.
func TestAFailedSnapshotLeavesNoChunk(t *testing.T) {
	const chunks = 8
	content := func() io.Reader {
		b := make([]byte, chunks*store.MaxBlob)
		for i := range b {
			b[i] = byte(i / store.MaxBlob) // so that no two chunks are the same
		}
		return bytes.NewReader(b)
	}
	for n := 1; n <= chunks+1; n++ { // the last is the manifest
		for _, applied := range []bool{false, true} {
			puts := 0
			f := &storetest.Faults{OnPut: func(_ string, next func() error) error {
				if puts++; puts != n {
					return next()
				}
				if applied {
					_ = next()
				}
				return fault.New(fault.CodeStoreFull, "no space")
			}}
			l, tenure, head := snapshotLog(t, f)
			err := l.SaveSnapshot(t.Context(), tenure, head.Seq, head.Hash, content())
			if !errors.Is(err, fault.CodeStoreFull) {
				t.Fatalf("put %d failed, the save gave %v", n, err)
			}
			if keys, err := f.List(t.Context(), "snapshot/"); err != nil || len(keys) != 0 {
				t.Errorf("put %d failed (applied: %v): %d keys are left, %v", n, applied, len(keys), err)
			}
		}
	}
}

// The caller may leave in the middle; the tenure goes on and cleans up.
func TestASnapshotWhoseCallerLeavesLeavesNoChunk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &storetest.Faults{OnPut: func(_ string, next func() error) error {
		defer cancel()
		return next()
	}}
	l, tenure, head := snapshotLog(t, f)
	if err := l.SaveSnapshot(ctx, tenure, head.Seq, head.Hash, bytes.NewReader(make([]byte, 3*store.MaxBlob))); err == nil {
		t.Fatal("saved after the caller left")
	}
	if keys, err := f.List(t.Context(), "snapshot/"); err != nil || len(keys) != 0 {
		t.Errorf("%d keys are left, %v", len(keys), err)
	}
}

// A crash leaves chunks that no error path removes: they must make room before
// the next snapshot, whether or not that one succeeds.
func TestTornSnapshotsAreSweptBeforeANewOne(t *testing.T) {
	f := &storetest.Faults{}
	l, tenure, head := snapshotLog(t, f)
	for _, seq := range []string{"00000000000000000001", "00000000000000000009"} {
		if err := f.Put(t.Context(), "snapshot/"+seq+"/abc", []byte("torn")); err != nil {
			t.Fatal(err)
		}
	}
	f.OnPut = func(string, func() error) error { return fault.New(fault.CodeStoreFull, "no space") }
	if err := l.SaveSnapshot(t.Context(), tenure, head.Seq, head.Hash, strings.NewReader("state")); err == nil {
		t.Fatal("saved without space")
	}
	if keys, err := f.List(t.Context(), "snapshot/"); err != nil || len(keys) != 0 {
		t.Errorf("torn snapshots stay: %q, %v", keys, err)
	}
}
