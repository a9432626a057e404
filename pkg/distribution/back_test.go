package distribution_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
)

// TestOnlyAServerThatGoesBackTakesItsNodesBack replaces the feed by one that is
// behind, as an agent does that went back to an earlier generation.
func TestOnlyAServerThatGoesBackTakesItsNodesBack(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprintf("back %v", back), func(t *testing.T) {
			bubble(t, distribution.ServerConfig{Back: back}, func(t *testing.T, l *lab) {
				older, newer := feedtest.Trie(3, 100), feedtest.Trie(4, 100)
				l.publish(feedtest.At(1, 1), older)
				n := &node{name: "proxy", goesBack: true}
				defer l.join(n)()
				l.publish(feedtest.At(1, 2), newer)
				synctest.Wait()
				if n.root() != newer.Root() {
					t.Fatal("the newer content did not come")
				}
				l.feed = feed.New(feedtest.View, feed.Options{History: l.history, Metrics: l.metrics.Feeds})
				l.publish(feedtest.At(1, 1), older)
				l.desk.change(func(o *distribution.Offer) { o.Feed = l.feed })
				synctest.Wait()
				want := newer
				if back {
					want = older
				}
				if n.root() != want.Root() {
					t.Errorf("the node has %s, want %s", n.root(), want.Root())
				}
				if !back {
					return
				}
				if u := n.updates[len(n.updates)-1]; u.Snapshot {
					t.Error("the way back is a snapshot, not a delta")
				}
				again := feedtest.Trie(5, 100)
				l.publish(feedtest.At(1, 3), again)
				synctest.Wait()
				if n.root() != again.Root() {
					t.Error("the node does not go on from where it went back to")
				}
			})
		})
	}
}
