package distribution_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
)

func TestEncodedOnceForTwoHundredStreams(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		base := feedtest.Trie(100, 1024)
		l.publish(feedtest.At(1, 1), base)
		var nodes []*node
		for i := range 200 {
			n := &node{name: fmt.Sprintf("n%03d", i)}
			defer l.join(n)()
			nodes = append(nodes, n)
		}
		synctest.Wait()
		next := base.Set(feedtest.Key("r00007"), feedtest.Resource("r00007", 1, 1024))
		l.publish(feedtest.At(1, 2), next)
		synctest.Wait()
		for _, n := range nodes {
			if n.root() != next.Root() {
				t.Fatalf("%s holds %s, want %s", n.name, n.root(), next.Root())
			}
		}
		// Two pairs: (nothing, 1.1) as one chunk, and (1.1, 1.2).
		if got := l.count("frames_encoded_total", ""); got != 2 {
			t.Errorf("%v frames encoded for 200 streams, want 2", got)
		}
		if got := l.count("messages_sent_total", "update"); got != 400 {
			t.Errorf("%v updates sent, want 400", got)
		}
	})
}

// snapshotsAndDeltas gives how many updates of each sort n got.
func (n *node) snapshotsAndDeltas() (snapshots, deltas int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range n.updates {
		if u.Snapshot {
			snapshots++
		} else {
			deltas++
		}
	}
	return snapshots, deltas
}

func TestResumeByDelta(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(100, 1024)
		l.publish(feedtest.At(1, 1), trie)
		n := &node{name: "n1"}
		leave := l.join(n)
		synctest.Wait()
		leave()
		for v := range 10 {
			trie = trie.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", v+1, 1024))
			l.publish(feedtest.At(1, uint64(v)+2), trie)
		}
		defer l.join(n)()
		synctest.Wait()
		if s, d := n.snapshotsAndDeltas(); s != 1 || d != 1 {
			t.Errorf("got %d snapshots and %d deltas, want the first snapshot and one delta", s, d)
		}
		if got := len(n.updates[1].Upserts); got != 1 || n.updates[1].Bytes > 2048 {
			t.Errorf("the delta has %d upserts and %d bytes, want one of about 1 KiB", got, n.updates[1].Bytes)
		}
		if n.root() != trie.Root() {
			t.Error("the node is not at the newest version")
		}
	})
}

func TestResumeFromForgottenBaseBySnapshot(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		n := &node{name: "n1", trie: feedtest.Trie(3, 100).Set(feedtest.Key("other"), feedtest.Resource("other", 1, 100)), has: true, at: feedtest.At(1, 1), highest: feedtest.At(1, 1)}
		l.publish(feedtest.At(1, 5), feedtest.Trie(3, 100))
		defer l.join(n)()
		synctest.Wait()
		if s, d := n.snapshotsAndDeltas(); s != 1 || d != 0 {
			t.Errorf("got %d snapshots and %d deltas, want one snapshot", s, d)
		}
	})
}

func TestUpToDateNodeGetsNoContent(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(3, 100)
		n := &node{name: "n1", trie: trie, has: true, at: feedtest.At(1, 1), highest: feedtest.At(1, 1)}
		l.publish(feedtest.At(1, 1), trie)
		l.publish(feedtest.At(2, 9), trie) // the version moves, the content does not
		if err := l.feed.Freshness(feedtest.Freshness(feedtest.At(2, 9), trie.Root())); err != nil {
			t.Fatal(err)
		}
		defer l.join(n)()
		synctest.Wait()
		if fmt.Sprint(n.log) != "[accepted freshness]" {
			t.Errorf("got %v, want the statement that says where the node is, and nothing else", n.log)
		}
	})
}

func TestSlowReaderIsCoalesced(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(200, 1024)
		l.publish(feedtest.At(1, 1), trie)
		fast, slow := &node{name: "fast"}, &node{name: "slow"}
		defer l.join(fast)()
		defer l.join(slow)()
		synctest.Wait()
		slow.with(func() { slow.silent = true })
		for v := range 100 {
			trie = trie.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", v+1, 1024))
			l.publish(feedtest.At(1, uint64(v)+2), trie)
			synctest.Wait()
		}
		if got := len(slow.updates) - 1; got != distribution.Window {
			t.Errorf("%d updates sent to a node that acks nothing, want the window of %d", got, distribution.Window)
		}
		slow.comeToItsSenses()
		synctest.Wait()
		if slow.root() != trie.Root() || fast.root() != trie.Root() {
			t.Fatal("a node is not at the newest version")
		}
		if got := len(fast.updates) - 1; got != 100 {
			t.Errorf("the fast node got %d updates, want each of 100", got)
		}
		bytes := func(n *node) (sum int) {
			for _, u := range n.updates[1:] {
				sum += u.Bytes
			}
			return sum
		}
		share := float64(bytes(slow)) / float64(bytes(fast))
		if share > 0.12 {
			t.Errorf("100 changes cost the slow node %.1f %% of 100 frames, want at most 12 %%", 100*share)
		}
		t.Logf("slow node: %d bytes, %.1f %% of 100 frames", bytes(slow), 100*share)
		if got := l.count("coalesced_total", ""); got < 90 {
			t.Errorf("%v versions counted as coalesced, want at least 90", got)
		}
	})
}

