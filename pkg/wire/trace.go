package wire

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

const traceparentKey = "traceparent"

// Traceparent gives the W3C traceparent of the span in ctx, or "" without one.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[traceparentKey]
}

// WithTraceparent returns ctx with the remote span that a traceparent names, so that
// spans started under it join its trace. Anything but a valid traceparent is ignored.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparentKey: traceparent})
}

func traceOut(ctx context.Context) context.Context {
	if tp := Traceparent(ctx); tp != "" {
		return metadata.AppendToOutgoingContext(ctx, traceparentKey, tp)
	}
	return ctx
}

func traceIn(ctx context.Context) context.Context {
	if v := metadata.ValueFromIncomingContext(ctx, traceparentKey); len(v) == 1 {
		return WithTraceparent(ctx, v[0])
	}
	return ctx
}
