package observe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/meshkit/meshkit/pkg/version"
)

// Registry collects a program's metrics. Components return their collectors;
// the program registers them here.
type Registry struct {
	*prometheus.Registry
}

// NewRegistry makes a registry that already holds the Go runtime's and the
// process's metrics and meshkit_build_info{program,version,commit}.
func NewRegistry(program string) *Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meshkit_build_info",
		Help: "Always 1; the labels tell which build runs.",
		ConstLabels: prometheus.Labels{
			"program": program, "version": version.Version(), "commit": version.Commit(),
		},
	})
	info.Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return &Registry{Registry: r}
}
