package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/pkg/fault"
)

// serverInterceptor maps errors, turns panics into errors, sets deadlines and takes
// the trace context in. It has no mutable state.
type serverInterceptor struct{ cfg ServerConfig }

func (i *serverInterceptor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	ctx, cancel := context.WithTimeout(traceIn(ctx), i.cfg.UnaryTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = i.panicked(ctx, info.FullMethod, r)
		}
		err = i.leave(ctx, info.FullMethod, err)
	}()
	return next(ctx, req)
}

func (i *serverInterceptor) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx := ss.Context()
	if traced := traceIn(ctx); traced != ctx {
		ctx = traced
		ss = &tracedStream{ServerStream: ss, ctx: ctx}
	}
	defer func() {
		if r := recover(); r != nil {
			err = i.panicked(ctx, info.FullMethod, r)
		}
		err = i.leave(ctx, info.FullMethod, err)
	}()
	return next(srv, ss)
}

func (i *serverInterceptor) panicked(ctx context.Context, method string, r any) error {
	i.cfg.Logger.LogAttrs(ctx, slog.LevelError, "handler panicked", slog.String("method", method), slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
	return fault.New(fault.CodeInternal, "internal error in %s", method)
}

// leave maps a handler's error to a status. The text of an error without a code is
// for the log, not for the peer.
func (i *serverInterceptor) leave(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	s := Status(err)
	if _, known := errors.AsType[*fault.Error](err); !known && fault.CodeOf(FromStatus(s.Err())) == fault.CodeInternal {
		i.cfg.Logger.LogAttrs(ctx, slog.LevelError, "call met an internal error", slog.String("method", method), slog.Any("err", err))
	}
	return s.Err()
}

type tracedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *tracedStream) Context() context.Context { return s.ctx }

func clientUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(invoke(traceOut(ctx), method, req, reply, cc, opts...))
}

func clientStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(traceOut(ctx), desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return &mappedStream{ClientStream: s}, nil
}

// mappedStream gives *fault.Error instead of statuses. io.EOF stays io.EOF.
type mappedStream struct{ grpc.ClientStream }

func (s *mappedStream) RecvMsg(m any) error { return mapStream(s.ClientStream.RecvMsg(m)) }
func (s *mappedStream) SendMsg(m any) error { return mapStream(s.ClientStream.SendMsg(m)) }

func mapStream(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return FromStatus(err)
}
