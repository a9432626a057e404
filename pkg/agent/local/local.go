// Package local serves an agent's own endpoints: a Unix socket for the processes
// and operators of the node, and a loopback port for processes with a certificate.
//
//	socket    ControlService, OmniRelay's services, AgentService    mode 0600; only the agent's user and root
//	port      ControlService, OmniRelay's services                  mutual TLS 1.3; this node's certificate
//
// The port is a loopback one, and nobody comes in with another certificate: a node's
// view is that node's. Its agent asks no hub whether another node was forgotten in
// the meantime, nor which scope it is in. A process that comes in has the same say as
// one on the socket: its refusal of a version, or the loss of its stream, may take
// the version back.
//
// ControlService re-serves what is active, with the hub's own signatures, as
// snapshots and deltas: local processes verify for themselves, and keep being
// served while every hub is gone. OmniRelay's services do so in whole bundles.
// Commands are on the socket alone.
//
// A Server is made by Listen and lives as long as Serve. Feeds and Server are safe
// for concurrent use.
package local

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/omnirelay"
	"github.com/meshkit/meshkit/pkg/run"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Bounds of the local endpoints.
const (
	maxLocalStreams = 256
	maxSocketPath   = 100
	drainTime       = 2 * time.Second
	maxBundleReply  = 160 << 20
)

// Agent is what AgentService stands on.
type Agent interface {
	Status() *agentv1.GetStatusResponse
	Active() (manifest *trustv1.Envelope, content *digest.Trie, ok bool)
	Commands
}

// Commands are the operator's break-glass commands.
type Commands interface {
	Pin(ctx context.Context, version uint64, reason string) (*agentv1.Generation, error)
	Unpin(ctx context.Context) error
	Revert(ctx context.Context, reason string) (*agentv1.Generation, error)
}

// Config configures a Server.
type Config struct {
	// Socket is the path of the Unix socket.
	Socket string
	// Listen is the address of the mutual TLS port, which CheckListen must let
	// pass; empty: none.
	Listen string
	Source *mtls.Source
	Feeds  *Feeds
	Agent  Agent
	// Earlier gives the agent's trust metadata from before the present, newest first.
	Earlier func() []*trust.Anchors
	Logger  *slog.Logger
}

// Server is the local endpoints. Use Listen.
type Server struct {
	cfg     Config
	unix    net.Listener
	tcp     net.Listener // nil: none
	control []*distribution.Server
	frames  *omnirelay.Frames
	onUnix  *grpc.Server
	onTCP   *grpc.Server
}

// Listen opens the endpoints. A socket that a crash left behind is replaced;
// anything else in its place is an error (fault.CodeSocketPath).
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg}
	if err := s.listenUnix(); err != nil {
		return nil, err
	}
	if cfg.Listen != "" {
		tcp, err := listenLoopback(cfg.Listen)
		if err != nil {
			_ = s.unix.Close()
			return nil, err
		}
		s.tcp = tcp
	}
	if err := s.register(); err != nil {
		_ = s.unix.Close()
		if s.tcp != nil {
			_ = s.tcp.Close()
		}
		return nil, err
	}
	return s, nil
}

