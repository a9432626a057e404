package wire

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"
)

// ServerConfig bounds what one connection may cost. Zero fields mean the default.
type ServerConfig struct {
	// Streams is the number of concurrent calls on one connection; default 32.
	Streams uint32
	// ReceiveBytes and SendBytes bound one message; default 4 MiB each. A hub's admin
	// service takes 64 MiB; control requests are held to MaxControlRequest all the same.
	ReceiveBytes, SendBytes int
	// ReadBuffer is kept per connection, in bytes; default 4 KiB. Write buffers are taken
	// from a pool while there is something to write.
	ReadBuffer int
	// Window bounds what a peer may send on a call, and on a connection, before it is
	// read, in bytes; default 1 MiB, at least 64 KiB. It is fixed: gRPC's own estimate
	// would answer each message of an idle peer with a ping.
	Window int32
	// Handshake bounds the time until a connection has proven itself; default 10 s.
	Handshake time.Duration
	// Keepalive: an idle connection is asked whether it lives after Time, and closed when
	// it says nothing for Timeout; default 30 s, 20 s.
	KeepaliveTime, KeepaliveTimeout time.Duration
	// MinPing: a client that pings more often is disconnected; default 10 s.
	MinPing time.Duration
	// ConnectionAge: connections are asked to move after it, give or take 10 %, with
	// a minute of grace; 0: never.
	ConnectionAge time.Duration
	// UnaryTimeout is the deadline of a unary call that brings none, and the longest one
	// that it may bring; default 2 min.
	UnaryTimeout time.Duration
	// Logger takes panics and internal errors; nil discards.
	Logger *slog.Logger
}

func (c ServerConfig) withDefaults() ServerConfig {
	or(&c.Streams, 32)
	or(&c.ReceiveBytes, 4<<20)
	or(&c.SendBytes, 4<<20)
	or(&c.ReadBuffer, 4<<10)
	or(&c.Window, 1<<20)
	or(&c.Handshake, 10*time.Second)
	or(&c.KeepaliveTime, 30*time.Second)
	or(&c.KeepaliveTimeout, 20*time.Second)
	or(&c.MinPing, 10*time.Second)
	or(&c.UnaryTimeout, 2*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// or sets *p to the default when it is zero.
func or[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// maxHeaderBytes bounds the headers of one call.
const maxHeaderBytes = 16 << 10

// ServerOptions are the options of every gRPC server of MeshKit, but for its
// transport credentials.
func ServerOptions(c ServerConfig) []grpc.ServerOption {
	c = c.withDefaults()
	i := &serverInterceptor{cfg: c}
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(NewCodec()),
		grpc.MaxConcurrentStreams(c.Streams),
		grpc.MaxRecvMsgSize(c.ReceiveBytes),
		grpc.MaxSendMsgSize(c.SendBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ReadBufferSize(c.ReadBuffer),
		grpc.StaticStreamWindowSize(c.Window),
		grpc.StaticConnWindowSize(c.Window),
		grpc.ConnectionTimeout(c.Handshake),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: c.MinPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: c.KeepaliveTime, Timeout: c.KeepaliveTimeout,
			MaxConnectionAge: c.ConnectionAge, MaxConnectionAgeGrace: time.Minute,
		}),
		grpc.InTapHandle(cancelable),
		grpc.ChainUnaryInterceptor(i.unary),
		grpc.ChainStreamInterceptor(i.stream),
	}
}

type cancelKey struct{}

// cancelable gives each call a context that CancelCall can end. gRPC has no other
// way to interrupt a handler that waits in RecvMsg or SendMsg for a peer that does
// nothing, and without one each stream would need a second goroutine for life.
func cancelable(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	return context.WithValue(ctx, cancelKey{}, cancel), nil
}

// CancelCall gives the function that ends the call whose handler got ctx: what waits
// in RecvMsg or SendMsg returns, and context.Cause is the given one. It is false on a
// server that was not made with ServerOptions.
func CancelCall(ctx context.Context) (context.CancelCauseFunc, bool) {
	cancel, ok := ctx.Value(cancelKey{}).(context.CancelCauseFunc)
	return cancel, ok
}

// DialConfig configures a client connection. Zero fields mean the default.
type DialConfig struct {
	// ReceiveBytes and SendBytes bound one message; default 4 MiB each.
	ReceiveBytes, SendBytes int
	// ReadBuffer is kept per connection, in bytes; default 16 KiB.
	ReadBuffer int
	// Window bounds what the server may send before it is read, in bytes; default 1 MiB.
	// It is fixed, as that of ServerConfig.
	Window int32
	// Keepalive: the server is asked whether it lives after Time without a byte; default
	// 20 s, 10 s. It must not be below the server's MinPing.
	KeepaliveTime, KeepaliveTimeout time.Duration
	// Connect bounds one attempt to connect, TLS included; default 10 s.
	Connect time.Duration
	// UserAgent names the program and build.
	UserAgent string
}

// DialOptions are the options of every gRPC client of MeshKit, but for its transport
// credentials. Retries are the caller's: gRPC's own and service configs are off.
func DialOptions(c DialConfig) []grpc.DialOption {
	or(&c.ReceiveBytes, 4<<20)
	or(&c.SendBytes, 4<<20)
	or(&c.ReadBuffer, 16<<10)
	or(&c.Window, 1<<20)
	or(&c.KeepaliveTime, 20*time.Second)
	or(&c.KeepaliveTimeout, 10*time.Second)
	or(&c.Connect, 10*time.Second)
	opts := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(NewCodec()), grpc.MaxCallRecvMsgSize(c.ReceiveBytes), grpc.MaxCallSendMsgSize(c.SendBytes)),
		grpc.WithReadBufferSize(c.ReadBuffer),
		grpc.WithStaticStreamWindowSize(c.Window),
		grpc.WithStaticConnWindowSize(c.Window),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: c.KeepaliveTime, Timeout: c.KeepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: c.Connect}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(clientUnary),
		grpc.WithChainStreamInterceptor(clientStream),
	}
	if c.UserAgent != "" {
		opts = append(opts, grpc.WithUserAgent(c.UserAgent))
	}
	return opts
}
