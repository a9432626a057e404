package distribution

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/wire"
)

// certified takes the node's identity from metadata, which stands for a certificate.
func certified(ctx context.Context) (Peer, error) {
	names := metadata.ValueFromIncomingContext(ctx, "test-certificate")
	if len(names) == 0 {
		return Peer{Address: "memory"}, nil
	}
	id, err := identity.New(feedtest.Domain, identity.Node, names[0])
	return Peer{ID: id, Address: "memory"}, err
}

// TestOneNodeCannotUseUpTheAdmissionOfOthers lets one node open streams as fast as it
// can: it is refused, and everyone else is admitted as if it were not there.
func TestOneNodeCannotUseUpTheAdmissionOfOthers(t *testing.T) {
	bubble(t, ServerConfig{AdmissionRate: 50, AdmissionBurst: 40, MaxStreams: 30, Identify: certified}, func(t *testing.T, l *lab) {
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
			if l.server.Streams() > maxNodeStreams {
				t.Fatalf("one node holds %d streams, want at most %d", l.server.Streams(), maxNodeStreams)
			}
			_ = s
		}
		for range 200 {
			s, err := client.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, err = drainUntilEnd(s)
			if !errors.Is(err, fault.CodeAdmission) {
				t.Fatalf("ended with %v (%s), want %s", err, fault.CodeOf(err), fault.CodeAdmission)
			}
			if wait, ok := wire.RetryAfter(err); !ok || wait < minRetry {
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

func TestANodeThatReconnectsAfterAWhileIsAdmitted(t *testing.T) {
	p := newPacing()
	now := time.Now()
	for range nodeBurst {
		if _, ok := p.admit("n1", now); !ok {
			t.Fatal("refused within its burst")
		}
		p.leave("n1")
	}
	if wait, ok := p.admit("n1", now); ok || wait <= 0 {
		t.Fatalf("admitted beyond its burst (%s)", wait)
	}
	if _, ok := p.admit("n1", now.Add(time.Minute)); !ok {
		t.Fatal("refused a minute later")
	}
	// What is not needed is forgotten.
	for i := range 3 * pacingSweep {
		name := string(rune('a'+i%26)) + time.Duration(i).String()
		at := now.Add(time.Duration(i) * time.Second)
		p.admit(name, at)
		p.leave(name)
	}
	if n := len(p.nodes); n > 2*pacingSweep {
		t.Errorf("%d nodes remembered", n)
	}
}
