package store

import "github.com/prometheus/client_golang/prometheus"

// metrics of one Log; the values guard themselves.
type metrics struct {
	entries  prometheus.Counter
	batches  *prometheus.CounterVec
	duration prometheus.Histogram
	waiting  prometheus.GaugeFunc
	leading  prometheus.Gauge
	term     prometheus.Gauge
}

func newMetrics(queued func() int) *metrics {
	return &metrics{
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meshkit_log_entries_committed_total", Help: "Entries that this hub appended to the log.",
		}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshkit_log_batches_total", Help: "Appends by outcome: committed, failed, unknown, lost.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshkit_log_append_seconds", Help: "Time from handing a batch to the store to knowing its outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14),
		}),
		waiting: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "meshkit_log_proposals_queued", Help: "Proposals that wait for the writer.",
		}, func() float64 { return float64(queued()) }),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meshkit_log_leading", Help: "1 while this hub holds the lease of the log.",
		}),
		term: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meshkit_log_term", Help: "Fencing term of this hub's newest lease.",
		}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.entries, m.batches, m.duration, m.waiting, m.leading, m.term}
}
