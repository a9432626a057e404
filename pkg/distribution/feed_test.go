package distribution

import (
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestPublishNeverGoesBackAndNeverSaysTwoThings(t *testing.T) {
	f := NewFeed(testView, FeedOptions{})
	a, b := trieOf(3, 50), trieOf(4, 50)
	for _, step := range []struct {
		at   Point
		trie *digest.Trie
		want error
	}{
		{Point{2, 5}, a, nil},
		{Point{2, 5}, a, nil}, // again, as with a manifest signed anew
		{Point{2, 5}, b, fault.CodeTwoContents},
		{Point{2, 4}, b, fault.CodeVersionBack},
		{Point{1, 9}, b, fault.CodeVersionBack},
		{Point{3, 1}, a, nil},
		{Point{3, 2}, b, nil},
	} {
		if err := f.Publish(versionOf(step.at, step.trie)); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("publish %s: %v, want %v", step.at, err, step.want)
		}
	}
	if v, ok := f.Current(); !ok || v.Point() != (Point{3, 2}) {
		t.Errorf("current is %v", v.Point())
	}
	other := versionOf(Point{4, 1}, a)
	other.View = "view-b"
	if f.Publish(other) == nil {
		t.Error("took a version of another view")
	}
	f.Close()
	if f.Publish(versionOf(Point{5, 1}, a)) == nil {
		t.Error("took a version after Close")
	}
}

func TestFreshnessIsForTheCurrentVersionOnly(t *testing.T) {
	f := NewFeed(testView, FeedOptions{})
	trie := trieOf(3, 50)
	if err := f.Freshness(freshnessOf(Point{1, 1}, trie.Root())); !errors.Is(err, fault.CodeFreshnessFor) {
		t.Errorf("before any content: %v", err)
	}
	if err := f.Publish(versionOf(Point{1, 2}, trie)); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]*trustv1.Envelope{
		"an older version": freshnessOf(Point{1, 1}, trie.Root()),
		"another digest":   freshnessOf(Point{1, 2}, digest.Hash{1}),
		"garbage":          {Payload: []byte{0xff}},
	} {
		if err := f.Freshness(env); !errors.Is(err, fault.CodeFreshnessFor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Freshness(freshnessOf(Point{1, 2}, trie.Root())); err != nil {
		t.Error(err)
	}
}

func TestChangedIsALevel(t *testing.T) {
	f := NewFeed(testView, FeedOptions{})
	changed := f.Changed()
	select {
	case <-changed:
		t.Fatal("closed before a change")
	default:
	}
	for v := range uint64(3) {
		if err := f.Publish(versionOf(Point{1, v + 1}, trieOf(int(v), 50))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-changed:
	default:
		t.Error("not closed by changes")
	}
	if f.Changed() == changed {
		t.Error("the channel is not replaced")
	}
}

func TestHistoryIsBoundedAndTheLastStepIsAlwaysADelta(t *testing.T) {
	for name, h := range map[string]*History{"by versions": NewHistory(8, 0), "by bytes": NewHistory(0, 40<<10), "to the current one": NewHistory(1, 0)} {
		t.Run(name, func(t *testing.T) {
			f := NewFeed(testView, FeedOptions{History: h})
			trie := trieOf(50, 1024)
			first := trie.Root()
			var before digest.Hash
			for v := range 100 {
				if err := f.Publish(versionOf(Point{1, uint64(v) + 1}, trie)); err != nil {
					t.Fatal(err)
				}
				if v == 99 {
					break
				}
				before = trie.Root()
				trie = trie.Set(keyOf("r00001"), resourceAt("r00001", v+1, 1024))
			}
			if h.Len() > 40 || h.Bytes() > 64<<10 {
				t.Errorf("history keeps %d versions of %d bytes", h.Len(), h.Bytes())
			}
			p := f.current.Load()
			if u, err := f.update(p, before, true); err != nil || u.snapshot {
				t.Errorf("the step from the version before is a snapshot (%v)", err)
			}
			if u, err := f.update(p, first, true); err != nil || !u.snapshot {
				t.Errorf("a forgotten base is not answered by a snapshot (%v)", err)
			}
		})
	}
}

func TestFrameCacheIsBounded(t *testing.T) {
	m := NewMetrics()
	f := NewFeed(testView, FeedOptions{Metrics: m, FrameBytes: 2000})
	trie := trieOf(100, 400)
	var bases []digest.Hash
	for v := range 30 {
		bases = append(bases, trie.Root())
		if err := f.Publish(versionOf(Point{1, uint64(v) + 1}, trie)); err != nil {
			t.Fatal(err)
		}
		trie = trie.Set(keyOf(fmt.Sprintf("r%05d", v)), resourceAt(fmt.Sprintf("r%05d", v), 1, 400))
	}
	p := f.current.Load()
	for _, b := range bases[:29] {
		if _, err := f.update(p, b, true); err != nil {
			t.Fatal(err)
		}
	}
	if p.frames.own > 2000+30*450 || len(p.frames.made) != len(p.frames.order) {
		t.Errorf("the cache holds %d bytes in %d frames (%d in order)", p.frames.own, len(p.frames.made), len(p.frames.order))
	}
	if len(p.frames.made) > 3 {
		t.Errorf("the cache holds %d frames within 2000 bytes", len(p.frames.made))
	}
	if got := testutil.ToFloat64(m.framesEncoded); got != 29 {
		t.Errorf("%v frames encoded, want 29", got)
	}
}

func TestDeltaLargerThanTheContentBecomesASnapshot(t *testing.T) {
	from, to := trieOf(200, 500), trieOf(3, 100)
	v := versionOf(Point{1, 2}, to)
	if e, err := encodeUpdate(&v, from, true, DefaultChunkBytes); err != nil || !e.snapshot {
		t.Errorf("197 removals and 3 upserts for 300 bytes of content were not sent as a snapshot (%v)", err)
	}
}
