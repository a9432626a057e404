// Package omnirelaytest is an OmniRelay data plane as far as its control plane sees
// it: a client that loads its own last-known-good file, watches with the resume token
// in it, applies whole bundles, and comes back by the server's backoff.
//
//	c := omnirelaytest.New(t, conn, "node-a", anchors)
//	c.Start()
//	e := c.Next()      // what it met next: a bundle applied, or why it was sent away
package omnirelaytest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/trust"
)

// patience bounds failures only.
const patience = 20 * time.Second

// Default waits of an OmniRelay client that is given no hint.
const (
	firstWait = time.Second
	maxWait   = 30 * time.Second
)

// Event is one thing that the client met. Exactly one of Bundle, Response and Err is
// set.
type Event struct {
	// Bundle was verified, applied and saved; Response brought it, unless it is what the
	// client had stored.
	Bundle   *bundle.Bundle
	Response *relay.ControlWatchResponse
	// Refused is a response with an error code, which ended the attempt.
	Refused *relay.ControlWatchResponse
	// Err is why an attempt ended otherwise, or why a payload was not applied.
	Err error
	// Wait is how long the client stays away after Refused or the end of a stream.
	Wait time.Duration
}

// Client is a data plane. Use New. Its fields may be set before Start.
type Client struct {
	Node         string
	Capabilities []string
	// File holds the last-known-good.
	File string
	// Sleep waits between attempts; the default waits for 10 ms at most.
	Sleep func(ctx context.Context, d time.Duration)

	t      testing.TB
	conn   grpc.ClientConnInterface
	events chan Event
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu    sync.Mutex // guards trust
	trust *trust.Anchors
}

// lkg is what the client stores.
type lkg struct {
	Version string
	Epoch   int64
	Payload []byte
	Token   *relay.WatchResumeToken
}

// New makes a client that trusts pinned; it stops when the test ends.
func New(t testing.TB, conn grpc.ClientConnInterface, node string, pinned *trust.Anchors) *Client {
	return &Client{
		Node: node, Capabilities: []string{"core/v1"}, File: filepath.Join(t.TempDir(), "lkg.json"), t: t, conn: conn, trust: pinned,
		events: make(chan Event, 1024), Sleep: func(ctx context.Context, d time.Duration) {
			select {
			case <-ctx.Done():
			case <-time.After(min(d, 10*time.Millisecond)):
			}
		},
	}
}

// Start loads what is stored and begins to watch.
func (c *Client) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.ended.Go(func() { c.run(ctx) })
	c.t.Cleanup(c.Stop)
}

// Stop ends the client and waits for it; Start begins anew from the file.
func (c *Client) Stop() {
	if c.stop != nil {
		c.stop()
		c.ended.Wait()
	}
}

// Next gives what the client met next.
func (c *Client) Next() Event {
	c.t.Helper()
	select {
	case e := <-c.events:
		return e
	case <-time.After(patience):
		c.t.Fatal("the client meets nothing")
		return Event{}
	}
}

// Applied gives the next event, which must be an applied bundle.
func (c *Client) Applied() Event {
	c.t.Helper()
	e := c.Next()
	if e.Bundle == nil {
		c.t.Fatalf("no bundle was applied: refused %v, error %v", e.Refused, e.Err)
	}
	return e
}

func (c *Client) run(ctx context.Context) {
	var token *relay.WatchResumeToken
	if stored, err := c.load(); err == nil {
		b, err := bundle.OpenStored(stored.Payload, c.anchors())
		if err == nil {
			token = stored.Token
			c.adopt(b)
		}
		c.tell(ctx, Event{Bundle: b, Err: err})
	} else if !errors.Is(err, os.ErrNotExist) {
		c.tell(ctx, Event{Err: err})
	}
	wait := firstWait
	for ctx.Err() == nil {
		e := c.attempt(ctx, &token)
		if ctx.Err() != nil {
			return
		}
		e.Wait = wait
		if hint := e.Refused.GetBackoff().GetMillis(); hint > 0 {
			e.Wait = time.Duration(hint) * time.Millisecond
		}
		wait = min(2*wait, maxWait)
		c.tell(ctx, e)
		c.Sleep(ctx, e.Wait)
	}
}

// tell keeps an event for Next.
func (c *Client) tell(ctx context.Context, e Event) {
	select {
	case c.events <- e:
	case <-ctx.Done():
	}
}

// attempt watches until the stream ends, and gives why.
func (c *Client) attempt(ctx context.Context, token **relay.WatchResumeToken) Event {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := relay.NewControlPlaneWatchClient(c.conn).Watch(ctx, &relay.ControlWatchRequest{
		NodeId: c.Node, Capabilities: &relay.CapabilitySet{Items: c.Capabilities, BuildEpoch: "test"}, ResumeToken: *token,
	})
	if err != nil {
		return Event{Err: err}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return Event{Err: err}
		}
		if m.GetError().GetCode() != "" {
			return Event{Refused: m}
		}
		b, err := bundle.Open(m.GetPayload(), c.anchors(), time.Now())
		if err != nil { // it goes on with what it has
			c.tell(ctx, Event{Err: err})
			continue
		}
		*token = m.GetResumeToken()
		c.adopt(b)
		if err := c.save(lkg{m.GetVersion(), m.GetEpoch(), m.GetPayload(), *token}); err != nil {
			return Event{Err: err}
		}
		c.tell(ctx, Event{Bundle: b, Response: m})
	}
}

func (c *Client) anchors() *trust.Anchors {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

func (c *Client) adopt(b *bundle.Bundle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust = b.Trust
}

func (c *Client) load() (out lkg, err error) {
	data, err := os.ReadFile(c.File)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	return out, err
}

func (c *Client) save(l lkg) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(c.File, data, 0o600)
}
