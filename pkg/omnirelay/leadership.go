package omnirelay

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// ScopeKind is what every scope is: a domain.
const ScopeKind = "domain"

// Bounds of leadership subscriptions.
const (
	maxSubscribers = 1024
	// maxOfCaller of them are one caller's: of one certificate, over all connections.
	// Callers without one, on an agent's own socket, share all places.
	maxOfCaller = 8
	// callerBurst of them may one caller open at once, and one more in callerEvery: it
	// uses up its own admission before that of all.
	callerBurst = 2 * maxOfCaller
	callerEvery = time.Second
	// callerSweep is the number of callers above which those that are at rest are forgotten.
	callerSweep = 1024
	// maxPending events wait for a subscriber; beyond that it gets a snapshot instead.
	maxPending                    = 16
	maxScopeName                  = 256
	subscribeRate, subscribeBurst = 50, 100
)

// Leader is who leads a scope, as far as it is known.
type Leader struct {
	Hub  string
	Term uint64
	// Since is when the one who tells learned of it; Until is when not to rely on it any
	// more unless it is renewed: whoever holds a token sees that nobody renews it.
	Since, Until time.Time
	// Via is the hub whose word it is, if it is not the one who tells; or "".
	Via string
}

// Event is one thing that happened to a scope's leadership.
type Event struct {
	Kind  mesh.LeadershipEventKind
	Scope string
	// Leader is who leads now or, of an event that ends leadership, who led.
	Leader Leader
	Reason string
	At     time.Time
}

// ends tells whether nobody is known to lead after the event.
func (e Event) ends() bool {
	switch e.Kind {
	case mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED, mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_STEPPED_DOWN:
		return true
	}
	return false
}

// Board knows the newest event of each scope and tells subscribers. It implements
// LeadershipControlService. Use NewBoard.
type Board struct {
	mesh.UnimplementedLeadershipControlServiceServer
	opened *rate.Limiter
	guard  func(context.Context) error // nil: nobody is asked again

	mu      sync.Mutex                       // guards all below
	scopes  map[string]*mesh.LeadershipEvent // the newest; nil: nothing known yet
	readers map[*reader]struct{}
	callers map[identity.ID]*caller
	sweep   int // number of callers at which to look for those at rest
	closed  bool
	done    chan struct{} // closed by Close
}

// caller is what one certificate has. Board.mu guards it.
type caller struct {
	open   int
	opened *rate.Limiter
}

// reader is one subscription.
type reader struct {
	caller  *caller                 // nil: who has no certificate
	scope   string                  // "": every one
	pending []*mesh.LeadershipEvent // Board.mu
	lagging bool                    // Board.mu; events were left out
	wake    chan struct{}           // has room for one
}

// NewBoard makes a board of these scopes, of whose leaders nothing is known yet.
func NewBoard(scopes ...string) *Board {
	b := &Board{
		opened: rate.NewLimiter(subscribeRate, subscribeBurst),
		scopes: make(map[string]*mesh.LeadershipEvent), readers: make(map[*reader]struct{}), callers: make(map[identity.ID]*caller), sweep: callerSweep, done: make(chan struct{}),
	}
	for _, s := range scopes {
		b.scopes[s] = nil
	}
	return b
}

// Guard has allowed asked whether the caller of ctx may still subscribe, before anything
// is sent: a leader is confirmed every few seconds, so that a subscription does not
// outlive its caller's membership for long. It ends with the error. Call it before
// Register.
func (b *Board) Guard(allowed func(ctx context.Context) error) { b.guard = allowed }

// Register adds the service to a gRPC server.
func (b *Board) Register(on grpc.ServiceRegistrar) {
	mesh.RegisterLeadershipControlServiceServer(on, b)
}

