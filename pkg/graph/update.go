package graph

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/meshkit/meshkit/pkg/expr"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// problems are the findings that stand against one resource.
type problems struct {
	own   []resource.Finding // from its content and what its references meet
	pairs []pairProblem      // as the later of two routes
	cycle []resource.Finding // as the first cluster of a cycle
}

// pairProblem is a finding about two routes. It is stored with the later one and
// shown with the one that the change touched.
type pairProblem struct {
	other         resource.Key
	here, inOther resource.Finding
}

func (p *problems) empty() bool { return len(p.own)+len(p.pairs)+len(p.cycle) == 0 }

func (p *problems) hasErrors() bool {
	return p != nil && (resource.HasErrors(p.own) || resource.HasErrors(p.cycle) ||
		slices.ContainsFunc(p.pairs, func(q pairProblem) bool { return q.here.Severity == resource.Error }))
}

// updater carries one Update. It is used by one goroutine.
type updater struct {
	before, next *Graph
	changed      map[resource.Key]bool               // keys whose content changed
	asked        map[resource.Key]bool               // keys that the caller named
	broken       map[resource.Key][]resource.Finding // content that cannot be read
	dirty        map[resource.Key]bool               // own findings to look at again
	failover     map[resource.Key]bool               // clusters whose failover, or existence, changed
	routes       map[resource.Key]bool               // routes that changed, before or after
	edits        map[resource.Key]*problems
	suggestions  int // still allowed: a search goes through all resources of a kind
}

// Update returns the graph after the changes, which are taken as one: their order
// does not matter. The findings are all those about what the changes touched, and
// the errors that stand elsewhere; no error among them means that the whole graph
// has none. They have no positions and are sorted.
//
// Content that cannot be read counts as removed and gives an error.
func (g *Graph) Update(changes []Change) (*Graph, []resource.Finding) {
	next := *g
	u := &updater{
		before: g, next: &next,
		changed: make(map[resource.Key]bool, len(changes)), asked: make(map[resource.Key]bool, len(changes)),
		broken: map[resource.Key][]resource.Finding{}, dirty: make(map[resource.Key]bool, len(changes)),
		failover: map[resource.Key]bool{}, routes: map[resource.Key]bool{}, edits: map[resource.Key]*problems{},
		suggestions: 20,
	}
	findings := u.apply(changes)
	for key := range u.dirty {
		u.checkOwn(key)
	}
	u.checkCycles()
	u.checkRoutes()
	u.store()
	findings = append(findings, u.report()...)
	findings = append(findings, checkSize(&next)...)
	resource.SortFindings(findings)
	return &next, findings
}

// Findings lists everything that stands against the graph as it is, sorted.
func (g *Graph) Findings() []resource.Finding {
	out := checkSize(g)
	for _, p := range g.problems.All() {
		out = append(out, p.own...)
		out = append(out, p.cycle...)
		for _, q := range p.pairs {
			out = append(out, q.here)
		}
	}
	resource.SortFindings(out)
	return out
}

// apply puts the contents in place and notes what must be looked at again.
func (u *updater) apply(changes []Change) []resource.Finding {
	var findings []resource.Finding
	last := make(map[resource.Key]Change, len(changes))
	for _, c := range changes {
		if earlier, twice := last[c.Key]; twice && !bytes.Equal(earlier.Content, c.Content) {
			findings = append(findings, resource.Errorf(fault.CodeDuplicate, c.Key, "", "leave one of them out", "one change names the resource twice, with different contents"))
		}
		last[c.Key] = c
		u.asked[c.Key] = true
	}
	for _, key := range slices.SortedFunc(maps.Keys(last), resource.CompareKeys) {
		u.applyOne(last[key])
	}
	return findings
}

func (u *updater) applyOne(c Change) {
	old, _ := u.next.objects.Get(c.Key)
	var e *entry
	if c.Content != nil {
		if had, ok := u.next.Content(c.Key); ok && old != nil && bytes.Equal(had, c.Content) {
			return
		}
		var why error
		if e, why = newEntry(c); why != nil {
			u.broken[c.Key] = []resource.Finding{resource.Errorf(fault.CodeContentUnreadable, c.Key, "", "apply the resource again from its source", "%v", why)}
			e = nil
		}
	}
	u.changed[c.Key], u.dirty[c.Key] = true, true
	if old == nil && e == nil {
		return
	}
	u.replace(c.Key, old, e, c.Content)
}