func TestAckOpensTheWindowForTheNewestOnly(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(20, 64)
		l.publish(feedtest.At(1, 1), trie)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		n.with(func() { n.silent = true })
		for v := range 20 {
			trie = trie.Set(feedtest.Key(fmt.Sprintf("r%05d", v)), feedtest.Resource(fmt.Sprintf("r%05d", v), 1, 64))
			l.publish(feedtest.At(1, uint64(v)+2), trie)
			synctest.Wait()
		}
		n.comeToItsSenses()
		synctest.Wait()
		if last := n.updates[len(n.updates)-1]; len(last.Upserts) != 20-distribution.Window {
			t.Errorf("the coalesced delta has %d upserts, want %d", len(last.Upserts), 20-distribution.Window)
		}
		if n.root() != trie.Root() {
			t.Error("the node is not at the newest version")
		}
	})
}

func TestRefusedContentIsHeldUntilItChanges(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		good := feedtest.Trie(10, 200)
		l.publish(feedtest.At(1, 1), good)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		foreign := feedtest.Version(feedtest.At(1, 2), good.Delete(feedtest.Key("r00001")))
		var m trustv1.Manifest
		if err := proto.Unmarshal(foreign.Manifest.Payload, &m); err != nil {
			t.Fatal(err)
		}
		m.Domain = "elsewhere"
		foreign.Manifest.Payload, _ = proto.Marshal(&m)
		if err := l.feed.Publish(foreign); err != nil {
			t.Fatal(err)
		}
		for range 50 { // each of these wakes the stream
			if err := l.feed.Freshness(feedtest.Freshness(feedtest.At(1, 2), foreign.Trie.Root())); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if got := len(n.updates); got != 2 {
			t.Errorf("%d updates sent, want the good one and the foreign one, once", got)
		}
		if got := l.desk.visit("n1").nacks; len(got) != 1 || got[0].GetMessage() != "wrong domain" {
			t.Errorf("the backend heard %v, want one nack", got)
		}
		next := good.Set(feedtest.Key("r00002"), feedtest.Resource("r00002", 7, 200))
		l.publish(feedtest.At(1, 3), next)
		synctest.Wait()
		if n.root() != next.Root() {
			t.Error("the node did not get the next version")
		}
		if s, _ := n.snapshotsAndDeltas(); s != 1 {
			t.Errorf("%d snapshots sent, want the first only: the node still has its base", s)
		}
	})
}

func TestLyingManifestIsAnsweredByOneSnapshotThenHeld(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		good := feedtest.Trie(10, 200)
		l.publish(feedtest.At(1, 1), good)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		lie := feedtest.Version(feedtest.At(1, 2), good.Delete(feedtest.Key("r00001")))
		lie.Manifest = feedtest.Version(feedtest.At(1, 2), good.Delete(feedtest.Key("r00002")).Set(feedtest.Key("r00003"), feedtest.Resource("r00003", 1, 200))).Manifest
		// The manifest's digest is not the content's; the nack names the manifest's.
		if err := l.feed.Publish(lie); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			l.desk.change(func(*distribution.Offer) {})
			synctest.Wait()
		}
		if got := len(n.updates) - 1; got > 2 {
			t.Errorf("%d updates sent for a version that never fits, want at most a delta and a snapshot", got)
		}
		next := good.Set(feedtest.Key("r00002"), feedtest.Resource("r00002", 7, 200))
		l.publish(feedtest.At(1, 3), next)
		synctest.Wait()
		if n.root() != next.Root() {
			t.Error("the node did not get the next version")
		}
	})
}

func TestDeltaMismatchIsAnsweredBySnapshot(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(10, 200)
		l.publish(feedtest.At(1, 1), trie)
		n := &node{name: "n1"}
		defer l.join(n)()
		synctest.Wait()
		n.with(func() { n.trie = n.trie.Set(feedtest.Key("r00005"), feedtest.Resource("r00005", 99, 200)) }) // as if its memory were hit
		for v := range 3 {
			trie = trie.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", v+1, 200))
			l.publish(feedtest.At(1, uint64(v)+2), trie)
		}
		synctest.Wait()
		if n.root() != trie.Root() {
			t.Error("the node did not recover")
		}
		if n.resyncsAsked != 1 {
			t.Errorf("the node asked %d times for a snapshot, want once", n.resyncsAsked)
		}
		if s, _ := n.snapshotsAndDeltas(); s != 2 {
			t.Errorf("%d snapshots, want the first and one for the resync", s)
		}
	})
}

// A manifest by a key that the node does not believe is refused; the same content by a
// good one is what it waits for.
func TestContentThatAnotherKeyHasSignedIsSentAgain(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		n := &node{name: "n1", refuse: func(m *trustv1.Manifest) bool { return m.GetKeysetVersion() == 0 }}
		defer l.join(n)()
		v := feedtest.Version(feedtest.At(1, 1), feedtest.Trie(10, 200))
		publish := func(key string, keyset uint64) {
			t.Helper()
			var m trustv1.Manifest
			if err := proto.Unmarshal(v.Manifest.GetPayload(), &m); err != nil {
				t.Fatal(err)
			}
			m.KeysetVersion = keyset
			payload, err := proto.Marshal(&m)
			if err != nil {
				t.Fatal(err)
			}
			v.Manifest = &trustv1.Envelope{Payload: payload, PayloadType: v.Manifest.GetPayloadType(), Signatures: []*trustv1.Signature{{KeyId: key}}}
			if err := l.feed.Publish(v); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		publish("key-1", 0)
		publish("key-1", 0)
		n.with(func() {
			if len(n.updates) != 1 || n.has {
				t.Errorf("%d updates, taken: %t; want one that is refused", len(n.updates), n.has)
			}
		})
		publish("key-2", 1)
		n.with(func() {
			if !n.has || n.trie.Root() != v.Trie.Root() {
				t.Errorf("after %d updates the node does not have what another key signed", len(n.updates))
			}
		})
	})
}
