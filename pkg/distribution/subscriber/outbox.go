package subscriber

import (
	"context"
	"slices"
	"sync"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
)

// maxPending bounds what waits to be sent: one ack, one status, and the newest nacks.
const maxPending = 16

// outbox sends a client's messages on one stream without making the caller wait. A
// goroutine exists only while there is something to send.
type outbox struct {
	send func(*controlv1.StreamRequest) error // not called by two goroutines at once
	busy sync.WaitGroup

	mu      sync.Mutex // guards all below
	pending []*controlv1.StreamRequest
	sending bool
	closed  bool
}

// put queues m in the order of calls. Acks and statuses are levels: the newest
// takes the place of one that waits. Nacks are kept, the oldest dropped when full.
func (o *outbox) put(m *controlv1.StreamRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if m.GetNack() == nil {
		o.pending = slices.DeleteFunc(o.pending, func(p *controlv1.StreamRequest) bool {
			return (p.GetAck() != nil) == (m.GetAck() != nil) && (p.GetStatus() != nil) == (m.GetStatus() != nil)
		})
	}
	if len(o.pending) >= maxPending {
		o.pending = o.pending[1:]
	}
	o.pending = append(o.pending, m)
	if !o.sending {
		o.sending = true
		o.busy.Go(o.flush)
	}
}

func (o *outbox) flush() {
	for {
		o.mu.Lock()
		if len(o.pending) == 0 || o.closed {
			o.sending = false
			o.mu.Unlock()
			return
		}
		m := o.pending[0]
		o.pending = o.pending[1:]
		o.mu.Unlock()
		if o.send(m) != nil {
			o.shut() // receiving finds out why
		}
	}
}

func (o *outbox) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.pending = true, nil
}

// stop drops what waits, ends the stream and waits for the sender.
func (o *outbox) stop(cancel context.CancelFunc) {
	o.shut()
	cancel()
	o.busy.Wait()
}
