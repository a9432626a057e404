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
//   - of the resources of each kind, and of all resources together, where one whose
//     scope asks for more than before counts as removed: nodes that had it may lose
//     it, and which nodes there are is not the graph's to know;
//   - of the endpoints, where a cluster that loses more than it gains counts with
//     the difference, so that replacing endpoints is free; the endpoints of removed
//     clusters count when more than FreeRemovals clusters are removed.
//
// A finding is given for each that is above limits.maxRemovalPercent, unless at
// most FreeRemovals are removed. Its cost is that of comparing the two graphs.
func CheckRemoval(before, after *Graph) []resource.Finding {
	percent := *before.Settings().Limits.MaxRemovalPercent
	removed := map[string][]string{}
	narrowed := map[string]bool{} // kinds with resources that were not deleted; "" for any
	var all []string
	endpoints, inRemoved := 0, 0 // lost by clusters that stay, and by those that go
	for c := range digest.Diff(before.trie, after.trie) {
		key, ok := splitKey(c.Key)
		if !ok || c.Before == nil {
			continue
		}
		old, _ := before.objects.Get(key)
		now, _ := after.objects.Get(key)
		less := c.After != nil && narrows(scopeOf(old), scopeOf(now))
		if c.After == nil || less {
			removed[key.Kind] = append(removed[key.Kind], c.Key)
			all = append(all, c.Key)
		}
		if less {
			narrowed[key.Kind], narrowed[""] = true, true
		}
		if lost := max(0, countEndpoints(old)-countEndpoints(now)); now == nil {
			inRemoved += lost
		} else {
			endpoints += lost
		}
	}
	if len(removed[cluster.Kind]) > FreeRemovals {
		endpoints += inRemoved
	}
	var out []resource.Finding
	check := func(what, kind string, gone, of int, names []string) {
		if gone <= FreeRemovals || float64(gone)*100 <= percent*float64(of) {
			return
		}
		does := "removes"
		if names != nil && narrowed[kind] {
			does = "removes, or takes from nodes by a narrower scope,"
		}
		reason := fmt.Sprintf("%s %d of %d %s (%.0f %%), more than the %g %% that one change may", does, gone, of, what, float64(gone)*100/float64(of), percent)
		if len(names) > 0 {
			reason += ": " + firstNames(names, 3)
		}
		out = append(out, resource.Finding{Code: fault.CodeLargeRemoval, Severity: resource.Error, Reason: reason, Remedy: "if that is meant, add --allow-large-change"})
	}
	for kind, n := range before.kinds.All() {
		check(kind+" resources", kind, len(removed[kind]), n, removed[kind])
	}
	if len(removed) > 1 {
		check("resources", "", len(all), before.Len(), all)
	}
	check("endpoints", "", endpoints, before.endpoints, nil)
	return out
}

// narrows tells whether a scope asks nodes for a label that it did not ask for.
func narrows(before, after map[string]string) bool {
	for k, v := range after {
		if had, ok := before[k]; !ok || had != v {
			return true
		}
	}
	return false
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
