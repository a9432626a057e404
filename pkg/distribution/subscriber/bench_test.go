package subscriber

import (
	"testing"

	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
)

// BenchmarkDelta decodes and applies a one-resource change of 10,000.
func BenchmarkDelta(b *testing.B) {
	from := feedtest.Trie(10_000, 1024)
	to := from.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", 1, 1024))
	v := feedtest.Version(feedtest.At(1, 2), to)
	m := feedtest.Manifest(feedtest.At(1, 2), to)
	e, err := encode(v, from, true, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		u, err := receive(e.Frames, distribution.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Apply(from, m, u, distribution.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
