// Package subscriber is a node's side of the control stream of meshkit.control.v1
// (docs/protocol.md); the hub's side, and what both sides keep to, is package distribution.
//
//	c, err := subscriber.New(subscriber.Config{Hubs: hubs, DialOptions: credentials, Handler: h})
//	err = c.Run(ctx) // until ctx ends
//
// A Client keeps a stream to one of several hubs. What arrives it bounds, joins and hands
// to the Handler, unverified: who takes it checks signatures, computes with Apply what an
// update leads to, and answers with Ack or Nack. Apply holds that against the manifest, and
// serves whatever brings content, also a file.
//
// Client is safe for concurrent use. It calls its Handler from the goroutine of Run. The
// only other goroutine sends, while there is something to send; the end of Run waits for
// it. Apply is pure.
package subscriber

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Handler takes what a hub sends. The client calls all methods from one goroutine,
// one at a time, so a method that takes long holds back the stream, which is how a
// busy node slows its hub down. ctx ends when the stream does.
type Handler interface {
	// Hello describes the node; it is asked at each attempt to connect. Protocols is
	// filled in.
	Hello() *controlv1.Hello
	// Accepted: the stream is open, or what was accepted has changed.
	Accepted(ctx context.Context, hub string, a *controlv1.Accepted)
	// Update: chunks joined and bounded, nothing verified. Answer with Ack or Nack.
	Update(ctx context.Context, u *Update)
	// Freshness: nothing verified.
	Freshness(ctx context.Context, env *trustv1.Envelope)
	// Trust: nothing verified. It comes before manifests that need it.
	Trust(ctx context.Context, m *trustv1.Metadata)
	// Notice: for people and logs; the client itself follows retry_after and hubs.
	Notice(ctx context.Context, n *controlv1.Notice)
	// Disconnected: the stream, or the attempt to open one, ended with err, and the next
	// attempt is made after wait.
	Disconnected(hub string, err error, wait time.Duration)
}

// Config configures a Client. Zero fields mean the default, where there is one.
type Config struct {
	// Hubs are addresses to try, "host:port" or "unix:/path". Required.
	Hubs []string
	// DialOptions carry the transport credentials; wire.DialOptions are added. Required.
	DialOptions []grpc.DialOption
	// Handler takes what arrives. Required.
	Handler Handler
	// Backoff between attempts until a hub says otherwise; default 250 ms to 30 s.
	Backoff backoff.Policy
	// Limits bound what is taken.
	Limits distribution.Limits
	// Logger; nil discards.
	Logger *slog.Logger
}

// Client keeps one stream to one of several hubs.
type Client struct {
	cfg   Config
	dial  []grpc.DialOption
	hubs  *candidates      // used by Run
	pause *backoff.Backoff // used by Run

	mu     sync.Mutex // guards all below
	out    *outbox    // of the open stream; nil: none
	resync bool       // deltas are dropped until a snapshot arrives
}

const (
	// acceptTimeout bounds the wait for Accepted: the hub may have to build a view first.
	acceptTimeout = 30 * time.Second
	// steady is how long a stream must live for its end to count as a new trouble.
	steady = 10 * time.Second
	// maxHint bounds how long a hub can send a node away.
	maxHint = 5 * time.Minute
	// endGrace is how long a hub has to end the stream after its closing notice.
	endGrace = 3 * time.Second
)

// New makes a client; Run starts it. It fails without hubs (CodeNoHubs) or a
// handler.
func New(cfg Config) (*Client, error) {
	if len(cfg.Hubs) == 0 {
		return nil, fault.New(fault.CodeNoHubs, "no hub address is configured")
	}
	if cfg.Handler == nil {
		return nil, fault.New(fault.CodeInternal, "distribution client without a handler")
	}
	if cfg.Backoff == (backoff.Policy{}) {
		cfg.Backoff = backoff.Policy{Base: 250 * time.Millisecond, Cap: 30 * time.Second}
	}
	cfg.Limits = cfg.Limits.WithDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts := wire.DialOptions(wire.DialConfig{ReceiveBytes: cfg.Limits.MessageBytes})
	return &Client{
		cfg: cfg, dial: append(opts, cfg.DialOptions...),
		hubs: newCandidates(cfg.Hubs), pause: backoff.New(cfg.Backoff),
	}, nil
}

// Run connects, and reconnects, until ctx ends; it returns ctx's cause. Call it once.
func (c *Client) Run(ctx context.Context) error {
	var conn *grpc.ClientConn
	defer func() {
		if conn != nil {
			_ = conn.Close() // only reports a second Close
		}
	}()
	hub := c.hubs.next()
	for ctx.Err() == nil {
		var err error
		if conn == nil {
			if conn, err = grpc.NewClient(target(hub), c.dial...); err != nil {
				conn = nil
				err = fault.New(fault.CodeNoConnection, "hub %s: %w", hub, err)
			}
		}
		end := ending{err: err}
		if err == nil {
			end = c.attempt(ctx, hub, conn)
		}
		if ctx.Err() != nil {
			break
		}
		wait := c.wait(end)
		next := hub
		if !end.sameHub {
			if conn != nil {
				_ = conn.Close()
				conn = nil
			}
			c.hubs.prefer(end.hubs)
			next = c.hubs.next()
		}
		c.cfg.Handler.Disconnected(hub, end.err, wait)
		hub = next
		if backoff.Sleep(ctx, wait) != nil {
			break
		}
	}
	return context.Cause(ctx)
}

// ending is how an attempt ended and what the hub said about the next one.
type ending struct {
	err     error
	retry   time.Duration // 0: no hint
	hubs    []string      // where to go first
	lived   time.Duration // from Accepted on
	sameHub bool          // come back here: the hub keeps a slot, and the connection is good
}

// wait gives the pause before the next attempt: the hub's hint, or decorrelated
// jitter.
func (c *Client) wait(e ending) time.Duration {
	if e.lived >= steady {
		c.pause.Reset()
	}
	if e.retry > 0 {
		hint := min(e.retry, maxHint)
		return hint + backoff.Jitter(hint/10, 1)
	}
	return c.pause.Next()
}

// Ack tells the hub that a version is active. It never blocks; a later one replaces
// one that was not sent yet. Without a stream it is dropped: the next hello says the
// same.
func (c *Client) Ack(a *controlv1.Ack) {
	c.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: a}})
}

// Nack tells the hub that a version was refused or reverted. It never blocks. With
// Resync, deltas are dropped until a snapshot arrives.
func (c *Client) Nack(n *controlv1.Nack) {
	if n.GetResync() {
		c.mu.Lock()
		c.resync = c.out != nil
		c.mu.Unlock()
	}
	c.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Nack{Nack: n}})
}

// Report sends live facts. It never blocks; a later one replaces one not sent yet.
// Without a stream it is dropped.
func (c *Client) Report(s *controlv1.Status) {
	c.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Status{Status: s}})
}

func (c *Client) put(m *controlv1.StreamRequest) {
	c.mu.Lock()
	out := c.out
	c.mu.Unlock()
	if out != nil {
		out.put(m)
	}
}

// wanted tells whether u is to be handed on: after a resync was asked for, only a
// snapshot is.
func (c *Client) wanted(u *Update) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.Snapshot {
		c.resync = false
	}
	return !c.resync
}