func (u *updater) replace(key resource.Key, old, e *entry, content []byte) {
	g := u.next
	switch {
	case e == nil:
		g.objects, g.trie = g.objects.Delete(key), g.trie.Delete(key.String())
		u.count(key.Kind, -1)
	default:
		g.objects, g.trie = g.objects.Set(key, e), g.trie.Set(key.String(), content)
		if old == nil {
			u.count(key.Kind, 1)
		}
	}
	u.link(key, old, e)
	u.rescope(scopeOf(old), -1)
	u.rescope(scopeOf(e), 1)
	if (old == nil) != (e == nil) || !maps.Equal(scopeOf(old), scopeOf(e)) {
		referrers, _ := g.referrers.Get(key)
		for k := range referrers.All() {
			u.dirty[k] = true
		}
	}
	switch key.Kind {
	case cluster.Kind:
		g.endpoints += countEndpoints(e) - countEndpoints(old)
		if (old == nil) != (e == nil) || !slices.Equal(failoverOf(old), failoverOf(e)) {
			u.failover[key] = true
		}
	case route.Kind:
		u.routes[key] = true
		u.serve(key, old, nil)
		u.serve(key, nil, e)
	}
}

func (u *updater) count(kind string, by int) {
	u.next.kinds = adjust(u.next.kinds, kind, by)
}

func (u *updater) rescope(labels map[string]string, by int) {
	for k := range labels {
		u.next.scopes = adjust(u.next.scopes, k, by)
	}
}

// link keeps the index of references, and has policies looked at again that gained
// or lost a referrer.
func (u *updater) link(key resource.Key, old, e *entry) {
	before, after := targets(old), targets(e)
	for t := range before {
		if !after[t] {
			set, _ := u.next.referrers.Get(t)
			if set = set.Delete(key); set.Len() == 0 {
				u.next.referrers = u.next.referrers.Delete(t)
			} else {
				u.next.referrers = u.next.referrers.Set(t, set)
			}
			u.dirty[t] = u.dirty[t] || t.Kind == policy.Kind
		}
	}
	for t := range after {
		if !before[t] {
			set, ok := u.next.referrers.Get(t)
			if !ok {
				set = newKeySet()
			}
			u.next.referrers = u.next.referrers.Set(t, set.Set(key, struct{}{}))
			u.dirty[t] = u.dirty[t] || t.Kind == policy.Kind
		}
	}
}

// serve takes a route out of its service (old) or puts it in (e).
func (u *updater) serve(key resource.Key, old, e *entry) {
	name, ok := serviceOf(old, e)
	if !ok {
		return
	}
	s, had := u.next.services.Get(name)
	routes := newKeyedEntries()
	if had {
		routes = s.routes
	}
	if e == nil {
		routes = routes.Delete(key)
	} else {
		routes = routes.Set(key, e)
	}
	if routes.Len() == 0 {
		u.next.services = u.next.services.Delete(name)
		return
	}
	u.next.services = u.next.services.Set(name, &Service{routes: routes})
}

// newEntry parses content and applies all rules that need nothing else.
func newEntry(c Change) (*entry, error) {
	object, err := kind.Parse(c.Content)
	if err != nil {
		return nil, err
	}
	if object.Key() != c.Key {
		return nil, fault.New(fault.CodeContentUnreadable, "the content is that of %s", safetext.Quote(object.Key().String()))
	}
	e := &entry{object: object, refs: object.Refs(), parts: partsOf(object.Spec), local: object.Validate()}
	switch spec := object.Spec.(type) {
	case *policy.Spec:
		e.compile(c.Key, spec)
	case *route.Spec:
		e.rules = make([]ruleMatch, len(spec.Rules))
		for i := range spec.Rules {
			e.rules[i] = prepareMatch(spec.Rules[i].Match)
		}
		e.masks = masksOf(e.rules)
		e.local = append(e.local, shadowedWithin(c.Key, spec, e.rules)...)
	}
	return e, nil
}

