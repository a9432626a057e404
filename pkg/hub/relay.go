package hub

import (
	"context"

	"google.golang.org/grpc"

	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/hub/leadership"
	"github.com/meshkit/meshkit/pkg/omnirelay"
)

// relayed is what a hub serves to OmniRelay data planes: the same views as to agents,
// within the same limits, and who leads.
type relayed struct {
	control *omnirelay.Server
	board   *omnirelay.Board
	tracker *leadership.Tracker
}

// newRelayed needs h's views and streams.
func newRelayed(h *Hub) *relayed {
	r := &relayed{board: omnirelay.NewBoard(h.opt.Domain)}
	guard := h.guard()
	r.board.Guard(func(ctx context.Context) error {
		return guard.Check(ctx, mesh.LeadershipControlService_Subscribe_FullMethodName)
	})
	r.control = omnirelay.NewServer(omnirelay.Config{Domain: h.opt.Domain, Backend: h.views.Silent(), Streams: h.streams, Logger: h.log})
	r.tracker = leadership.New(leadership.Options{Domain: h.opt.Domain, Hub: h.opt.Name, Replica: h.replica, Board: r.board})
	return r
}

func (r *relayed) register(s *grpc.Server) {
	r.control.Register(s)
	r.board.Register(s)
}
