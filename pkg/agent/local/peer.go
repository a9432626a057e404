package local

import (
	"context"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/local"

	"github.com/meshkit/meshkit/pkg/fault"
)

// peerCredentials are gRPC's local credentials for Unix sockets, which moreover ask
// the kernel who the other end is: only the agent's own user and root are admitted.
// The socket's mode says the same, and does not hold where a file system ignores
// it.
type peerCredentials struct{}

// ClientHandshake implements credentials.TransportCredentials.
func (peerCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return local.NewCredentials().ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uid, err := peerUser(conn)
	if err != nil {
		return nil, nil, fault.New(fault.CodeLocalPeer, "ask who is at the socket: %w", err)
	}
	if uid != os.Getuid() && uid != 0 {
		return nil, nil, fault.New(fault.CodeLocalPeer, "user %d may not use this agent's socket", uid)
	}
	return local.NewCredentials().ServerHandshake(conn)
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo { return local.NewCredentials().Info() }

// Clone implements credentials.TransportCredentials.
func (peerCredentials) Clone() credentials.TransportCredentials { return peerCredentials{} }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }
