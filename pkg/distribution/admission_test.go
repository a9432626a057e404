package distribution_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/wire"
)

// TestReconnectStormIsAdmittedAtABoundedRate lets 600 nodes come at once, as after
// the restart of a hub that admits 50 a second.
func TestReconnectStormIsAdmittedAtABoundedRate(t *testing.T) {
	const nodes, perSecond, burst = 600, 50, 20
	bubble(t, distribution.ServerConfig{AdmissionRate: perSecond, AdmissionBurst: burst}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		start := time.Now()
		var all []*node
		for i := range nodes {
			n := &node{name: fmt.Sprintf("n%03d", i)}
			defer l.join(n)()
			all = append(all, n)
		}
		time.Sleep(60 * time.Second)
		synctest.Wait()
		var at []time.Duration
		for _, n := range all {
			if n.acceptedAt.IsZero() {
				t.Fatalf("%s was not admitted within a minute", n.name)
			}
			at = append(at, n.acceptedAt.Sub(start))
		}
		slices.Sort(at)
		for i, d := range at {
			if most := burst + perSecond*d.Seconds() + 1; float64(i+1) > most {
				t.Fatalf("%d nodes admitted within %s, more than %.0f", i+1, d, most)
			}
		}
		tries := 0
		for _, n := range all {
			tries += 1 + len(n.waits)
		}
		t.Logf("last admitted after %s (the rate alone takes %d s); %.1f attempts per node", at[nodes-1], (nodes-burst)/perSecond, float64(tries)/nodes)
		if slowest := at[nodes-1]; slowest > 2*(nodes/perSecond)*time.Second {
			t.Errorf("the last node came in after %s: the hints do not spread the nodes", slowest)
		}
		if tries > 4*nodes {
			t.Errorf("%d attempts for %d nodes", tries, nodes)
		}
	})
}

func TestStreamLimitRefusesWithRetryInfo(t *testing.T) {
	bubble(t, distribution.ServerConfig{MaxStreams: 1}, func(t *testing.T, l *lab) {
		conn := l.conn()
		defer conn.Close()
		_ = l.open(t.Context(), conn, &controlv1.Hello{Node: "n1"})
		synctest.Wait()
		_, err := drainUntilEnd(l.open(t.Context(), conn, &controlv1.Hello{Node: "n2"}))
		if !errors.Is(err, fault.CodeStreamLimit) {
			t.Fatalf("ended with %v", err)
		}
		if wait, ok := wire.RetryAfter(err); !ok || wait < 10*time.Second {
			t.Errorf("told to come back after %s", wait)
		}
	})
}

func TestDrainSendsNodesElsewhereAndReturnsWhenAllAreGone(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		var all []*node
		for i := range 20 {
			n := &node{name: fmt.Sprintf("n%03d", i)}
			defer l.join(n)()
			all = append(all, n)
		}
		synctest.Wait()
		if err := l.server.Drain(t.Context(), []string{"hub2:1"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := l.server.Streams(); got != 0 {
			t.Errorf("%d streams left", got)
		}
		waits := map[time.Duration]bool{}
		for _, n := range all {
			n.with(func() {
				if len(n.notices) != 1 || n.notices[0].GetCode() != string(fault.CodeDraining) || fmt.Sprint(n.notices[0].GetHubs()) != "[hub2:1]" {
					t.Errorf("%s was told %v", n.name, n.notices)
				}
				if len(n.disconnects) != 1 || !errors.Is(n.disconnects[0], fault.CodeDraining) {
					t.Errorf("%s ended with %v", n.name, n.disconnects)
				}
				waits[n.waits[0]] = true
			})
		}
		if len(waits) < 15 {
			t.Errorf("20 nodes come back at %d different times: no jitter", len(waits))
		}
		conn := l.conn()
		defer conn.Close()
		if _, err := drainUntilEnd(l.open(t.Context(), conn, &controlv1.Hello{Node: "late"})); !errors.Is(err, fault.CodeDraining) {
			t.Errorf("a new stream ended with %v", err)
		}
	})
}

func TestDrainCutsWhoDoesNotLeave(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		conn := l.conn()
		defer conn.Close()
		_ = l.open(t.Context(), conn, &controlv1.Hello{Node: "deaf"})
		synctest.Wait()
		start := time.Now()
		if err := l.server.Drain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != distribution.EndGrace {
			t.Errorf("drained after %s, want the grace of %s", took, distribution.EndGrace)
		}
	})
}

// certified takes the node's identity from metadata, which stands for a certificate.
func certified(ctx context.Context) (distribution.Peer, error) {
	names := metadata.ValueFromIncomingContext(ctx, "test-certificate")
	if len(names) == 0 {
		return distribution.Peer{Address: "memory"}, nil
	}
	id, err := identity.New(feedtest.Domain, identity.Node, names[0])
	return distribution.Peer{ID: id, Address: "memory"}, err
}

// TestOneNodeCannotUseUpTheAdmissionOfOthers lets one node open streams as fast as it
// can: it is refused, and everyone else is admitted as if it were not there.
func TestOneNodeCannotUseUpTheAdmissionOfOthers(t *testing.T) {
	bubble(t, distribution.ServerConfig{AdmissionRate: 50, AdmissionBurst: 40, MaxStreams: 30, Identify: certified}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(3, 100)
		l.publish(feedtest.At(1, 1), trie)
		conn := l.conn()
		defer conn.Close()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "test-certificate", "evil"))
		defer cancel()
		client := controlv1.NewControlServiceClient(conn)
		refused := 0
		for range 25 { // each one silent, as many as a connection carries
			s, err := client.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if l.server.Streams() > distribution.MaxNodeStreams {
				t.Fatalf("one node holds %d streams, want at most %d", l.server.Streams(), distribution.MaxNodeStreams)
			}
			_ = s
		}
		for range 200 {
			s, err := client.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			notices, err := drainUntilEnd(s)
			if !errors.Is(err, fault.CodeAdmission) {
				t.Fatalf("ended with %v (%s), want %s", err, fault.CodeOf(err), fault.CodeAdmission)
			}
			if len(notices) != 1 || !strings.Contains(notices[0].GetRemediation(), "Look on node evil") {
				t.Fatalf("told %v: the hub's own rate has nothing to do with it", notices)
			}
			if wait, ok := wire.RetryAfter(err); !ok || wait < distribution.MinRetry {
				t.Fatalf("told to come back after %s", wait)
			}
			refused++
		}
		good := &node{name: "good"}
		start := time.Now()
		defer l.join(good)()
		synctest.Wait()
		if good.root() != trie.Root() || time.Since(start) != 0 {
			t.Errorf("after %d refusals of the other, the good node was not served at once", refused)
		}
	})
}
