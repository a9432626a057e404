package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/pmap"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/resource"
)

// failClosed lists the capabilities whose absence withholds the resource instead
// of the field.
var failClosed = map[string]bool{"authz-cel/v1": true}

// work computes a view from one of an earlier graph, or from none. What becomes of
// a resource depends on its content, on what becomes of those it refers to, and of
// the policies that target it. So work collects a region of resources that is
// closed under "depends on one whose fate may have changed", forgets what was known
// of it, and computes it anew; everything outside keeps its fate, and counts as
// given. It is used by one goroutine.
type work struct {
	view    *View // being made
	profile map[string]bool
	after   *graph.Graph
	before  *graph.Graph // nil when the view is made from nothing
	old     pmap.Map[resource.Key, *item]
	region  map[resource.Key]bool // value: its fate, not only its content, may have changed
	todo    []resource.Key        // of region, with value true, dependents not yet included
	seeds   map[resource.Key]seed
	level   map[resource.Key]int          // of the withheld ones in region
	lead    map[resource.Key]resource.Key // of routes in region: see withholdPeers
}

func newWork(v *View, g *graph.Graph) *work {
	w := &work{view: v, after: g, old: v.special, profile: map[string]bool{}, region: map[resource.Key]bool{}, seeds: map[resource.Key]seed{}, level: map[resource.Key]int{}, lead: map[resource.Key]resource.Key{}}
	for _, c := range v.Class.Profile {
		w.profile[c] = true
	}
	return w
}

// seed is what follows for a resource from its own content and scope.
type seed struct {
	absent   bool   // or out of scope
	withheld string // capability for lack of which it cannot be sent
	emptied  string // capability for lack of which nothing is left of it
	stripped []graph.Part
}

func (s seed) out() bool { return s.withheld != "" || s.emptied != "" }

func (s seed) same(o seed) bool {
	return s.absent == o.absent && s.withheld == o.withheld && s.emptied == o.emptied
}

func (w *work) seed(g *graph.Graph, key resource.Key) seed {
	o, ok := g.Get(key)
	if !ok || !graph.InScope(o.Resource, w.view.Class.Labels) {
		return seed{absent: true}
	}
	if o.Descriptor == nil {
		return seed{} // passed on as it is
	}
	for _, c := range []string{Core, o.Descriptor.Capability} {
		if c != "" && !w.profile[c] {
			return seed{withheld: c}
		}
	}
	var s seed
	for _, p := range g.Parts(key) {
		if w.profile[p.Capability] {
			continue
		}
		if failClosed[p.Capability] {
			return seed{withheld: p.Capability}
		}
		if !slices.ContainsFunc(s.stripped, func(outer graph.Part) bool { return below(p.Field, outer.Field) }) {
			s.stripped = append(s.stripped, p)
		}
	}
	if spec, ok := o.Spec.(*policy.Spec); ok && len(s.stripped) > 0 && len(s.stripped) == len(spec.Parts()) {
		s.emptied = s.stripped[0].Capability
	}
	return s
}

