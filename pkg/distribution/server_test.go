package distribution

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestServerWithoutWireOptionsRefuses(t *testing.T) {
	s, err := NewServer(ServerConfig{Backend: struct{ Backend }{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.open(&contextOnly{ctx: t.Context()}, Peer{})
	if !errors.Is(err, fault.CodeInternal) {
		t.Errorf("got %v", err)
	}
}

type contextOnly struct {
	grpc.BidiStreamingServer[controlv1.StreamRequest, controlv1.StreamResponse]
	ctx context.Context
}

func (c *contextOnly) Context() context.Context { return c.ctx }
