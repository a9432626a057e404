// Package peers reaches the other hubs of a ring: it keeps one connection to each,
// with this hub's certificate, and asks all of them at once.
//
//	set := peers.New(peers.Options{…})
//	for _, a := range peers.Ask(ctx, set, call) { … }
//
// Who they are comes from the log: hubs that joined or led, and that the keyset
// lists. All methods are safe for concurrent use.
package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/wire"
)

// reconnect paces tries to reach a hub that is not there: once it is back it may lead
// at any time, and writes are to be handed on to it within moments.
var reconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
	MinConnectTimeout: connectTime,
})

// connectTime bounds one try.
const connectTime = 2 * time.Second

// Timeout is how long Ask waits for one hub.
const Timeout = 2 * time.Second

// Options of a Set; all are required but DialOptions.
type Options struct {
	Domain, Hub string
	TLS         *mtls.Source
	// State gives the newest state, nil while there is none.
	State func() *state.State
	// Listed tells whether the keyset lists a key of that hub.
	Listed func(hub string) bool
	// Stands tells whether a certificate, with the chain that was verified, still
	// counts; see access.Guard.
	Stands func(identity.ID, []*x509.Certificate) error
	// MessageBytes bounds one message.
	MessageBytes int
	// DialOptions are added to those of every connection.
	DialOptions []grpc.DialOption
}

// Peer is another hub.
type Peer struct {
	Hub, Address string
}

// Set is the other hubs of a domain. Use New and Close.
type Set struct {
	opt Options

	mu     sync.Mutex // guards both below
	conns  map[Peer]*grpc.ClientConn
	closed bool
}

// New makes a Set without connections.
func New(opt Options) *Set { return &Set{opt: opt, conns: make(map[Peer]*grpc.ClientConn)} }

// Close ends all connections.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for p, c := range s.conns {
		_ = c.Close()
		delete(s.conns, p)
	}
}

// Others lists the other hubs, by name.
func (s *Set) Others() []Peer {
	var out []Peer
	st := s.opt.State()
	if st == nil {
		return nil
	}
	for h := range st.Hubs() {
		if h.GetHub() != s.opt.Hub && h.GetAddress() != "" && s.opt.Listed(h.GetHub()) {
			out = append(out, Peer{Hub: h.GetHub(), Address: h.GetAddress()})
		}
	}
	return out
}

// Conn gives the connection to a hub. Nobody but that hub can answer on it.
func (s *Set) Conn(p Peer) (*grpc.ClientConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fault.New(fault.CodeHubDraining, "hub %s is shutting down", s.opt.Hub)
	}
	if c := s.conns[p]; c != nil {
		return c, nil
	}
	want := func(id identity.ID) error {
		if id.Domain != s.opt.Domain || id.Kind != identity.Hub || id.Name != p.Hub {
			return fault.New(fault.CodePeerRole, "%s is not hub %s of domain %s", id, p.Hub, s.opt.Domain)
		}
		return nil
	}
	config := mtls.ClientConfig(s.opt.TLS, want)
	verify := config.VerifyConnection
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); errors.Is(err, fault.CodePeerDomain) {
			return fault.New(fault.CodePeerDomain, "%s %s: %w", notServed, s.opt.Domain, err)
		} else if err != nil {
			return err
		}
		id, _ := identity.FromCertificate(cs.PeerCertificates[0])
		return s.opt.Stands(id, cs.PeerCertificates)
	}
	options := append(wire.DialOptions(wire.DialConfig{
		ReceiveBytes: s.opt.MessageBytes, SendBytes: s.opt.MessageBytes, UserAgent: "meshhub/" + s.opt.Hub,
		// A hub that was stopped or cut off is given up soon.
		KeepaliveTime: 5 * time.Second, KeepaliveTimeout: 2 * time.Second, Connect: connectTime,
	}), reconnect, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	c, err := grpc.NewClient("passthrough:///"+p.Address, append(options, s.opt.DialOptions...)...)
	if err != nil {
		return nil, fault.New(fault.CodeConfig, "address %q of hub %s: %w", p.Address, p.Hub, err)
	}
	// A hub that moved has a new address: the old connection is of no use.
	for old, conn := range s.conns {
		if old.Hub == p.Hub {
			_ = conn.Close()
			delete(s.conns, old)
		}
	}
	s.conns[p] = c
	return c, nil
}

// notServed begins the error of a hub that answers for another domain only: it serves
// several on its port, as a rule, and this one is not among them. gRPC tells of a failed
// handshake only in words.
const notServed = "it does not serve domain"

// NotServed tells whether a hub did not answer because it does not serve the domain.
func NotServed(err error) bool { return err != nil && strings.Contains(err.Error(), notServed) }

// Answer is what one hub answered.
type Answer[T any] struct {
	Peer  Peer
	Value T
	Err   error
}

// Lister lists hubs to ask, and connects to them: a Set, or some of one.
type Lister interface {
	Others() []Peer
	Conn(Peer) (*grpc.ClientConn, error)
}

// Only is the part of the set that keep wants.
func (s *Set) Only(keep func(hub string) bool) Lister { return only{s, keep} }

type only struct {
	*Set
	keep func(hub string) bool
}

func (o only) Others() []Peer {
	return slices.DeleteFunc(o.Set.Others(), func(p Peer) bool { return !o.keep(p.Hub) })
}

// Ask makes the same call to all other hubs at once, and waits at most Timeout for
// each.
func Ask[T any](ctx context.Context, s Lister, call func(context.Context, *grpc.ClientConn) (T, error)) []Answer[T] {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	others := s.Others()
	out := make([]Answer[T], len(others))
	var wg sync.WaitGroup
	for i, p := range others {
		wg.Go(func() {
			out[i].Peer = p
			conn, err := s.Conn(p)
			if err == nil {
				out[i].Value, err = call(ctx, conn)
			}
			out[i].Err = err
		})
	}
	wg.Wait()
	return out
}
