package distribution

import (
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
)

// window is how many updates may be on their way to a node without an ack. The
// first change goes at once; a node that is behind by this many gets the next one
// when it acks, with everything in between coalesced.
const window = 4

// cursor is all that a server knows of where a node is: a pure value, driven by
// the stream that owns it. base is the digest that the node holds once it has
// applied everything sent so far.
type cursor struct {
	back bool // the node follows this server also to earlier points

	base    digest.Hash
	hasBase bool // false: only a snapshot helps

	floor feed.Point // the highest point that the node has or was sent: nothing below it is sent
	acked feed.Point // the highest point acked

	ackedDigest digest.Hash // content of the newest ack, or of the hello
	hasAcked    bool

	flight []mark // sent, not acked, oldest first; at most window

	// held was refused by the node: it is not sent again while it is the target. What
	// another key has signed since is: the key may be what was wrong. Without a signer it
	// is held whoever signs, for it has been active.
	held   target
	isHeld bool
}

// target is what a node should have.
type target struct {
	point  feed.Point
	digest digest.Hash
	signer string // key id of the manifest
}

// targetOf gives what is published as a target.
func targetOf(p *feed.Published) target { return target{p.Point(), p.Digest, p.Signer} }

// mark is an update on its way.
type mark struct {
	target
	snapshot bool
}

// step says what to do about a published version.
type step uint8

const (
	stepNone    step = iota // the node has it, or will when it has applied what is on its way
	stepSend                // send an update from base, or a snapshot without one
	stepWindow              // wait for an ack
	stepHeld                // the node refused it
	stepMissing             // nothing published, or it is below what the node has
)

// resume sets the cursor to what a hello says. base: digest of the active content.
func (c *cursor) resume(base digest.Hash, has bool, active, highest feed.Point) {
	c.base, c.hasBase = base, has
	c.ackedDigest, c.hasAcked, c.acked = base, has, active
	c.floor = highest
	if active.Compare(highest) > 0 {
		c.floor = active
	}
}

// next decides about a version.
func (c *cursor) next(t target) step {
	switch {
	case !c.back && t.point.Compare(c.floor) < 0:
		return stepMissing
	case c.hasBase && c.base == t.digest:
		return stepNone
	case c.isHeld && c.held.digest == t.digest && (c.held.signer == "" || c.held.signer == t.signer):
		return stepHeld
	case len(c.flight) >= window:
		return stepWindow
	}
	return stepSend
}

// sent records that an update to t is on its way.
func (c *cursor) sent(t target, snapshot bool) {
	c.base, c.hasBase, c.floor, c.isHeld = t.digest, true, t.point, false
	c.flight = append(c.flight, mark{target: t, snapshot: snapshot})
}

// ack takes a cumulative ack and tells whether it means anything: it names content
// that the node was sent or came with, at or above the last ack. It may be what the node
// refused, and has activated since by itself, as when its disk was full.
func (c *cursor) ack(point feed.Point, d digest.Hash) bool {
	if !c.back && point.Compare(c.acked) < 0 {
		return false
	}
	known := c.hasBase && d == c.base || c.hasAcked && d == c.ackedDigest || c.isHeld && d == c.held.digest
	upTo := 0
	for i, m := range c.flight {
		if m.point.Compare(point) <= 0 {
			upTo = i + 1
		}
		known = known || m.digest == d
	}
	if !known {
		return false
	}
	c.flight = c.flight[upTo:]
	c.acked, c.ackedDigest, c.hasAcked = point, d, true
	c.isHeld = c.isHeld && c.held.digest != d
	if len(c.flight) == 0 {
		c.flight = nil
		c.base, c.hasBase = d, true
	}
	return true
}

// nack takes a refusal and tells whether it is of something that the node was sent
// or had acked. A refusal with resync is always heeded: a node that waits for a
// snapshot takes nothing else. Only a refused snapshot is not followed by another.
func (c *cursor) nack(point feed.Point, d digest.Hash, resync bool) bool {
	at := -1
	for i, m := range c.flight {
		// By point: the digest is what the manifest states, and that may be what is wrong.
		if m.point == point && (at < 0 || m.digest == d) {
			at = i
		}
	}
	if at < 0 {
		reverted := c.hasAcked && c.ackedDigest == d
		if reverted && !resync {
			// What the node went back to, its status will say.
			c.hasBase, c.hasAcked = false, false
			c.hold(target{digest: d})
		}
		if resync {
			c.flight, c.hasBase = nil, false
		}
		return reverted || resync
	}
	refused := c.flight[at]
	c.flight = c.flight[at+1:]
	if resync { // what follows on the refused delta does not fit either
		c.flight, c.hasBase = nil, false
	}
	if !resync || refused.snapshot {
		c.hold(refused.target)
	}
	if !resync && len(c.flight) == 0 {
		c.base, c.hasBase = c.ackedDigest, c.hasAcked
	}
	return true
}

func (c *cursor) hold(t target) { c.held, c.isHeld = t, true }

// active takes the active content that a status reports: where nothing is on its
// way, that is the base, whatever was thought before. It tells whether that changed
// anything.
func (c *cursor) active(d digest.Hash) bool {
	if len(c.flight) > 0 || c.hasBase && c.base == d {
		return false
	}
	c.base, c.hasBase = d, true
	c.ackedDigest, c.hasAcked = d, true
	return true
}
