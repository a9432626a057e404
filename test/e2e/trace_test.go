package e2e

import (
	"context"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/test/harness"
)

// spans is an OTLP receiver that remembers which spans each trace has, as
// "service: name".
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu     sync.Mutex // guards traces
	traces map[string]map[string]bool
}

func (s *spans) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		service := ""
		for _, a := range rs.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, span := range ss.GetSpans() {
				id := hex.EncodeToString(span.GetTraceId())
				if s.traces[id] == nil {
					s.traces[id] = make(map[string]bool)
				}
				s.traces[id][service+": "+span.GetName()] = true
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// holds tells whether one trace has all of these spans.
func (s *spans) holds(names ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.traces {
		all := true
		for _, n := range names {
			all = all && t[n]
		}
		if all {
			return true
		}
	}
	return false
}

// TestAChangeIsOneTraceFromApplyToActivation follows one change through hub and
// agent by its trace id.
func TestAChangeIsOneTraceFromApplyToActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received := &spans{traces: make(map[string]map[string]bool)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, received)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })

	c := harness.New(t)
	c.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	tracing := "tracing:\n  endpoint: http://" + l.Addr().String() + "\n"
	hub := c.InitHub("eu-west")
	appendTo(t, filepath.Join(hub.Data, "meshhub.yaml"), tracing)
	hub.Begin()
	agent := c.JoinAgent(hub, "node-1", "region=eu")
	agent.Configure(tracing)
	agent.Start()
	c.Ctl("apply", "-f", exampleMesh(t, c), "--wait")

	want := []string{"meshhub: apply", "meshhub: append", "meshhub: publish view", "meshagent: activate"}
	if err := harness.Poll(harness.Patience, func() (bool, error) { return received.holds(want...), nil }); err != nil {
		received.mu.Lock()
		defer received.mu.Unlock()
		t.Fatalf("no trace holds %v: %v\n%v", want, err, received.traces)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
