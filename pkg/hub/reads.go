package hub

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// barrierPatience is how long a read of default consistency waits for the store
// before it is answered with what the hub has; linearPatience how long one waits that
// must not be: longer than a store takes to elect a leader when all is well.
const (
	barrierPatience = time.Second
	linearPatience  = 3 * time.Second
)

// reads are the methods whose answers come from the log. Writes need no barrier: they
// are judged on the log itself.
var reads = map[string]bool{
	"/meshkit.admin.v1.ResourceService/Get":      true,
	"/meshkit.admin.v1.ResourceService/List":     true,
	"/meshkit.admin.v1.ResourceService/Watch":    true,
	"/meshkit.admin.v1.ResourceService/Plan":     true,
	"/meshkit.admin.v1.ResourceService/History":  true,
	"/meshkit.admin.v1.ResourceService/Simulate": true,
	"/meshkit.admin.v1.FleetService/GetDomain":   true,
	"/meshkit.admin.v1.FleetService/ListAgents":  true,
	"/meshkit.admin.v1.FleetService/GetAgent":    true,
	"/meshkit.admin.v1.FleetService/ListTokens":  true,
	"/meshkit.admin.v1.TrustService/GetTrust":    true,
}

// barriers make operators' reads as new as they ask for, on any hub: what the
// store had when the call came in is read before it is answered.
type barriers struct{ replica *replica.Replica }

func (b barriers) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			stale, err := b.pass(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			if stale != "" {
				_ = grpc.SetHeader(ctx, metadata.Pairs(wire.StaleHeader, stale))
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			stale, err := b.pass(ss.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			if stale != "" {
				_ = ss.SetHeader(metadata.Pairs(wire.StaleHeader, stale))
			}
			return next(srv, ss)
		}),
	}
}

// pass waits as the caller asks for. stale says why the answer may be old.
func (b barriers) pass(ctx context.Context, method string) (stale string, err error) {
	if id, ok := mtls.PeerID(ctx); !reads[method] || !ok || id.Kind != identity.Operator {
		return "", nil
	}
	want, err := wire.AskedConsistency(ctx)
	if err != nil || want == wire.ConsistencyStale {
		return "", err
	}
	patience := linearPatience
	if want == wire.ConsistencyDefault {
		patience = barrierPatience
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fault.New(fault.CodeStoreUnavailable, "the store did not answer within %s", patience))
	defer cancel()
	err = b.replica.Barrier(ctx)
	if err != nil && want == wire.ConsistencyDefault {
		return headerText(err.Error()), nil
	}
	return "", err
}

// headerText makes text fit for a header: printable ASCII, of bounded length.
func headerText(s string) string {
	const most = 512
	out := make([]byte, 0, min(len(s), most))
	for i := 0; i < len(s) && len(out) < most; i++ {
		c := s[i]
		if c < ' ' || c > '~' {
			c = ' '
		}
		out = append(out, c)
	}
	return string(out)
}
