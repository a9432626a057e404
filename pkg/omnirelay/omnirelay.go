// Package omnirelay serves the control services that OmniRelay data planes speak
// (omnirelay.control.ControlPlaneWatch and omnirelay.mesh.control.v1's
// LeadershipControlService; docs/protocol.md, "OmniRelay clients"), on hubs and on
// agents. It stands on a distribution.Backend, which decides what a node is given, and
// on a distribution.Server, whose limits its streams share, as its guests.
//
//	s := omnirelay.NewServer(omnirelay.Config{Domain: "eu-west", Backend: views, Streams: streams})
//	s.Register(grpcServer)
//
// # A stream
//
// Each payload is a whole bundle (package bundle): encoded once per view and version,
// its bytes shared by all streams. A stream holds a cursor, not a queue: what the
// client has, from its resume token and what was sent since. When the content, or the
// trust metadata that verifies it, is newer, the client gets the newest bundle, and
// whatever came in between is left out. While the cursor is current nothing is sent.
//
// Three things are never sent: a bundle below what the client has (promise P3), one
// that needs a capability which the client did not advertise, and one that the trust
// metadata in it does not verify, as between the drop of a key and the next signature.
//
// Server and Board are safe for concurrent use. They start no goroutines.
package omnirelay

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Core is the capability without which a client is given nothing.
const Core = "core/v1"

// The values of ControlError.code. The last four are MeshKit's own; to a client they
// are what every code is: the end of the attempt.
const (
	UnsupportedCapability = "unsupported_capability"
	InvalidResumeToken    = "invalid_resume_token"
	HubBehind             = "hub_behind"
	HubDraining           = "hub_draining"
	NotAdmitted           = "not_admitted"
	BundleUnavailable     = "bundle_unavailable"
)

// Bounds of what a client says of itself.
const (
	maxCapabilities = 64
	maxWord         = 128
	maxOpaque       = 1 << 10
)

// MaxMessage bounds a response, in bytes: a bundle, and what is around it.
const MaxMessage = bundle.MaxBytes + 64<<10

// refusedWait is how long a client stays away that was refused for a reason which
// does not pass by itself.
const refusedWait = 20 * time.Second

// snapshotWait bounds the wait for a snapshot's content, as for every unary call.
const snapshotWait = 2 * time.Minute

// slowest is the rate, in bytes per second, below which a client that takes a bundle
// counts as one that does not read.
const slowest = 256 << 10

// Config configures a Server. Domain, Node or certificates, Backend and Streams are
// required.
type Config struct {
	// Domain is the one that resume tokens must be of.
	Domain string
	// Node is whom clients without a certificate get the content of; they may give any
	// node_id, which only tells them apart.
	Node string
	// Backend decides what a node is given. Its sessions are told nothing: this
	// protocol has no acks.
	Backend distribution.Backend
	// Streams says who is on the other end, and admits.
	Streams *distribution.Server
	// Reached gives the highest point that this server ever had. A client at or below
	// it follows to what is offered, also back: an agent that returned to an earlier
	// generation takes its local clients along. Nil, as on a hub: clients never go back.
	Reached func() feed.Point
	// Earlier gives trust metadata from before the present, newest first, for clients that
	// have nothing yet: content that only it verifies is better than none while no hub
	// can vouch for it anew. Nil, as on a hub: none.
	Earlier func() []*trust.Anchors
	// Frames are shared by the servers of a program; nil makes some.
	Frames *Frames
	// Logger; nil discards.
	Logger *slog.Logger
}

// Server implements ControlPlaneWatch. Use NewServer and Register.
type Server struct {
	relay.UnimplementedControlPlaneWatchServer
	cfg Config
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	if cfg.Frames == nil {
		cfg.Frames = NewFrames(0)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg}
}

// Register adds the service to a gRPC server that was made with wire.ServerOptions and
// may send MaxMessage (SendBytes).
func (s *Server) Register(on grpc.ServiceRegistrar) {
	d := relay.ControlPlaneWatch_ServiceDesc
	// Generated code would have each snapshot encoded anew, and be through before a byte
	// of it is written. On the wire a call with one answer is a stream of one message.
	d.Methods = nil
	d.Streams = append(slices.Clone(d.Streams), grpc.StreamDesc{StreamName: "Snapshot", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
		in := &relay.ControlSnapshotRequest{}
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
		return srv.(*Server).snapshot(in, stream)
	}})
	on.RegisterService(&d, s)
}

