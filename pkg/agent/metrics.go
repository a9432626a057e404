package agent

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshkit/meshkit/pkg/agent/activation"
)

// Metrics are the agent's metrics. Several agents of one process share them: phases
// count agents, the other gauges tell of the one that is worst off.
type Metrics struct {
	activations  prometheus.Counter
	nacks        *prometheus.CounterVec
	reverts      *prometheus.CounterVec
	renewals     *prometheus.CounterVec
	trustRefused prometheus.Counter

	phase, version, epoch, fresh, expiry, lkgBytes, local *prometheus.Desc

	mu     sync.Mutex // guards agents
	agents map[*Agent]struct{}
}

// NewMetrics makes metrics that no agent counts in yet.
func NewMetrics() *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("meshkit_agent_"+name, help, labels, nil)
	}
	return &Metrics{
		activations:  prometheus.NewCounter(prometheus.CounterOpts{Name: "meshkit_agent_activations_total", Help: "Contents given to the data plane."}),
		nacks:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meshkit_agent_nacks_total", Help: "Contents refused or reverted, by fault code."}, []string{"code"}),
		reverts:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meshkit_agent_reverts_total", Help: "Returns to an earlier generation by the agent itself, by fault code."}, []string{"code"}),
		renewals:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meshkit_agent_certificate_renewals_total", Help: "Certificate renewals, by outcome."}, []string{"outcome"}),
		trustRefused: prometheus.NewCounter(prometheus.CounterOpts{Name: "meshkit_agent_trust_refused_total", Help: "Trust metadata that did not verify."}),
		phase:        desc("phase", "Agents of this process in each phase.", "phase"),
		version:      desc("version", "Active version; of several agents the lowest."),
		epoch:        desc("epoch", "Epoch of the active version; of several agents the lowest."),
		fresh:        desc("freshness_age_seconds", "Time since a hub confirmed the version; of several agents the longest."),
		expiry:       desc("certificate_expiry_seconds", "Time until the certificate expires; of several agents the shortest."),
		lkgBytes:     desc("lkg_bytes", "Bytes of the last-known-good stores on disk."),
		local:        desc("local_streams", "Open streams of local processes."),
		agents:       make(map[*Agent]struct{}),
	}
}

func (m *Metrics) add(a *Agent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.agents[a] = struct{}{}
}

func (m *Metrics) remove(a *Agent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.agents, a)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.activations.Describe(ch)
	m.nacks.Describe(ch)
	m.reverts.Describe(ch)
	m.renewals.Describe(ch)
	m.trustRefused.Describe(ch)
	for _, d := range []*prometheus.Desc{m.phase, m.version, m.epoch, m.fresh, m.expiry, m.lkgBytes, m.local} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.activations.Collect(ch)
	m.nacks.Collect(ch)
	m.reverts.Collect(ch)
	m.renewals.Collect(ch)
	m.trustRefused.Collect(ch)

	sum := m.survey(time.Now())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, p := range activation.Phases() {
		gauge(m.phase, float64(sum.phases[p]), string(p))
	}
	gauge(m.version, float64(sum.lowest.Version))
	gauge(m.epoch, float64(sum.lowest.Epoch))
	gauge(m.lkgBytes, float64(sum.lkgBytes))
	gauge(m.local, float64(sum.local))
	if sum.agents > 0 {
		gauge(m.fresh, sum.oldest.Seconds())
		gauge(m.expiry, sum.soonest.Seconds())
	}
}

// survey is what the agents of a process are like, together.
type survey struct {
	agents   int
	phases   map[activation.Phase]int
	lowest   activation.Point
	oldest   time.Duration // since a hub confirmed the version
	soonest  time.Duration // until a certificate expires
	lkgBytes int64
	local    int
}

func (m *Metrics) survey(now time.Time) survey {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := survey{phases: make(map[activation.Phase]int)}
	for a := range m.agents {
		rep := a.Report()
		age, left := now.Sub(rep.FreshAt), a.source.NotAfter().Sub(now)
		if rep.FreshAt.IsZero() {
			age = 0
		}
		if s.agents == 0 || rep.Active.Compare(s.lowest) < 0 {
			s.lowest = rep.Active
		}
		if s.agents == 0 || left < s.soonest {
			s.soonest = left
		}
		s.oldest = max(s.oldest, age)
		s.agents++
		s.phases[rep.Phase]++
		s.lkgBytes += a.store.Size()
		s.local += a.feeds.Sessions()
	}
	return s
}
