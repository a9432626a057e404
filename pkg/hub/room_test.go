package hub

import (
	"net"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// from is a connection from an address; it notes when it is closed.
type from struct {
	net.Conn
	addr   string
	closed bool
}

func (f *from) RemoteAddr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", f.addr)
	if err != nil {
		panic(err)
	}
	return a
}

func (f *from) Close() error {
	f.closed = true
	return nil
}

func TestTheOldestOfTheGreediestAddressMakesRoom(t *testing.T) {
	evicted := prometheus.NewCounter(prometheus.CounterOpts{Name: "evicted"})
	r := newRoom(4, evicted)
	var conns []*from
	enter := func(addr string) func() {
		c := &from{addr: addr}
		conns = append(conns, c)
		return r.enter(c)
	}
	closed := func(want ...int) {
		t.Helper()
		var got []int
		for i, c := range conns {
			if c.closed {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("connections %v were closed, want %v", got, want)
		}
	}
	leave := enter("10.0.0.1:1")
	enter("[2001:db8::1]:1")
	enter("[2001:db8::2]:1") // of the same network
	enter("10.0.0.2:1")
	closed()
	enter("10.0.0.3:1")
	closed(1)
	leave()
	leave() // gives back one place
	enter("10.0.0.2:2")
	closed(1)
	enter("10.0.0.3:2") // as many as 10.0.0.2 has, which is older
	closed(1, 3)
	enter("10.0.0.3:3") // more than any other: its own oldest
	closed(1, 3, 4)
	if got := testutil.ToFloat64(evicted); got != 3 {
		t.Errorf("%v evictions counted, want 3", got)
	}
	if len(r.guests) != 4 || len(r.from) != 3 {
		t.Errorf("%d connections of %d addresses are in, want 4 of 3", len(r.guests), len(r.from))
	}
}
