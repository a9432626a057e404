package hub

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// front is a hub's side of its port: three gRPC servers. Operators and hubs get all
// services; nodes get streams and renewal, in small messages; callers without a
// certificate get only what needs none. gRPC holds a message whole before anyone can
// judge it, so what each may make the hub hold is bounded by the server it reaches.
type front struct {
	// names are what hellos say that mean this hub's domain.
	names                   []string
	config                  *tls.Config
	known, nodes, strangers door
	hub                     *Hub
}

// door is a gRPC server and the connections on their way to it.
type door struct {
	server *grpc.Server
	in     *handoff
}

func newFront(p *Port, names []string, config *tls.Config, known, nodes, strangers *grpc.Server) *front {
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	return &front{
		names: names, config: config, known: door{known, newHandoff(p, nil)}, nodes: door{nodes, newHandoff(p, nil)},
		strangers: door{strangers, newHandoff(p, newRoom(maxStrangerConns, p.evicted.WithLabelValues("stranger")))},
	}
}

func (f *front) doors() []door { return []door{f.known, f.nodes, f.strangers} }

// serve runs the servers until close.
func (f *front) serve() error {
	var wg sync.WaitGroup
	for _, d := range f.doors() {
		wg.Go(func() { _ = d.server.Serve(d.in) })
	}
	wg.Wait()
	return nil
}

// doorFor tells which server a caller may reach.
func (f *front) doorFor(conn *tls.Conn) door {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return f.strangers
	}
	if id, ok := mtls.StateID(state); ok && id.Kind == identity.Node {
		return f.nodes
	}
	return f.known
}

// close ends the servers: calls under way get grace.
func (f *front) close(grace time.Duration) {
	for _, d := range f.doors() {
		_ = d.in.Close()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, d := range f.doors() {
			d.server.GracefulStop()
		}
	}()
	select {
	case <-done:
	case <-time.After(grace):
		for _, d := range f.doors() {
			d.server.Stop()
		}
		<-done
	}
}

// handoff is a listener of connections whose handshake is done. room bounds those
// that are open at once; nil: no bound of its own.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	room  *room
}

func newHandoff(p *Port, r *room) *handoff {
	return &handoff{addr: p.Addr(), conns: make(chan net.Conn), done: make(chan struct{}), room: r}
}

// put waits for the server to take the connection; false: it takes no more, and
// the caller closes what it has.
func (h *handoff) put(c *tls.Conn) bool {
	conn, leave := net.Conn(c), func() {}
	if h.room != nil {
		leave = h.room.enter(c.NetConn())
		conn = &counted{Conn: c, leave: leave}
	}
	select {
	case h.conns <- conn:
		return true
	case <-h.done:
		leave()
		return false
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return h.addr }

// counted gives its place back when it is closed.
type counted struct {
	*tls.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// handshaken are the credentials of servers behind front: the handshake is done,
// and its result is what callers have proven.
type handshaken struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil, nil, fault.New(fault.CodeInternal, "connection of type %T has had no handshake", c)
	}
	return c, credentials.TLSInfo{
		State: t.ConnectionState(), CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ClientHandshake implements credentials.TransportCredentials; hubs do not dial
// with these.
func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fault.New(fault.CodeInternal, "these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }

// OverrideServerName implements credentials.TransportCredentials.
func (handshaken) OverrideServerName(string) error { return nil }
