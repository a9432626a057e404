package local

import (
	"context"

	"google.golang.org/grpc"

	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/omnirelay"
)

// serveRelay serves OmniRelay data planes of this node: the same content as
// ControlService, within the same limits. A client that is no further than this agent
// ever was follows it, also back to an earlier generation.
func (s *Server) serveRelay(on *grpc.Server, streams *distribution.Server, identify func(context.Context) (distribution.Peer, error)) {
	omnirelay.NewServer(omnirelay.Config{
		Domain: s.cfg.Feeds.cfg.Domain, Node: s.cfg.Feeds.cfg.Node, Backend: s.cfg.Feeds, Streams: streams, Frames: s.frames, Earlier: s.cfg.Earlier, Logger: s.cfg.Logger,
		Reached: func() feed.Point {
			h := s.cfg.Agent.Status().GetHighest()
			return feed.Point{Epoch: h.GetEpoch(), Version: h.GetVersion()}
		},
	}).Register(on)
	mesh.RegisterLeadershipControlServiceServer(on, &leaders{board: s.cfg.Feeds.leaders, identify: identify})
}

// leaders is the feeds' board, for whom the endpoint admits.
type leaders struct {
	mesh.UnimplementedLeadershipControlServiceServer
	board    *omnirelay.Board
	identify func(context.Context) (distribution.Peer, error)
}

// Subscribe implements LeadershipControlService.
func (l *leaders) Subscribe(req *mesh.LeadershipSubscribeRequest, stream grpc.ServerStreamingServer[mesh.LeadershipEvent]) error {
	if _, err := l.identify(stream.Context()); err != nil {
		return err
	}
	return l.board.Subscribe(req, stream)
}
