package views

import (
	"context"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
)

// Silent is the set as a backend of a protocol without acks: its sessions follow the
// view of their node, and say nothing of what the node has. They stand beside the node's
// control stream and leave it alone, its reports and its places: how many a node may
// have is counted apart (distribution.Guest).
func (s *Set) Silent() distribution.Backend { return silent{s} }

type silent struct{ set *Set }

// Attach implements distribution.Backend.
func (b silent) Attach(ctx context.Context, peer distribution.Peer, hello *controlv1.Hello, wake func()) (distribution.Session, error) {
	return b.set.attach(ctx, peer, hello, wake, false)
}
