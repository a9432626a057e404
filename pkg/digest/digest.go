// Package digest keeps a set of keyed contents under one Merkle root: the digest
// of a view. The root is a function of the set alone, not of the order or the
// history of changes; one change costs O(log n) hashes; two sets are compared in
// time proportional to what differs between them; and a short proof shows that
// one content belongs to a root.
//
// # The hashing, literally
//
// Another implementation needs nothing but this. H is SHA-256, || joins bytes.
//
//	path(key)           = H(key)                                       key: UTF-8 bytes of "Kind/namespace/name"
//	leaf(key, content)  = H(0x00 || path(key) || H(content))
//	inner(b, L, R)      = H(0x01 || uint16_be(b) || L || R)
//	root of no entries  = 32 zero bytes
//	root of one entry   = leaf(key, content)
//	root of a set S     = inner(b, root(S0), root(S1))
//
// where b is the first bit at which the paths of S are not all equal, counted
// from 0 at the most significant bit of the first byte, S0 holds the entries whose
// path has a 0 there and S1 those with a 1. Nodes with a single child do not
// exist, so the shape follows from the paths. The first byte keeps leaves and inner
// nodes apart: neither can be passed off as the other.
//
// A proof for a key is the list of (b, sibling hash) on the way from the root to
// its leaf, with b strictly growing. To verify: start with h = leaf(key, content),
// go through the list from its end, and put h = inner(b, h, sibling) when bit b of
// path(key) is 0, else h = inner(b, sibling, h). The result must be the root.
//
// testdata/vectors.json holds vectors.
//
// # Use
//
//	var t *digest.Trie                       // the empty set
//	t = t.Set("Route/default/checkout", content)
//	root := t.Root()
//
// A Trie is immutable: Set and Delete return a new one that shares what did not
// change. All methods accept a nil *Trie, which is the empty set, and are safe for
// concurrent use. Contents are kept by reference and must not be modified.
package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Hash is a SHA-256 value.
type Hash [32]byte

// String gives 64 hexadecimal digits, lower case.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero tells whether h is the root of the empty set.
func (h Hash) IsZero() bool { return h == Hash{} }

// Bytes gives a copy of the 32 bytes.
func (h Hash) Bytes() []byte { return append([]byte(nil), h[:]...) }

// MarshalText makes a Hash readable in JSON.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := ParseHash(string(text))
	*h = parsed
	return err
}

// ParseHash reads 64 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return Hash{}, fault.New(fault.CodeHashFormat, "digest has %d characters instead of 64", len(s))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fault.New(fault.CodeHashFormat, "digest: %w", err)
	}
	return h, nil
}

// HashOf takes the 32 bytes of a digest as they travel in messages.
func HashOf(b []byte) (Hash, error) {
	var h Hash
	if len(b) != len(h) {
		return Hash{}, fault.New(fault.CodeHashFormat, "digest has %d bytes instead of 32", len(b))
	}
	copy(h[:], b)
	return h, nil
}

// Leaf is one entry. Hash is leaf(Key, Content) of the package comment: equal
// hashes mean equal key and content.
type Leaf struct {
	Key     string
	Content []byte
	Hash    Hash
}

// inner is a branch. Children are *Leaf or *inner. Never modified once built.
type inner struct {
	hash  Hash
	bit   uint16
	child [2]node
}

// node is a *Leaf or an *inner; the interface is closed.
type node interface{ sum() *Hash }

func (l *Leaf) sum() *Hash  { return &l.Hash }
func (n *inner) sum() *Hash { return &n.hash }

// Trie is an immutable set of entries. The nil *Trie is the empty set.
type Trie struct {
	root  node
	count int
	bytes int64
}

// Root gives the digest of the set.
func (t *Trie) Root() Hash {
	if t == nil || t.root == nil {
		return Hash{}
	}
	return *t.root.sum()
}

// Len gives the number of entries.
func (t *Trie) Len() int {
	if t == nil {
		return 0
	}
	return t.count
}

// Bytes gives the sum of the lengths of the contents.
func (t *Trie) Bytes() int64 {
	if t == nil {
		return 0
	}
	return t.bytes
}

// Get finds the entry of a key.
func (t *Trie) Get(key string) (Leaf, bool) {
	if t == nil || t.root == nil {
		return Leaf{}, false
	}
	path := pathOf(key)
	if l := find(t.root, &path); l.Key == key {
		return *l, true
	}
	return Leaf{}, false
}

