//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// clientSpec says what a process with clients is to be.
type clientSpec struct {
	Kind    string `json:"kind"` // floor, control, ads, etcd
	Address string `json:"address"`
	Count   int    `json:"count"`
	Acked   bool   `json:"acked,omitempty"` // floor: answer each message
	Tuned   bool   `json:"tuned,omitempty"` // floor: gRPC settings of MeshKit
	// Files are the one certificate of all floor clients; empty: no TLS.
	Files mtls.Files `json:"files"`
	// Token and Pin let the nodes of a hub join; empty: no TLS.
	Token string `json:"token,omitempty"`
	Pin   string `json:"pin,omitempty"`
}

// verified is the share of control clients that verify and apply what they get: one
// in so many.
const verified = 100

// dialers is how many clients connect at the same time.
const dialers = 32

// clients are many clients, each with a connection and a stream of its own.
type clients struct {
	spec   clientSpec
	failed chan error // the first failure

	mu    sync.Mutex // guards both below, between changes
	times []int64    // when each client got the change, by client
	done  chan struct{}
	left  atomic.Int64 // clients that have not got it
	size  atomic.Int64 // of the newest change, in bytes
}

// script is what the clients of one kind say.
type script interface {
	// method is the stream's.
	method() string
	// credentials are those of client i; nil: no TLS.
	credentials(i int) (credentials.TransportCredentials, error)
	options() []grpc.DialOption
	// hello is what client i says first.
	hello(i int) ([]byte, error)
	// take looks at a message, which it must not keep: it says what it is, and gives the
	// answer to it, or nil. It is called by all clients at the same time.
	take(b []byte) (what event, reply []byte, err error)
}

// event is what a message means to the measurement.
type event uint8

const (
	other  event = iota
	ready        // the stream is open and up to date
	change       // the change that is waited for
)

// arrivals answers "wait": when clients got the change, in nanoseconds since 1970.
type arrivals struct {
	P50  int64 `json:"p50"`
	P99  int64 `json:"p99"`
	Last int64 `json:"last"`
	// Bytes is the size of the message.
	Bytes int `json:"bytes"`
}

func clientsPart(spec clientSpec) (handlers, error) {
	c := &clients{spec: spec, failed: make(chan error, 1), times: make([]int64, spec.Count), done: make(chan struct{})}
	c.left.Store(1 << 62)
	return handlers{
		"connect": func(json.RawMessage) (any, error) { return nil, c.connect(context.Background()) },
		"arm":     func(json.RawMessage) (any, error) { c.arm(); return nil, nil },
		"wait":    func(json.RawMessage) (any, error) { return c.wait() },
		"failure": func(json.RawMessage) (any, error) { return nil, c.failure() },
	}, nil
}

func (c *clients) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// failure is the first failure of a client, or nil.
func (c *clients) failure() error {
	select {
	case err := <-c.failed:
		return err
	default:
		return nil
	}
}

// arm prepares for one change.
func (c *clients) arm() {
	c.mu.Lock()
	c.done = make(chan struct{})
	c.mu.Unlock()
	c.left.Store(int64(c.spec.Count))
}

// got notes that client i has the change.
func (c *clients) got(i int) {
	c.times[i] = now() // read by wait after the last client's got
	if c.left.Add(-1) == 0 {
		c.mu.Lock()
		close(c.done)
		c.mu.Unlock()
	}
}

// wait waits for the last client.
func (c *clients) wait() (any, error) {
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	select {
	case <-done:
	case err := <-c.failed:
		return nil, err
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("%d of %d clients got the change within a minute", int64(c.spec.Count)-c.left.Load(), c.spec.Count)
	}
	s := slices.Sorted(slices.Values(c.times))
	return arrivals{P50: s[len(s)/2], P99: s[len(s)*99/100], Last: s[len(s)-1], Bytes: int(c.size.Load())}, nil
}

