package view

import (
	"iter"
	"slices"
	"strconv"

	"github.com/meshkit/meshkit/pkg/graph"
)

// Node is a joined node as views see it.
type Node struct {
	Name         string
	Capabilities []string
	Labels       map[string]string
}

// Roster is nodes, grouped by what their views follow from: a change is judged once
// for each group, however many nodes there are. It is immutable.
type Roster struct {
	keys   []string
	groups []group
	total  int
}

// group is nodes that have the same view in every graph whose scopes use no other
// labels than the roster's.
type group struct {
	one   Node     // of them
	names []string // sorted
}

// ScopeKeys are the labels, sorted, that the scopes of these graphs use.
func ScopeKeys(graphs ...*graph.Graph) []string {
	var keys []string
	for _, g := range graphs {
		keys = append(keys, g.ScopeKeys()...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// NewRoster groups nodes, for graphs whose scopes use no other labels than keys.
func NewRoster(keys []string, nodes iter.Seq[Node]) *Roster {
	r := &Roster{keys: keys}
	at := make(map[string]int)
	var buf []byte
	for n := range nodes {
		buf = identify(buf[:0], n, keys)
		i, known := at[string(buf)]
		if !known {
			i = len(r.groups)
			at[string(buf)] = i
			r.groups = append(r.groups, group{one: n})
		}
		r.groups[i].names = append(r.groups[i].names, n.Name)
		r.total++
	}
	for _, g := range r.groups {
		slices.Sort(g.names)
	}
	return r
}

// Len is the number of nodes.
func (r *Roster) Len() int { return r.total }

// Fits tells whether the roster is for graphs whose scopes use these keys, sorted. One
// with more keys would judge them rightly, in more groups than it takes.
func (r *Roster) Fits(keys []string) bool { return slices.Equal(r.keys, keys) }

// Touched counts the nodes whose content differs between two graphs, whose scope keys
// the roster knows, and names the first of them, sorted, at most so many. It is exact: it
// compares the views themselves, also when the change moves nodes from one class to
// another.
func (r *Roster) Touched(before, after *graph.Graph, most int) (n int, names []string) {
	if before.Trie().Root() == after.Trie().Root() {
		return 0, nil
	}
	views := map[string]*View{} // by class, of the graph before
	build := func(c Class) *View {
		v, ok := views[c.ID()]
		if !ok {
			v = Build(before, c)
			views[c.ID()] = v
		}
		return v
	}
	for _, g := range r.groups {
		from, to := ClassOf(before, g.one.Capabilities, g.one.Labels), ClassOf(after, g.one.Capabilities, g.one.Labels)
		if build(from).Trie.Root() != build(to).Update(after, nil).Trie.Root() {
			n += len(g.names)
			names = append(names, g.names[:min(len(g.names), most)]...)
		}
	}
	slices.Sort(names)
	return n, names[:min(len(names), most)]
}

// identify appends what a node's classes follow from: cheaper than the classes.
func identify(buf []byte, n Node, keys []string) []byte {
	for _, capability := range known() {
		if slices.Contains(n.Capabilities, capability) {
			buf = append(buf, '+')
		} else {
			buf = append(buf, '-')
		}
	}
	for _, k := range keys {
		if v, ok := n.Labels[k]; ok {
			buf = strconv.AppendQuote(buf, v)
		} else {
			buf = append(buf, '-')
		}
	}
	return buf
}
