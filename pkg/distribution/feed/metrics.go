package feed

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the collectors of feeds. One Metrics serves any number of them; register
// Collectors once.
type Metrics struct {
	views         prometheus.Gauge
	framesEncoded prometheus.Counter
	bytesEncoded  prometheus.Counter
}

// NewMetrics makes a set of collectors, not yet registered.
func NewMetrics() *Metrics {
	const ns, sub = "meshkit", "control"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	return &Metrics{
		views:         prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "views", Help: "Views with a feed."}),
		framesEncoded: counter("frames_encoded_total", "Frames encoded: one per view, base, version and chunk, whatever the number of streams."),
		bytesEncoded:  counter("frame_bytes_encoded_total", "Bytes of the frames encoded."),
	}
}

// Collectors gives what to register.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.views, m.framesEncoded, m.bytesEncoded}
}

// Encoded counts one shared frame that was encoded, also one of another protocol.
func (m *Metrics) Encoded(bytes int) {
	m.framesEncoded.Inc()
	m.bytesEncoded.Add(float64(bytes))
}
