package feed

import (
	"cmp"
	"fmt"
	"time"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
)

// Point is a place in a domain's order of versions.
type Point struct{ Epoch, Version uint64 }

// Compare orders points: by epoch, then by version.
func (p Point) Compare(q Point) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Version, q.Version))
}

// String is "epoch.version", as people see it.
func (p Point) String() string { return fmt.Sprintf("%d.%d", p.Epoch, p.Version) }

// Version is one published version of a view. It is not modified once published.
type Version struct {
	Epoch, Version uint64
	// View is the id of the view class.
	View string
	// Trie is the content; its root is the digest that Manifest states.
	Trie *digest.Trie
	// Manifest is the signed manifest, passed on byte for byte.
	Manifest *trustv1.Envelope
	// Vouch is a freshness statement for the same content by a key of a newer keyset,
	// for when the manifest's key has left it; nil: none.
	Vouch *trustv1.Envelope
	// Required lists the capabilities that a node needs for it, sorted.
	Required []string
	// Traceparent is the W3C trace context of the change, or "".
	Traceparent string
	// At is when the version was published, for propagation times.
	At time.Time
}

// Point gives the version's place in the order.
func (v Version) Point() Point { return Point{Epoch: v.Epoch, Version: v.Version} }