// connect opens all streams and waits until each is up to date.
func (c *clients) connect(ctx context.Context) error {
	s, err := newScript(ctx, c)
	if err != nil {
		return err
	}
	next := make(chan int)
	var first error
	var once sync.Once
	failed := make(chan struct{})
	var wg sync.WaitGroup
	for range dialers {
		wg.Go(func() {
			for i := range next {
				if err := c.open(ctx, s, i); err != nil {
					once.Do(func() { first = fmt.Errorf("client %d: %w", i, err); close(failed) })
				}
			}
		})
	}
dial:
	for i := range c.spec.Count {
		select {
		case next <- i:
		case <-failed:
			break dial
		}
	}
	close(next)
	wg.Wait()
	return first
}

// open opens client i's stream, and leaves a goroutine that receives until the process
// ends.
func (c *clients) open(ctx context.Context, s script, i int) error {
	if v, ok := s.(verifier); ok && i%verified == 0 {
		return v.verifying(ctx, i)
	}
	creds, err := s.credentials(i)
	if err != nil {
		return err
	}
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	opts := append(s.options(), grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	conn, err := grpc.NewClient("passthrough:///"+c.spec.Address, opts...)
	if err != nil {
		return err
	}
	silent := c.spec.Kind == "floor" && !c.spec.Acked // one request, and nothing after it
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: !silent}, s.method())
	if err != nil {
		return err
	}
	hello, err := s.hello(i)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&message{hello}); err != nil {
		return err
	}
	if silent {
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	up := make(chan error, 1)
	go func() {
		err := c.receive(stream, s, i, up)
		select {
		case up <- err:
		default:
		}
		c.fail(fmt.Errorf("client %d: %w", i, err))
	}()
	return <-up
}

func (c *clients) receive(stream grpc.ClientStream, s script, i int, up chan<- error) error {
	var m message
	for opened := false; ; {
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		what, reply, err := s.take(m.b)
		if err != nil {
			return err
		}
		if what == change {
			c.size.Store(int64(len(m.b)))
			c.got(i)
		}
		if reply != nil {
			if err := stream.SendMsg(&message{reply}); err != nil {
				return err
			}
		}
		if what == ready && !opened {
			opened = true
			up <- nil
		}
	}
}

// verifier is a script some of whose clients are whole nodes.
type verifier interface {
	// verifying opens client i's stream with the product's client, which verifies
	// signatures, applies deltas and compares digests.
	verifying(ctx context.Context, i int) error
}

func newScript(ctx context.Context, c *clients) (script, error) {
	switch c.spec.Kind {
	case "floor":
		return newFloorScript(c.spec)
	case "control":
		return newControlScript(ctx, c)
	case "ads":
		return adsScript{}, nil
	case "etcd":
		return etcdScript{}, nil
	}
	return nil, fmt.Errorf("no clients of kind %q", c.spec.Kind)
}

// bare is what scripts without TLS and settings have in common.
type bare struct{}

func (bare) credentials(int) (credentials.TransportCredentials, error) { return nil, nil }
func (bare) options() []grpc.DialOption                                { return nil }

// floorScript is that of floor's clients.
type floorScript struct {
	acked, tuned bool
	creds        credentials.TransportCredentials
}

func newFloorScript(spec clientSpec) (script, error) {
	s := &floorScript{acked: spec.Acked, tuned: spec.Tuned}
	if spec.Files.Cert == "" {
		return s, nil
	}
	source, err := mtls.LoadFiles(spec.Files)
	if err != nil {
		return nil, err
	}
	s.creds = credentials.NewTLS(mtls.ClientConfig(source, mtls.AnyHub))
	return s, nil
}

func (s *floorScript) method() string { return floorMethod }

func (s *floorScript) credentials(int) (credentials.TransportCredentials, error) { return s.creds, nil }

func (s *floorScript) options() []grpc.DialOption {
	if s.tuned {
		return wire.DialOptions(wire.DialConfig{})
	}
	return nil
}

// floorHello asks for the stream, and comes back as its first message; floorAck is as
// long as an ack of the control protocol.
var (
	floorHello = []byte("hello")
	floorAck   = make([]byte, 60)
)

func (s *floorScript) hello(int) ([]byte, error) { return floorHello, nil }

func (s *floorScript) take(b []byte) (event, []byte, error) {
	switch {
	case len(b) == len(floorHello):
		return ready, nil, nil
	case s.acked:
		return change, floorAck, nil
	}
	return change, nil, nil
}
