package local

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/local"

	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// dialTime bounds the wait for a socket that exists and does not answer.
const dialTime = 3 * time.Second

// Dial connects to an agent's Unix socket. The error has fault.CodeAgentUnreachable
// when nothing answers there. Close the connection when done.
func Dial(ctx context.Context, socket string) (*grpc.ClientConn, error) {
	path, err := filepath.Abs(socket)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "find socket %s: %w", socket, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, fault.New(fault.CodeAgentUnreachable, "there is no socket %s", path)
	}
	opts := wire.DialOptions(wire.DialConfig{ReceiveBytes: maxBundleReply})
	conn, err := grpc.NewClient("unix://"+path, append(opts, grpc.WithTransportCredentials(local.NewCredentials()))...)
	if err != nil {
		return nil, fault.New(fault.CodeAgentUnreachable, "connect to agent at %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.Connect()
		if state == connectivity.TransientFailure || !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, fault.New(fault.CodeAgentUnreachable, "no agent answers at %s", path)
		}
	}
	return conn, nil
}

// NewClient makes an AgentService client of a connection.
func NewClient(conn *grpc.ClientConn) agentv1.AgentServiceClient {
	return agentv1.NewAgentServiceClient(conn)
}
