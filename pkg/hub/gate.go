package hub

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// gate paces handshakes: those that began first are done first, instead of all at
// once and each too late, as when thousands of agents come back. A handshake that
// waits for its peer for long holds up nobody: it gives its place in the gate back
// after a while, and goes on.
type gate struct {
	places *semaphore.Weighted
	hold   time.Duration
}

func newGate(places int64, hold time.Duration) *gate {
	return &gate{places: semaphore.NewWeighted(places), hold: hold}
}

// pass waits for its turn, in the order of arrival, until ctx ends. leave gives the
// place back, and may be called more than once.
func (g *gate) pass(ctx context.Context) (leave func(), err error) {
	if err := g.places.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	release := sync.OnceFunc(func() { g.places.Release(1) })
	timer := time.AfterFunc(g.hold, release)
	return func() {
		timer.Stop()
		release()
	}, nil
}
