package distribution

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
)

func hashOf(n int) digest.Hash { return digest.Hash{byte(n + 1), byte((n + 1) >> 8)} }

// pair is a cursor and a node joined by two lossless, ordered pipes: what a stream is.
type pair struct {
	cursor  cursor
	target  int // newest published content
	version uint64

	down []sentUpdate
	up   []report

	node    digest.Hash
	empty   bool // the node has nothing
	resync  bool // the node waits for a snapshot
	refuses map[digest.Hash]bool
}

// aim is a target that the one key signed.
func aim(at feed.Point, content int) target {
	return target{point: at, digest: hashOf(content), signer: "key-1"}
}

type sentUpdate struct {
	mark
	base    digest.Hash
	hasBase bool
}

type report struct {
	point  feed.Point
	digest digest.Hash
	nack   bool
	resync bool
}

func (p *pair) at() feed.Point { return feedtest.At(1, p.version) }

func (p *pair) publish(content int) {
	p.version++
	p.target = content
}

func (p *pair) write() {
	if p.cursor.next(aim(p.at(), p.target)) == stepSend {
		u := sentUpdate{base: p.cursor.base, hasBase: p.cursor.hasBase}
		u.mark = mark{target: aim(p.at(), p.target), snapshot: !u.hasBase}
		p.cursor.sent(u.target, u.snapshot)
		p.down = append(p.down, u)
	}
}

// deliver lets the node handle the oldest update on its way.
func (p *pair) deliver() {
	if len(p.down) == 0 {
		return
	}
	u := p.down[0]
	p.down = p.down[1:]
	if u.snapshot {
		p.resync = false
	}
	if p.resync {
		return
	}
	switch {
	case u.hasBase && (p.empty || u.base != p.node):
		p.resync = true
		p.up = append(p.up, report{point: u.point, digest: u.digest, nack: true, resync: true})
	case p.refuses[u.digest]:
		p.up = append(p.up, report{point: u.point, digest: u.digest, nack: true})
	default:
		p.node, p.empty = u.digest, false
		p.up = append(p.up, report{point: u.point, digest: u.digest})
	}
}

// hear lets the hub handle the oldest report.
func (p *pair) hear() {
	if len(p.up) == 0 {
		return
	}
	r := p.up[0]
	p.up = p.up[1:]
	if r.nack {
		p.cursor.nack(r.point, r.digest, r.resync)
	} else {
		p.cursor.ack(r.point, r.digest)
	}
}

// TestCursorBringsTheNodeToTheNewestThatItTakes plays random interleavings and checks
// that at most a window is on its way, that nothing goes back, and that once all is
// quiet the node has the newest content, or has refused it.
func TestCursorBringsTheNodeToTheNewestThatItTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pair{empty: true, refuses: map[digest.Hash]bool{hashOf(3): true, hashOf(4): true}}
		p.publish(0)
		last := feed.Point{}
		moves := rapid.SliceOfN(rapid.IntRange(0, 4), 1, 80).Draw(t, "moves")
		for _, move := range moves {
			switch move {
			case 0:
				p.publish(rapid.IntRange(0, 6).Draw(t, "content"))
			case 1:
				p.write()
			case 2:
				p.deliver()
			case 3:
				p.hear()
			case 4: // the node loses what it holds, as after a revert that nobody hears of
				if rapid.IntRange(0, 9).Draw(t, "lose") == 0 {
					p.node = hashOf(99)
				}
			}
			if len(p.cursor.flight) > window {
				t.Fatalf("%d updates on their way", len(p.cursor.flight))
			}
			if len(p.down) > 0 {
				if at := p.down[len(p.down)-1].point; at.Compare(last) < 0 {
					t.Fatalf("sent %s after %s", at, last)
				} else {
					last = at
				}
			}
		}
		p.publish(5) // a change makes the hub send, whatever was lost
		p.version++
		for range 30 {
			p.write()
			p.deliver()
			p.hear()
		}
		p.publish(6)
		for range 30 {
			p.write()
			p.deliver()
			p.hear()
		}
		if p.node != hashOf(6) || p.empty {
			t.Fatalf("the node holds %s, the newest is %s; cursor %+v", p.node, hashOf(6), p.cursor)
		}
		if len(p.down)+len(p.up)+len(p.cursor.flight) > 0 {
			t.Fatalf("not quiet: %d down, %d up, %d in flight", len(p.down), len(p.up), len(p.cursor.flight))
		}
	})
}