// compile prepares the conditions of an authorization policy.
func (e *entry) compile(key resource.Key, spec *policy.Spec) {
	if spec.Authz == nil {
		return
	}
	e.programs = make([]*expr.Program, len(spec.Authz.Rules))
	for i, rule := range spec.Authz.Rules {
		program, err := expr.Compile(rule.When)
		if err == nil {
			e.programs[i] = program
			continue
		}
		remedy := fault.RemedyOf(err)
		field := "spec.authz.rules[" + strconv.Itoa(i) + "].when"
		f := resource.Errorf(fault.CodeOf(err), key, field, remedy, "condition of rule %s: %s", safetext.Quote(rule.Name), printable(err.Error()))
		if at, ok := errors.AsType[*expr.Error](err); ok && at.Line > 1 {
			f.Remedy = "look at line " + strconv.Itoa(at.Line) + " of the condition; " + remedy
		}
		e.local = append(e.local, f)
	}
}

// printable makes one safe line of a message that may quote input.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, strings.Join(strings.Fields(s), " "))
}

// problem gives the findings of key for editing.
func (u *updater) problem(key resource.Key) *problems {
	if p, ok := u.edits[key]; ok {
		return p
	}
	p := &problems{}
	if had, ok := u.next.problems.Get(key); ok {
		*p = *had
	}
	u.edits[key] = p
	return p
}

// store writes the edited findings into the new graph.
func (u *updater) store() {
	for key, p := range u.edits {
		had, ok := u.next.problems.Get(key)
		if had.hasErrors() {
			u.next.errors--
		}
		if p.hasErrors() {
			u.next.errors++
		}
		switch {
		case !p.empty():
			u.next.problems = u.next.problems.Set(key, p)
		case ok:
			u.next.problems = u.next.problems.Delete(key)
		}
	}
}

// report collects what the caller is told.
func (u *updater) report() []resource.Finding {
	var out []resource.Finding
	removed := map[resource.Key]map[resource.Key]bool{} // removed → who still refers to it
	add := func(f resource.Finding, target resource.Key) {
		if f.Code == fault.CodeRefDangling && u.vanished(target) {
			if removed[target] == nil {
				removed[target] = map[resource.Key]bool{}
			}
			removed[target][f.Key] = true
			return
		}
		out = append(out, f)
	}
	tell := func(key resource.Key, p *problems) {
		e, _ := u.next.objects.Get(key)
		for _, f := range p.own {
			add(f, refTarget(e, f.Field))
		}
		out = append(out, p.cycle...)
		for _, q := range p.pairs {
			if u.asked[q.other] && !u.asked[key] {
				out = append(out, q.inOther)
			} else {
				out = append(out, q.here)
			}
		}
	}
	told := map[resource.Key]bool{}
	for key := range u.edits {
		if p, ok := u.next.problems.Get(key); ok {
			told[key] = true
			tell(key, p)
		}
	}
	for key := range u.asked { // also what was named without being changed
		if p, ok := u.next.problems.Get(key); ok && !told[key] {
			told[key] = true
			tell(key, p)
		}
	}
	if u.next.errors > 0 {
		for key, p := range u.next.problems.All() {
			if !told[key] && p.hasErrors() {
				tell(key, p)
			}
		}
	}
	for key, by := range removed {
		names := slices.SortedFunc(maps.Keys(by), resource.CompareKeys)
		out = append(out, resource.Errorf(fault.CodeRefRemoved, key, "", "remove or change "+listKeys(names, 3)+" in the same change",
			"%s is removed but %s still %s to it", key, listKeys(names, 5), verb(len(names), "refers", "refer")))
	}
	return out
}

func (u *updater) vanished(key resource.Key) bool {
	if _, ok := u.before.objects.Get(key); !ok || !u.asked[key] {
		return false
	}
	_, there := u.next.objects.Get(key)
	return !there
}
