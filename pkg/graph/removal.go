package graph

import (
	"fmt"
	"iter"
	"strings"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/resource"
)

// FreeRemovals is how many resources of a kind, or endpoints, a change can always
// remove: a share says nothing in a small mesh.
const FreeRemovals = 2

// CheckRemoval finds out whether a change removes a large share of the mesh, and
// so must be confirmed. What counts is the share of before, by before's settings:
//
//   - of the resources of each kind, and of all resources together;
//   - of the endpoints, where a cluster that loses more than it gains counts with
//     the difference, so that replacing endpoints is free; the endpoints of removed
//     clusters count when more than FreeRemovals clusters are removed.
//
// A resource whose new scope does not hold all of its old one counts as removed: to
// the nodes that lose it, it is. A graph does not know which nodes there are, so a
// scope that is narrowed counts even if all nodes, or none, are in both, and also if
// it is meant as a canary. Widening never counts: no node loses anything by it.
//
// A finding is given for each that is above limits.maxRemovalPercent, unless at
// most FreeRemovals are removed. One with narrowed scopes is about the first of
// these resources. Its cost is that of comparing the two graphs.
func CheckRemoval(before, after *Graph) []resource.Finding {
	percent := *before.Settings().Limits.MaxRemovalPercent
	removed := map[string]*removal{} // by kind
	var all removal
	lostByStaying, inRemoved := 0, removal{} // endpoints
	for c := range digest.Diff(before.trie, after.trie) {
		key, ok := splitKey(c.Key)
		if !ok || c.Before == nil {
			continue
		}
		old, _ := before.objects.Get(key)
		now, _ := after.objects.Get(key)
		endpoints := countEndpoints(old)
		if now != nil {
			lost := max(0, endpoints-countEndpoints(now))
			lostByStaying += lost
			endpoints -= lost
		}
		narrowed := now != nil && !within(scopeOf(now), scopeOf(old))
		if now != nil && !narrowed {
			continue
		}
		r := removed[key.Kind]
		if r == nil {
			r = &removal{}
			removed[key.Kind] = r
		}
		r.add(1, key, narrowed)
		r.names = append(r.names, c.Key)
		all.add(1, key, narrowed)
		all.names = append(all.names, c.Key)
		inRemoved.add(endpoints, key, narrowed)
	}
	endpoints := &removal{}
	if r := removed[cluster.Kind]; r != nil && r.gone > FreeRemovals {
		endpoints = &inRemoved
	}
	endpoints.gone += lostByStaying
	var out []resource.Finding
	check := func(what string, r *removal, of int) {
		if r.gone > FreeRemovals && float64(r.gone)*100 > percent*float64(of) {
			out = append(out, r.finding(what, of, percent))
		}
	}
	for kind, n := range before.kinds.All() {
		if r := removed[kind]; r != nil {
			check(kind+" resources", r, n)
		}
	}
	if len(removed) > 1 {
		check("resources", &all, before.Len())
	}
	check("endpoints", endpoints, before.endpoints)
	return out
}

// removal adds up what a change removes, of one sort.
type removal struct {
	gone     int
	names    []string     // of resources
	narrowed int          // of those gone, the ones that stay for fewer nodes
	first    resource.Key // of the resources that were narrowed
}

func (r *removal) add(n int, key resource.Key, narrowed bool) {
	r.gone += n
	if !narrowed || n == 0 {
		return
	}
	if r.narrowed == 0 || resource.CompareKeys(key, r.first) < 0 {
		r.first = key
	}
	r.narrowed += n
}

// finding says that too much is removed. What was narrowed is still in the operator's
// files, where nothing looks like a removal, so it says why that is one, and where.
func (r *removal) finding(what string, of int, percent float64) resource.Finding {
	f := resource.Finding{Code: fault.CodeLargeRemoval, Severity: resource.Error, Remedy: "if that is meant, add --allow-large-change"}
	f.Reason = fmt.Sprintf("removes %d of %d %s (%.0f %%), more than the %g %% that one change may", r.gone, of, what, float64(r.gone)*100/float64(of), percent)
	if len(r.names) > 0 {
		f.Reason += ": " + firstNames(r.names, 3)
	}
	if r.narrowed > 0 {
		f.Key, f.Field = r.first, "scope.nodeLabels"
		f.Reason += fmt.Sprintf("; %d of them leave nodes because their scope was narrowed", r.narrowed)
	}
	return f
}

// Changed yields the keys whose contents differ between two graphs, in no
// particular order. Its cost is proportional to their number.
func Changed(before, after *Graph) iter.Seq[resource.Key] {
	return func(yield func(resource.Key) bool) {
		for c := range digest.Diff(before.trie, after.trie) {
			if key, ok := splitKey(c.Key); ok && !yield(key) {
				return
			}
		}
	}
}

func firstNames(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// splitKey takes apart what Key.String joined.
func splitKey(s string) (resource.Key, bool) {
	kind, rest, ok := strings.Cut(s, "/")
	namespace, name, ok2 := strings.Cut(rest, "/")
	return resource.Key{Kind: kind, Namespace: namespace, Name: name}, ok && ok2
}
