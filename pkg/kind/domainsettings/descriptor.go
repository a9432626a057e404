package domainsettings

import (
	"strconv"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

const example = `apiVersion: meshkit.dev/v1
kind: DomainSettings
metadata:
  name: domain
spec:
  limits:
    maxRemovalPercent: 10
  slo:
    - region: eu-west
      p99: 2s
    - region: "*"
      p99: 5s
  freshness:
    interval: 10s
    staleAfter: 35s
`

// Descriptor describes the kind.
func Descriptor() *schema.Descriptor {
	return &schema.Descriptor{
		Kind: Kind, Plural: "domainsettings", Short: []string{"settings", "ds"}, Namespaced: true, Singleton: Name,
		Capability: "core/v1",
		Summary:    "DomainSettings holds the limits and targets of the whole domain; there is one, named domain.",
		Example:    example,
		Schema:     schema.Of(Spec{}),
		New:        func() any { return new(Spec) },
		Validate: func(key resource.Key, spec any) []resource.Finding {
			return validate(key, spec.(*Spec))
		},
		Refs: func(resource.Key, any) []resource.Ref { return nil },
		Columns: []schema.Column{
			{Name: "MAX-REMOVAL", Value: column(func(s Spec) string {
				return strconv.FormatFloat(*s.Limits.MaxRemovalPercent, 'f', -1, 64) + "%"
			})},
			{Name: "FRESHNESS", Value: column(func(s Spec) string { return s.Freshness.Interval.String() })},
			{Name: "SLOS", Value: column(func(s Spec) string { return strconv.Itoa(len(s.SLO)) })},
			{Name: "MAX-RESOURCES", Wide: true, Value: column(func(s Spec) string { return strconv.Itoa(s.Limits.MaxResources) })},
			{Name: "MAX-VIEWS", Wide: true, Value: column(func(s Spec) string { return strconv.Itoa(s.Limits.MaxViews) })},
			{Name: "PROBATION", Wide: true, Value: column(func(s Spec) string { return s.Probation.Period.String() })},
		},
	}
}

// column renders from the effective settings: what applies, not what was written.
func column(value func(Spec) string) func(*resource.Resource, any) string {
	return func(_ *resource.Resource, spec any) string { return value(spec.(*Spec).Effective()) }
}

func validate(key resource.Key, s *Spec) []resource.Finding {
	var out []resource.Finding
	seen := make(map[string]int, len(s.SLO))
	for i, slo := range s.SLO {
		if first, dup := seen[slo.Region]; dup {
			out = append(out, resource.Errorf(fault.CodeDuplicateItem, key, "spec.slo["+strconv.Itoa(i)+"].region", "remove one of the two", "region %q is already slo[%d]", slo.Region, first))
			continue
		}
		seen[slo.Region] = i
	}
	if f := s.Effective().Freshness; f.StaleAfter < 2*f.Interval {
		out = append(out, resource.Errorf(fault.CodeInconsistent, key, "spec.freshness.staleAfter", "make staleAfter at least twice interval", "a node would be stale after %s, before a second statement at intervals of %s can arrive", f.StaleAfter, f.Interval))
	}
	return out
}
