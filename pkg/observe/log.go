// Package observe is how every program shows what it does: structured logs,
// Prometheus metrics, health endpoints and OpenTelemetry traces, set up the same
// way everywhere.
//
//	log, err := observe.NewLogger(os.Stderr, "json", "info")
//	reg := observe.NewRegistry("meshhub")
//	health := observe.NewHealth()
//	health.Add("store", func(ctx context.Context) error { … })
//	handler := observe.Handler(reg, health)
//	shutdown, err := observe.StartTracing(ctx, "meshhub", endpoint)
//
// All types are safe for concurrent use.
package observe

import (
	"io"
	"log/slog"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// NewLogger makes a logger that writes lines to w. The format is "text" or
// "json"; the level is "debug", "info", "warn" or "error".
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fault.New(fault.CodeConfig, "log level %q is not one of debug, info, warn, error", level)
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: shorten}
	switch strings.ToLower(format) {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fault.New(fault.CodeConfig, "log format %q is not one of text, json", format)
}

// shorten prints durations as "1.5s" in JSON too, where slog would print
// nanoseconds, so that both formats read alike.
func shorten(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
