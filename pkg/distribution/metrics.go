package distribution

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshkit/meshkit/pkg/distribution/feed"
)

// Metrics are the collectors of servers and of the feeds that they serve. One Metrics
// serves any number of both; register Collectors once.
type Metrics struct {
	// Feeds are for the feeds' options.
	Feeds *feed.Metrics

	streams    prometheus.Gauge
	framesSent *prometheus.CounterVec
	bytesSent  prometheus.Counter
	coalesced  prometheus.Counter
	updates    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	admitted   prometheus.Counter
	ended      *prometheus.CounterVec
	received   *prometheus.CounterVec

	// The counters of each message and update, looked up once.
	sent, took        map[string]prometheus.Counter
	deltas, snapshots prometheus.Counter // of updates
}

// NewMetrics makes a set of collectors, not yet registered.
func NewMetrics() *Metrics {
	const ns, sub = "meshkit", "control"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, []string{label})
	}
	m := &Metrics{
		Feeds:      feed.NewMetrics(),
		streams:    prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "streams", Help: "Open control streams."}),
		framesSent: vec("messages_sent_total", "Messages sent to streams, by kind.", "kind"),
		bytesSent:  counter("frame_bytes_sent_total", "Bytes of shared frames sent to streams."),
		coalesced:  counter("coalesced_total", "Versions that a stream skipped because it was behind."),
		updates:    vec("updates_total", "Updates sent to streams, by how: delta or snapshot.", "how"),
		refused:    vec("refused_total", "Streams refused before they were served, by error code.", "code"),
		admitted:   counter("admitted_total", "Streams admitted."),
		ended:      vec("ended_total", "Streams that ended, by error code; empty when the node closed it in order.", "code"),
		received:   vec("messages_received_total", "Messages received from nodes, by kind; ignored: an ack or nack of something that was not sent.", "kind"),
	}
	m.sent = byLabel(m.framesSent, "notice", "accepted", "trust", "update", "freshness")
	m.deltas, m.snapshots = m.updates.WithLabelValues("delta"), m.updates.WithLabelValues("snapshot")
	m.took = byLabel(m.received, "ack", "nack", "status", "ignored", "unknown")
	return m
}

// byLabel gives the counters of these values of v's one label.
func byLabel(v *prometheus.CounterVec, values ...string) map[string]prometheus.Counter {
	out := make(map[string]prometheus.Counter, len(values))
	for _, l := range values {
		out[l] = v.WithLabelValues(l)
	}
	return out
}

// Collectors gives what to register.
func (m *Metrics) Collectors() []prometheus.Collector {
	return append(m.Feeds.Collectors(), m.streams, m.framesSent, m.bytesSent,
		m.coalesced, m.updates, m.refused, m.admitted, m.ended, m.received)
}
