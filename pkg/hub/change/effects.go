package change

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
)

// maxEffects bounds the sentences about one resource.
const maxEffects = 20

// effectsOfContent is effects for content. What cannot be read has no effects to tell.
func effectsOfContent(k resource.Key, before, after []byte) []string {
	a, okA := parse(before)
	b, okB := parse(after)
	if !okA || !okB {
		return nil
	}
	return effects(k, a, b)
}

// effects says in words what going from a to b means to traffic; either may be the
// zero Object: not there.
func effects(k resource.Key, a, b kind.Object) []string {
	var out []string
	switch k.Kind {
	case route.Kind:
		out = routeEffects(spec[route.Spec](a), spec[route.Spec](b))
	case cluster.Kind:
		out = clusterEffects(k.Name, spec[cluster.Spec](a), spec[cluster.Spec](b))
	case policy.Kind:
		out = policyEffects(k.Name, spec[policy.Spec](a), spec[policy.Spec](b))
	}
	out = append(out, scopeEffects(k, a, b)...)
	return out[:min(len(out), maxEffects)]
}

func parse(content []byte) (kind.Object, bool) {
	if content == nil {
		return kind.Object{}, true
	}
	o, err := kind.Parse(content)
	return o, err == nil
}

func spec[S any](o kind.Object) *S {
	s, _ := o.Spec.(*S)
	return s
}

func scopeEffects(k resource.Key, a, b kind.Object) []string {
	if a.Resource == nil || b.Resource == nil {
		return nil
	}
	labels := func(o kind.Object) map[string]string {
		if o.Resource.Scope == nil {
			return nil
		}
		return o.Resource.Scope.NodeLabels
	}
	x, y := labels(a), labels(b)
	switch {
	case maps.Equal(x, y):
		return nil
	case len(y) == 0:
		return []string{fmt.Sprintf("%s goes to every node", k.Name)}
	}
	return []string{fmt.Sprintf("%s goes only to nodes with %s", k.Name, pairs(y))}
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

func routeEffects(a, b *route.Spec) []string {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		return []string{fmt.Sprintf("%s gets a route with %s", b.Service, count(len(b.Rules), "rule"))}
	case b == nil:
		return []string{fmt.Sprintf("%s loses a route with %s", a.Service, count(len(a.Rules), "rule"))}
	}
	var out []string
	if a.Service != b.Service {
		out = append(out, fmt.Sprintf("the route answers %s instead of %s", b.Service, a.Service))
	}
	if a.Priority != b.Priority {
		out = append(out, fmt.Sprintf("the route's priority for %s goes from %d to %d", b.Service, a.Priority, b.Priority))
	}
	only := len(a.Rules) == 1 && len(b.Rules) == 1
	old := make(map[string]*route.Rule, len(a.Rules))
	for i := range a.Rules {
		old[a.Rules[i].Name] = &a.Rules[i]
	}
	for i := range b.Rules {
		r := &b.Rules[i]
		was, ok := old[r.Name]
		delete(old, r.Name)
		of := b.Service
		if !only {
			of = fmt.Sprintf("%s (rule %s)", b.Service, r.Name)
		}
		if !ok {
			out = append(out, fmt.Sprintf("%s is answered by %s", of, shares(r)))
			continue
		}
		out = append(out, ruleEffects(of, was, r)...)
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		out = append(out, fmt.Sprintf("%s loses rule %s (%s)", b.Service, name, shares(old[name])))
	}
	if a.Timeout != b.Timeout {
		out = append(out, changed("the timeout of "+b.Service, duration(a.Timeout), duration(b.Timeout)))
	}
	return append(out, policyRefs(b.Service, a.Policies, b.Policies)...)
}

func ruleEffects(of string, a, b *route.Rule) []string {
	out := moves(of, a, b)
	if !reflect.DeepEqual(a.Match, b.Match) {
		out = append(out, of+" matches other requests")
	}
	switch {
	case a.Mirror == nil && b.Mirror != nil:
		out = append(out, fmt.Sprintf("%s of %s is mirrored to %s", percent(b.Mirror.Share()), of, b.Mirror.Cluster))
	case a.Mirror != nil && b.Mirror == nil:
		out = append(out, fmt.Sprintf("%s is no longer mirrored to %s", of, a.Mirror.Cluster))
	case a.Mirror != nil && (a.Mirror.Cluster != b.Mirror.Cluster || a.Mirror.Share() != b.Mirror.Share()):
		out = append(out, fmt.Sprintf("%s of %s is mirrored to %s instead of %s to %s",
			percent(b.Mirror.Share()), of, b.Mirror.Cluster, percent(a.Mirror.Share()), a.Mirror.Cluster))
	}
	if a.Timeout != b.Timeout {
		out = append(out, changed("the timeout of "+of, duration(a.Timeout), duration(b.Timeout)))
	}
	return append(out, policyRefs(of, a.Policies, b.Policies)...)
}

