package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// Bounds of connections that have not proven anything yet; see room for who gives
// way when they are reached.
const (
	handshakeTime    = 10 * time.Second
	maxSilentConns   = 1024 // nothing heard from them yet
	maxHandshakes    = 512  // heard from, and not done
	maxStrangerConns = 1024
)

// front is the one port of a hub. It does the TLS handshake, and hands the
// connection to one of three gRPC servers: operators and hubs get all services;
// nodes get streams and renewal, in small messages; callers without a certificate
// get only what needs none. gRPC holds a message whole before anyone can judge it,
// so what each may make the hub hold is bounded by the server it reaches.
type front struct {
	config                  *tls.Config
	known, nodes, strangers door
	silent, handshakes      *room // connections on their way to a door
	evicted                 *prometheus.CounterVec
}

// door is a gRPC server and the connections on their way to it.
type door struct {
	server *grpc.Server
	in     *handoff
}

func newFront(config *tls.Config, known, nodes, strangers *grpc.Server) *front {
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	evicted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meshkit_connections_evicted_total", Help: "Connections that had proven nothing yet, closed to make room for others, by stage: silent (no byte came), handshake (not done), stranger (no certificate).",
	}, []string{"stage"})
	return &front{
		config: config, evicted: evicted,
		silent: newRoom(maxSilentConns, evicted.WithLabelValues("silent")), handshakes: newRoom(maxHandshakes, evicted.WithLabelValues("handshake")),
		known: door{known, newHandoff(nil)}, nodes: door{nodes, newHandoff(nil)},
		strangers: door{strangers, newHandoff(newRoom(maxStrangerConns, evicted.WithLabelValues("stranger")))},
	}
}

// collectors gives the front's metrics.
func (f *front) collectors() []prometheus.Collector { return []prometheus.Collector{f.evicted} }

func (f *front) doors() []door { return []door{f.known, f.nodes, f.strangers} }

// shut takes no more connections in.
func (f *front) shut() {
	for _, d := range f.doors() {
		d.in.Close()
	}
}

// serve accepts until close. It closes l.
func (f *front) serve(l net.Listener, log *slog.Logger) error {
	var wg sync.WaitGroup
	for _, d := range f.doors() {
		d.in.addr = l.Addr()
		wg.Go(func() { _ = d.server.Serve(d.in) })
	}
	wg.Go(func() {
		<-f.known.in.done
		_ = l.Close()
	})
	// Handshakes under way end with the port: one that never finishes must not
	// hold up the end of the program.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() {
		<-f.known.in.done
		cancel()
	})
	for pause := 5 * time.Millisecond; ; {
		conn, aerr := l.Accept()
		if aerr != nil {
			if f.known.in.closed() || errors.Is(aerr, net.ErrClosed) {
				break
			}
			// Out of file descriptors, as a rule: wait for some to come back.
			log.Warn("connection not accepted", "err", aerr)
			select {
			case <-time.After(pause):
			case <-f.known.in.done:
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		c := &caller{Conn: conn, next: f.handshakes, leave: f.silent.enter(conn)}
		wg.Go(func() { f.admit(ctx, c, log) })
	}
	f.shut()
	wg.Wait()
	return nil
}

// admit does the handshake of one connection and hands it on.
func (f *front) admit(ctx context.Context, raw *caller, log *slog.Logger) {
	conn := tls.Server(raw, f.config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	err := conn.HandshakeContext(ctx)
	raw.leave()
	if err != nil {
		log.Debug("handshake failed", "peer", raw.RemoteAddr().String(), "code", string(fault.CodeOf(err)), "err", err)
		_ = raw.Close()
		return
	}
	if !f.doorFor(conn).in.put(conn) {
		_ = conn.Close()
	}
}

// caller is a connection whose handshake is not done. With its first bytes it moves
// to the next room: there, those who never say anything cannot push it out, however
// fast they come back. The goroutine of the handshake owns its fields; after the
// handshake they do not change.
type caller struct {
	net.Conn
	heard bool
	next  *room
	leave func() // the room that it is in
}

// Read implements net.Conn.
func (c *caller) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		c.leave()
		c.leave = c.next.enter(c.Conn)
	}
	return n, err
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

// close stops accepting and ends the servers: calls under way get grace.
func (f *front) close(grace time.Duration) {
	f.shut()
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

func newHandoff(r *room) *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{}), room: r}
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

func (h *handoff) closed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

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
