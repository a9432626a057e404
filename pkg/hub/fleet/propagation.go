package fleet

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
)

// Bounds of what is remembered about versions on their way.
const (
	maxWaves   = 64 // one bit of node.owes each
	maxCommits = 64 // durable entries that one publication may cover
	maxNacks   = 10
	maxRegions = 64 // values of the label region that get metrics of their own
)

// Grace is how long after the hub began to serve nodes that have not connected
// yet are waited for: they are coming back.
const Grace = 10 * time.Second

// Commit is a durable config entry and when it became durable.
type Commit struct {
	Version uint64
	At      time.Time
}

// wave is one publication on its way: the views that it changed and the nodes
// that have not answered. Fleet.mu guards it.
type wave struct {
	point   feed.Point
	commits []Commit // oldest first; the last one made point
	views   map[string]bool
	// slot is the wave's bit in node.owes; waiting counts the nodes that have it set.
	slot    uint
	waiting int
	refused map[string]*controlv1.Nack
	took    []time.Duration // of those that were connected, from the last commit
	acked   uint64
	targets map[string]target // by region, as they were when its first answer came
}

// target is how soon a region's nodes should answer.
type target struct {
	p99 time.Duration
	set bool
}

// concerns tells whether n should have the wave's version and does not. A node
// that has the content already is sent nothing and will not answer. f.mu is held.
func (f *Fleet) concerns(w *wave, n *node) bool {
	return n.conn != nil && w.views[n.View] && pointOf(n.Active).Compare(w.point) < 0 && !f.holds(n)
}

// refuses tells whether n refused the version, or a newer one.
func (n *node) refuses(p feed.Point) bool {
	return n.Nack != nil && (feed.Point{Epoch: n.Nack.GetEpoch(), Version: n.Nack.GetVersion()}).Compare(p) >= 0
}

// at is when the entry that made version became durable.
func (w *wave) at(version uint64) time.Time {
	for _, c := range w.commits {
		if c.Version >= version {
			return c.At
		}
	}
	return w.commits[len(w.commits)-1].At
}

// Published notes that these views changed at point, and which durable entries
// that covers. From then on the fleet waits for the nodes concerned. Every view
// is published up to point when it is called; views may be empty: nodes that have
// yet to connect may still have to answer.
func (f *Fleet) Published(point feed.Point, views []string, commits []Commit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled = max(f.settled, point.Version)
	if len(commits) > 0 {
		w := &wave{
			point: point, commits: commits[max(0, len(commits)-maxCommits):], views: make(map[string]bool, len(views)),
			refused: make(map[string]*controlv1.Nack), targets: make(map[string]target),
		}
		f.enlist(w)
		for _, v := range views {
			w.views[v] = true
		}
		for name, n := range f.nodes {
			switch {
			case f.concerns(w, n) && n.refuses(point):
				w.refused[name] = n.Nack // it was faster than this call
			case f.concerns(w, n):
				w.await(n, false)
			case n.conn != nil && w.views[n.View] && pointOf(n.Active).Compare(point) >= 0 && n.ackedAt.After(commits[len(commits)-1].At):
				f.took(w, n, n.ackedAt) // it was faster than this call
			}
		}
	}
	f.notify()
}

// enlist adds a wave in a slot of its own, and drops the oldest when all are taken.
// f.mu is held.
func (f *Fleet) enlist(w *wave) {
	w.slot = uint(len(f.waves))
	if len(f.waves) == maxWaves {
		oldest := f.waves[0]
		w.slot = oldest.slot
		for _, n := range f.nodes {
			oldest.strike(n)
		}
		f.waves = append(f.waves[:0:0], f.waves[1:]...)
	}
	f.waves = append(f.waves, w)
}

// awaits tells whether the wave waits for n. Fleet.mu is held.
func (w *wave) awaits(n *node) bool { return n.owes&(1<<w.slot) != 0 }

