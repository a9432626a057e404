package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Pinned is what came of a call to a hub that is known by its CA pin only.
type Pinned[T any] struct {
	Answer T
	// Hub is who answered.
	Hub identity.ID
	// Unsure is set when a try was not answered, so that it may have been granted.
	Unsure bool
}

// tryTime bounds one try to reach a hub.
const tryTime = 5 * time.Second

// WhoIs tells who a hub is that is known by its CA pin only, and asks nothing of it. It
// tries until the hub answers or ctx ends.
func WhoIs(ctx context.Context, hub, pin string) (identity.ID, error) {
	config, captured, err := mtls.PinnedClientConfig(pin)
	if err != nil {
		return identity.ID{}, err
	}
	config.NextProtos = []string{"h2"}
	pause := backoff.New(backoff.Policy{Base: 200 * time.Millisecond, Cap: 3 * time.Second})
	for {
		try, cancel := context.WithTimeout(ctx, tryTime)
		conn, err := (&tls.Dialer{Config: config}).DialContext(try, "tcp", hub)
		cancel()
		if err == nil {
			_ = conn.Close()
			return captured.Hub(), nil
		}
		if fault.CodeOf(err) != "" { // it is not whom the pin is of
			return identity.ID{}, fmt.Errorf("reach hub %s: %w", hub, err)
		}
		if backoff.Sleep(ctx, pause.Next()) != nil {
			return identity.ID{}, fault.New(fault.CodeNoConnection, "reach hub %s: %w", hub, err)
		}
	}
}

// AskPinned makes a call of the identity service without a client certificate, to
// a hub whose chain holds the pinned CA, and repeats it until it is answered, for
// good or ill, or ctx ends. The call carries a request id, or repeating it would
// do it twice.
func AskPinned[T any](ctx context.Context, hub, pin string, opts []grpc.DialOption, call func(context.Context, identityv1.IdentityServiceClient) (T, error)) (Pinned[T], error) {
	var out Pinned[T]
	config, captured, err := mtls.PinnedClientConfig(pin)
	if err != nil {
		return out, err
	}
	// gRPC tells of a failed handshake only in words: keep the error itself.
	var refused atomic.Pointer[error]
	verify := config.VerifyConnection
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs)
		if err != nil {
			refused.Store(&err)
		}
		return err
	}
	all := append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	conn, err := grpc.NewClient("passthrough:///"+hub, append(all, opts...)...)
	if err != nil {
		return out, fault.New(fault.CodeJoinArguments, "connect to hub %s: %w", hub, err)
	}
	defer conn.Close()
	client := identityv1.NewIdentityServiceClient(conn)
	pause := backoff.New(backoff.Policy{Base: 200 * time.Millisecond, Cap: 3 * time.Second})
	for {
		answer, err := call(ctx, client)
		if err == nil {
			out.Answer, out.Hub = answer, captured.Hub()
			return out, nil
		}
		if why := refused.Load(); why != nil {
			return out, *why
		}
		wait, hinted := wire.RetryAfter(err)
		switch k := fault.KindOf(err); {
		case fault.CodeOf(err) == fault.CodeNoHubCA: // the hub has looked for one that can
			return out, fmt.Errorf("join through hub %s: %w", hub, err)
		case k == fault.Unavailable, k == fault.Unknown:
			out.Unsure = true
		case k == fault.Exhausted && hinted: // too many requests from this host
		case k == fault.Timeout, k == fault.Canceled:
			out.Unsure = true
			fallthrough
		default:
			return out, fmt.Errorf("join through hub %s: %w", hub, err)
		}
		if !hinted {
			wait = pause.Next()
		}
		if backoff.Sleep(ctx, wait) != nil {
			return out, fmt.Errorf("join through hub %s: %w", hub, err)
		}
	}
}
