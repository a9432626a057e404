package client

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Addresses reads the addresses of hubs, host:port each, separated by commas. One that
// is named twice is tried once.
func Addresses(hub string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(hub, ",") {
		addr := strings.TrimSpace(part)
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			if strings.Contains(hub, ",") {
				return nil, fault.New(fault.CodeConfig, "hub address %q, of %q, is not host:port", addr, hub)
			}
			return nil, fault.New(fault.CodeConfig, "hub address %q is not host:port", addr)
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out, nil
}

// hubScheme is that of gRPC targets that a choice resolves.
const hubScheme = "meshkit-hubs"

// choice is which of several hubs a client talks to. It gives gRPC the addresses as they
// are, of which its policy pick_first takes the first that answers, and stays there while
// the connection lasts. Names are looked up when one is dialled, so that a name that does
// not resolve is an address that fails, with the lookup's own error.
//
// A hub that answers that it is starting is passed over: the connection to it is given up,
// and while the others are tried, its certificate is refused.
type choice struct {
	addresses []string

	mu     sync.Mutex // guards all below
	cc     resolver.ClientConn
	round  int             // of trying the addresses
	passed map[string]bool // names of hubs passed over since one has served
	why    error           // what the last of them said, and told when
	told   time.Time
}

// startsWithin is for how long a hub that said that it is starting is believed to be.
const startsWithin = 10 * time.Second

// roundKey is an attribute of addresses: gRPC keeps a connection while its address, with
// its attributes, is among them.
type roundKey struct{}

// state lists the addresses. h.mu is held.
func (h *choice) state() (state resolver.State) {
	for _, addr := range h.addresses {
		a := resolver.Address{Addr: addr, Attributes: attributes.New(roundKey{}, h.round)}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
	}
	return state
}

// want refuses a hub that was passed over.
func (h *choice) want(hub identity.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.passed[hub.Name] {
		return fault.New(fault.CodeHubStarting, "hub %s is starting", hub.Name)
	}
	return nil
}

// judge takes the outcome of a call and the peer that it reached, if any. It gives the
// error to go on with, and whether the call is to be made again, at the next hub: that is
// so only where the hub did nothing.
func (h *choice) judge(err error, at *peer.Peer) (again bool, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	code := fault.CodeOf(wire.FromStatus(err))
	switch {
	case code == fault.CodeHubStarting && at != nil && len(h.addresses) > 1:
		h.why, h.told = err, time.Now()
		return h.pass(at), err
	case code == fault.CodeNoConnection && h.why != nil && time.Since(h.told) < startsWithin && (at == nil || at.Addr == nil):
		// No other can be reached: back to those. A call that got to one and was lost there
		// is another matter.
		clear(h.passed)
		return false, h.why
	}
	if code != fault.CodeNoConnection {
		clear(h.passed)
		h.why = nil
	}
	return false, err
}

// pass has the connection to a hub given up and the others tried. It gives false when
// none is left. h.mu is held.
func (h *choice) pass(at *peer.Peer) bool {
	info, ok := at.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return false
	}
	hub, ok := mtls.StateID(info.State)
	if !ok || h.passed[hub.Name] { // the latter: by another call, at the same time
		return ok
	}
	if len(h.passed)+1 >= len(h.addresses) {
		clear(h.passed)
		return false
	}
	h.passed[hub.Name] = true
	h.round++
	return h.cc.UpdateState(h.state()) == nil
}

// unary makes a call at the next hub when one is starting.
func (h *choice) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	for range h.addresses {
		var at peer.Peer
		again, err := h.judge(invoke(ctx, method, req, reply, cc, append(slices.Clip(opts), grpc.Peer(&at))...), &at)
		if !again {
			return err
		}
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// stream notes when a hub is starting; who opened the stream may open it again.
func (h *choice) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		_, err = h.judge(err, nil)
		return nil, err
	}
	return &choosingStream{ClientStream: s, choice: h}, nil
}

// choosingStream judges what a stream begins with.
type choosingStream struct {
	grpc.ClientStream
	choice *choice
	served bool // used by who receives
}

func (s *choosingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if s.served {
		return err
	}
	if s.served = err == nil || errors.Is(err, io.EOF); s.served {
		s.choice.judge(nil, nil)
		return err
	}
	at, _ := peer.FromContext(s.Context())
	_, err = s.choice.judge(err, at)
	return err
}

// Build implements resolver.Builder.
func (h *choice) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	h.mu.Lock()
	h.cc = cc
	state := h.state()
	h.mu.Unlock()
	return h, cc.UpdateState(state)
}

// Scheme implements resolver.Builder.
func (*choice) Scheme() string { return hubScheme }

// ResolveNow implements resolver.Resolver.
func (*choice) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements resolver.Resolver.
func (*choice) Close() {}

// named is how messages speak of the hubs that a client may talk to.
func named(hub string) string {
	if strings.Contains(hub, ",") {
		return "hubs " + hub
	}
	return "hub " + hub
}

// unresolved finds the name that could not be looked up, and why, in the reason for
// which a connection did not come about.
func unresolved(reason string) (name, why string, ok bool) {
	_, after, ok := strings.Cut(reason, "lookup ")
	if !ok {
		return "", "", false
	}
	name, _, _ = strings.Cut(after, " ") // " on SERVER" may follow
	return strings.TrimSuffix(name, ":"), after[strings.LastIndex(after, ": ")+2:], true
}

// unreachable is the error of a call for which no connection came about.
func unreachable(hub, reason string) error {
	name, why, unknown := unresolved(reason)
	if unknown {
		reason = "the name " + name + " cannot be resolved: " + why
	}
	if strings.Contains(hub, ",") {
		return fault.New(fault.CodeUnreachable, "none of the %s can be reached; the last that was tried: %s", named(hub), reason)
	}
	err := fault.New(fault.CodeUnreachable, "%s: %s", named(hub), reason)
	if unknown {
		return err.WithRemedy("Check the name (`meshctl context show`), and how this machine resolves names.")
	}
	return err.WithRemedy("%s If the domain has other hubs, name them too: --hub %s,HOST:PORT; `meshctl context sync` takes them into the context.", fault.RemedyOf(err), hub)
}
