package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/test/harness"
)

// patience bounds a wait for the ring.
const patience = 60 * time.Second

// ring is what measurements share.
type ring struct {
	hubs    []*harness.Hub
	clients []*client.Client
	ids     atomic.Int64
}

func (r *ring) close() {
	for _, c := range r.clients {
		_ = c.Close()
	}
}

func (r *ring) client(i int) *client.Client {
	for len(r.clients) < len(r.hubs) {
		r.clients = append(r.clients, r.hubs[len(r.clients)].Client())
	}
	return r.clients[i]
}

// write changes one resource, with one request id for as long as it takes.
func (r *ring) write(ctx context.Context, c *client.Client, writer int) error {
	n := r.ids.Add(1)
	req := &adminv1.ApplyRequest{RequestId: fmt.Sprintf("bench-%d", n), Change: &adminv1.Change{
		FieldManager: "bench", Resources: [][]byte{fmt.Appendf(nil,
			`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"writer-%03d"},"spec":{"endpoints":[{"address":"10.%d.%d.%d:80"}]}}`,
			writer, n>>16&255, n>>8&255, n&255)},
	}}
	for {
		_, err := c.Apply(ctx, req)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// throughput compares 64 writers, spread over the hubs, with one, in turns.
func (r *ring) throughput(ctx context.Context) figure {
	const turns, span = 4, 3 * time.Second
	rate := func(writers int) float64 {
		ctx, cancel := context.WithTimeout(ctx, span)
		defer cancel()
		var done atomic.Int64
		var wg sync.WaitGroup
		for i := range writers {
			c := r.client(i % len(r.hubs))
			wg.Go(func() {
				for r.write(ctx, c, i) == nil {
					done.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(done.Load()) / span.Seconds()
	}
	rate(64) // warm
	var one, many float64
	for range turns {
		a, b := rate(1), rate(64)
		fmt.Fprintf(os.Stderr, "%.0f/s by one writer, %.0f/s by 64\n", a, b)
		one, many = one+a/turns, many+b/turns
	}
	return figure{
		name: "acknowledged writes per second through the ring, 64 writers, against one", target: "≥ 8 ×",
		measured: fmt.Sprintf("%.1f ×", many/one), met: many >= 8*one,
		detail: fmt.Sprintf("%.0f/s against %.0f/s; validated, planned, appended; writers on every hub, %d turns of %s each", many, one, turns, span),
	}
}

// done is a write that was acknowledged.
type done struct{ begun, ended time.Time }

// lose has the leader lost n times while three writers on each hub write, and gives
// the times from the signal to the end of the first acknowledged write that began
// after it; for SIGTERM the longest time without an acknowledgement.
func (r *ring) lose(ctx context.Context, signal os.Signal, n int) ([]time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	acked := make(chan done, 256)
	var wg sync.WaitGroup
	for i := range 3 * len(r.hubs) {
		c := r.client(i % len(r.hubs))
		wg.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				begun := time.Now()
				// A short try: a client whose hub is stopped goes to another.
				wctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := r.write(wctx, c, i)
				cancel()
				if err == nil {
					select {
					case acked <- done{begun, time.Now()}:
					case <-ctx.Done():
					}
				}
				<-pace.C
			}
		})
	}
	defer wg.Wait()
	defer stop()
	var gaps []time.Duration
	for range n {
		leader, err := r.leader(ctx)
		if err != nil {
			return nil, err
		}
		// Everybody follows before it is lost.
		if err := settle(ctx, acked); err != nil {
			return nil, err
		}
		at := time.Now()
		leader.Signal(signal)
		gap, err := next(ctx, acked, at)
		if signal == syscall.SIGTERM && err == nil {
			var later time.Duration
			later, err = longest(ctx, acked, 3*time.Second)
			gap = max(gap, later)
		}
		if err != nil {
			return nil, fmt.Errorf("after %s for %s: %w", signal, leader.Name, err)
		}
		gaps = append(gaps, gap)
		if signal == syscall.SIGSTOP {
			leader.Signal(syscall.SIGCONT)
		} else {
			leader.Kill()
			leader.Start()
		}
	}
	return gaps, nil
}

// settle drops what was acknowledged, and waits for two hundred writes more.
func settle(ctx context.Context, acked <-chan done) error {
	limit := time.After(patience)
	for range 200 {
		select {
		case <-acked:
		case <-limit:
			return fmt.Errorf("no writes within %s", patience)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// longest gives the longest time without an acknowledgement within span: a hub that
// ends in order answers for a while yet.
func longest(ctx context.Context, acked <-chan done, span time.Duration) (time.Duration, error) {
	var most time.Duration
	last, limit := time.Now(), time.After(span)
	for {
		select {
		case d := <-acked:
			most, last = max(most, d.ended.Sub(last)), d.ended
		case <-limit:
			return max(most, time.Since(last)), nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func next(ctx context.Context, acked <-chan done, at time.Time) (time.Duration, error) {
	limit := time.After(patience)
	for {
		select {
		case d := <-acked:
			// What was under way may have been committed before.
			if d.begun.After(at) {
				return d.ended.Sub(at), nil
			}
		case <-limit:
			return 0, fmt.Errorf("no write within %s", patience)
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// leader waits until one hub says that it leads, as another sees it too.
func (r *ring) leader(ctx context.Context) (*harness.Hub, error) {
	var found *harness.Hub
	err := harness.Poll(patience, func() (bool, error) {
		leads := make(map[string]int)
		for i := range r.hubs {
			hctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			hubs, err := r.client(i).Hubs(hctx)
			cancel()
			if err != nil {
				return false, ctx.Err()
			}
			for _, h := range hubs {
				if h.GetLeader() {
					leads[h.GetName()]++
				}
			}
		}
		for _, h := range r.hubs {
			if leads[h.Name] == len(r.hubs) {
				found = h
			}
		}
		return found != nil && len(leads) == 1, nil
	})
	return found, err
}
