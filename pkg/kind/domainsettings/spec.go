// Package domainsettings is the DomainSettings kind: the limits and targets of
// a whole domain. There is one at most, named "domain" in namespace "default";
// a domain without it has the defaults. Values are plain data: safe to share
// once no one writes to them.
package domainsettings

import (
	"time"

	"github.com/meshkit/meshkit/pkg/resource"
)

// Kind is the kind's name in files; Name the only name a resource of it has.
const (
	Kind = "DomainSettings"
	Name = "domain"
)

// Spec is the spec of DomainSettings. Use Effective to read it.
type Spec struct {
	Limits    *Limits    `json:"limits,omitempty" doc:"Limits that refuse a change."`
	SLO       []SLO      `json:"slo,omitempty" minItems:"1" maxItems:"256" doc:"Propagation targets by region, shown beside what is measured."`
	Freshness *Freshness `json:"freshness,omitempty" doc:"How often hubs confirm to nodes that nothing has changed."`
	Probation *Probation `json:"probation,omitempty" doc:"How long a node watches a new version before it keeps it."`
}

// Limits refuse a change that would break them.
type Limits struct {
	MaxRemovalPercent *float64 `json:"maxRemovalPercent,omitempty" min:"0" max:"100" default:"20" doc:"A change that removes more than this percent of the resources, of those of a kind or of the endpoints needs --allow-large-change. Narrowing a scope counts as removing."`
	MaxResources      int      `json:"maxResources,omitempty" min:"1" max:"50000" default:"50000" doc:"Resources in the domain."`
	MaxBundleBytes    int64    `json:"maxBundleBytes,omitempty" min:"1024" max:"134217728" default:"134217728" doc:"Bytes of all resources of the domain, as distributed."`
	MaxViews          int      `json:"maxViews,omitempty" min:"1" max:"4096" default:"64" doc:"Views (capability profile × scope labels) that a hub keeps."`
}

// SLO is the target for one region.
type SLO struct {
	Region string            `json:"region" required:"true" format:"region" doc:"Value of the node label region; '*' for the regions not named." example:"eu-west"`
	P99    resource.Duration `json:"p99" required:"true" min:"1ms" max:"1h" doc:"Time from a durable change to its activation on 99 percent of the region's connected nodes." example:"2s"`
}

// Freshness paces the statements that nothing has changed.
type Freshness struct {
	Interval   resource.Duration `json:"interval,omitempty" min:"1s" max:"10m" default:"10s" doc:"Time between two freshness statements of a view."`
	StaleAfter resource.Duration `json:"staleAfter,omitempty" min:"2s" max:"24h" default:"35s" doc:"A node without a statement for this long reports Stale; at least twice the interval."`
}

// Probation guards a new version on a node.
type Probation struct {
	Period      resource.Duration `json:"period,omitempty" min:"100ms" max:"1h" default:"10s" doc:"Time that a version must stay healthy before it is kept."`
	MaxRestarts int               `json:"maxRestarts,omitempty" min:"1" max:"20" default:"3" doc:"Restarts of the agent within the period that count as a crash loop, after which it starts from the generation before."`
}

// Defaults of the domain.
const (
	DefaultMaxRemovalPercent = 20.0
	DefaultMaxResources      = 50_000
	DefaultMaxBundleBytes    = 128 << 20
	DefaultMaxViews          = 64
	DefaultFreshness         = 10 * time.Second
	DefaultStaleAfter        = 35 * time.Second
	DefaultProbation         = 10 * time.Second
	DefaultMaxRestarts       = 3
)

// Effective is s with every default filled in: no part is nil, no limit zero.
// A nil s gives the defaults. s itself is not changed.
func (s *Spec) Effective() Spec {
	removal := DefaultMaxRemovalPercent
	out := Spec{Limits: &Limits{MaxRemovalPercent: &removal}, Freshness: &Freshness{}, Probation: &Probation{}}
	if s != nil {
		out.SLO = s.SLO
		if s.Limits != nil {
			*out.Limits = *s.Limits
			if s.Limits.MaxRemovalPercent == nil {
				out.Limits.MaxRemovalPercent = &removal
			}
		}
		if s.Freshness != nil {
			*out.Freshness = *s.Freshness
		}
		if s.Probation != nil {
			*out.Probation = *s.Probation
		}
	}
	fill(&out.Limits.MaxResources, DefaultMaxResources)
	fill(&out.Limits.MaxBundleBytes, DefaultMaxBundleBytes)
	fill(&out.Limits.MaxViews, DefaultMaxViews)
	fill(&out.Freshness.Interval, resource.Duration(DefaultFreshness))
	if out.Freshness.StaleAfter == 0 {
		out.Freshness.StaleAfter = max(resource.Duration(DefaultStaleAfter), 3*out.Freshness.Interval)
	}
	fill(&out.Probation.Period, resource.Duration(DefaultProbation))
	fill(&out.Probation.MaxRestarts, DefaultMaxRestarts)
	return out
}

// Target gives the propagation target of a region, or that of '*'.
func (s *Spec) Target(region string) (p99 time.Duration, ok bool) {
	if s == nil {
		return 0, false
	}
	for _, slo := range s.SLO {
		if slo.Region == region {
			return time.Duration(slo.P99), true
		}
		if slo.Region == "*" {
			p99, ok = time.Duration(slo.P99), true
		}
	}
	return p99, ok
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