// await has the wave wait for n; late: its time says nothing about propagation.
// Fleet.mu is held.
func (w *wave) await(n *node, late bool) {
	bit := uint64(1) << w.slot
	if !w.awaits(n) {
		n.owes |= bit
		w.waiting++
	}
	n.late &^= bit
	if late {
		n.late |= bit
	}
}

// strike has the wave wait for n no longer. Fleet.mu is held.
func (w *wave) strike(n *node) {
	if w.awaits(n) {
		n.owes &^= 1 << w.slot
		w.waiting--
	}
}

// acked takes n off the waves that its version covers. f.mu is held.
func (f *Fleet) acked(n *node, a *controlv1.Ack) {
	have := feed.Point{Epoch: a.GetEpoch(), Version: a.GetVersion()}
	for _, w := range f.waves {
		waiting := w.awaits(n)
		hadRefused := len(w.refused) > 0 && w.refused[n.Node] != nil
		if !waiting && !hadRefused || have.Compare(w.point) < 0 {
			continue
		}
		late := n.late&(1<<w.slot) != 0
		w.strike(n)
		delete(w.refused, n.Node)
		if late || !waiting {
			w.acked++
			continue
		}
		f.took(w, n, n.LastSeen)
	}
}

// took counts one acknowledgement of w with its time. f.mu is held.
func (f *Fleet) took(w *wave, n *node, at time.Time) {
	w.acked++
	took := max(0, at.Sub(w.commits[len(w.commits)-1].At))
	w.took = append(w.took, took)
	goal, known := w.targets[n.region]
	if !known { // once for each change and region, not for each ack
		goal.p99, goal.set = f.opt.Target(n.region)
		w.targets[n.region] = goal
	}
	f.metrics.observe(n.region, took, goal)
}

// nacked marks n as refusing the waves up to the version that it refused. f.mu is held.
func (f *Fleet) nacked(n *node, k *controlv1.Nack) {
	refused := feed.Point{Epoch: k.GetEpoch(), Version: k.GetVersion()}
	for _, w := range f.waves {
		if w.awaits(n) && w.point.Compare(refused) <= 0 {
			w.strike(n)
			w.refused[n.Node] = k
		}
	}
}

// Joined is a node that has joined the domain.
type Joined struct {
	Name string
	// Until is when its certificate stops being accepted.
	Until time.Time
}

// Progress is how far a version has got.
type Progress struct {
	Version                                uint64
	Concerned, Acked, Nacked, Disconnected uint64
	P50, P99, Last                         time.Duration
	Nacks                                  map[string]*controlv1.Nack // at most 10
	// Connected is how many nodes are, at this hub.
	Connected uint64
	// Histogram holds the times of those that acknowledged, see Quantile.
	Histogram []uint32
	// Done: views are published up to the version, no connected node that it
	// concerns is outstanding, and none is awaited.
	Done bool
	// Answered: the same, whoever is awaited.
	Answered bool
	// Again is when to look again though nothing has changed; 0: never.
	Again time.Duration
}

// Progress tells how far version has got. joined yields all nodes. Within Grace
// after the hub began to serve, nodes that have not connected since, and whose
// certificate would let them, are awaited.
func (f *Fleet) Progress(version uint64, joined iter.Seq[Joined]) Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := Progress{Version: version, Nacks: make(map[string]*controlv1.Nack), Connected: uint64(f.online)}
	now := f.opt.Now()
	awaited := false
	for j := range joined {
		n := f.nodes[j.Name]
		if n == nil || n.conn == nil && n.Active.GetVersion() < version {
			p.Disconnected++
		}
		awaited = awaited || n == nil && now.Before(j.Until)
	}
	if awaited {
		p.Again = Grace
		if !f.serving.IsZero() {
			p.Again = max(0, f.serving.Add(Grace).Sub(now))
		}
	}
	if f.settled < version {
		return p
	}
	p.Done, p.Answered = p.Again == 0, true
	if w := f.waveOf(version); w != nil { // else it is too long ago to remember
		f.answers(&p, w)
	}
	return p
}

