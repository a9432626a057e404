package distribution_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
)

// keys is trust metadata at a version.
type keys struct{ root, keyset uint64 }

func (k *keys) RootVersion() uint64   { return k.root }
func (k *keys) KeysetVersion() uint64 { return k.keyset }
func (k *keys) Metadata(root, keyset uint64) *trustv1.Metadata {
	return &trustv1.Metadata{Keyset: fmt.Appendf(nil, "from %d.%d to %d.%d", root, keyset, k.root, k.keyset)}
}

func TestTrustMetadataComesBeforeTheManifestThatNeedsIt(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.desk.offer.Trust = &keys{root: 1, keyset: 1}
		trie := feedtest.Trie(3, 100)
		l.publish(feedtest.At(1, 1), trie)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		// Without a wake in between: the change of content is what the writer notices.
		l.desk.mu.Lock()
		l.desk.offer.Trust = &keys{root: 1, keyset: 2}
		l.desk.mu.Unlock()
		l.publish(feedtest.At(1, 2), trie.Delete(feedtest.Key("r00001")))
		synctest.Wait()
		if got := fmt.Sprint(n.log); got != "[accepted trust update trust update]" {
			t.Errorf("got %s", got)
		}
		if got := string(n.trusts[1].GetKeyset()); got != "from 1.1 to 1.2" {
			t.Errorf("the second metadata is %q, want only what the node lacks", got)
		}
	})
}

func TestTrustMetadataPassesASnapshotOnItsWay(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.desk.offer.Trust = &keys{root: 1, keyset: 1}
		l.publish(feedtest.At(1, 1), feedtest.Trie(8000, 1024)) // eight chunks
		conn := l.conn()
		defer conn.Close()
		s := l.open(t.Context(), conn, &controlv1.Hello{Node: "n1", RootVersion: 1, KeysetVersion: 1})
		synctest.Wait() // the writer waits for room, in the middle of the snapshot
		l.desk.change(func(o *distribution.Offer) { o.Trust = &keys{root: 1, keyset: 2} })
		after := 0
		for last := false; !last; {
			m, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if u := m.GetUpdate(); u != nil {
				last = u.GetChunk()+1 == u.GetChunks()
				if after > 0 {
					after++
				}
			}
			if m.GetTrust() != nil {
				after = 1
			}
		}
		if after < 2 {
			t.Error("the metadata waited for the whole snapshot")
		}
		_ = s.CloseSend()
		_, _ = drainUntilEnd(s)
	})
}

func TestNodeAheadIsNeverServedOlderContent(t *testing.T) {
	bubble(t, distribution.ServerConfig{BehindWait: 5 * time.Second, Hubs: func() []string { return []string{"hub2:1"} }}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(3, 10), feedtest.Trie(3, 100))
		n := &node{name: "n1", trie: feedtest.Trie(2, 100), has: true, at: feedtest.At(3, 12), highest: feedtest.At(4, 1)}
		leave := l.join(n)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		leave()
		if len(n.updates) != 0 || len(n.fresh) != 0 {
			t.Errorf("got %d updates and %d freshness statements of an older version", len(n.updates), len(n.fresh))
		}
		if len(n.notices) == 0 || n.notices[0].GetCode() != string(fault.CodeBehind) || fmt.Sprint(n.notices[0].GetHubs()) != "[hub2:1]" {
			t.Errorf("was told %v, want where to go", n.notices)
		}
	})
}

func TestHubThatCatchesUpServesTheNodeThatWaited(t *testing.T) {
	bubble(t, distribution.ServerConfig{BehindWait: 5 * time.Second}, func(t *testing.T, l *lab) {
		n := &node{name: "n1", trie: feedtest.Trie(2, 100), has: true, at: feedtest.At(4, 1), highest: feedtest.At(4, 1)}
		defer l.join(n)()
		time.Sleep(4 * time.Second)
		l.publish(feedtest.At(4, 2), feedtest.Trie(3, 100))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n.root() != feedtest.Trie(3, 100).Root() || len(n.notices) != 0 {
			t.Errorf("the node was not served: %v", n.notices)
		}
	})
}