// moves tells which share of the requests goes elsewhere: what clusters lose is
// matched with what others gain, largest first.
func moves(of string, a, b *route.Rule) []string {
	type part struct {
		name  string
		share float64
	}
	delta := make(map[string]float64)
	for i := range a.Clusters {
		delta[a.Clusters[i].Name] -= a.Share(i)
	}
	for i := range b.Clusters {
		delta[b.Clusters[i].Name] += b.Share(i)
	}
	var losers, winners []part
	for _, name := range slices.Sorted(maps.Keys(delta)) {
		switch d := delta[name]; {
		case d < -1e-9:
			losers = append(losers, part{name, -d})
		case d > 1e-9:
			winners = append(winners, part{name, d})
		}
	}
	largest := func(x, y part) int { return cmp.Compare(y.share, x.share) }
	slices.SortStableFunc(losers, largest)
	slices.SortStableFunc(winners, largest)
	var out []string
	for len(losers) > 0 && len(winners) > 0 {
		n := min(losers[0].share, winners[0].share)
		out = append(out, fmt.Sprintf("%s of %s moves from %s to %s", percent(n), of, losers[0].name, winners[0].name))
		if losers[0].share -= n; losers[0].share < 1e-9 {
			losers = losers[1:]
		}
		if winners[0].share -= n; winners[0].share < 1e-9 {
			winners = winners[1:]
		}
	}
	return out
}

func shares(r *route.Rule) string {
	var out []string
	for i := range r.Clusters {
		out = append(out, percent(r.Share(i))+" "+r.Clusters[i].Name)
	}
	return strings.Join(out, ", ")
}

func clusterEffects(name string, a, b *cluster.Spec) []string {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		return []string{fmt.Sprintf("%s has %s", name, count(len(b.Endpoints), "endpoint"))}
	case b == nil:
		return []string{fmt.Sprintf("%s and its %s go away", name, count(len(a.Endpoints), "endpoint"))}
	}
	old := make(map[string]cluster.Endpoint, len(a.Endpoints))
	for _, e := range a.Endpoints {
		old[e.Address] = e
	}
	var added, drained, altered []string
	for _, e := range b.Endpoints {
		was, ok := old[e.Address]
		delete(old, e.Address)
		switch {
		case !ok:
			added = append(added, e.Address)
		case weight(e) == 0 && weight(was) != 0:
			drained = append(drained, e.Address)
		case !reflect.DeepEqual(e, was):
			altered = append(altered, e.Address)
		}
	}
	var out []string
	say := func(addresses []string, what string) {
		if len(addresses) > 0 {
			out = append(out, fmt.Sprintf("%s %s %s: %s", name, what, count(len(addresses), "endpoint"), few(addresses)))
		}
	}
	say(added, "gains")
	say(slices.Sorted(maps.Keys(old)), "loses")
	say(drained, "drains")
	say(altered, "changes")
	if a.LoadBalancing != b.LoadBalancing {
		out = append(out, changed("load balancing of "+name, cmp.Or(a.LoadBalancing, cluster.RoundRobin), cmp.Or(b.LoadBalancing, cluster.RoundRobin)))
	}
	if !reflect.DeepEqual(a.Failover, b.Failover) {
		out = append(out, "failover of "+name+" changes")
	}
	if a.ConnectTimeout != b.ConnectTimeout {
		out = append(out, changed("the connect timeout of "+name, duration(a.ConnectTimeout), duration(b.ConnectTimeout)))
	}
	return append(out, policyRefs(name, a.Policies, b.Policies)...)
}

func weight(e cluster.Endpoint) int {
	if e.Weight == nil {
		return 1
	}
	return *e.Weight
}

func policyEffects(name string, a, b *policy.Spec) []string {
	if a == nil {
		a = &policy.Spec{}
	}
	if b == nil {
		b = &policy.Spec{}
	}
	var out []string
	part := func(what string, before, after any) {
		x, y := reflect.ValueOf(before), reflect.ValueOf(after)
		switch {
		case x.IsNil() && y.IsNil() || reflect.DeepEqual(before, after):
		case x.IsNil():
			out = append(out, name+" sets "+what)
		case y.IsNil():
			out = append(out, name+" no longer sets "+what)
		default:
			out = append(out, name+" changes "+what)
		}
	}
	part("authorization", a.Authz, b.Authz)
	part("retries", a.Retry, b.Retry)
	part("timeouts", a.Timeout, b.Timeout)
	part("circuit breaking", a.CircuitBreaker, b.CircuitBreaker)
	part("a rate limit", a.RateLimit, b.RateLimit)
	part("shadowing", a.Shadow, b.Shadow)
	if !reflect.DeepEqual(a.Targets, b.Targets) && len(b.Targets) > 0 {
		var to []string
		for _, t := range b.Targets {
			to = append(to, t.Kind+" "+t.Name)
		}
		out = append(out, name+" applies to "+few(to))
	}
	return out
}

func policyRefs(of string, a, b []string) []string {
	var out []string
	for _, p := range b {
		if !slices.Contains(a, p) {
			out = append(out, fmt.Sprintf("policy %s applies to %s", p, of))
		}
	}
	for _, p := range a {
		if !slices.Contains(b, p) {
			out = append(out, fmt.Sprintf("policy %s no longer applies to %s", p, of))
		}
	}
	return out
}

func changed(what, before, after string) string {
	return fmt.Sprintf("%s goes from %s to %s", what, before, after)
}

func duration(d resource.Duration) string {
	if d == 0 {
		return "the default"
	}
	return d.String()
}

func percent(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) + "%" }

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// few lists at most three of the names.
func few(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
}
