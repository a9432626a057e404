package subscriber

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// attempt is one stream of a client. It belongs to the goroutine of Client.Run.
type attempt struct {
	client   *Client
	hub      string
	stream   grpc.BidiStreamingClient[controlv1.StreamRequest, controlv1.StreamResponse]
	cancel   context.CancelCauseFunc
	patience *time.Timer // for Accepted
	joins    assembler
	accepted time.Time          // zero: not yet
	closing  *controlv1.Notice  // the hub ends the stream
	goodbye  func() (stop bool) // stops the timer that cuts a hub which does not end it
}

// attempt opens a stream over conn and serves it until it ends.
func (c *Client) attempt(ctx context.Context, hub string, conn *grpc.ClientConn) ending {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &attempt{client: c, hub: hub, cancel: cancel, joins: assembler{limits: c.cfg.Limits}}
	a.patience = time.AfterFunc(acceptTimeout, func() {
		cancel(fault.New(fault.CodeTimeout, "hub %s did not accept the stream within %s", hub, acceptTimeout))
	})
	defer a.patience.Stop()
	return a.ending(a.run(ctx, conn))
}

// run sends the hello and receives until the stream ends; the error is never nil.
func (a *attempt) run(ctx context.Context, conn *grpc.ClientConn) error {
	c := a.client
	stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	a.stream = stream
	hello := c.cfg.Handler.Hello()
	hello.Protocols = []string{distribution.Protocol}
	if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: hello}}); err != nil && !errors.Is(err, io.EOF) {
		return err // io.EOF: the hub has ended the stream, Recv says why
	}
	out := &outbox{send: stream.Send}
	defer func() {
		c.mu.Lock()
		c.out, c.resync = nil, false
		c.mu.Unlock()
		out.stop(func() { a.cancel(nil) })
		if a.goodbye != nil {
			a.goodbye()
		}
	}()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return fault.New(fault.CodeNoConnection, "hub %s closed the stream", a.hub)
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx) // ours: says more than that the call was canceled
		case err != nil:
			return err
		}
		if a.closing != nil {
			continue // whatever was on its way
		}
		if err := a.take(ctx, m, out); err != nil {
			return err
		}
	}
}

// take hands one message to the handler.
func (a *attempt) take(ctx context.Context, m *controlv1.StreamResponse, out *outbox) error {
	c, h := a.client, a.client.cfg.Handler
	if a.accepted.IsZero() && m.GetAccepted() == nil && m.GetNotice() == nil {
		return fault.New(fault.CodeMessageOrder, "hub %s sends before it accepts", a.hub)
	}
	switch m := m.GetMessage().(type) {
	case *controlv1.StreamResponse_Accepted:
		return a.accept(ctx, m.Accepted, out)
	case *controlv1.StreamResponse_Update:
		u, err := a.joins.add(m.Update)
		if err != nil {
			return err
		}
		if u != nil && c.wanted(u) {
			h.Update(ctx, u)
		}
	case *controlv1.StreamResponse_Freshness:
		h.Freshness(ctx, m.Freshness)
	case *controlv1.StreamResponse_Trust:
		h.Trust(ctx, m.Trust)
	case *controlv1.StreamResponse_Notice:
		h.Notice(ctx, m.Notice)
		if m.Notice.GetClosing() {
			a.closing = m.Notice
			late := time.AfterFunc(endGrace, func() { a.cancel(nil) })
			a.goodbye = late.Stop
			out.shut()
			return a.closeSend(out)
		}
	}
	return nil // what a newer hub adds is not for us
}

// closeSend ends our half once the sender is idle, as gRPC asks for.
func (a *attempt) closeSend(out *outbox) error {
	out.busy.Wait()
	return a.stream.CloseSend()
}

func (a *attempt) accept(ctx context.Context, m *controlv1.Accepted, out *outbox) error {
	c := a.client
	if m.GetProtocol() != distribution.Protocol {
		return fault.New(fault.CodeProtocolVersion, "hub %s chose protocol %.32q, which this node does not speak", a.hub, m.GetProtocol())
	}
	if base, most := m.GetBackoffBase().AsDuration(), m.GetBackoffCap().AsDuration(); base > 0 && most > 0 {
		c.pause.Set(backoff.Policy{Base: min(max(base, 50*time.Millisecond), maxHint), Cap: min(most, maxHint)})
	}
	c.hubs.learn(m.GetHubs())
	if a.accepted.IsZero() {
		a.patience.Stop()
		a.accepted = time.Now()
		c.mu.Lock()
		c.out = out
		c.mu.Unlock()
	}
	c.cfg.Handler.Accepted(ctx, a.hub, m)
	return nil
}

// ending sums up: the closing notice counts for more than the status after it.
func (a *attempt) ending(err error) ending {
	e := ending{err: err}
	if !a.accepted.IsZero() {
		e.lived = time.Since(a.accepted)
	}
	if n := a.closing; n != nil {
		f := &fault.Error{Code: fault.Code(n.GetCode()), Kind: fault.Unavailable, Message: n.GetMessage(), Remedy: n.GetRemediation()}
		if known, ok := fault.Lookup(f.Code); ok {
			f.Kind = known.Kind
		}
		e.err, e.retry, e.hubs = f, n.GetRetryAfter().AsDuration(), n.GetHubs()
	}
	if wait, ok := wire.RetryAfter(err); ok && e.retry <= 0 {
		e.retry = wait
	}
	switch fault.CodeOf(e.err) {
	case fault.CodeAdmission, fault.CodeReplaced:
		e.sameHub = true
	}
	return e
}

// Bounds of the addresses that hubs may teach.
const (
	maxHubs       = 64
	maxHubAddress = 256
)

// candidates orders the hubs to try: those that a notice named, then the known ones
// in an order of this process's own, so that nodes spread.
type candidates struct {
	configured []string
	known      []string // configured and learned, shuffled
	at         int
	preferred  []string
}

func newCandidates(configured []string) *candidates {
	c := &candidates{configured: slices.Clone(configured)}
	c.learn(nil)
	return c
}

// next gives the hub to try next.
func (c *candidates) next() string {
	if len(c.preferred) > 0 {
		hub := c.preferred[0]
		c.preferred = c.preferred[1:]
		return hub
	}
	c.at++
	return c.known[c.at%len(c.known)]
}

// prefer puts these first, once.
func (c *candidates) prefer(hubs []string) {
	if len(hubs) > 0 {
		c.preferred = usable(hubs)
		rand.Shuffle(len(c.preferred), func(i, j int) { c.preferred[i], c.preferred[j] = c.preferred[j], c.preferred[i] })
	}
}

// learn replaces what is known beside the configured hubs.
func (c *candidates) learn(hubs []string) {
	known := slices.Clone(c.configured)
	for _, h := range usable(hubs) {
		if !slices.Contains(known, h) {
			known = append(known, h)
		}
	}
	if slices.Equal(slices.Sorted(slices.Values(known)), slices.Sorted(slices.Values(c.known))) {
		return
	}
	rand.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	c.known = known
}

// usable keeps what can be an address.
func usable(hubs []string) []string {
	var out []string
	for _, h := range hubs[:min(len(hubs), maxHubs)] {
		if h != "" && distribution.Plain(h, maxHubAddress) && strings.Contains(h, ":") {
			out = append(out, h)
		}
	}
	return out
}

// target keeps gRPC from looking addresses up by itself: a name is resolved at each
// dial, an address is used as it is.
func target(hub string) string {
	if strings.HasPrefix(hub, "unix:") {
		return hub
	}
	return "passthrough:///" + hub
}
