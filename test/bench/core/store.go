package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/bolt"
)

// appends compares 64 writers that share appends with one writer that has an
// fsync for each, on the same file, in turns.
func appends(ctx context.Context, b *bench) (result, error) {
	dir, err := b.temp("bolt")
	if err != nil {
		return result{}, err
	}
	file, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		return result{}, err
	}
	defer func() { _ = file.Close() }()
	driver, err := file.Domain("bench")
	if err != nil {
		return result{}, err
	}
	log, err := store.Open(ctx, driver, store.Options{})
	if err != nil {
		return result{}, err
	}
	tenure, err := log.Campaign(ctx, store.Holder{Name: "bench"})
	if err != nil {
		return result{}, err
	}
	const turns, each = 5, 400 * time.Millisecond
	var one, many []float64
	for range turns {
		o, err := appendRate(ctx, tenure, 1, each)
		if err != nil {
			return result{}, err
		}
		m, err := appendRate(ctx, tenure, 64, each)
		if err != nil {
			return result{}, err
		}
		one, many = append(one, o), append(many, m)
	}
	ratios := make([]float64, turns)
	for i := range ratios {
		ratios[i] = many[i] / one[i]
	}
	ratio := middle(ratios)
	return result{
		text: fmt.Sprintf("%.1f ×", ratio), met: ratio >= 10,
		detail: fmt.Sprintf("%.0f/s against %.0f/s; 1 KiB entries, %d turns", middle(many), middle(one), turns),
	}, tenure.Resign(ctx)
}

// appendRate is how many 1 KiB entries per second n writers get acknowledged.
func appendRate(ctx context.Context, t *store.Tenure, n int, d time.Duration) (float64, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total int
		first error
	)
	payload := make([]byte, 1024)
	begin := time.Now()
	for range n {
		wg.Go(func() {
			count, err := 0, error(nil)
			for time.Since(begin) < d && err == nil {
				_, err = t.Submit(ctx, func(store.Position) (store.Draft, error) {
					return store.Draft{Kind: "Bench", Author: "bench", Time: time.Now(), Payload: payload}, nil
				})
				count++
			}
			mu.Lock()
			defer mu.Unlock()
			total += count
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return float64(total) / time.Since(begin).Seconds(), first
}
