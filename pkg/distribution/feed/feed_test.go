package feed_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestPublishNeverGoesBackAndNeverSaysTwoThings(t *testing.T) {
	f := feed.New(feedtest.View, feed.Options{})
	a, b := feedtest.Trie(3, 50), feedtest.Trie(4, 50)
	for _, step := range []struct {
		at   feed.Point
		trie *digest.Trie
		want error
	}{
		{feedtest.At(2, 5), a, nil},
		{feedtest.At(2, 5), a, nil}, // again, as with a manifest signed anew
		{feedtest.At(2, 5), b, fault.CodeTwoContents},
		{feedtest.At(2, 4), b, fault.CodeVersionBack},
		{feedtest.At(1, 9), b, fault.CodeVersionBack},
		{feedtest.At(3, 1), a, nil},
		{feedtest.At(3, 2), b, nil},
	} {
		if err := f.Publish(feedtest.Version(step.at, step.trie)); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("publish %s: %v, want %v", step.at, err, step.want)
		}
	}
	if v, ok := f.Current(); !ok || v.Point() != (feedtest.At(3, 2)) {
		t.Errorf("current is %v", v.Point())
	}
	other := feedtest.Version(feedtest.At(4, 1), a)
	other.View = "view-b"
	if f.Publish(other) == nil {
		t.Error("took a version of another view")
	}
	f.Close()
	if f.Publish(feedtest.Version(feedtest.At(5, 1), a)) == nil {
		t.Error("took a version after Close")
	}
}

func TestFreshnessIsForTheCurrentVersionOnly(t *testing.T) {
	f := feed.New(feedtest.View, feed.Options{})
	trie := feedtest.Trie(3, 50)
	if err := f.Freshness(feedtest.Freshness(feedtest.At(1, 1), trie.Root())); !errors.Is(err, fault.CodeFreshnessFor) {
		t.Errorf("before any content: %v", err)
	}
	if err := f.Publish(feedtest.Version(feedtest.At(1, 2), trie)); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]*trustv1.Envelope{
		"an older version": feedtest.Freshness(feedtest.At(1, 1), trie.Root()),
		"another digest":   feedtest.Freshness(feedtest.At(1, 2), digest.Hash{1}),
		"garbage":          {Payload: []byte{0xff}},
	} {
		if err := f.Freshness(env); !errors.Is(err, fault.CodeFreshnessFor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Freshness(feedtest.Freshness(feedtest.At(1, 2), trie.Root())); err != nil {
		t.Error(err)
	}
}

func TestChangedIsALevel(t *testing.T) {
	f := feed.New(feedtest.View, feed.Options{})
	changed := f.Changed()
	select {
	case <-changed:
		t.Fatal("closed before a change")
	default:
	}
	for v := range uint64(3) {
		if err := f.Publish(feedtest.Version(feedtest.At(1, v+1), feedtest.Trie(int(v), 50))); err != nil {
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
	for name, h := range map[string]*feed.History{"by versions": feed.NewHistory(8, 0), "by bytes": feed.NewHistory(0, 40<<10), "to the current one": feed.NewHistory(1, 0)} {
		t.Run(name, func(t *testing.T) {
			f := feed.New(feedtest.View, feed.Options{History: h})
			trie := feedtest.Trie(50, 1024)
			first := trie.Root()
			var before digest.Hash
			for v := range 100 {
				if err := f.Publish(feedtest.Version(feedtest.At(1, uint64(v)+1), trie)); err != nil {
					t.Fatal(err)
				}
				if v == 99 {
					break
				}
				before = trie.Root()
				trie = trie.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", v+1, 1024))
			}
			if h.Len() > 40 || h.Bytes() > 64<<10 {
				t.Errorf("history keeps %d versions of %d bytes", h.Len(), h.Bytes())
			}
			p := f.Published()
			if u, err := f.Update(p, before, true); err != nil || u.Snapshot {
				t.Errorf("the step from the version before is a snapshot (%v)", err)
			}
			if u, err := f.Update(p, first, true); err != nil || !u.Snapshot {
				t.Errorf("a forgotten base is not answered by a snapshot (%v)", err)
			}
		})
	}
}

func TestFrameCacheIsBounded(t *testing.T) {
	m := feed.NewMetrics()
	f := feed.New(feedtest.View, feed.Options{Metrics: m, FrameBytes: 2000})
	trie := feedtest.Trie(100, 400)
	var bases []digest.Hash
	for v := range 30 {
		bases = append(bases, trie.Root())
		if err := f.Publish(feedtest.Version(feedtest.At(1, uint64(v)+1), trie)); err != nil {
			t.Fatal(err)
		}
		trie = trie.Set(feedtest.Key(fmt.Sprintf("r%05d", v)), feedtest.Resource(fmt.Sprintf("r%05d", v), 1, 400))
	}
	p := f.Published()
	for _, b := range bases[:29] {
		if _, err := f.Update(p, b, true); err != nil {
			t.Fatal(err)
		}
	}
	own, made, ordered := p.Cached()
	if own > 2000+30*450 || made != ordered {
		t.Errorf("the cache holds %d bytes in %d frames (%d in order)", own, made, ordered)
	}
	if made > 3 {
		t.Errorf("the cache holds %d frames within 2000 bytes", made)
	}
	if got := testutil.ToFloat64(m.FramesEncoded()); got != 29 {
		t.Errorf("%v frames encoded, want 29", got)
	}
}

func TestDeltaLargerThanTheContentBecomesASnapshot(t *testing.T) {
	from, to := feedtest.Trie(200, 500), feedtest.Trie(3, 100)
	v := feedtest.Version(feedtest.At(1, 2), to)
	if e, err := feed.EncodeUpdate(&v, from, true, feed.DefaultChunkBytes); err != nil || !e.Snapshot {
		t.Errorf("197 removals and 3 upserts for 300 bytes of content were not sent as a snapshot (%v)", err)
	}
}