// Watch implements ControlPlaneWatch.
func (s *Server) Watch(req *relay.ControlWatchRequest, stream grpc.ServerStreamingServer[relay.ControlWatchResponse]) (err error) {
	g, err := s.cfg.Streams.Guest(stream.Context())
	if err != nil {
		if m := notAdmitted(err); m != nil {
			_ = stream.Send(m) // the status says the same
		}
		return err
	}
	defer func() { g.Leave(err) }()
	w := newWatch(s, g, stream)
	if w.caps, err = checkCapabilities(req.GetCapabilities()); err != nil {
		return err
	}
	var foreign bool
	if w.has, foreign, err = parseToken(req.GetResumeToken(), s.cfg.Domain); err != nil {
		s.cfg.Logger.Info("OmniRelay client refused", "node", g.Peer.ID.Name, "address", g.Peer.Address, "err", err)
		return w.end(InvalidResumeToken, err, backoff.Jitter(refusedWait, 0.5), nil)
	}
	if foreign {
		s.cfg.Logger.Info("OmniRelay client has a resume token that no MeshKit hub or agent made: it is sent the whole bundle", "node", g.Peer.ID.Name, "address", g.Peer.Address)
	}
	if err := w.attach(stream.Context(), req.GetNodeId(), req.GetCapabilities().GetBuildEpoch()); err != nil {
		if m := notAdmitted(err); m != nil {
			if err := w.tell(m); err != nil {
				return err
			}
		}
		return err
	}
	defer w.detach()
	// Also when there is nothing to send for hours: a proxy takes a call without headers
	// for one that hangs, and a client cannot tell that it is connected.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	return w.run(stream.Context())
}

// snapshot serves Snapshot.
func (s *Server) snapshot(req *relay.ControlSnapshotRequest, stream grpc.ServerStream) (err error) {
	g, err := s.cfg.Streams.Guest(stream.Context())
	if err != nil {
		return err
	}
	defer func() { g.Leave(err) }()
	w := newWatch(s, g, stream)
	if w.caps, err = checkCapabilities(req.GetCapabilities()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), snapshotWait)
	defer cancel()
	if err := w.attach(ctx, req.GetNodeId(), req.GetCapabilities().GetBuildEpoch()); err != nil {
		return err
	}
	defer w.detach()
	f, err := w.once(ctx)
	if err != nil {
		return err
	}
	return w.transmit(f)
}

// attach opens the backend's session for the node that the client is.
func (w *watch) attach(ctx context.Context, asked, build string) (err error) {
	if asked != "" && !plain(asked) {
		return fault.New(fault.CodeHello, "node_id is longer than %d bytes or not printable", maxWord)
	}
	peer := w.guest.Peer
	w.node = peer.ID.Name
	if peer.ID.IsZero() {
		w.node = w.srv.cfg.Node
	} else if asked != "" && asked != peer.ID.Name {
		return fault.New(fault.CodeHelloNode, "node_id is %q, the certificate is for %s", asked, peer.ID)
	}
	if err := identity.ValidName(w.node); err != nil {
		return err
	}
	hello := &controlv1.Hello{Node: w.node, Capabilities: w.caps, Build: build, Protocols: []string{distribution.Protocol}}
	if p := w.has.point; p != (feed.Point{}) {
		hello.Highest = &controlv1.ResumePoint{Epoch: p.Epoch, Version: p.Version}
	}
	if w.session, err = w.srv.cfg.Backend.Attach(ctx, peer, hello, w.poke); err != nil {
		return err
	}
	w.detach = sync.OnceFunc(func() { w.session.Close(nil) })
	return nil
}

// checkCapabilities gives what a client advertised, if it is within bounds.
func checkCapabilities(set *relay.CapabilitySet) ([]string, error) {
	if n := len(set.GetItems()); n > maxCapabilities {
		return nil, fault.New(fault.CodeHello, "%d capabilities, more than %d", n, maxCapabilities)
	}
	for _, c := range set.GetItems() {
		if c == "" || !plain(c) {
			return nil, fault.New(fault.CodeHello, "capability %.64q is empty, too long or not printable", c)
		}
	}
	if !plain(set.GetBuildEpoch()) {
		return nil, fault.New(fault.CodeHello, "build_epoch is longer than %d bytes or not printable", maxWord)
	}
	return set.GetItems(), nil
}

// plain tells whether text is short and safe to show.
func plain(text string) bool {
	return len(text) <= maxWord && utf8.ValidString(text) && !slices.ContainsFunc([]rune(text), func(r rune) bool { return !unicode.IsPrint(r) })
}