func (s *Server) listenUnix() error {
	path := s.cfg.Socket
	if len(path) > maxSocketPath {
		return fault.New(fault.CodeSocketPath, "socket path %s has %d bytes, more than %d", path, len(path), maxSocketPath)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return fault.New(fault.CodeSocketPath, "%s exists and is not a socket", path)
		}
		// The directory's lock is held: no other agent of this directory serves it.
		if err := os.Remove(path); err != nil {
			return fault.New(fault.CodeSocketPath, "replace socket %s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.CodeIO, "make directory of socket: %w", err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return fault.New(fault.CodeSocketPath, "listen on socket %s: %w", path, err)
	}
	s.unix = l
	return nil
}

func (s *Server) register() error {
	s.frames = omnirelay.NewFrames(0)
	base := wire.ServerOptions(wire.ServerConfig{SendBytes: omnirelay.MaxMessage, Logger: s.cfg.Logger})
	s.onUnix = grpc.NewServer(append(base, grpc.Creds(peerCredentials{}))...)
	if err := s.serveControl(s.onUnix, localPeer); err != nil {
		return err
	}
	agentv1.RegisterAgentServiceServer(s.onUnix, &service{agent: s.cfg.Agent})
	if s.tcp == nil {
		return nil
	}
	tlsConfig := mtls.ServerConfig(s.cfg.Source, mtls.ServerOptions{})
	s.onTCP = grpc.NewServer(append(base, grpc.Creds(credentials.NewTLS(tlsConfig)))...)
	return s.serveControl(s.onTCP, s.ownPeer)
}

func (s *Server) serveControl(on *grpc.Server, identify func(context.Context) (distribution.Peer, error)) error {
	c, err := distribution.NewServer(distribution.ServerConfig{
		Backend: s.cfg.Feeds, Identify: identify, MaxStreams: maxLocalStreams, Logger: s.cfg.Logger, Back: true,
	})
	if err != nil {
		return err
	}
	s.control = append(s.control, c)
	controlv1.RegisterControlServiceServer(on, c)
	s.serveRelay(on, c, identify)
	return nil
}

// localPeer describes a process whose user the handshake has checked.
func localPeer(ctx context.Context) (distribution.Peer, error) {
	return distribution.Peer{Address: "local"}, nil
}

// ownPeer describes a process with this node's certificate, and turns others away.
func (s *Server) ownPeer(ctx context.Context) (distribution.Peer, error) {
	id, ok := mtls.PeerID(ctx)
	node := s.cfg.Feeds.cfg.Node
	if !ok || id.Kind != identity.Node || id.Name != node {
		return distribution.Peer{}, fault.New(fault.CodeDenied, "the agent of node %s serves only processes with that node's certificate", node).
			WithRemedy("Use tls/node.pem and tls/node.key of this node's data directory, or the agent's Unix socket; other nodes get their content from a hub.")
	}
	return distribution.Peer{ID: id, Address: "loopback"}, nil
}

// Address is where the mutual TLS port listens; empty without one.
func (s *Server) Address() string {
	if s.tcp == nil {
		return ""
	}
	return s.tcp.Addr().String()
}

// Serve serves until ctx ends, then sends the streams away and returns. It removes
// the socket.
func (s *Server) Serve(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("unix socket", func(context.Context) error { return serving(s.onUnix.Serve(s.unix)) })
	if s.onTCP != nil {
		g.Go("loopback port", func(context.Context) error { return serving(s.onTCP.Serve(s.tcp)) })
	}
	g.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		s.stop()
		return nil
	})
	return g.Wait()
}

// serving says that an end by Stop is none that matters.
func serving(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

func (s *Server) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	s.cfg.Feeds.leaders.Close()
	for _, c := range s.control {
		// Local processes come back to this same agent: nowhere else to send them.
		if err := c.Drain(ctx, nil); err != nil {
			s.cfg.Logger.Debug("local streams cut", "err", err)
		}
		c.Close()
	}
	s.onUnix.Stop()
	if s.onTCP != nil {
		s.onTCP.Stop()
	}
}

// service implements AgentService.
type service struct {
	agentv1.UnimplementedAgentServiceServer
	agent Agent
}

func (s *service) GetStatus(context.Context, *agentv1.GetStatusRequest) (*agentv1.GetStatusResponse, error) {
	return s.agent.Status(), nil
}

func (s *service) Pin(ctx context.Context, r *agentv1.PinRequest) (*agentv1.PinResponse, error) {
	g, err := s.agent.Pin(ctx, r.GetVersion(), r.GetReason())
	if err != nil {
		return nil, err
	}
	return &agentv1.PinResponse{Generation: g}, nil
}

func (s *service) Unpin(ctx context.Context, _ *agentv1.UnpinRequest) (*agentv1.UnpinResponse, error) {
	return &agentv1.UnpinResponse{}, s.agent.Unpin(ctx)
}

func (s *service) Revert(ctx context.Context, r *agentv1.RevertRequest) (*agentv1.RevertResponse, error) {
	g, err := s.agent.Revert(ctx, r.GetReason())
	if err != nil {
		return nil, err
	}
	return &agentv1.RevertResponse{Generation: g}, nil
}

func (s *service) GetBundle(context.Context, *agentv1.GetBundleRequest) (*agentv1.GetBundleResponse, error) {
	manifest, content, ok := s.agent.Active()
	if !ok {
		return nil, fault.New(fault.CodeAgentNotReady, "no content is active")
	}
	out := &agentv1.GetBundleResponse{Manifest: manifest, Resources: make([]*controlv1.Resource, 0, content.Len())}
	for l := range content.All() {
		out.Resources = append(out.Resources, &controlv1.Resource{Key: l.Key, Content: l.Content})
	}
	return out, nil
}
