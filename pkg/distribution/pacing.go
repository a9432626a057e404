package distribution

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshkit/meshkit/pkg/backoff"
)

// Bounds of what one certificate can open, so that no node uses up the admission,
// the streams or the memory that are there for all: a stream that has not said hello
// may have as much in its receive buffer as the gRPC server takes.
const (
	// maxNodeStreams at once: one that is served, and some that are on their way out.
	maxNodeStreams = 4
	// nodeBurst streams at once, and one more in nodeEvery.
	nodeBurst = 10
	nodeEvery = time.Second
	// maxNodeGuests at once, and guestBurst opened at once: a node may run many data
	// planes, which all start with it. They are counted apart from its streams, so that
	// they never keep its agent out.
	maxNodeGuests = 16
	guestBurst    = 2 * maxNodeGuests
	// pacingSweep is the number of nodes above which those that are at rest go.
	pacingSweep = 1024
)

// pacing holds each node to its own share. It is safe for concurrent use.
type pacing struct {
	most, burst int

	mu    sync.Mutex // guards all below
	nodes map[string]*paced
	sweep int // number of nodes at which to look for those at rest
}

type paced struct {
	opened *rate.Limiter
	open   int
}

func newPacing(most, burst int) *pacing {
	return &pacing{most: most, burst: burst, nodes: make(map[string]*paced), sweep: pacingSweep}
}

// admit says whether this node may open a stream at now and, if not, how long it is
// to wait. One that was admitted must leave.
func (p *pacing) admit(node string, now time.Time) (retry time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[node]
	if n == nil {
		p.forget(now)
		n = &paced{opened: rate.NewLimiter(rate.Every(nodeEvery), p.burst)}
		p.nodes[node] = n
	}
	if n.open >= p.most || !n.opened.AllowN(now, 1) {
		return backoff.Jitter(4*nodeEvery, 0.5), false
	}
	n.open++
	return 0, true
}

// leave gives a stream's place back.
func (p *pacing) leave(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.nodes[node]; n != nil {
		n.open--
	}
}

// forget drops the nodes that have nothing open and all of their burst. p.mu is held.
func (p *pacing) forget(now time.Time) {
	if len(p.nodes) < p.sweep {
		return
	}
	for name, n := range p.nodes {
		if n.open == 0 && n.opened.TokensAt(now) >= float64(p.burst) {
			delete(p.nodes, name)
		}
	}
	p.sweep = max(pacingSweep, 2*len(p.nodes))
}
