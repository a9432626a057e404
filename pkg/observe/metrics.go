package observe

import (
	"cmp"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/version"
)

// Registry collects a program's metrics. Components return their collectors;
// the program registers them here.
type Registry struct {
	*prometheus.Registry

	mu     sync.Mutex // guards guests
	guests map[string]*Registry
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
	return &Registry{Registry: r, guests: make(map[string]*Registry)}
}

// NewGuest makes a registry for a part of a program that has several alike, such as
// the domains of a hub. It holds nothing about the process.
func NewGuest() *Registry {
	return &Registry{Registry: prometheus.NewRegistry(), guests: make(map[string]*Registry)}
}

// Include has r show the metrics of a guest too, with the label domain. A guest of
// the same domain is replaced; nil ends it.
func (r *Registry) Include(domain string, guest *Registry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if guest == nil {
		delete(r.guests, domain)
		return
	}
	r.guests[domain] = guest
}

// Gather implements prometheus.Gatherer.
func (r *Registry) Gather() ([]*dto.MetricFamily, error) {
	all := prometheus.Gatherers{r.Registry}
	r.mu.Lock()
	for domain, g := range r.guests {
		all = append(all, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			families, err := g.Gather()
			for _, f := range families {
				for _, m := range f.GetMetric() {
					m.Label = append(m.Label, &dto.LabelPair{Name: proto.String("domain"), Value: proto.String(domain)})
					slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
				}
			}
			return families, err
		}))
	}
	r.mu.Unlock()
	return all.Gather()
}