// Set returns a set in which key has content. It returns t itself when that is
// already so.
func (t *Trie) Set(key string, content []byte) *Trie {
	path := pathOf(key)
	added := newLeaf(key, &path, content)
	if t == nil || t.root == nil {
		return &Trie{root: added, count: 1, bytes: int64(len(content))}
	}
	near := find(t.root, &path)
	if near.Key == key {
		if near.Hash == added.Hash {
			return t
		}
		root := insert(t.root, &path, added, maxBits)
		return &Trie{root: root, count: t.count, bytes: t.bytes + int64(len(content)) - int64(len(near.Content))}
	}
	nearPath := pathOf(near.Key)
	root := insert(t.root, &path, added, firstDifference(&path, &nearPath))
	return &Trie{root: root, count: t.count + 1, bytes: t.bytes + int64(len(content))}
}

// Delete returns a set without key, or t itself when there is none.
func (t *Trie) Delete(key string) *Trie {
	if t == nil || t.root == nil {
		return t
	}
	path := pathOf(key)
	gone := find(t.root, &path)
	if gone.Key != key {
		return t
	}
	return &Trie{root: remove(t.root, &path), count: t.count - 1, bytes: t.bytes - int64(len(gone.Content))}
}

// All yields every entry in the order of path(key).
func (t *Trie) All() iter.Seq[Leaf] {
	return func(yield func(Leaf) bool) {
		if t != nil && t.root != nil {
			walk(t.root, func(l *Leaf) bool { return yield(*l) })
		}
	}
}

// maxBits is the length of a path, and stands for the depth of a leaf.
const maxBits = 256

func pathOf(key string) Hash {
	// Keys are short: a copy on the stack avoids an allocation.
	var buf [128]byte
	return sha256.Sum256(append(buf[:0], key...))
}

func (h *Hash) bit(i uint16) int { return int(h[i/8]>>(7-i%8)) & 1 }

func firstDifference(a, b *Hash) uint16 {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			n := uint16(i) * 8
			for x&0x80 == 0 {
				x <<= 1
				n++
			}
			return n
		}
	}
	return maxBits
}

func newLeaf(key string, path *Hash, content []byte) *Leaf {
	l := &Leaf{Key: key, Content: content}
	l.Hash = hashLeaf(path, content)
	return l
}

func hashLeaf(path *Hash, content []byte) Hash {
	var buf [1 + 2*32]byte // buf[0] is 0x00
	copy(buf[1:], path[:])
	sum := sha256.Sum256(content)
	copy(buf[33:], sum[:])
	return sha256.Sum256(buf[:])
}

func hashInner(bit uint16, left, right *Hash) Hash {
	var buf [3 + 2*32]byte
	buf[0] = 0x01
	binary.BigEndian.PutUint16(buf[1:], bit)
	copy(buf[3:], left[:])
	copy(buf[35:], right[:])
	return sha256.Sum256(buf[:])
}

func newInner(bit uint16, left, right node) *inner {
	return &inner{hash: hashInner(bit, left.sum(), right.sum()), bit: bit, child: [2]node{left, right}}
}

// with returns n with one child replaced.
func (n *inner) with(side int, c node) *inner {
	if side == 0 {
		return newInner(n.bit, c, n.child[1])
	}
	return newInner(n.bit, n.child[0], c)
}

// find gives the leaf that path leads to: the only one that can have this path.
func find(n node, path *Hash) *Leaf {
	for {
		switch v := n.(type) {
		case *Leaf:
			return v
		case *inner:
			n = v.child[path.bit(v.bit)]
		}
	}
}

// insert puts l, whose path first leaves those in the trie at bit at (maxBits:
// it replaces the leaf of the same path).
func insert(n node, path *Hash, l *Leaf, at uint16) node {
	v, ok := n.(*inner)
	if !ok || v.bit > at {
		if at == maxBits {
			return l
		}
		if path.bit(at) == 0 {
			return newInner(at, l, n)
		}
		return newInner(at, n, l)
	}
	side := path.bit(v.bit)
	return v.with(side, insert(v.child[side], path, l, at))
}

// remove drops the leaf that path leads to; nil when nothing is left.
func remove(n node, path *Hash) node {
	v, ok := n.(*inner)
	if !ok {
		return nil
	}
	side := path.bit(v.bit)
	rest := remove(v.child[side], path)
	if rest == nil {
		return v.child[1-side]
	}
	return v.with(side, rest)
}

func walk(n node, yield func(*Leaf) bool) bool {
	switch v := n.(type) {
	case *Leaf:
		return yield(v)
	case *inner:
		return walk(v.child[0], yield) && walk(v.child[1], yield)
	}
	return true
}
