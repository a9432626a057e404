package digest

import "iter"

// Change is one difference between two sets. Before is nil when the key was
// added, After when it was removed.
type Change struct {
	Key           string
	Before, After *Leaf
}

// Diff yields what must change in from to make it equal to to, each key once, in
// the order of path(key). It visits O(changes × log n) nodes: equal subtrees are
// passed over by their hash. The leaves that it yields must not be modified.
func Diff(from, to *Trie) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		d := differ{yield: yield}
		d.run(from, to)
	}
}

// differ walks two tries together. It is used by one goroutine.
type differ struct {
	yield   func(Change) bool
	visited int // pairs and subtrees looked at: what the cost test counts
}

func (d *differ) run(from, to *Trie) {
	var a, b node
	if from != nil {
		a = from.root
	}
	if to != nil {
		b = to.root
	}
	d.diff(a, b)
}

// diff reports false when the consumer wants no more.
func (d *differ) diff(a, b node) bool {
	d.visited++
	switch {
	case a == nil && b == nil:
		return true
	case a == nil:
		return d.added(b)
	case b == nil:
		return d.removed(a)
	case *a.sum() == *b.sum():
		return true
	}
	x, xInner := a.(*inner)
	y, yInner := b.(*inner)
	if xInner && yInner && x.bit == y.bit && (*x.child[0].sum() == *y.child[0].sum() || *x.child[1].sum() == *y.child[1].sum()) {
		// An equal child shows that both lie on the same path.
		return d.diff(x.child[0], y.child[0]) && d.diff(x.child[1], y.child[1])
	}
	pa, pb := samplePath(a), samplePath(b)
	bitA, bitB := depth(a), depth(b)
	if at := firstDifference(&pa, &pb); at < min(bitA, bitB) {
		if pa.bit(at) == 0 {
			return d.removed(a) && d.added(b)
		}
		return d.added(b) && d.removed(a)
	}
	switch {
	case xInner && yInner && bitA == bitB:
		return d.diff(x.child[0], y.child[0]) && d.diff(x.child[1], y.child[1])
	case xInner && bitA < bitB:
		if pb.bit(bitA) == 0 {
			return d.diff(x.child[0], b) && d.removed(x.child[1])
		}
		return d.removed(x.child[0]) && d.diff(x.child[1], b)
	case yInner && bitB < bitA:
		if pa.bit(bitB) == 0 {
			return d.diff(a, y.child[0]) && d.added(y.child[1])
		}
		return d.added(y.child[0]) && d.diff(a, y.child[1])
	}
	// Two leaves of one path: one key, two contents.
	before, after := a.(*Leaf), b.(*Leaf)
	return d.yield(Change{Key: after.Key, Before: before, After: after})
}

func (d *differ) added(n node) bool {
	return walk(n, func(l *Leaf) bool {
		d.visited++
		return d.yield(Change{Key: l.Key, After: l})
	})
}

func (d *differ) removed(n node) bool {
	return walk(n, func(l *Leaf) bool {
		d.visited++
		return d.yield(Change{Key: l.Key, Before: l})
	})
}

// samplePath gives the path of some leaf under n: all share the bits above n's.
func samplePath(n node) Hash {
	for {
		switch v := n.(type) {
		case *Leaf:
			return pathOf(v.Key)
		case *inner:
			n = v.child[0]
		}
	}
}

func depth(n node) uint16 {
	if v, ok := n.(*inner); ok {
		return v.bit
	}
	return maxBits
}
