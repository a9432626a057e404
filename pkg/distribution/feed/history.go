package feed

import (
	"container/list"
	"sync"

	"github.com/meshkit/meshkit/pkg/digest"
)

// Default bounds of a History.
const (
	DefaultHistoryVersions = 1024
	DefaultHistoryBytes    = 64 << 20
)

// nodeOverhead is what a resource costs in a trie beside its content, and what
// each level of a changed path costs, in bytes: an estimate for the bound.
const nodeOverhead = 200

// History keeps the tries of versions that are no longer current, by digest, so
// that a node which has one of them can be given a delta. The feeds of a domain
// share one: when a node moves to another view, as when its capabilities change, the
// delta is computed from the view it had.
//
// It is bounded in versions and in bytes (an estimate of what only history keeps
// alive); the oldest go first. A node whose base is gone gets a snapshot.
type History struct {
	maxVersions int
	maxBytes    int64

	mu    sync.Mutex // guards all below
	tries map[digest.Hash]*list.Element
	order *list.List // of *shelved, oldest first
	bytes int64
}

type shelved struct {
	digest digest.Hash
	trie   *digest.Trie
	cost   int64
}

// NewHistory makes a history with these bounds; 0 means the default.
func NewHistory(maxVersions int, maxBytes int64) *History {
	if maxVersions <= 0 {
		maxVersions = DefaultHistoryVersions
	}
	if maxBytes <= 0 {
		maxBytes = DefaultHistoryBytes
	}
	return &History{maxVersions: maxVersions, maxBytes: maxBytes, tries: make(map[digest.Hash]*list.Element), order: list.New()}
}

// put keeps t, which costs so many bytes beyond what other versions share.
func (h *History) put(t *digest.Trie, cost int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	root := t.Root()
	if e, ok := h.tries[root]; ok {
		h.order.MoveToBack(e)
		return
	}
	h.tries[root] = h.order.PushBack(&shelved{digest: root, trie: t, cost: cost})
	h.bytes += cost
	for h.order.Len() > h.maxVersions || (h.bytes > h.maxBytes && h.order.Len() > 0) {
		oldest := h.order.Remove(h.order.Front()).(*shelved)
		delete(h.tries, oldest.digest)
		h.bytes -= oldest.cost
	}
}

// Recall keeps t, an older version of what newer is, as if it had been published.
func (h *History) Recall(t, newer *digest.Trie) { h.put(t, stepCost(newer, t)) }

// Has tells whether the content with this root is kept.
func (h *History) Has(root digest.Hash) bool {
	_, ok := h.get(root)
	return ok
}

// get finds the trie with this root.
func (h *History) get(root digest.Hash) (*digest.Trie, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.tries[root]
	if !ok {
		return nil, false
	}
	return e.Value.(*shelved).trie, true
}

// Len gives the number of versions kept, and Bytes what they are estimated to hold.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.order.Len()
}

// Bytes gives the estimated memory that only history keeps alive.
func (h *History) Bytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}
