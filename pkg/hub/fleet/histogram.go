package fleet

import (
	"math"
	"time"
)

// A histogram counts durations so that those of several hubs can be added up:
// bucket i holds what took at most 1.15^i ms, so a quantile read from it is at most
// 15 % too high.
const (
	bucketRatio = 1.15
	maxBuckets  = 128 // 1.15^127 ms is 14 hours
)

// histogram gives the counts up to the last one that is not 0.
func histogram(took []time.Duration) []uint32 {
	var counts []uint32
	for _, d := range took {
		i := 0
		if ms := float64(d) / float64(time.Millisecond); ms > 1 {
			i = min(maxBuckets-1, int(math.Ceil(math.Log(ms)/math.Log(bucketRatio)-1e-9)))
		}
		for len(counts) <= i {
			counts = append(counts, 0)
		}
		counts[i]++
	}
	return counts
}

// Quantile reads the q-quantile from counts, as the upper end of its bucket; 0 when
// there is nothing to count.
func Quantile(counts []uint32, q float64) time.Duration {
	total := 0
	for _, n := range counts {
		total += int(n)
	}
	if total == 0 {
		return 0
	}
	rank, seen := max(1, int(math.Ceil(q*float64(total)))), 0
	for i, n := range counts {
		if seen += int(n); seen >= rank {
			return time.Duration(math.Pow(bucketRatio, float64(i)) * float64(time.Millisecond))
		}
	}
	return 0
}
