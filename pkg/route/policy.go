package route

import (
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/expr"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/resource"
)

// applied is a policy that concerns a request.
type applied struct {
	key        resource.Key
	name, via  string
	spec       *policy.Spec
	conditions []*expr.Program
}

// policiesFor lists the policies for a rule and one of its clusters, in the order
// in which the first that sets something counts.
func policiesFor(g *graph.Graph, t *target, labels map[string]string) []applied {
	var out []applied
	seen := map[resource.Key]bool{}
	add := func(key resource.Key, via string) {
		o, ok := g.Get(key)
		spec, isPolicy := o.Spec.(*policy.Spec)
		if !ok || !isPolicy || seen[key] || labels != nil && !graph.InScope(o.Resource, labels) {
			return
		}
		seen[key] = true
		out = append(out, applied{key: key, name: key.String(), via: via, spec: spec, conditions: g.Conditions(key)})
	}
	listed := func(names []string, namespace, via string) {
		for _, n := range names {
			add(resource.ReferenceKey(policy.Kind, namespace, n), via)
		}
	}
	targeting := func(key resource.Key, via string) {
		for _, from := range g.Dependents(key) {
			if from.Kind == policy.Kind && targets(g, from, key) {
				add(from, via)
			}
		}
	}
	route := t.rule.route
	listed(t.rule.spec.Policies, route.key.Namespace, "rule")
	listed(route.spec.Policies, route.key.Namespace, "route")
	targeting(route.key, "targets route")
	if c := clusterOf(g, t.cluster); c != nil {
		listed(c.spec.Policies, c.key.Namespace, "cluster")
		targeting(c.key, "targets cluster")
	}
	return out
}

// targets says whether a policy targets a resource, rather than shadow to it.
func targets(g *graph.Graph, from, to resource.Key) bool {
	for _, r := range g.Refs(from) {
		if r.Target == to && strings.HasPrefix(r.Field, "spec.targets[") {
			return true
		}
	}
	return false
}

// settings fills in what follows from the policies.
func (e *effective) settings() {
	rule, route := e.target.rule.spec, e.target.rule.route.spec
	switch {
	case rule.Timeout > 0:
		e.timeout = Timeout{rule.Timeout, "rule"}
	case route.Timeout > 0:
		e.timeout = Timeout{route.Timeout, "route"}
	}
	if m := rule.Mirror; m != nil {
		to := resource.ReferenceKey("Cluster", e.target.rule.route.key.Namespace, m.Cluster)
		e.mirrors = append(e.mirrors, Mirror{Cluster: to.String(), Percent: m.Share(), From: "rule"})
	}
	for i := range e.policies {
		p := &e.policies[i]
		e.applied = append(e.applied, Applied{Policy: p.name, Via: p.via, Parts: p.spec.Parts()})
		if t := p.spec.Timeout; t != nil {
			if e.timeout.Value == 0 && t.Request > 0 {
				e.timeout = Timeout{t.Request, p.name}
			}
			if e.idle.Value == 0 && t.Idle > 0 {
				e.idle = Timeout{t.Idle, p.name}
			}
		}
		if r := p.spec.Retry; r != nil && e.retry == nil {
			e.retry = &Retry{Retry: withDefaults(*r), From: p.name}
		}
		if c := p.spec.CircuitBreaker; c != nil && e.breaker == nil {
			e.breaker = &CircuitBreaker{CircuitBreaker: *c, From: p.name}
		}
		if r := p.spec.RateLimit; r != nil {
			limit := RateLimit{RateLimit: *r, From: p.name}
			if limit.By == "" {
				limit.By = "service"
			}
			e.limits = append(e.limits, limit)
		}
		if s := p.spec.Shadow; s != nil {
			to := resource.ReferenceKey("Cluster", p.key.Namespace, s.Cluster)
			e.mirrors = append(e.mirrors, Mirror{Cluster: to.String(), Percent: s.Share(), From: p.name})
		}
		if p.spec.Authz != nil {
			e.authz = append(e.authz, p)
		}
	}
	if e.timeout.Value == 0 {
		e.timeout = Timeout{resource.Duration(DefaultTimeout), "default"}
	}
}

func withDefaults(r policy.Retry) policy.Retry {
	if len(r.On) == 0 {
		r.On = []string{"connectFailure", "unavailable"}
	}
	var backoff policy.Backoff
	if r.Backoff != nil {
		backoff = *r.Backoff
	}
	if backoff.Base == 0 {
		backoff.Base = resource.Duration(25 * time.Millisecond)
	}
	if backoff.Max == 0 {
		backoff.Max = max(backoff.Base, resource.Duration(250*time.Millisecond))
	}
	r.Backoff = &backoff
	if r.BudgetPercent == nil {
		budget := 20.0
		r.BudgetPercent = &budget
	}
	return r
}

// authorize asks one policy.
func (p *applied) authorize(in expr.Input) Verdict {
	for _, effect := range []string{policy.Deny, policy.Allow} {
		for i := range p.spec.Authz.Rules {
			rule := &p.spec.Authz.Rules[i]
			if rule.Effect != effect {
				continue
			}
			v := Verdict{Effect: effect, Policy: p.name, Rule: rule.Name}
			if i >= len(p.conditions) || p.conditions[i] == nil {
				v.Effect, v.Why = policy.Deny, "the condition does not compile"
				return v
			}
			holds, err := p.conditions[i].Eval(in)
			if err != nil {
				v.Effect, v.Why = policy.Deny, "the condition cannot be decided: "+err.Error()
				return v
			}
			if holds {
				v.Why = "the condition holds: " + rule.When
				return v
			}
		}
	}
	if p.spec.Authz.Default == policy.Allow {
		return Verdict{Effect: policy.Allow, Policy: p.name, Why: "no rule's condition holds, and the policy's default is allow"}
	}
	return Verdict{Effect: policy.Deny, Policy: p.name, Why: "no rule's condition holds, and the policy's default is deny"}
}

func inputOf(req *Request) expr.Input {
	return expr.Input{
		Service: req.Service, Procedure: req.Procedure, Headers: lowered(req.Headers), Caller: req.Caller,
		Tenant: req.Tenant, Shard: req.ShardKey, RoutingKey: req.RoutingKey, Spiffe: req.CallerID,
	}
}

// lowered gives headers with names in lower case.
func lowered(headers map[string]string) map[string]string {
	plain := true
	for name := range headers {
		if strings.ToLower(name) != name {
			plain = false
			break
		}
	}
	if plain {
		return headers
	}
	out := make(map[string]string, len(headers))
	for name := range headers {
		lower := strings.ToLower(name)
		out[lower], _ = lookup(headers, lower)
	}
	return out
}
