package demo

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// writePace is the pause between two writes of one writer: a domain holds 10,000
// usable tokens at most.
const writePace = 15 * time.Millisecond

// writers write through every hub until stop. A write is a join token: small, and
// listed afterwards. It keeps its request id for as long as it takes.
type writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards all below
	acked map[string]bool
	last  string        // the hub through which the newest was acknowledged
	newer chan struct{} // closed and replaced with each acknowledgement
}

func startWriters(ctx context.Context, hubs []*ringHub, run string) *writers {
	ctx, cancel := context.WithCancel(ctx)
	w := &writers{cancel: cancel, acked: make(map[string]bool), newer: make(chan struct{})}
	for _, h := range hubs {
		w.wg.Go(func() { w.write(ctx, h, run) })
	}
	return w
}

func (w *writers) write(ctx context.Context, h *ringHub, run string) {
	pace := time.NewTicker(writePace)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		wctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		t, err := h.client.CreateToken(wctx, &adminv1.CreateTokenRequest{Ttl: durationpb.New(10 * time.Minute), Uses: 1, RequestId: fmt.Sprintf("%.8s-%s-%d", run, h.name, i)})
		cancel()
		switch {
		case err == nil:
			w.acknowledged(t.GetId(), h.name)
			i++
		case fault.CodeOf(err) == fault.CodeTokenShown: // done by a try whose answer was lost
			i++
		}
	}
}

func (w *writers) acknowledged(id, hub string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[id], w.last = true, hub
	close(w.newer)
	w.newer = make(chan struct{})
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// next waits for the next acknowledgement and tells how long it took, and through
// which hub it came. One that was under way when the leader ended counts as well.
func (w *writers) next(ctx context.Context, limit time.Duration) (took time.Duration, hub string, err error) {
	begun := time.Now()
	w.mu.Lock()
	newer := w.newer
	w.mu.Unlock()
	select {
	case <-newer:
	case <-time.After(limit):
		return 0, "", fmt.Errorf("%w within %s", errNoWrite, limit)
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(begun), w.last, nil
}

// stop ends the writers and gives the writes that were acknowledged.
func (w *writers) stop() map[string]bool {
	w.cancel()
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acked)
}
