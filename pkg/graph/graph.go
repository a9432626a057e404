// Package graph holds the mesh of one domain at one version: every resource,
// parsed, with the references between them; and it is the validator that hub,
// agent and command line share.
//
//	g, findings := graph.New().Update(changes)
//	if resource.HasErrors(findings) { … } // g exists all the same; do not use it for nodes
//	g, findings = g.Update(more)          // the earlier g is as it was
//
// A Graph is immutable and safe for concurrent use. Update shares with its
// predecessor what did not change and looks only at the changed resources, at those
// that refer to one that appeared, vanished or changed scope, at the other routes of
// a changed route's service, and at the clusters that fail over to a changed
// one. The result is the same as that of a graph built at once from the same
// contents.
//
// # What is checked
//
// Each kind's own rules (Descriptor.Validate; whoever decoded a file has seen
// those findings already), and across resources:
//
//   - a reference names a resource that exists, and whose scope holds every node of
//     the referrer's scope: the target's node labels are among the referrer's;
//   - a removed resource is not referred to any more; the finding names who does;
//   - failover from cluster to cluster does not lead back to where it began;
//   - a rule is not shadowed: an earlier rule of its route that takes every request
//     the rule takes is an error; such a rule in a route of higher priority, which
//     applies on all the same nodes, a warning, since overriding is its purpose;
//   - two routes of one service and equal priority do not match the same request
//     equally well on the same node (pkg/route says what "equally well" means). Where
//     only the request can tell (two regular expressions on one header) it is a
//     warning;
//   - conditions of authorization rules compile within their limits;
//   - a policy applies to something (a warning);
//   - resources and bytes are within the limits of DomainSettings, and those are
//     usable.
package graph

import (
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/expr"
	"github.com/meshkit/meshkit/pkg/graph/pmap"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/resource"
)

// Change writes or removes one resource.
type Change struct {
	Key resource.Key
	// Content is canonical JSON, kept by reference; nil removes the resource.
	Content []byte
}

// Graph is the mesh at one version. It is immutable.
type Graph struct {
	objects   pmap.Map[resource.Key, *entry]
	trie      *digest.Trie
	referrers pmap.Map[resource.Key, keySet] // by target, which need not exist
	services  pmap.Map[string, *Service]
	scopes    pmap.Map[string, int] // label key → resources whose scope uses it
	kinds     pmap.Map[string, int] // kind → resources
	endpoints int                   // of all clusters
	problems  pmap.Map[resource.Key, *problems]
	errors    int // resources whose problems include an error
}

type keySet = pmap.Map[resource.Key, struct{}]

// entry is one resource with what follows from its content alone.
type entry struct {
	object   kind.Object
	refs     []resource.Ref
	parts    []Part
	local    []resource.Finding
	programs []*expr.Program // conditions of an authorization policy, by rule
	rules    []ruleMatch     // of a route
	masks    routeMasks      // of a route
	memo     Memo
}

// New makes the empty graph.
func New() *Graph {
	return &Graph{
		objects:   pmap.New[resource.Key, *entry](resource.CompareKeys),
		referrers: pmap.New[resource.Key, keySet](resource.CompareKeys),
		services:  pmap.New[string, *Service](strings.Compare),
		scopes:    pmap.New[string, int](strings.Compare),
		kinds:     pmap.New[string, int](strings.Compare),
		problems:  pmap.New[resource.Key, *problems](resource.CompareKeys),
	}
}

// Get finds a resource.
func (g *Graph) Get(key resource.Key) (kind.Object, bool) {
	if e, ok := g.objects.Get(key); ok {
		return e.object, true
	}
	return kind.Object{}, false
}

// Content gives the canonical JSON of a resource. Do not modify it.
func (g *Graph) Content(key resource.Key) ([]byte, bool) {
	l, ok := g.trie.Get(key.String())
	return l.Content, ok
}

// Len counts the resources.
func (g *Graph) Len() int { return g.objects.Len() }

// Count counts the resources of a kind.
func (g *Graph) Count(kind string) int {
	n, _ := g.kinds.Get(kind)
	return n
}

// All yields the resources by key.
func (g *Graph) All() iter.Seq[kind.Object] {
	return func(yield func(kind.Object) bool) {
		for _, e := range g.objects.All() {
			if !yield(e.object) {
				return
			}
		}
	}
}