func TestMoveToAnotherViewIsADelta(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		history := feed.NewHistory(0, 0)
		l.feed = feed.New(feedtest.View, feed.Options{History: history, Metrics: l.metrics.Feeds})
		l.desk.offer.Feed = l.feed
		trie := feedtest.Trie(100, 1024)
		l.publish(feedtest.At(1, 1), trie)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		narrow := feed.New("view-b", feed.Options{History: history, Metrics: l.metrics.Feeds})
		v := feedtest.Version(feedtest.At(1, 2), trie.Delete(feedtest.Key("r00009")))
		v.View = "view-b"
		if err := narrow.Publish(v); err != nil {
			t.Fatal(err)
		}
		l.desk.change(func(o *distribution.Offer) {
			o.Feed = narrow
			o.Accepted = &controlv1.Accepted{Hub: "hub1", Domain: feedtest.Domain, View: "view-b"}
		})
		synctest.Wait()
		if got := fmt.Sprint(n.log); got != "[accepted update accepted update]" {
			t.Errorf("got %s", got)
		}
		if s, d := n.snapshotsAndDeltas(); s != 1 || d != 1 {
			t.Errorf("%d snapshots and %d deltas, want the move as a delta", s, d)
		}
		if l.feed.Followers() != 0 || narrow.Followers() != 1 {
			t.Errorf("%d streams follow the old view and %d the new", l.feed.Followers(), narrow.Followers())
		}
	})
}

func TestIdleStreamHasNoWriter(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		if l.server.Streams() != 1 || l.server.Writing() != 0 {
			t.Errorf("the writers of %d of %d streams run although there is nothing to send", l.server.Writing(), l.server.Streams())
		}
	})
}

func TestSessionIsClosedOnceWithTheNodesReports(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		n := &node{name: "n1"}
		leave := l.join(n)
		synctest.Wait()
		n.client.Report(&controlv1.Status{Phase: controlv1.Phase_PHASE_STAGING})
		n.client.Report(&controlv1.Status{Phase: controlv1.Phase_PHASE_ACTIVE})
		synctest.Wait()
		leave()
		synctest.Wait()
		v := l.desk.visit("n1")
		if len(v.acks) != 1 || v.closed != 1 || !errors.Is(v.cause, fault.CodeCanceled) {
			t.Errorf("%d acks; closed %d times for %v", len(v.acks), v.closed, v.cause)
		}
		if len(v.status) == 0 || v.status[len(v.status)-1].GetPhase() != controlv1.Phase_PHASE_ACTIVE {
			t.Errorf("reports %v, want the newest to arrive", v.status)
		}
	})
}

func TestAttachErrorReachesTheNode(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.desk.fail = fault.New(fault.CodeStreamLimit, "too many views")
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		n.with(func() {
			if len(n.disconnects) != 1 || !errors.Is(n.disconnects[0], fault.CodeStreamLimit) {
				t.Errorf("the node was told %v", n.disconnects)
			}
		})
	})
}

func TestClientGoesToAnotherHubWhenOneIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newLab(t, distribution.ServerConfig{}), newLab(t, distribution.ServerConfig{})
		defer two.stop()
		for _, l := range []*lab{one, two} {
			l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		}
		n := &node{name: "n1"}
		c, err := subscriber.New(subscriber.Config{Hubs: []string{"one:1", "two:1"}, Handler: n, DialOptions: twoHubs(one, two)})
		if err != nil {
			t.Fatal(err)
		}
		n.client = c
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		one.stop()
		next := feedtest.Trie(3, 100).Delete(feedtest.Key("r00002"))
		two.publish(feedtest.At(1, 2), next)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n.root() != next.Root() {
			t.Error("the node did not get the change from the hub that lives")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

// twoHubs dials one of two labs by name.
func twoHubs(one, two *lab) []grpc.DialOption {
	return append(one.dialOptions(), grpc.WithContextDialer(dialer(map[string]*lab{"one:1": one, "two:1": two})))
}
