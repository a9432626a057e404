package agent

import (
	"sync"
	"weak"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/graph"
)

// Shared lets the agents of one process hold equal content once. What is shared is
// immutable and was verified by its digest, so that no agent can affect another.
// Nothing is kept alive by it. It is safe for concurrent use; nil shares nothing.
type Shared struct {
	mu     sync.Mutex // guards all below
	tries  map[digest.Hash]weak.Pointer[digest.Trie]
	graphs map[digest.Hash]weak.Pointer[graph.Graph]
}

// NewShared makes an empty one.
func NewShared() *Shared {
	return &Shared{tries: make(map[digest.Hash]weak.Pointer[digest.Trie]), graphs: make(map[digest.Hash]weak.Pointer[graph.Graph])}
}

// sweepAbove is the number of entries above which dead ones are looked for.
const sweepAbove = 64

// trie gives a trie with t's root: one that another agent holds, or t.
func (s *Shared) trie(t *digest.Trie) *digest.Trie {
	if s == nil || t == nil {
		return t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return intern(s.tries, t.Root(), t)
}

// graph gives the graph of content with this root, or nil.
func (s *Shared) graph(root digest.Hash) *graph.Graph {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.graphs[root].Value()
}

// keep offers a valid graph to the other agents.
func (s *Shared) keep(root digest.Hash, g *graph.Graph) *graph.Graph {
	if s == nil {
		return g
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return intern(s.graphs, root, g)
}

func intern[T any](m map[digest.Hash]weak.Pointer[T], root digest.Hash, v *T) *T {
	if known := m[root].Value(); known != nil {
		return known
	}
	if len(m) >= sweepAbove {
		for k, p := range m {
			if p.Value() == nil {
				delete(m, k)
			}
		}
	}
	m[root] = weak.Make(v)
	return v
}
