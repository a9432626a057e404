package route

import (
	"fmt"
	"sync"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// Table answers for one version of the mesh. Safe for concurrent use.
type Table struct {
	graph *graph.Graph
	// effective caches by *target what applies to it, as *effective. It holds one
	// value for each cluster of each rule that was asked for.
	effective sync.Map
}

// Compile makes the table of a graph, at no cost: what a service needs is derived
// when it is first asked for.
func Compile(g *graph.Graph) *Table { return &Table{graph: g} }

// Pick decides about a request. It is meant for the path of requests: after the
// first request of a kind it takes about a microsecond and allocates nothing, except
// where conditions of authorization policies are evaluated.
func (t *Table) Pick(req Request) Decision {
	var e explainer
	return t.decide(&req, &e)
}

// Decide is Pick with an explanation.
func (t *Table) Decide(req Request) Decision {
	e := explainer{on: true}
	d := t.decide(&req, &e)
	d.Steps = e.steps
	return d
}

// explainer collects steps when it is on.
type explainer struct {
	on    bool
	steps []Step
}

func (e *explainer) add(resource, field, outcome, format string, args ...any) {
	e.steps = append(e.steps, Step{Resource: resource, Field: field, Outcome: outcome, Why: fmt.Sprintf(format, args...)})
}

func (t *Table) decide(req *Request, e *explainer) Decision {
	d := Decision{Outcome: NoRoute, Service: req.Service}
	s, ok := t.graph.Service(req.Service)
	if !ok {
		if e.on {
			e.add("", "", "passed over", "no route is for service %s", safetext.Quote(req.Service))
		}
		return d
	}
	won := t.findRule(s.Memo.Do(func() any { return compileService(s) }).(*service), req, e)
	if won == nil {
		return d
	}
	d.Route, d.Rule = won.route.name, won.spec.Name
	target, by := won.choose(req)
	if target == nil {
		d.Outcome = NoCluster
		return d
	}
	d.Cluster, d.Weight, d.ChosenBy = target.name, target.weight, by
	if e.on {
		e.explainChoice(won, target, by, req)
	}
	eff := t.effectiveOf(target, req.NodeLabels)
	if eff.cluster == nil {
		d.Outcome = NoCluster
		if e.on {
			e.add(target.name, "", "passed over", "the cluster does not exist")
		}
		return d
	}
	d.Outcome = Routed
	eff.fill(&d, req)
	if e.on {
		e.explainPolicies(eff)
	}
	d.Authz = eff.authorize(req, e)
	if d.Authz.Effect == policy.Deny {
		d.Outcome = Denied
	}
	return d
}

// findRule finds the rule that decides; nil when none matches.
func (t *Table) findRule(s *service, req *Request, e *explainer) *rule {
	var won *rule
	for _, group := range s.groups {
		if won != nil {
			for _, r := range group {
				if e.on {
					e.add(r.name, "spec.priority", "not reached", "%s has matched at priority %d, above %d", won.route.name, won.route.spec.Priority, r.spec.Priority)
				}
			}
			continue
		}
		best := 0
		for _, r := range group {
			candidate, quality := r.candidate(req, e)
			if candidate == nil {
				continue
			}
			if won == nil || quality > best {
				if e.on && won != nil {
					e.add(won.route.name, ruleField(won.index), "passed over", "%s matches the procedure more exactly, at the same priority", r.name)
				}
				won, best = candidate, quality
			} else if e.on {
				e.add(r.name, ruleField(candidate.index), "passed over", "%s matches at least as exactly, at the same priority, and comes first by name", won.route.name)
			}
		}
	}
	if won != nil && e.on {
		e.add(won.route.name, ruleField(won.index), "matched", "rule %s takes the request", safetext.Quote(won.spec.Name))
	}
	return won
}

// candidate finds the first rule of a route that matches.
func (r *compiledRoute) candidate(req *Request, e *explainer) (*rule, int) {
	if req.NodeLabels != nil && !graph.InScope(r.scope, req.NodeLabels) {
		if e.on {
			e.add(r.name, "scope.nodeLabels", "passed over", "the node's labels are not in the route's scope")
		}
		return nil, 0
	}
	for _, rule := range r.rules {
		quality, failed := rule.match.test(req)
		if failed.kind == "" {
			return rule, quality
		}
		if e.on {
			field := ruleField(rule.index) + ".match." + failed.kind
			if failed.kind == "headers" {
				field += fmt.Sprintf("[%d]", failed.index)
			}
			e.add(r.name, field, "passed over", "%s", rule.match.why(failed, rule.spec.Match, req))
		}
	}
	return nil, 0
}

func ruleField(i int) string { return fmt.Sprintf("spec.rules[%d]", i) }

// effective is what applies to requests that a rule sends to one of its clusters.
type effective struct {
	target   *target
	cluster  *compiledCluster // nil when it does not exist
	backups  []*compiledCluster
	failover []Backup // when no locality matters
	near     bool
	policies []applied
	applied  []Applied
	authz    []*applied
	mirrors  []Mirror
	timeout  Timeout
	idle     Timeout
	retry    *Retry
	breaker  *CircuitBreaker
	limits   []RateLimit
}

func (t *Table) effectiveOf(target *target, labels map[string]string) *effective {
	if labels != nil { // which policies apply depends on the node
		return t.makeEffective(target, labels)
	}
	if known, ok := t.effective.Load(target); ok {
		return known.(*effective)
	}
	made, _ := t.effective.LoadOrStore(target, t.makeEffective(target, nil))
	return made.(*effective)
}

func (t *Table) makeEffective(target *target, labels map[string]string) *effective {
	e := &effective{target: target, cluster: clusterOf(t.graph, target.cluster)}
	if e.cluster == nil {
		return e
	}
	e.backups = backupsOf(t.graph, e.cluster)
	for _, b := range e.backups {
		e.failover = append(e.failover, Backup{Cluster: b.name, Endpoints: b.tiers})
		e.near = e.near || b.near
	}
	e.policies = policiesFor(t.graph, target, labels)
	e.settings()
	return e
}

// fill copies what applies into the decision.
func (e *effective) fill(d *Decision, req *Request) {
	spec := e.cluster.spec
	d.LoadBalancing, d.ConnectTimeout = spec.LoadBalancing, spec.ConnectTimeout
	if d.LoadBalancing == "" {
		d.LoadBalancing = cluster.RoundRobin
	}
	if d.ConnectTimeout == 0 {
		d.ConnectTimeout = resource.Duration(DefaultConnectTimeout)
	}
	if d.LoadBalancing == cluster.RingHash {
		d.HashKey, d.HashValue = hashOf(spec.HashKey, req)
	}
	if spec.Failover != nil {
		d.MinHealthyPercent = spec.Failover.MinHealthy()
	}
	d.Endpoints, d.Failover = e.cluster.from(req.Locality), e.failover
	if e.near && req.Locality != "" {
		d.Failover = make([]Backup, len(e.backups))
		for i, b := range e.backups {
			d.Failover[i] = Backup{Cluster: b.name, Endpoints: b.from(req.Locality)}
		}
	}
	d.Mirrors, d.Timeout, d.IdleTimeout, d.Retry = e.mirrors, e.timeout, e.idle, e.retry
	d.CircuitBreaker, d.RateLimits, d.Policies = e.breaker, e.limits, e.applied
}

func hashOf(key string, req *Request) (string, string) {
	switch key {
	case "routingKey":
		return key, req.RoutingKey
	case "tenant":
		return key, req.Tenant
	case "caller":
		return key, req.Caller
	}
	return "shardKey", req.ShardKey
}

// authorize asks every authorization policy; the first denial counts, else the
// first policy's allowance is reported.
func (e *effective) authorize(req *Request, ex *explainer) Verdict {
	if len(e.authz) == 0 {
		return Verdict{}
	}
	in := inputOf(req)
	var out Verdict
	for _, p := range e.authz {
		v := p.authorize(in)
		if ex.on {
			outcome := "allowed"
			if v.Effect == policy.Deny {
				outcome = "denied"
			}
			ex.add(v.Policy, "spec.authz", outcome, "%s", v.reason())
		}
		if v.Effect == policy.Deny {
			return v
		}
		if out.Effect == "" {
			out = v
		}
	}
	return out
}

func (v *Verdict) reason() string {
	if v.Rule == "" {
		return v.Why
	}
	return "rule " + safetext.Quote(v.Rule) + ": " + v.Why
}

func (e *explainer) explainChoice(r *rule, chosen *target, by string, req *Request) {
	how := map[string]string{
		"only":       "it is the rule's only cluster with weight",
		"shardKey":   "the hash of shard key " + safetext.Quote(req.ShardKey) + " chooses it",
		"routingKey": "the hash of routing key " + safetext.Quote(req.RoutingKey) + " chooses it",
		"draw":       fmt.Sprintf("the draw %g chooses it", req.Draw),
	}[by]
	for i, t := range r.targets {
		field := fmt.Sprintf("%s.clusters[%d]", ruleField(r.index), i)
		if t == chosen {
			e.add(r.route.name, field, "chosen", "%s, with weight %g: %s", t.name, t.weight, how)
		} else {
			e.add(r.route.name, field, "passed over", "%s, with weight %g", t.name, t.weight)
		}
	}
}

// explainPolicies tells which policies apply, and what of them is overridden.
func (e *explainer) explainPolicies(eff *effective) {
	for i := range eff.policies {
		p := &eff.policies[i]
		e.add(p.name, "spec", "applies", "by way of: %s", p.via)
		if t := p.spec.Timeout; t != nil && t.Request > 0 && eff.timeout.From != p.name {
			e.add(p.name, "spec.timeout.request", "overridden", "the timeout is that of: %s", eff.timeout.From)
		}
		if p.spec.Retry != nil && eff.retry.From != p.name {
			e.add(p.name, "spec.retry", "overridden", "%s comes first", eff.retry.From)
		}
		if p.spec.CircuitBreaker != nil && eff.breaker.From != p.name {
			e.add(p.name, "spec.circuitBreaker", "overridden", "%s comes first", eff.breaker.From)
		}
	}
}