func TestCursorIgnoresAcksOfWhatWasNotSent(t *testing.T) {
	var c cursor
	c.sent(aim(feedtest.At(1, 1), 1), true)
	if c.ack(feedtest.At(9, 9), hashOf(7)) {
		t.Error("took an ack of content that was never sent")
	}
	if !c.ack(feedtest.At(1, 1), hashOf(1)) || c.ack(feedtest.At(1, 0), hashOf(1)) {
		t.Error("an ack counts, an older one after it does not")
	}
}

func TestCursorAfterARevertFollowsTheStatus(t *testing.T) {
	var c cursor
	c.resume(hashOf(1), true, feedtest.At(1, 1), feedtest.At(1, 1))
	c.sent(aim(feedtest.At(1, 2), 2), false)
	c.ack(feedtest.At(1, 2), hashOf(2))
	if !c.nack(feedtest.At(1, 2), hashOf(2), false) {
		t.Fatal("a revert of acked content is not heeded")
	}
	if got := c.next(aim(feedtest.At(1, 2), 2)); got != stepHeld {
		t.Errorf("reverted content is %d, want held", got)
	}
	c.active(hashOf(1))
	if c.next(aim(feedtest.At(1, 3), 3)) != stepSend || !c.hasBase || c.base != hashOf(1) {
		t.Error("the next version is not a delta from what the node went back to")
	}
}

// What was refused may have been refused for the key that signed it.
func TestRefusedContentIsSentAgainWhenAnotherKeyHasSignedIt(t *testing.T) {
	var c cursor
	c.resume(hashOf(1), true, feedtest.At(1, 1), feedtest.At(1, 1))
	c.sent(aim(feedtest.At(1, 2), 2), false)
	c.nack(feedtest.At(1, 2), hashOf(2), false)
	if got := c.next(aim(feedtest.At(1, 3), 2)); got != stepHeld {
		t.Errorf("by the same key: %d, want held", got)
	}
	again := aim(feedtest.At(1, 3), 2)
	again.signer = "key-2"
	if got := c.next(again); got != stepSend {
		t.Fatalf("by another key: %d, want sent", got)
	}
	c.sent(again, false)
	c.nack(again.point, again.digest, false)
	if got := c.next(again); got != stepHeld {
		t.Errorf("refused again: %d, want held", got)
	}
}

// A node that refused for a reason of its own, as a full disk, may try again by itself.
func TestAnAckOfWhatWasRefusedCounts(t *testing.T) {
	var c cursor
	c.resume(hashOf(1), true, feedtest.At(1, 1), feedtest.At(1, 1))
	c.sent(aim(feedtest.At(1, 2), 2), false)
	c.nack(feedtest.At(1, 2), hashOf(2), false)
	if !c.ack(feedtest.At(1, 2), hashOf(2)) {
		t.Fatal("the ack is not heeded")
	}
	if got := c.next(aim(feedtest.At(1, 2), 2)); got != stepNone || c.base != hashOf(2) || c.isHeld {
		t.Errorf("then it is %d, held %t, from another base: %t", got, c.isHeld, c.base != hashOf(2))
	}
}

func TestRefusedSnapshotIsNotFollowedByAnother(t *testing.T) {
	var c cursor
	c.resume(hashOf(1), true, feedtest.At(1, 1), feedtest.At(1, 1))
	c.sent(aim(feedtest.At(1, 2), 2), false)
	c.nack(feedtest.At(1, 2), hashOf(2), true)
	if c.next(aim(feedtest.At(1, 2), 2)) != stepSend || c.hasBase {
		t.Fatal("a delta that did not fit is not followed by a snapshot")
	}
	c.sent(aim(feedtest.At(1, 2), 2), true)
	c.nack(feedtest.At(1, 2), hashOf(2), true)
	if got := c.next(aim(feedtest.At(1, 2), 2)); got != stepHeld {
		t.Errorf("after a refused snapshot: %d, want held", got)
	}
}
