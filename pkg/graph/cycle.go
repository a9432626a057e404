package graph

import (
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/resource"
)

// checkCycles looks for failover that leads back. Every cycle that a change made
// or broke runs through a changed cluster, so all its members reach one: those are
// the clusters looked at.
func (u *updater) checkCycles() {
	if len(u.failover) == 0 {
		return
	}
	reach := map[resource.Key]bool{}
	var todo []resource.Key
	visit := func(k resource.Key) {
		if !reach[k] {
			reach[k] = true
			todo = append(todo, k)
		}
	}
	for k := range u.failover {
		visit(k)
	}
	for len(todo) > 0 {
		k := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		referrers, _ := u.next.referrers.Get(k)
		for from := range referrers.From(resource.Key{Kind: cluster.Kind}) {
			if from.Kind != cluster.Kind {
				break
			}
			visit(from)
		}
	}
	for k := range reach {
		if had, ok := u.next.problems.Get(k); ok && len(had.cycle) > 0 {
			u.problem(k).cycle = nil
		}
	}
	s := components{graph: u.next, within: reach, order: map[resource.Key]int{}, low: map[resource.Key]int{}, onStack: map[resource.Key]bool{}}
	for k := range reach {
		if s.order[k] == 0 {
			s.connect(k)
		}
	}
	for _, members := range s.found {
		slices.SortFunc(members, resource.CompareKeys)
		first := members[0]
		path := u.next.loop(first, members)
		names := make([]string, len(path))
		for i, k := range path {
			names[i] = shortName(k, first.Namespace)
		}
		field := failoverField(u.next, first, path[1])
		u.problem(first).cycle = []resource.Finding{resource.Errorf(fault.CodeCycle, first, field, "remove one of these references, for example the one from "+names[len(names)-2]+" to "+names[0],
			"failover leads back to where it began: %s", strings.Join(names, " → "))}
	}
}

func shortName(k resource.Key, namespace string) string {
	if k.Namespace == namespace {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

func failoverField(g *Graph, from, to resource.Key) string {
	for _, r := range g.Refs(from) {
		if r.Target == to {
			return r.Field
		}
	}
	return ""
}

// components finds sets of clusters that reach each other (Tarjan 1972). Used by
// one goroutine for one search.
type components struct {
	graph   *Graph
	within  map[resource.Key]bool
	order   map[resource.Key]int // from 1, in order of discovery
	low     map[resource.Key]int
	stack   []resource.Key
	onStack map[resource.Key]bool
	found   [][]resource.Key // of two members or more
}

func (c *components) connect(k resource.Key) {
	c.order[k] = len(c.order) + 1
	c.low[k] = c.order[k]
	c.stack = append(c.stack, k)
	c.onStack[k] = true
	e, _ := c.graph.objects.Get(k)
	for _, next := range failoverOf(e) {
		switch {
		case !c.within[next]:
		case c.order[next] == 0:
			c.connect(next)
			c.low[k] = min(c.low[k], c.low[next])
		case c.onStack[next]:
			c.low[k] = min(c.low[k], c.order[next])
		}
	}
	if c.low[k] != c.order[k] {
		return
	}
	at := slices.Index(c.stack, k)
	members := slices.Clone(c.stack[at:])
	c.stack = c.stack[:at]
	for _, m := range members {
		c.onStack[m] = false
	}
	if len(members) > 1 {
		c.found = append(c.found, members)
	}
}

// loop gives the shortest way from first back to itself within members, both ends
// included.
func (g *Graph) loop(first resource.Key, members []resource.Key) []resource.Key {
	allowed := map[resource.Key]bool{}
	for _, m := range members {
		allowed[m] = true
	}
	came := map[resource.Key]resource.Key{}
	for queue := []resource.Key{first}; len(queue) > 0; queue = queue[1:] {
		e, _ := g.objects.Get(queue[0])
		for _, next := range failoverOf(e) {
			if next == first {
				path := []resource.Key{first}
				for k := queue[0]; k != first; k = came[k] {
					path = append(path, k)
				}
				path = append(path, first)
				slices.Reverse(path)
				return path
			}
			if _, seen := came[next]; allowed[next] && !seen {
				came[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	return []resource.Key{first, first}
}