// below says whether a field path lies at or under another.
func below(field, outer string) bool {
	rest, ok := strings.CutPrefix(field, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// refs lists the references that are left of a resource after stripping.
func (w *work) refs(g *graph.Graph, key resource.Key, s seed) []resource.Ref {
	all := g.Refs(key)
	if len(s.stripped) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(r resource.Ref) bool {
		return slices.ContainsFunc(s.stripped, func(p graph.Part) bool { return below(r.Field, p.Field) })
	})
}

// isTarget says whether a reference is one from a policy to what it protects.
func isTarget(from resource.Key, r resource.Ref) bool {
	return from.Kind == policy.Kind && strings.HasPrefix(r.Field, "spec.targets[")
}

// protectors lists the policies that target a resource.
func protectors(g *graph.Graph, key resource.Key) []resource.Key {
	if key.Kind == policy.Kind {
		return nil
	}
	var out []resource.Key
	for _, from := range g.Dependents(key) {
		if from.Kind == policy.Kind && slices.ContainsFunc(g.Refs(from), func(r resource.Ref) bool { return r.Target == key && isTarget(from, r) }) {
			out = append(out, from)
		}
	}
	return out
}

// change includes a key whose content changed.
func (w *work) change(key resource.Key) {
	now := w.seed(w.after, key)
	old, known := w.old.Get(key)
	fate := !now.same(w.seed(w.before, key)) || known && old.out
	if !fate {
		out := func(k resource.Key) bool { it, ok := w.old.Get(k); return ok && it.out }
		fate = slices.ContainsFunc(w.refs(w.after, key, now), func(r resource.Ref) bool { return out(r.Target) }) ||
			slices.ContainsFunc(protectors(w.after, key), out)
	}
	w.include(key, fate)
	if fate && key.Kind == policy.Kind {
		for _, r := range w.before.Refs(key) { // targets that it no longer has
			if isTarget(key, r) {
				w.include(r.Target, true)
			}
		}
	}
}

// include adds a key to the region.
func (w *work) include(key resource.Key, fate bool) {
	had, ok := w.region[key]
	if !ok || fate && !had {
		w.region[key] = fate
		if fate {
			w.todo = append(w.todo, key)
		}
	}
}

// close includes all whose fate depends on that of keys in the region.
func (w *work) close() {
	for len(w.todo) > 0 {
		key := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		for _, from := range w.after.Dependents(key) {
			fate := slices.ContainsFunc(w.after.Refs(from), func(r resource.Ref) bool { return r.Target == key && !isTarget(from, r) })
			w.include(from, fate)
		}
		for _, r := range w.after.Refs(key) {
			if isTarget(key, r) {
				w.include(r.Target, true)
			}
		}
	}
}

// finish computes the region and completes the view.
func (w *work) finish() *View {
	w.close()
	for key := range w.region {
		w.seeds[key] = w.seed(w.after, key)
	}
	w.withhold()
	w.withholdPeers()
	// Each key stands alone from here on: the order does not matter.
	for key := range w.region {
		w.settle(key)
	}
	w.view.graph = w.after
	w.view.Required = slices.Sorted(maps.Keys(w.view.needs))
	return w.view
}

// withhold finds what cannot be sent, level by level from the causes.
func (w *work) withhold() {
	var queue []resource.Key
	for key := range w.region {
		if w.lower(key) {
			queue = append(queue, key)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		key := queue[0]
		revisit := func(k resource.Key) {
			if _, ok := w.region[k]; ok && w.lower(k) {
				queue = append(queue, k)
			}
		}
		for _, from := range w.after.Dependents(key) {
			revisit(from)
		}
		for _, r := range w.after.Refs(key) {
			if isTarget(key, r) {
				revisit(r.Target)
			}
		}
	}
}

// lower brings a key to the level that its causes give it; false when it is there.
func (w *work) lower(key resource.Key) bool {
	s := w.seeds[key]
	level := -1
	if s.withheld != "" {
		level = 0
	} else if !s.absent && s.emptied == "" {
		if _, l := w.cause(key); l >= 0 {
			level = l + 1
		}
	}
	had, ok := w.level[key]
	if level < 0 || ok && had <= level {
		return false
	}
	w.level[key] = level
	return true
}

// cause gives the nearest withheld resource that keeps key from being sent; level
// -1 when there is none.
func (w *work) cause(key resource.Key) (resource.Key, int) {
	var nearest resource.Key
	best := -1
	consider := func(k resource.Key) {
		if l := w.levelOf(k); l >= 0 && (best < 0 || l < best) {
			nearest, best = k, l
		}
	}
	for _, r := range w.refs(w.after, key, w.seeds[key]) {
		if !isTarget(key, r) {
			consider(r.Target)
		}
	}
	for _, p := range protectors(w.after, key) {
		consider(p)
	}
	return nearest, best
}

func (w *work) levelOf(key resource.Key) int {
	if _, ok := w.region[key]; ok {
		if l, ok := w.level[key]; ok {
			return l
		}
		return -1
	}
	if it, ok := w.old.Get(key); ok {
		return it.level
	}
	return -1
}

// missing gives the capability for lack of which a resource is withheld or emptied.
func (w *work) missing(key resource.Key) string {
	if _, ok := w.region[key]; !ok {
		if it, ok := w.old.Get(key); ok {
			return it.capability
		}
		return ""
	}
	s := w.seeds[key]
	if s.out() {
		return s.withheld + s.emptied // one is empty
	}
	if lead, ok := w.lead[key]; ok {
		return w.missing(lead)
	}
	cause, level := w.cause(key)
	if level < 0 {
		return ""
	}
	return w.missing(cause)
}

// emptied says whether nothing is left of a policy.
func (w *work) emptied(key resource.Key) bool {
	if _, ok := w.region[key]; ok {
		return w.seeds[key].emptied != ""
	}
	it, ok := w.old.Get(key)
	return ok && it.out && it.level < 0
}

// settle puts one resource of the region into the view as it shall be.
func (w *work) settle(key resource.Key) {
	w.countOld(key)
	s := w.seeds[key]
	name := key.String()
	if s.absent {
		w.view.Trie, w.view.special = w.view.Trie.Delete(name), w.view.special.Delete(key)
		return
	}
	o, _ := w.after.Get(key)
	content, _ := w.after.Content(key)
	it := w.tailor(key, s, content)
	if it == nil {
		w.view.special = w.view.special.Delete(key)
	} else {
		w.view.special, content = w.view.special.Set(key, it), it.content
	}
	if it != nil && it.out {
		w.view.Trie = w.view.Trie.Delete(name)
		return
	}
	w.view.Trie = w.view.Trie.Set(name, content)
	for _, c := range needsOf(o, w.after.Parts(key), s.stripped) {
		w.view.needs[c]++
	}
}

// countOld takes back what the resource as it was needed.
func (w *work) countOld(key resource.Key) {
	g := w.before
	if g == nil {
		g = w.after // Build has counted every resource as it is
	}
	o, ok := g.Get(key)
	it, special := w.old.Get(key)
	if !ok || !graph.InScope(o.Resource, w.view.Class.Labels) || special && it.out {
		return
	}
	var stripped []graph.Part
	if special {
		stripped = it.stripped
	}
	for _, c := range needsOf(o, g.Parts(key), stripped) {
		if w.view.needs[c]--; w.view.needs[c] == 0 {
			delete(w.view.needs, c)
		}
	}
}

// needsOf lists the capabilities that a resource needs, each once.
func needsOf(o kind.Object, parts, stripped []graph.Part) []string {
	if o.Descriptor == nil {
		return nil
	}
	out := []string{Core}
	if c := o.Descriptor.Capability; c != "" && c != Core {
		out = append(out, c)
	}
	for _, p := range parts {
		gone := slices.ContainsFunc(stripped, func(s graph.Part) bool { return below(p.Field, s.Field) })
		if !gone && !slices.Contains(out, p.Capability) {
			out = append(out, p.Capability)
		}
	}
	return out
}

// tailor decides what is sent of a resource in scope; nil: all of it.
func (w *work) tailor(key resource.Key, s seed, content []byte) *item {
	if level, ok := w.level[key]; ok {
		capability := w.missing(key)
		_, peer := w.lead[key]
		return &item{out: true, level: level, peer: peer, capability: capability, downs: []Downlevel{{Key: key, Capability: capability, Withheld: true, Reason: w.whyWithheld(key, s, capability)}}}
	}
	if s.emptied != "" {
		return &item{out: true, level: -1, capability: s.emptied, downs: []Downlevel{{Key: key, Capability: s.emptied, Withheld: true,
			Reason: fmt.Sprintf("the node does not support %s, and nothing else is in the policy", s.emptied)}}}
	}
	it := &item{level: -1, stripped: s.stripped}
	var cuts [][]any
	for _, p := range s.stripped {
		cuts = append(cuts, p.Path)
		it.downs = append(it.downs, Downlevel{Key: key, Capability: p.Capability, Reason: fmt.Sprintf("%s is left out: the node does not support %s", p.Field, p.Capability)})
	}
	for _, r := range w.refs(w.after, key, s) {
		switch {
		case isTarget(key, r) && w.levelOf(r.Target) >= 0:
			cuts = append(cuts, parsePath(strings.TrimSuffix(r.Field, ".name")))
			it.downs = append(it.downs, Downlevel{Key: key, Capability: w.missing(r.Target), Reason: fmt.Sprintf("%s is left out: %s is withheld", r.Field, r.Target)})
		case w.emptied(r.Target):
			cuts = append(cuts, parsePath(r.Field))
			it.downs = append(it.downs, Downlevel{Key: key, Capability: w.missing(r.Target), Reason: fmt.Sprintf("%s is left out: nothing of %s is supported by the node", r.Field, r.Target)})
		}
	}
	if len(cuts) == 0 {
		return nil
	}
	tailored, err := cut(content, cuts)
	if err != nil {
		// Content in a graph has been parsed; should it not parse again, nothing
		// of it can be vouched for.
		return &item{out: true, level: -1, capability: Core, downs: []Downlevel{{Key: key, Capability: Core, Withheld: true, Reason: err.Error()}}}
	}
	it.content = tailored
	return it
}

func (w *work) whyWithheld(key resource.Key, s seed, capability string) string {
	if s.withheld != "" {
		if failClosed[capability] {
			return fmt.Sprintf("the node does not support %s and cannot enforce the policy's authorization", capability)
		}
		return fmt.Sprintf("the node does not support %s", capability)
	}
	if lead, ok := w.lead[key]; ok {
		return fmt.Sprintf("it would take requests of %s, a route of the same service that goes before it and is withheld for lack of %s on the node", lead, capability)
	}
	cause, _ := w.cause(key)
	if cause.Kind == policy.Kind {
		return fmt.Sprintf("%s protects it and is withheld, for lack of %s on the node", cause, capability)
	}
	return fmt.Sprintf("it refers to %s, which is withheld for lack of %s on the node", cause, capability)
}
