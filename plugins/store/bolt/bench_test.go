package bolt

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/store"
)

// BenchmarkGroupCommit compares, in one run, the acknowledged appends per second
// of 64 writers with those of one writer that waits for its fsync each time.
func BenchmarkGroupCommit(b *testing.B) {
	const writers, each, alone = 64, 100, 200
	for b.Loop() {
		f := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
		_, tenure := lead(b, mustDomain(b, f, "eu-west"), store.Options{})
		one := rate(b, tenure, 1, alone)
		many := rate(b, tenure, writers, each)
		b.ReportMetric(one, "one/s")
		b.ReportMetric(many, "many/s")
		b.ReportMetric(many/one, "ratio")
	}
}

// rate gives the acknowledged appends per second.
func rate(b *testing.B, tenure *store.Tenure, writers, each int) float64 {
	b.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := tenure.Submit(b.Context(), draft(fmt.Sprintf("%d.%d", w, i))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return float64(writers*each) / time.Since(began).Seconds()
}

// BenchmarkTrim trims 10,000 entries of 6 kB in one append: as long as that takes,
// the writer is held.
func BenchmarkTrim(b *testing.B) {
	const entries, size, batch = 10_000, 6_000, 500
	for b.Loop() {
		b.StopTimer()
		f := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
		d := mustDomain(b, f, "eu-west")
		lease, err := d.Campaign(b.Context(), store.Holder{Name: "hub1"})
		if err != nil {
			b.Fatal(err)
		}
		term := lease.Term()
		for after := uint64(0); after < entries+1; after += batch {
			w := store.Batch{Term: term, After: after}
			for i := range uint64(batch) {
				w.Records = append(w.Records, store.Record{Position: store.Position{Seq: after + i + 1, Term: term}, Data: make([]byte, size)})
			}
			if err := d.Append(b.Context(), w); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := d.Append(b.Context(), store.Batch{Term: term, After: entries + batch, Trim: entries}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		f.Close()
		b.StartTimer()
	}
}
