// Package pmap is a persistent ordered map: the mesh's versions share what did
// not change between them. It is a weight-balanced binary tree (Adams 1993, with
// the parameters that Hirai and Yamamoto proved correct, 3 and 2) copied along the
// path of each change.
//
//	m := pmap.New[string, int](strings.Compare)
//	n := m.Set("a", 1) // m is as it was
//
// A Map is immutable and safe for concurrent use. Get, Set and Delete cost
// O(log n); about 64 bytes plus key and value are kept for each entry.
package pmap

import "iter"

// Map is one version of the map. Make the first with New.
type Map[K, V any] struct {
	compare func(a, b K) int
	root    *node[K, V]
}

type node[K, V any] struct {
	left, right *node[K, V]
	size        int
	key         K
	value       V
}

const (
	delta = 3 // a side may weigh at most this many times the other
	ratio = 2 // single or double rotation
)

// New makes an empty map ordered by compare, which must be a pure function.
func New[K, V any](compare func(a, b K) int) Map[K, V] { return Map[K, V]{compare: compare} }

// Len gives the number of entries.
func (m Map[K, V]) Len() int { return m.root.len() }

func (n *node[K, V]) len() int {
	if n == nil {
		return 0
	}
	return n.size
}

// Get finds the value of k.
func (m Map[K, V]) Get(k K) (V, bool) {
	for n := m.root; n != nil; {
		switch c := m.compare(k, n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.value, true
		}
	}
	var none V
	return none, false
}

// Set returns a map in which k has value v.
func (m Map[K, V]) Set(k K, v V) Map[K, V] { return Map[K, V]{m.compare, m.set(m.root, k, v)} }

// Delete returns a map without k.
func (m Map[K, V]) Delete(k K) Map[K, V] {
	if _, ok := m.Get(k); !ok {
		return m
	}
	return Map[K, V]{m.compare, m.remove(m.root, k)}
}

// All yields the entries in order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.walk(yield) }
}

// From yields, in order, the entries that are not before k.
func (m Map[K, V]) From(k K) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.from(m.root, k, yield) }
}

func (n *node[K, V]) walk(yield func(K, V) bool) bool {
	return n == nil || n.left.walk(yield) && yield(n.key, n.value) && n.right.walk(yield)
}

func (m Map[K, V]) from(n *node[K, V], k K, yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	if m.compare(n.key, k) < 0 {
		return m.from(n.right, k, yield)
	}
	return m.from(n.left, k, yield) && yield(n.key, n.value) && n.right.walk(yield)
}

func (m Map[K, V]) set(n *node[K, V], k K, v V) *node[K, V] {
	if n == nil {
		return join(nil, k, v, nil)
	}
	switch c := m.compare(k, n.key); {
	case c < 0:
		return balance(m.set(n.left, k, v), n.key, n.value, n.right)
	case c > 0:
		return balance(n.left, n.key, n.value, m.set(n.right, k, v))
	default:
		return join(n.left, k, v, n.right)
	}
}

func (m Map[K, V]) remove(n *node[K, V], k K) *node[K, V] {
	switch c := m.compare(k, n.key); {
	case c < 0:
		return balance(m.remove(n.left, k), n.key, n.value, n.right)
	case c > 0:
		return balance(n.left, n.key, n.value, m.remove(n.right, k))
	case n.left == nil:
		return n.right
	case n.right == nil:
		return n.left
	default:
		next := n.right
		for next.left != nil {
			next = next.left
		}
		return balance(n.left, next.key, next.value, withoutFirst(n.right))
	}
}

func withoutFirst[K, V any](n *node[K, V]) *node[K, V] {
	if n.left == nil {
		return n.right
	}
	return balance(withoutFirst(n.left), n.key, n.value, n.right)
}

func join[K, V any](l *node[K, V], k K, v V, r *node[K, V]) *node[K, V] {
	return &node[K, V]{left: l, right: r, size: l.len() + r.len() + 1, key: k, value: v}
}

// balance joins two trees of which one may have gained or lost one entry.
func balance[K, V any](l *node[K, V], k K, v V, r *node[K, V]) *node[K, V] {
	weightL, weightR := l.len()+1, r.len()+1
	switch {
	case weightR > delta*weightL:
		if r.left.len()+1 < ratio*(r.right.len()+1) {
			return join(join(l, k, v, r.left), r.key, r.value, r.right)
		}
		m := r.left
		return join(join(l, k, v, m.left), m.key, m.value, join(m.right, r.key, r.value, r.right))
	case weightL > delta*weightR:
		if l.right.len()+1 < ratio*(l.left.len()+1) {
			return join(l.left, l.key, l.value, join(l.right, k, v, r))
		}
		m := l.right
		return join(join(l.left, l.key, l.value, m.left), m.key, m.value, join(m.right, k, v, r))
	default:
		return join(l, k, v, r)
	}
}
