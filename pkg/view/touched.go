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

// Touched lists the names, sorted, of the nodes whose content differs between two
// graphs. It is exact: it compares the views themselves, once for each class, also
// when the change moves nodes from one class to another.
func Touched(before, after *graph.Graph, nodes iter.Seq[Node]) []string {
	if before.Trie().Root() == after.Trie().Root() {
		return nil
	}
	keysBefore, keysAfter := before.ScopeKeys(), after.ScopeKeys()
	views := map[string]*View{} // by class, of the graph before
	build := func(c Class) *View {
		v, ok := views[c.ID()]
		if !ok {
			v = Build(before, c)
			views[c.ID()] = v
		}
		return v
	}
	differs := map[string]bool{} // by what both classes of a node follow from
	var buf []byte
	var out []string
	for n := range nodes {
		buf = identify(buf[:0], n, keysBefore, keysAfter)
		touched, known := differs[string(buf)]
		if !known {
			from, to := classOf(keysBefore, n.Capabilities, n.Labels), classOf(keysAfter, n.Capabilities, n.Labels)
			touched = build(from).Trie.Root() != build(to).Update(after, nil).Trie.Root()
			differs[string(buf)] = touched
		}
		if touched {
			out = append(out, n.Name)
		}
	}
	slices.Sort(out)
	return out
}

// identify appends what a node's classes follow from: cheaper than the classes.
func identify(buf []byte, n Node, keys ...[]string) []byte {
	for _, capability := range known() {
		if slices.Contains(n.Capabilities, capability) {
			buf = append(buf, '+')
		} else {
			buf = append(buf, '-')
		}
	}
	for _, list := range keys {
		for _, k := range list {
			if v, ok := n.Labels[k]; ok {
				buf = strconv.AppendQuote(buf, v)
			} else {
				buf = append(buf, '-')
			}
		}
	}
	return buf
}
