package observe

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"

	"github.com/meshkit/meshkit/pkg/version"
)

// StartTracing exports spans over OTLP gRPC. The endpoint is a URL such as
// "https://collector:4317"; when it is empty nothing is exported and spans cost
// next to nothing, but trace context still travels. The standard OTEL_EXPORTER_*
// and OTEL_TRACES_SAMPLER environment variables apply. Shutdown sends what is
// buffered and waits for it until its context ends.
func StartTracing(ctx context.Context, service, endpoint string) (shutdown func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("start trace exporter for %s: %w", endpoint, err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(
			semconv.ServiceName(service), semconv.ServiceVersion(version.Version()),
		)),
	)
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
