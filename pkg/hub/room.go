package hub

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// room bounds the connections that are in one stage of their way in. Whoever comes
// is let in at once: when the room is full, the oldest connection of the address
// that holds most of them has to go. So an address can use all of the room while
// nobody else wants it, as many agents behind one NAT do, and no more than its share
// when others do; and silent connections do not outlast those that come after them.
// It is safe for concurrent use.
type room struct {
	limit   int
	evicted prometheus.Counter

	mu     sync.Mutex           // guards what follows
	guests []*guest             // oldest first
	from   map[netip.Prefix]int // guests by address
}

type guest struct {
	conn net.Conn
	from netip.Prefix
}

func newRoom(limit int, evicted prometheus.Counter) *room {
	return &room{limit: limit, evicted: evicted, from: make(map[netip.Prefix]int)}
}

// enter lets a connection in; leave gives its place back, and may be called more
// than once. A connection that has to go is closed, and does not block: raw is the
// connection below TLS, which would wait for the peer to read its farewell.
func (r *room) enter(raw net.Conn) (leave func()) {
	g := &guest{conn: raw, from: origin(raw.RemoteAddr())}
	r.mu.Lock()
	defer r.mu.Unlock()
	// The newcomer counts for its address before anyone is chosen: of two addresses
	// with equally many, the one that wants more gives way.
	r.from[g.from]++
	if len(r.guests) >= r.limit {
		victim := r.greediest()
		r.remove(victim)
		_ = victim.conn.Close()
		r.evicted.Inc()
	}
	r.guests = append(r.guests, g)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.remove(g)
	}
}

// greediest gives the oldest guest of the address that has most. Callers hold mu.
func (r *room) greediest() *guest {
	victim := r.guests[0]
	for _, g := range r.guests[1:] {
		if r.from[g.from] > r.from[victim.from] {
			victim = g
		}
	}
	return victim
}

// remove takes a guest out who may be gone already. Callers hold mu.
func (r *room) remove(g *guest) {
	i := slices.Index(r.guests, g)
	if i < 0 {
		return
	}
	r.guests = slices.Delete(r.guests, i, i+1)
	if r.from[g.from]--; r.from[g.from] == 0 {
		delete(r.from, g.from)
	}
}

// origin is what counts as one address: with IPv6 a network of 64 bits, which is
// what one host usually has to choose from.
func origin(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{} // no IP address: all of these share
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}
