package graph

import (
	"slices"
	"strconv"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// shadowedWithin finds rules that an earlier rule of the same route leaves nothing.
func shadowedWithin(key resource.Key, spec *route.Spec, rules []ruleMatch) []resource.Finding {
	var out []resource.Finding
	for j := range rules {
		for i := range j {
			if rules[i].covers(&rules[j]) {
				out = append(out, resource.Errorf(fault.CodeRuleUnreachable, key, ruleField(j), "move the rule before "+safetext.Quote(spec.Rules[i].Name)+", or narrow that one's match",
					"rule %s can never match: rule %s before it takes every request that it would", safetext.Quote(spec.Rules[j].Name), safetext.Quote(spec.Rules[i].Name)))
				break
			}
		}
	}
	return out
}

func ruleField(i int) string { return "spec.rules[" + strconv.Itoa(i) + "]" }

// checkRoutes compares each changed route with the other routes of its service.
func (u *updater) checkRoutes() {
	if len(u.routes) == 0 {
		return
	}
	u.forgetPairs()
	services := map[string]*Service{}
	for key := range u.routes {
		if e, ok := u.next.objects.Get(key); ok {
			if name, ok := serviceOf(nil, e); ok {
				services[name], _ = u.next.services.Get(name)
			}
		}
	}
	type member struct {
		key     resource.Key
		e       *entry
		changed bool
	}
	for _, s := range services {
		members := make([]member, 0, s.routes.Len())
		for key, e := range s.routes.All() {
			members = append(members, member{key, e, u.routes[key]})
		}
		for i, a := range members {
			if !a.changed {
				continue
			}
			for j, b := range members {
				if j == i || b.changed && j < i || a.e.masks.apart(&b.e.masks) {
					continue
				}
				u.compare(a.key, a.e, b.key, b.e)
			}
		}
	}
}

// forgetPairs drops the findings about pairs of which one has changed.
func (u *updater) forgetPairs() {
	for key, had := range u.next.problems.All() {
		stale := func(q pairProblem) bool { return u.routes[key] || u.routes[q.other] }
		if slices.ContainsFunc(had.pairs, stale) {
			p := u.problem(key)
			p.pairs = slices.DeleteFunc(slices.Clone(p.pairs), stale)
		}
	}
}

// compare stores what is wrong between two routes with the one that is tried
// later.
func (u *updater) compare(ka resource.Key, a *entry, kb resource.Key, b *entry) {
	pa, pb := a.object.Spec.(*route.Spec), b.object.Spec.(*route.Spec)
	if pb.Priority > pa.Priority || pb.Priority == pa.Priority && resource.CompareKeys(kb, ka) < 0 {
		ka, a, pa, kb, b, pb = kb, b, pb, ka, a, pa
	}
	var found []pairProblem
	if pa.Priority == pb.Priority {
		found = conflicts(ka, a, pa, kb, b, pb)
	} else {
		found = shadows(ka, a, pa, kb, b, pb)
	}
	if len(found) > 0 {
		p := u.problem(kb)
		p.pairs = append(slices.Clone(p.pairs), found...)
		slices.SortFunc(p.pairs, func(x, y pairProblem) int { return resource.CompareKeys(x.other, y.other) })
	}
}

// conflicts finds the first pair of rules that match one request equally well.
func conflicts(ka resource.Key, a *entry, pa *route.Spec, kb resource.Key, b *entry, pb *route.Spec) []pairProblem {
	if !compatible(scopeOf(a), scopeOf(b)) {
		return nil
	}
	var doubt []pairProblem
	for j := range b.rules {
		for i := range a.rules {
			how := a.rules[i].meets(&b.rules[j])
			if how == apart || how == possible && doubt != nil {
				continue
			}
			found := []pairProblem{{
				other:   ka,
				here:    conflict(kb, pb, j, ka, pa, i, how),
				inOther: conflict(ka, pa, i, kb, pb, j, how),
			}}
			if how == together {
				return found
			}
			doubt = found
		}
	}
	return doubt
}

func conflict(here resource.Key, spec *route.Spec, rule int, other resource.Key, otherSpec *route.Spec, otherRule int, how overlap) resource.Finding {
	f := resource.Errorf(fault.CodeRouteConflict, here, ruleField(rule), "give one of the two routes another spec.priority, or make their matches or scopes exclude each other",
		"rule %s and rule %s of %s match the same requests of service %s at priority %d", safetext.Quote(spec.Rules[rule].Name), safetext.Quote(otherSpec.Rules[otherRule].Name), other, safetext.Quote(spec.Service), spec.Priority)
	if how == possible {
		f.Severity = resource.Warning
		f.Reason = "rule " + safetext.Quote(spec.Rules[rule].Name) + " and rule " + safetext.Quote(otherSpec.Rules[otherRule].Name) + " of " + other.String() +
			" may match the same requests, which their header conditions do not tell; the route whose name comes first would win"
	}
	return f
}

// shadows finds rules of b that a, of higher priority, leaves nothing on any node.
func shadows(ka resource.Key, a *entry, pa *route.Spec, kb resource.Key, b *entry, pb *route.Spec) []pairProblem {
	if !within(scopeOf(a), scopeOf(b)) {
		return nil
	}
	var out []pairProblem
	for j := range b.rules {
		i := slices.IndexFunc(a.rules, func(m ruleMatch) bool { return m.covers(&b.rules[j]) })
		if i < 0 {
			continue
		}
		over, under := safetext.Quote(pa.Rules[i].Name), safetext.Quote(pb.Rules[j].Name)
		out = append(out, pairProblem{
			other: ka,
			here: resource.Warningf(fault.CodeRuleUnreachable, kb, ruleField(j), "raise spec.priority above "+strconv.Itoa(pa.Priority)+", or narrow the match of "+ka.String(),
				"rule %s never matches: rule %s of %s takes its requests first, at priority %d over %d", under, over, ka, pa.Priority, pb.Priority),
			inOther: resource.Warningf(fault.CodeRuleUnreachable, ka, ruleField(i), "lower spec.priority, or narrow the match, unless this is meant to override",
				"rule %s takes every request of rule %s of %s, at priority %d over %d", over, under, kb, pa.Priority, pb.Priority),
		})
	}
	return out
}
