package feed_test

import (
	"testing"

	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
)

// BenchmarkDelta encodes a one-resource change of 10,000.
func BenchmarkDelta(b *testing.B) {
	from := feedtest.Trie(10_000, 1024)
	v := feedtest.Version(feedtest.At(1, 2), from.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", 1, 1024)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := feed.EncodeUpdate(&v, from, true, feed.DefaultChunkBytes); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot encodes a snapshot of 10,000 resources; own-B is what the frames
// hold beside the content that they refer to.
func BenchmarkSnapshot(b *testing.B) {
	v := feedtest.Version(feedtest.At(1, 2), feedtest.Trie(10_000, 1024))
	b.ReportAllocs()
	for b.Loop() {
		e, err := feed.EncodeUpdate(&v, nil, false, feed.DefaultChunkBytes)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(e.Own()), "own-B")
		b.ReportMetric(float64(len(e.Frames)), "chunks")
	}
}
