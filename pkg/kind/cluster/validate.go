package cluster

import (
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// validator collects the findings of one cluster.
type validator struct {
	key      resource.Key
	findings []resource.Finding
}

func (v *validator) errorf(code fault.Code, field, remedy, format string, args ...any) {
	v.findings = append(v.findings, resource.Errorf(code, v.key, field, remedy, format, args...))
}

func (v *validator) warnf(code fault.Code, field, remedy, format string, args ...any) {
	v.findings = append(v.findings, resource.Warningf(code, v.key, field, remedy, format, args...))
}

func validate(key resource.Key, s *Spec) []resource.Finding {
	v := &validator{key: key}
	v.endpoints(s)
	if s.HashKey != "" && s.LoadBalancing != RingHash {
		v.errorf(fault.CodeNoEffect, "spec.hashKey", "set loadBalancing: ringHash, or remove hashKey", "hashKey has effect with loadBalancing: ringHash only, not with %s", balancing(s))
	}
	if s.HealthCheck != nil {
		v.healthCheck(s.HealthCheck)
	}
	if s.Failover != nil {
		v.failover(s)
	}
	return v.findings
}

func (v *validator) endpoints(s *Spec) {
	seen := make(map[string]int, len(s.Endpoints))
	drained := 0
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		path := index("spec.endpoints", i)
		if first, dup := seen[e.Address]; dup {
			v.errorf(fault.CodeDuplicateItem, path+".address", "remove one of the two; use weight to give an endpoint more requests", "endpoint %s is already endpoints[%d]", e.Address, first)
		} else {
			seen[e.Address] = i
		}
		if e.Share() == 0 {
			drained++
		}
		if e.Priority != 0 && s.Failover != nil && len(s.Failover.Priorities) > 0 {
			v.errorf(fault.CodeExclusive, path+".priority", "keep one of the two", "priority and failover.priorities exclude each other")
		}
	}
	if drained > 0 && drained == len(s.Endpoints) {
		v.warnf(fault.CodeInconsistent, "spec.endpoints", "give at least one endpoint a weight above 0", "every endpoint has weight 0, so the cluster answers no request")
	}
}

// Defaults that the rules on probes compare with; they equal the schema's.
const (
	defaultInterval = resource.Duration(5 * time.Second)
	defaultTimeout  = resource.Duration(time.Second)
)

func (v *validator) healthCheck(h *HealthCheck) {
	if h.Path != "" && h.Type != "http" {
		v.errorf(fault.CodeNoEffect, "spec.healthCheck.path", "remove path, or set type: http", "path has effect with type: http only, not with %s", h.Type)
	}
	if h.Service != "" && h.Type != "grpc" {
		v.errorf(fault.CodeNoEffect, "spec.healthCheck.service", "remove service, or set type: grpc", "service has effect with type: grpc only, not with %s", h.Type)
	}
	interval, timeout, field := h.Interval, h.Timeout, "spec.healthCheck.timeout"
	if interval == 0 {
		interval = defaultInterval
	}
	if timeout == 0 {
		timeout, field = defaultTimeout, "spec.healthCheck.interval"
	}
	if timeout > interval {
		v.errorf(fault.CodeInconsistent, field, "make timeout at most interval", "a probe may take %s, longer than the interval of %s", timeout, interval)
	}
}

func (v *validator) failover(s *Spec) {
	f := s.Failover
	if len(f.Priorities)+len(f.Clusters) == 0 {
		v.errorf(fault.CodeOneOf, "spec.failover", "add priorities or clusters, or remove failover", "failover names neither priorities nor clusters")
	}
	self := resource.Key{Kind: Kind, Namespace: v.key.Namespace, Name: v.key.Name}
	seen := make(map[resource.Key]int, len(f.Clusters))
	for i, c := range f.Clusters {
		target := resource.ReferenceKey(Kind, v.key.Namespace, c)
		field := index("spec.failover.clusters", i)
		if target == self {
			v.errorf(fault.CodeSelfReference, field, "name another cluster", "the cluster fails over to itself")
		}
		if first, dup := seen[target]; dup {
			if f.Clusters[first] != c { // the same text is found on decoding
				v.errorf(fault.CodeDuplicateItem, field, "remove one of the two", "cluster %q is already clusters[%d]", c, first)
			}
			continue
		}
		seen[target] = i
	}
	v.priorities(s)
}

func (v *validator) priorities(s *Spec) {
	whole := make(map[string]int) // region to the tier that holds all of it
	for i := range s.Failover.Priorities {
		p := &s.Failover.Priorities[i]
		path := index("spec.failover.priorities", i)
		if len(p.Regions)+len(p.Zones) == 0 {
			v.errorf(fault.CodeOneOf, path, "add regions or zones", "the tier names neither regions nor zones")
			continue
		}
		for j, region := range p.Regions {
			if first, dup := whole[region]; dup && first != i {
				v.errorf(fault.CodeDuplicateItem, index(path+".regions", j), "name each region in one tier", "region %q is already in priorities[%d]", region, first)
			} else if len(p.Zones) == 0 {
				whole[region] = i
			}
		}
		if !v.anyEndpoint(s, p) {
			v.warnf(fault.CodeNoEffect, path, "correct the names, or add endpoints there", "no endpoint of the cluster is in this tier")
		}
	}
}

func (v *validator) anyEndpoint(s *Spec, p *Priority) bool {
	for i := range s.Endpoints {
		if p.Holds(s.Endpoints[i].Locality) {
			return true
		}
	}
	return false
}
