// Package view computes what nodes should have: of all resources, those in the
// scope of a node, tailored to what it can do.
//
// Nodes with the same capabilities (as far as this build knows them) and the same
// values of the labels that any scope uses get the same resources: they are one
// class, and share one view, one digest and one signature.
//
//	c := view.ClassOf(g, hello.Capabilities, labels)
//	v := view.Build(g, c)
//	v = v.Update(next, changed) // equal to Build(next, c), at the cost of the change
//
// When the label keys used in scopes change, so do the classes of nodes: ask
// ClassOf again after a change and compare IDs.
//
// # Down-leveling
//
// A view holds no resource and no field that its nodes cannot honour, and is a
// valid mesh in itself:
//
//   - a field that needs a capability the nodes lack is left out (mirror, failover,
//     retry, …), and so are the names of policies of which nothing is left;
//   - an authorization policy that they cannot enforce is withheld, and so is every
//     route and cluster that it protects, and in turn whatever refers to those. So
//     are the routes of the same service and the same or a lower priority, which
//     would otherwise take the requests of a withheld route, past its policy: access
//     is never wider than with the policy (fail closed). Only the names of withheld
//     routes and clusters in the targets of a policy are dropped instead;
//   - resources of a kind that the nodes do not know are withheld; those of a kind
//     that this build does not know are passed on as they are.
//
// Each of these is recorded as a Downlevel with its reason.
//
// Views, like graphs, are immutable and safe for concurrent use.
package view

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/pmap"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// Core is the capability without which a node is given nothing.
const Core = "core/v1"

// Class is what the nodes of a view have in common.
type Class struct {
	// Profile lists the capabilities, sorted, each once.
	Profile []string `json:"profile"`
	// Labels holds the nodes' values of the label keys used in scopes.
	Labels map[string]string `json:"labels"`
}

// ID names the view of the class: the first 16 bytes, in hexadecimal, of the SHA-256
// of its canonical JSON {"labels":{…},"profile":[…]}.
func (c Class) ID() string {
	if c.Profile == nil {
		c.Profile = []string{}
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	content, err := jcs.Marshal(c)
	if err != nil {
		// Only text that is not UTF-8 can do this, and labels are checked when
		// a token is made. Such a class gets a name of its own all the same.
		content = []byte(err.Error())
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}

// Known lists the capabilities that this build knows, sorted.
func Known() []string { return slices.Clone(known()) }

var known = sync.OnceValue(func() []string {
	list := []string{Core}
	for _, d := range kind.All() {
		list = append(list, graph.Capabilities(d.New())...)
		if d.Capability != "" {
			list = append(list, d.Capability)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
})

// ClassOf gives the class of a node with these capabilities and labels.
func ClassOf(g *graph.Graph, capabilities []string, labels map[string]string) Class {
	return classOf(g.ScopeKeys(), capabilities, labels)
}

func classOf(scopeKeys, capabilities []string, labels map[string]string) Class {
	c := Class{Profile: []string{}, Labels: map[string]string{}}
	for _, capability := range known() {
		if slices.Contains(capabilities, capability) {
			c.Profile = append(c.Profile, capability)
		}
	}
	for _, k := range scopeKeys {
		if v, ok := labels[k]; ok {
			c.Labels[k] = v
		}
	}
	return c
}

// Downlevel is one thing that a view's nodes are not given, and why.
type Downlevel struct {
	Key resource.Key
	// Capability is the one that the nodes lack.
	Capability string
	// Withheld: the whole resource is not sent; else a part of it is left out.
	Withheld bool
	Reason   string
}

// View is what one class of nodes should have. It is immutable.
type View struct {
	Class Class
	// Trie holds the resources as sent.
	Trie *digest.Trie
	// Required lists the capabilities that the content needs, sorted: a subset of
	// the class's profile.
	Required []string

	graph   *graph.Graph
	special pmap.Map[resource.Key, *item]
	needs   map[string]int // capability → resources as sent that need it
}

// item is a resource in scope that is not sent as it is.
type item struct {
	content []byte // as sent; nil when out
	out     bool
	// level is how many references lie between a withheld resource and the one that
	// cannot be sent for a reason of its own (0); -1 when it is not withheld.
	level      int
	peer       bool   // withheld on account of another route of the service alone
	capability string // the missing one, when out
	stripped   []graph.Part
	downs      []Downlevel
}

// Build makes the view of a class.
func Build(g *graph.Graph, c Class) *View {
	v := &View{Class: c, Trie: g.Trie(), graph: g, special: pmap.New[resource.Key, *item](resource.CompareKeys), needs: map[string]int{}}
	w := newWork(v, g)
	for o := range g.All() {
		key := o.Key()
		if !graph.InScope(o.Resource, c.Labels) {
			v.Trie = v.Trie.Delete(key.String())
			continue
		}
		for _, capability := range needsOf(o, g.Parts(key), nil) {
			v.needs[capability]++
		}
		if s := w.seed(g, key); s.out() || len(s.stripped) > 0 {
			w.include(key, s.out())
		}
	}
	return w.finish()
}

// Update makes the view of the same class for a later graph. It finds what changed
// by itself; changed is advice, and may name more or fewer keys.
func (v *View) Update(g *graph.Graph, changed []resource.Key) *View {
	if g == v.graph {
		return v
	}
	next := &View{Class: v.Class, Trie: v.Trie, special: v.special, needs: maps.Clone(v.needs)}
	w := newWork(next, g)
	w.before, w.old = v.graph, v.special
	for key := range graph.Changed(v.graph, g) {
		w.change(key)
	}
	return w.finish()
}

// Downlevels lists what is withheld or simplified, by key.
func (v *View) Downlevels() []Downlevel {
	var out []Downlevel
	for _, it := range v.special.All() {
		out = append(out, it.downs...)
	}
	return out
}
