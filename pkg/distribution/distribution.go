// Package distribution brings a view's versions to the nodes that should have
// them, over the bidirectional stream of meshkit.control.v1 (docs/protocol.md).
//
//   - A feed (package feed) holds the published versions of one view: the current one,
//     tries of earlier ones to compute deltas from, and the encoded frames, each made
//     once and shared by all streams.
//   - A Server serves streams: it knows for each only a cursor, never a queue, so
//     a slow reader gets one coalesced delta when it is ready again. A Backend
//     decides which feed a node follows; the hub has one, and so has an agent that
//     re-serves to local processes.
//   - A node's side is package subscriber: a client that keeps a stream to one of several
//     hubs, and what an update leads to.
//
// Order: (epoch, version), lexicographic. Nothing here ever sends, publishes or
// applies content below what the other side already has.
//
// A Server is safe for concurrent use. The only goroutines that outlive a call are
// those that write, while there is something to write; Server.Close waits for them.
package distribution

import (
	"context"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/identity"
)

// Protocol is the revision of the control protocol that both ends speak.
const Protocol = "v1"

// Peer is the other end of a stream.
type Peer struct {
	// ID is the identity in the client certificate. It is zero on a local socket,
	// where the hello's node name is taken as it is.
	ID identity.ID
	// Address is the network address, for people.
	Address string
}

// Backend decides what a node is given. Implementations are safe for concurrent use.
type Backend interface {
	// Attach opens a session for a node whose hello is valid and whose identity is
	// checked. It may take time (a view may have to be built) and ends with ctx, which
	// is the stream's. wake tells the stream that Offer has changed; it never blocks,
	// may be called at any time, also before Attach returns and after Close, and from
	// any goroutine. An error ends the stream and reaches the node with its code.
	//
	// A node has one session at a time: the one before is closed before the next
	// Attach.
	Attach(ctx context.Context, peer Peer, hello *controlv1.Hello, wake func()) (Session, error)
}

// Session is what a Backend knows of one stream. The server calls Acked, Nacked,
// Reported and Close one at a time, and Offer from another goroutine at any moment,
// a last time perhaps just after Close. None may call back into the server, but for
// wake.
type Session interface {
	// Offer gives what the node should have now. It is a level, asked for again after
	// each wake and between messages, so it must be cheap: load a pointer.
	Offer() Offer
	// Acked: a version (and all before it) is active on the node.
	Acked(*controlv1.Ack)
	// Nacked: a version was refused or reverted.
	Nacked(*controlv1.Nack)
	// Reported: live facts.
	Reported(*controlv1.Status)
	// Close is called once, at the end; no report follows it. cause is nil when
	// the node closed the stream in order.
	Close(cause error)
}

// Offer is what a node should have.
type Offer struct {
	// Accepted is sent first, and again whenever this pointer differs from the one
	// before. The server fills in Protocol, and Limits and backoff when they are unset.
	Accepted *controlv1.Accepted
	// Feed is the view that the node follows; it may change at any time. Nil: nothing
	// to send yet.
	Feed *feed.Feed
	// Trust is the trust metadata that manifests of Feed may need; nil: none.
	Trust Trust
}

// Trust gives what a node lacks of trust metadata. It is immutable, and compared by
// identity to encode what many nodes lack once: a pointer, like *trust.Anchors.
type Trust interface {
	RootVersion() uint64
	KeysetVersion() uint64
	// Metadata gives everything after these versions.
	Metadata(sinceRoot, sinceKeyset uint64) *trustv1.Metadata
}