// answers counts what became of a wave. f.mu is held.
func (f *Fleet) answers(p *Progress, w *wave) {
	came, outstanding := f.awaited(w)
	p.Acked, p.Nacked = w.acked+came, uint64(len(w.refused))
	p.Concerned = p.Acked + p.Nacked + outstanding
	p.Done, p.Answered = p.Done && outstanding == 0, outstanding == 0
	took := sortedCopy(w.took)
	if len(took) > 0 {
		before := w.commits[len(w.commits)-1].At.Sub(w.at(p.Version)) // an earlier entry of the same publication waited longer
		p.P50, p.P99, p.Last = percentile(took, 0.50)+before, percentile(took, 0.99)+before, took[len(took)-1]+before
		for i := range took {
			took[i] += before
		}
		p.Histogram = histogram(took)
	}
	for _, name := range slices.Sorted(maps.Keys(w.refused)) {
		if len(p.Nacks) == maxNacks {
			break
		}
		p.Nacks[name] = w.refused[name]
	}
}

// awaited counts the connected nodes of which a wave awaits an answer: those that came
// there another way, since a later change took this one back, and the others. f.mu is
// held: when all have answered, it is asked for often, and looks at no node.
func (f *Fleet) awaited(w *wave) (came, outstanding uint64) {
	if w.waiting == 0 {
		return 0, 0
	}
	for _, n := range f.nodes {
		switch {
		case !w.awaits(n) || n.conn == nil:
		case f.holds(n):
			came++
		default:
			outstanding++
		}
	}
	return came, outstanding
}

// waveOf finds the publication that covered version. f.mu is held.
func (f *Fleet) waveOf(version uint64) *wave {
	for _, w := range f.waves {
		for _, c := range w.commits {
			if c.Version == version {
				return w
			}
		}
	}
	return nil
}

type metrics struct {
	connected prometheus.Gauge
	seconds   *prometheus.HistogramVec
	slo       *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	regions   map[string]*regional // by label; Fleet.mu
}

func newMetrics() metrics {
	return metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meshkit_agents_connected", Help: "Agents with an open control stream to this hub.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meshkit_propagation_seconds", Help: "Time from the durable append of a change to an agent's acknowledgement of it, by the agent's region.",
			Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"region"}),
		slo: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshkit_propagation_slo_total", Help: "Acknowledgements within and beyond the region's target in DomainSettings (result: within, exceeded).",
		}, []string{"region", "result"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshkit_agent_nacks_total", Help: "Versions that agents refused or reverted, by code; a request for a snapshot counts as well.",
		}, []string{"code"}),
		regions: make(map[string]*regional),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.connected, m.seconds, m.slo, m.nacks}
}

// regional are the metrics of one value of the label region, looked up once.
type regional struct {
	seconds          prometheus.Observer
	within, exceeded prometheus.Counter // looked up when there is a target
}

// observe counts one acknowledgement. The label region comes from join tokens, but
// the number of its values is bounded all the same.
func (m *metrics) observe(region string, took time.Duration, goal target) {
	label := region
	if label == "" {
		label = "none"
	}
	r := m.regions[label]
	if r == nil && len(m.regions) >= maxRegions {
		label = "other"
		r = m.regions[label]
	}
	if r == nil {
		r = &regional{seconds: m.seconds.WithLabelValues(label)}
		m.regions[label] = r
	}
	r.seconds.Observe(took.Seconds())
	if !goal.set {
		return
	}
	if r.within == nil {
		r.within, r.exceeded = m.slo.WithLabelValues(label, "within"), m.slo.WithLabelValues(label, "exceeded")
	}
	if took > goal.p99 {
		r.exceeded.Inc()
	} else {
		r.within.Inc()
	}
}
