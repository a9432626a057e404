package distribution

import (
	"context"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Guest is a call of another protocol that is served beside the control streams and
// counts as one of them: against the hub's limit, with the same admission, and Drain
// waits for it. What one node may have of them is counted apart from its streams. See
// Server.Guest.
type Guest struct {
	Peer Peer

	srv    *Server
	cancel context.CancelCauseFunc
	leave  sync.Once
	drain  chan struct{} // closed by Drain
	wait   time.Duration // set before drain is closed
}

// Guest admits the call whose handler got ctx. It is refused as a control stream would
// be: with CodeUnauthenticated or CodeDenied by Identify, and with CodeAdmission,
// CodeStreamLimit or CodeDraining, which say when to come back (wire.RetryAfter).
// Call Leave when the handler returns.
func (s *Server) Guest(ctx context.Context) (*Guest, error) {
	g, err := s.guest(ctx)
	if err != nil {
		s.cfg.Metrics.refused.WithLabelValues(string(fault.CodeOf(err))).Inc()
		return nil, err
	}
	s.cfg.Metrics.admitted.Inc()
	s.cfg.Metrics.streams.Inc()
	return g, nil
}

func (s *Server) guest(ctx context.Context) (*Guest, error) {
	peer, err := s.cfg.Identify(ctx)
	if err != nil {
		return nil, err
	}
	cancel, ok := wire.CancelCall(ctx)
	if !ok {
		return nil, fault.New(fault.CodeInternal, "the gRPC server was made without wire.ServerOptions")
	}
	if !peer.ID.IsZero() {
		if wait, ok := s.crowd.admit(peer.ID.Name, time.Now()); !ok {
			return nil, wire.WithRetry(fault.New(fault.CodeAdmission, "node %s opens more calls beside its control stream than one node may", peer.ID.Name).
				WithRemedy("Look on node %s: one opens calls again and again, or more processes use its certificate than one node may have. Others can be served by its agent, on the agent's socket.", peer.ID.Name), wait)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(); err != nil {
		if !peer.ID.IsZero() {
			s.crowd.leave(peer.ID.Name)
		}
		return nil, err
	}
	g := &Guest{Peer: peer, srv: s, cancel: cancel, drain: make(chan struct{})}
	if s.guests == nil {
		s.guests = make(map[*Guest]struct{})
	}
	s.guests[g] = struct{}{}
	s.running.Add(1)
	return g, nil
}

// room tells whether one more stream may open. s.mu is held.
func (s *Server) room() error {
	switch {
	case s.closed:
		return fault.New(fault.CodeDraining, "this hub stops")
	case s.drain != nil:
		return wire.WithRetry(fault.New(fault.CodeDraining, "this hub is draining"), s.spread(len(s.nodes)))
	case len(s.streams)+len(s.guests) >= s.cfg.MaxStreams:
		return wire.WithRetry(fault.New(fault.CodeStreamLimit, "this hub serves %d streams, its limit", len(s.streams)+len(s.guests)), backoff.Jitter(maxRetry/2, 0.5))
	}
	if wait, ok := s.admission.admit(time.Now()); !ok {
		return wire.WithRetry(fault.New(fault.CodeAdmission, "more streams want to open than this hub admits per second"), wait)
	}
	return nil
}

// Draining is closed when the guest is to leave; Retry then says after which wait its
// client should come back. Close cuts those that stay, by their call's context.
func (g *Guest) Draining() <-chan struct{} { return g.drain }

// Retry is how long a client should stay away that has to leave now; valid once
// Draining is closed.
func (g *Guest) Retry() time.Duration { return g.wait }

// BehindWait is how long a peer that is ahead may wait for this server to catch up.
func (g *Guest) BehindWait() time.Duration { return g.srv.cfg.BehindWait }

// StallTimeout is how long a peer may take no bytes.
func (g *Guest) StallTimeout() time.Duration { return g.srv.cfg.StallTimeout }

// Leave gives the guest's place back; cause is why it ends, nil when all is in order.
func (g *Guest) Leave(cause error) {
	g.leave.Do(func() {
		s := g.srv
		s.mu.Lock()
		delete(s.guests, g)
		s.emptied()
		s.mu.Unlock()
		if !g.Peer.ID.IsZero() {
			s.crowd.leave(g.Peer.ID.Name)
		}
		s.cfg.Metrics.streams.Dec()
		s.cfg.Metrics.ended.WithLabelValues(string(fault.CodeOf(cause))).Inc()
		s.running.Done()
	})
}

// emptied tells Drain when nobody is left. s.mu is held.
func (s *Server) emptied() {
	if s.drain == nil || len(s.streams)+len(s.guests) > 0 {
		return
	}
	select {
	case <-s.drain.empty:
	default:
		close(s.drain.empty)
	}
}

// dismiss asks all guests to leave. s.mu is held.
func (s *Server) dismiss() {
	for g := range s.guests {
		select {
		case <-g.drain:
		default:
			g.wait = s.spread(len(s.guests))
			close(g.drain)
		}
	}
}

// Sent counts one message to the guest, and its bytes.
func (g *Guest) Sent(kind string, bytes int) {
	g.srv.cfg.Metrics.framesSent.WithLabelValues(kind).Inc()
	g.srv.cfg.Metrics.bytesSent.Add(float64(bytes))
}

// Encoded counts one shared message that was encoded.
func (g *Guest) Encoded(bytes int) { g.srv.cfg.Metrics.Feeds.Encoded(bytes) }