// OfKind yields the resources of a kind by key.
func (g *Graph) OfKind(kind string) iter.Seq[kind.Object] { return ofKind(g, kind) }

func ofKind(g *Graph, name string) iter.Seq[kind.Object] {
	return func(yield func(kind.Object) bool) {
		for k, e := range g.objects.From(resource.Key{Kind: name}) {
			if k.Kind != name || !yield(e.object) {
				return
			}
		}
	}
}

// Trie holds the contents of all resources; its root is the digest of the domain.
func (g *Graph) Trie() *digest.Trie { return g.trie }

// Refs lists the references of a resource. Do not modify the slice.
func (g *Graph) Refs(key resource.Key) []resource.Ref {
	if e, ok := g.objects.Get(key); ok {
		return e.refs
	}
	return nil
}

// Parts lists the parts of a resource that need a capability of the node. Do not
// modify the slice.
func (g *Graph) Parts(key resource.Key) []Part {
	if e, ok := g.objects.Get(key); ok {
		return e.parts
	}
	return nil
}

// Dependents lists the resources that refer to key, sorted. The key itself need
// not exist.
func (g *Graph) Dependents(key resource.Key) []resource.Key {
	set, _ := g.referrers.Get(key)
	out := make([]resource.Key, 0, set.Len())
	for k := range set.All() {
		out = append(out, k)
	}
	return out
}

// Settings gives the DomainSettings with every default filled in.
func (g *Graph) Settings() domainsettings.Spec { return g.settings().Effective() }

// Target gives the propagation target of a region, as Spec.Target does; it is asked
// for each ack and makes no Settings.
func (g *Graph) Target(region string) (p99 time.Duration, ok bool) {
	return g.settings().Target(region)
}

func (g *Graph) settings() *domainsettings.Spec {
	e, ok := g.objects.Get(settingsKey)
	if !ok {
		return nil
	}
	spec, _ := e.object.Spec.(*domainsettings.Spec)
	return spec
}

var settingsKey = resource.Key{Kind: domainsettings.Kind, Namespace: resource.DefaultNamespace, Name: domainsettings.Name}

// ScopeKeys lists the label keys used in any scope, sorted.
func (g *Graph) ScopeKeys() []string {
	var out []string
	for k := range g.scopes.All() {
		out = append(out, k)
	}
	return out
}

// Conditions gives the compiled conditions of a policy's authorization rules, one
// for each rule; nil stands for one that does not compile. Do not modify the slice.
func (g *Graph) Conditions(policy resource.Key) []*expr.Program {
	if e, ok := g.objects.Get(policy); ok {
		return e.programs
	}
	return nil
}

// Service is what a graph knows of one service. It stays the same value between
// versions as long as none of the service's routes changes.
type Service struct {
	routes keyedEntries
	// Memo caches what is derived from the routes alone.
	Memo Memo
}

type keyedEntries = pmap.Map[resource.Key, *entry]

// Routes yields the routes of the service by key.
func (s *Service) Routes() iter.Seq[kind.Object] {
	return func(yield func(kind.Object) bool) {
		for _, e := range s.routes.All() {
			if !yield(e.object) {
				return
			}
		}
	}
}

// Service finds the routes of a service.
func (g *Graph) Service(name string) (*Service, bool) { return g.services.Get(name) }

// Services lists the services that have routes, sorted.
func (g *Graph) Services() []string {
	var out []string
	for name := range g.services.All() {
		out = append(out, name)
	}
	return out
}

// Memo gives the cache of what is derived from one resource alone, shared by all
// versions of the graph in which the resource is the same; nil when it does not exist.
func (g *Graph) Memo(key resource.Key) *Memo {
	if e, ok := g.objects.Get(key); ok {
		return &e.memo
	}
	return nil
}

// Memo caches one derived value. Safe for concurrent use.
type Memo struct {
	once  sync.Once
	value any // written within once
}

// Do gives what derive returned when it was first called.
func (m *Memo) Do(derive func() any) any {
	m.once.Do(func() { m.value = derive() })
	return m.value
}

// InScope says whether nodes with these labels are given a resource.
func InScope(r *resource.Resource, labels map[string]string) bool {
	if r.Scope == nil {
		return true
	}
	for k, v := range r.Scope.NodeLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func scopeOf(e *entry) map[string]string {
	if e == nil || e.object.Resource.Scope == nil {
		return nil
	}
	return e.object.Resource.Scope.NodeLabels
}
