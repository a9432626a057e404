package cluster

import (
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

const example = `apiVersion: meshkit.dev/v1
kind: Cluster
metadata:
  name: payments
spec:
  loadBalancing: leastRequest
  connectTimeout: 250ms
  endpoints:
    - address: 10.0.0.7:8080
      locality: {region: eu-west, zone: eu-west-1a}
    - address: 10.1.0.7:8080
      locality: {region: eu-north}
  healthCheck:
    type: http
    path: /healthz
    interval: 2s
    timeout: 500ms
  failover:
    priorities:
      - regions: [eu-west]
      - regions: [eu-north]
`

// Descriptor describes the kind.
func Descriptor() *schema.Descriptor {
	return &schema.Descriptor{
		Kind: Kind, Plural: "clusters", Short: []string{"cl"}, Namespaced: true,
		Capability: "core/v1",
		Summary:    "A Cluster is a set of endpoints that serve the same thing, and how requests are spread over them.",
		Example:    example,
		Schema:     schema.Of(Spec{}),
		New:        func() any { return new(Spec) },
		Validate: func(key resource.Key, spec any) []resource.Finding {
			return validate(key, spec.(*Spec))
		},
		Refs: func(key resource.Key, spec any) []resource.Ref { return refs(key, spec.(*Spec)) },
		Columns: []schema.Column{
			{Name: "ENDPOINTS", Value: column(func(s *Spec) string { return strconv.Itoa(len(s.Endpoints)) })},
			{Name: "BALANCING", Value: column(balancing)},
			{Name: "REGIONS", Value: column(regions)},
			{Name: "FAILOVER", Wide: true, Value: column(failover)},
			{Name: "HEALTH", Wide: true, Value: column(health)},
			{Name: "POLICIES", Wide: true, Value: column(func(s *Spec) string { return strings.Join(s.Policies, ",") })},
		},
	}
}

func column(value func(*Spec) string) func(*resource.Resource, any) string {
	return func(_ *resource.Resource, spec any) string { return value(spec.(*Spec)) }
}

func balancing(s *Spec) string {
	if s.LoadBalancing == "" {
		return RoundRobin
	}
	return s.LoadBalancing
}

func regions(s *Spec) string {
	var out []string
	for _, e := range s.Endpoints {
		if e.Locality != nil {
			out = append(out, e.Locality.Region)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

// failover renders tiers by '>', then the clusters.
func failover(s *Spec) string {
	if s.Failover == nil {
		return ""
	}
	var steps []string
	for _, p := range s.Failover.Priorities {
		steps = append(steps, strings.Join(append(slices.Clone(p.Regions), p.Zones...), ","))
	}
	return strings.Join(append(steps, s.Failover.Clusters...), ">")
}

func health(s *Spec) string {
	if s.HealthCheck == nil {
		return ""
	}
	return s.HealthCheck.Type
}

func refs(key resource.Key, s *Spec) []resource.Ref {
	var out []resource.Ref
	if s.Failover != nil {
		for i, c := range s.Failover.Clusters {
			out = append(out, resource.Ref{Target: resource.ReferenceKey(Kind, key.Namespace, c), Field: index("spec.failover.clusters", i)})
		}
	}
	for i, p := range s.Policies {
		out = append(out, resource.Ref{Target: resource.ReferenceKey("Policy", key.Namespace, p), Field: index("spec.policies", i)})
	}
	return out
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
