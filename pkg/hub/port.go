package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Bounds of connections that have not proven anything yet; see room for who gives
// way when they are reached.
const (
	handshakeTime    = 15 * time.Second
	maxSilentConns   = 1024 // nothing heard from them yet
	maxQueued        = 4096 // heard from, and waiting for their turn
	maxHandshakes    = 512  // begun, and not done
	maxStrangerConns = 1024
)

// So many handshakes are under way at once; one that takes longer than that counts no
// more.
const (
	handshakesAtOnce = 256
	handshakeTurn    = 500 * time.Millisecond
)

// Port is one TLS port, which the hubs of several domains may share. It does the
// handshake with the certificate of the domain that the client's hello names (see
// mtls.ClientConfig), of the one added first when it names none of them, and hands
// the connection to that domain's hub. Safe for concurrent use.
type Port struct {
	listener net.Listener
	log      *slog.Logger
	// silent, queue and handshakes hold the connections on their way to a hub.
	silent, queue, handshakes *room
	gate                      *gate
	evicted                   *prometheus.CounterVec
	done                      chan struct{}
	once                      sync.Once

	mu     sync.Mutex // guards fronts
	fronts []*front
}

// NewPort makes a port that takes no connections yet. It closes the listener.
func NewPort(l net.Listener, log *slog.Logger) *Port {
	evicted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meshkit_connections_evicted_total", Help: "Connections that had proven nothing yet, closed to make room for others, by stage: silent (no byte came), queue (not begun), handshake (not done), stranger (no certificate).",
	}, []string{"stage"})
	return &Port{
		listener: l, log: log, evicted: evicted, done: make(chan struct{}),
		gate:   newGate(handshakesAtOnce, handshakeTurn),
		silent: newRoom(maxSilentConns, evicted.WithLabelValues("silent")), queue: newRoom(maxQueued, evicted.WithLabelValues("queue")), handshakes: newRoom(maxHandshakes, evicted.WithLabelValues("handshake")),
	}
}

// Addr is where the port listens.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// Close takes no more connections in. Those that hubs have are theirs.
func (p *Port) Close() { p.once.Do(func() { close(p.done) }) }

func (p *Port) closed() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *Port) add(f *front) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fronts = append(p.fronts, f)
}

func (p *Port) remove(f *front) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fronts = slices.DeleteFunc(p.fronts, func(x *front) bool { return x == f })
}

// first tells whether f was added before all others.
func (p *Port) first(f *front) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.fronts) > 0 && p.fronts[0] == f
}

// firstHub is the hub that was added before all others; nil if there is none.
func (p *Port) firstHub() *Hub {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fronts) == 0 {
		return nil
	}
	return p.fronts[0].hub
}

// front gives the domain that a hello names, else the first; nil if there is none.
func (p *Port) front(serverName string) *front {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.fronts {
		if slices.Contains(f.names, serverName) {
			return f
		}
	}
	if len(p.fronts) == 0 {
		return nil
	}
	return p.fronts[0]
}

// serves tells whether f has been added and not removed.
func (p *Port) serves(f *front) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.fronts, f)
}

// config is how the handshake of one connection begins; the hello chooses how it
// goes on, and sets chosen.
func (p *Port) config(chosen **front) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			f := p.front(hello.ServerName)
			if f == nil {
				return nil, fault.New(fault.CodeHubDraining, "the port serves no domain")
			}
			*chosen = f
			return f.config, nil
		},
	}
}

// Run accepts connections until Close. It returns once all handshakes have ended.
func (p *Port) Run() error {
	var wg sync.WaitGroup
	// Handshakes under way end with the port: one that never finishes must not
	// hold up the end of the program.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() {
		<-p.done
		cancel()
		_ = p.listener.Close()
	})
	for pause := 5 * time.Millisecond; ; {
		conn, aerr := p.listener.Accept()
		if aerr != nil {
			if p.closed() || errors.Is(aerr, net.ErrClosed) {
				break
			}
			// Out of file descriptors, as a rule: wait for some to come back.
			p.log.Warn("connection not accepted", "err", aerr)
			select {
			case <-time.After(pause):
			case <-p.done:
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		c := &caller{Conn: conn, leave: p.silent.enter(conn)}
		wg.Go(func() { p.admit(ctx, c) })
	}
	p.Close()
	wg.Wait()
	return nil
}

// admit does the handshake of one connection and hands it on: to the domain that
// judged the client's certificate, whatever its name means by then.
func (p *Port) admit(ctx context.Context, raw *caller) {
	var f *front
	conn := tls.Server(raw, p.config(&f))
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw.turn = func() error { return p.turn(ctx, raw) }
	err := conn.HandshakeContext(ctx)
	raw.leave()
	if err != nil {
		p.log.Debug("handshake failed", "peer", raw.RemoteAddr().String(), "code", string(fault.CodeOf(err)), "err", err)
		_ = raw.Close()
		return
	}
	if f == nil || !p.serves(f) || !f.doorFor(conn).in.put(conn) {
		_ = conn.Close()
	}
}

// turn has a caller of whom something was heard wait for its turn.
func (p *Port) turn(ctx context.Context, c *caller) error {
	c.leave()
	c.leave = p.queue.enter(c.Conn)
	pass, err := p.gate.pass(ctx)
	if err != nil {
		return err
	}
	c.leave()
	out := p.handshakes.enter(c.Conn)
	c.leave = func() {
		pass()
		out()
	}
	return nil
}

// caller is a connection whose handshake is not done. With its first bytes it moves
// on from the room of the silent: where it goes, those who never say anything cannot
// push it out, however fast they come back. The goroutine of the handshake owns its
// fields; after the handshake they do not change.
type caller struct {
	net.Conn
	heard bool
	turn  func() error
	leave func() // the room that it is in
}

// Read implements net.Conn.
func (c *caller) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		if terr := c.turn(); terr != nil {
			return 0, terr
		}
	}
	return n, err
}