// Publish tells subscribers of an event, which becomes what later ones get first. It
// never blocks. An event of a scope that the board does not have is dropped.
func (b *Board) Publish(e Event) {
	m := e.proto()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.scopes[e.Scope]; !ok {
		return
	}
	b.scopes[e.Scope] = m
	for r := range b.readers {
		if r.scope != "" && r.scope != e.Scope {
			continue
		}
		if len(r.pending) < maxPending && !r.lagging {
			r.pending = append(r.pending, m)
		} else {
			r.pending, r.lagging = nil, true
		}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (e Event) proto() *mesh.LeadershipEvent {
	m := &mesh.LeadershipEvent{
		Kind: e.Kind, Scope: e.Scope, LeaderId: e.Leader.Hub, Reason: e.Reason, CorrelationId: rand.Text(), OccurredAt: timestamppb.New(e.At),
		Token: &mesh.LeadershipToken{
			Scope: e.Scope, ScopeKind: ScopeKind, LeaderId: e.Leader.Hub, Term: int64(e.Leader.Term), FenceToken: int64(e.Leader.Term),
			IssuedAt: timestamppb.New(e.Leader.Since), ExpiresAt: timestamppb.New(e.Leader.Until),
		},
	}
	if e.ends() {
		m.Token.ExpiresAt = timestamppb.New(e.At)
	}
	if e.Leader.Via != "" {
		m.Token.Labels = map[string]string{"meshkit.dev/observed-via": e.Leader.Via}
	}
	return m
}

// present is what a subscriber to scope is given first, and after events were left out:
// a snapshot of each leader that is known, which one is not whose token nobody renewed,
// and, when events were left out, the end of each that is not. b.mu is held.
func (b *Board) present(scope string, lagging bool) (out []*mesh.LeadershipEvent) {
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(b.scopes)) {
		last := b.scopes[name]
		if last == nil || scope != "" && scope != name {
			continue
		}
		if (Event{Kind: last.GetKind()}).ends() {
			if lagging {
				out = append(out, last)
			}
			continue
		}
		if !last.GetToken().GetExpiresAt().AsTime().After(now) {
			continue
		}
		out = append(out, &mesh.LeadershipEvent{
			Kind: mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT, Scope: name, LeaderId: last.GetLeaderId(), Token: last.GetToken(),
			Reason: "present leader", CorrelationId: last.GetCorrelationId(), OccurredAt: timestamppb.New(now),
		})
	}
	return out
}

// Subscribe implements LeadershipControlService.
func (b *Board) Subscribe(req *mesh.LeadershipSubscribeRequest, stream grpc.ServerStreamingServer[mesh.LeadershipEvent]) error {
	id, _ := mtls.PeerID(stream.Context())
	r, err := b.join(id, req.GetScope())
	if err != nil {
		return err
	}
	defer b.leave(r)
	if err := stream.SendHeader(nil); err != nil { // there may be nothing to tell for long
		return err
	}
	for {
		events := b.take(r)
		if len(events) > 0 && b.guard != nil {
			if err := b.guard(stream.Context()); err != nil {
				return err
			}
		}
		for _, m := range events {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-b.done:
			return closedBoard()
		case <-r.wake:
		}
	}
}

// closedBoard is why a subscription ends, or does not begin, once the board is closed.
func closedBoard() error {
	return wire.WithRetry(fault.New(fault.CodeDraining, "this server is draining"), backoff.Jitter(2*time.Second, 0.5))
}

// of gives what a caller has; nil for one without a certificate. b.mu is held.
func (b *Board) of(id identity.ID) *caller {
	if id.IsZero() {
		return nil
	}
	c := b.callers[id]
	if c == nil {
		if len(b.callers) >= b.sweep {
			maps.DeleteFunc(b.callers, func(_ identity.ID, c *caller) bool { return c.open == 0 && c.opened.Tokens() >= callerBurst })
			b.sweep = max(callerSweep, 2*len(b.callers))
		}
		c = &caller{opened: rate.NewLimiter(rate.Every(callerEvery), callerBurst)}
		b.callers[id] = c
	}
	return c
}

// join opens a subscription, with its snapshots pending.
func (b *Board) join(id identity.ID, scope string) (*reader, error) {
	if len(scope) > maxScopeName {
		return nil, fault.New(fault.CodeHello, "scope has %d bytes, more than %d", len(scope), maxScopeName)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.scopes[scope]; !ok && scope != "" {
		return nil, fault.New(fault.CodeNoSuchScope, "there is no leadership scope %q here; there is %q", scope, slices.Sorted(maps.Keys(b.scopes)))
	}
	own := b.of(id)
	switch {
	case b.closed:
		return nil, closedBoard()
	case own != nil && own.open >= maxOfCaller:
		err := fault.New(fault.CodeStreamLimit, "%s has %d leadership subscriptions open, the limit", id, own.open).
			WithRemedy("End those that are not needed: one without a scope tells of all.")
		return nil, wire.WithRetry(err, backoff.Jitter(30*time.Second, 0.5))
	case own != nil && !own.opened.Allow():
		return nil, wire.WithRetry(fault.New(fault.CodeAdmission, "%s opens more leadership subscriptions than one caller may", id).
			WithRemedy("Keep one open: it tells of every change."), backoff.Jitter(4*callerEvery, 0.5))
	case len(b.readers) >= maxSubscribers:
		return nil, wire.WithRetry(fault.New(fault.CodeStreamLimit, "%d leadership subscriptions are open, the limit", len(b.readers)), backoff.Jitter(30*time.Second, 0.5))
	case !b.opened.Allow():
		return nil, wire.WithRetry(fault.New(fault.CodeAdmission, "more leadership subscriptions want to open than are admitted per second"), backoff.Jitter(2*time.Second, 0.5))
	}
	r := &reader{caller: own, scope: scope, pending: b.present(scope, false), wake: make(chan struct{}, 1)}
	b.readers[r] = struct{}{}
	if own != nil {
		own.open++
	}
	return r, nil
}

// take gives what is to be sent now.
func (b *Board) take(r *reader) []*mesh.LeadershipEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := r.pending
	if r.lagging {
		out = b.present(r.scope, true)
	}
	r.pending, r.lagging = nil, false
	return out
}

func (b *Board) leave(r *reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers, r)
	if r.caller != nil {
		r.caller.open--
	}
}

// Close ends all subscriptions and refuses new ones.
func (b *Board) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.done)
	}
}
