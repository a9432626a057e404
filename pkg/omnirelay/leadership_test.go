package omnirelay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/wire"
)

const (
	snapshotKind = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT
	observedKind = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED
	renewedKind  = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED
	lostKind     = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST
)

// listener is a subscriber that reads when it is told to.
type listener struct {
	grpc.ServerStream
	ctx    context.Context
	events chan *mesh.LeadershipEvent // without room
}

func (l *listener) Context() context.Context   { return l.ctx }
func (*listener) SendHeader(metadata.MD) error { return nil }
func (l *listener) Send(e *mesh.LeadershipEvent) error {
	select {
	case l.events <- e:
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// listen subscribes until the test ends.
func listen(t *testing.T, b *Board, scope string) (*listener, <-chan error) {
	t.Helper()
	l := &listener{ctx: t.Context(), events: make(chan *mesh.LeadershipEvent)}
	ended := make(chan error, 1)
	go func() { ended <- b.Subscribe(&mesh.LeadershipSubscribeRequest{Scope: scope}, l) }()
	synctest.Wait()
	return l, ended
}

func event(kind mesh.LeadershipEventKind, scope string, term uint64) Event {
	return Event{Kind: kind, Scope: scope, Leader: Leader{Hub: "hub1", Term: term, Since: time.Now(), Until: time.Now().Add(time.Minute)}, At: time.Now()}
}

func TestSubscribersBeginWithTheLeadersThatAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a", "b", "c")
		b.Publish(event(observedKind, "a", 1))
		b.Publish(event(observedKind, "b", 2))
		b.Publish(event(lostKind, "b", 2))
		b.Publish(event(observedKind, "other", 9)) // not ours to tell
		all, _ := listen(t, b, "")
		one, _ := listen(t, b, "b")
		if e := <-all.events; e.GetKind() != snapshotKind || e.GetScope() != "a" || e.GetToken().GetTerm() != 1 || time.Until(e.GetToken().GetExpiresAt().AsTime()) != time.Minute {
			t.Errorf("first %v", e)
		}
		b.Publish(event(observedKind, "c", 3))
		b.Publish(event(observedKind, "b", 4))
		if e := <-all.events; e.GetKind() != observedKind || e.GetScope() != "c" {
			t.Errorf("then %v: nobody is known to lead b", e)
		}
		if e := <-one.events; e.GetScope() != "b" || e.GetToken().GetTerm() != 4 {
			t.Errorf("the subscriber to b gets %v", e)
		}
		// A minute later nobody has renewed what was said.
		time.Sleep(time.Minute)
		late, _ := listen(t, b, "")
		b.Publish(event(observedKind, "b", 5))
		if e := <-late.events; e.GetKind() != observedKind {
			t.Errorf("a later subscriber begins with %v, which has expired", e)
		}
	})
}

// A reader that is slow holds a bounded number of events, and learns what holds now.
func TestASlowSubscriberGetsASnapshotInsteadOfTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a", "b")
		l, _ := listen(t, b, "")
		b.Publish(event(observedKind, "a", 1))
		synctest.Wait() // it is being sent this one
		for term := range uint64(1000) {
			b.Publish(event(observedKind, "a", term+2))
		}
		b.Publish(event(observedKind, "b", 5))
		b.Publish(event(lostKind, "b", 5))
		for r := range b.readers {
			if len(r.pending) > maxPending {
				t.Errorf("%d events wait for a subscriber", len(r.pending))
			}
		}
		if e := <-l.events; e.GetToken().GetTerm() != 1 {
			t.Errorf("first %v", e)
		}
		if e := <-l.events; e.GetKind() != snapshotKind || e.GetToken().GetTerm() != 1001 {
			t.Errorf("then %v, want a snapshot of the newest", e)
		}
		if e := <-l.events; e.GetKind() != lostKind || e.GetScope() != "b" {
			t.Errorf("and of b %v, want that nobody leads it", e)
		}
		b.Publish(event(observedKind, "a", 2000))
		if e := <-l.events; e.GetKind() != observedKind || e.GetToken().GetTerm() != 2000 {
			t.Errorf("and on with %v", e)
		}
	})
}

func TestSubscriptionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a")
		var refused []<-chan error
		for range subscribeBurst + 1 {
			_, ended := listen(t, b, "")
			refused = append(refused, ended)
		}
		if err := <-refused[subscribeBurst]; fault.CodeOf(err) != fault.CodeAdmission {
			t.Errorf("more at once than are admitted: %v", err)
		} else if _, ok := wire.RetryAfter(err); !ok {
			t.Error("and it does not say when to come back")
		}
		for len(b.readers) < maxSubscribers {
			time.Sleep(time.Second)
			for range min(subscribeRate, maxSubscribers-len(b.readers)) {
				listen(t, b, "")
			}
		}
		time.Sleep(time.Second)
		if _, err := b.join(identity.ID{}, ""); fault.CodeOf(err) != fault.CodeStreamLimit {
			t.Errorf("beyond the limit: %v", err)
		}
		b.Close()
		if err := <-refused[0]; fault.CodeOf(err) != fault.CodeDraining {
			t.Errorf("when the board closes: %v", err)
		}
		if _, err := b.join(identity.ID{}, ""); fault.CodeOf(err) != fault.CodeDraining {
			t.Errorf("after it closed: %v", err)
		} else if _, ok := wire.RetryAfter(err); !ok {
			t.Error("and it does not say when to come back")
		}
		synctest.Wait()
		if len(b.readers) != 0 {
			t.Errorf("%d subscriptions are left", len(b.readers))
		}
	})
}

// Whoever is dropped while subscribed is told nothing more.
func TestASubscriptionEndsWithTheRightToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a")
		forgotten := fault.New(fault.CodeNodeForgotten, "forgotten")
		var allowed error
		b.Guard(func(context.Context) error { return allowed })
		b.Publish(event(observedKind, "a", 1))
		l, ended := listen(t, b, "")
		<-l.events
		b.Publish(event(renewedKind, "a", 1))
		if e := <-l.events; e.GetKind() != renewedKind {
			t.Errorf("a member gets %v", e)
		}
		synctest.Wait()
		allowed = forgotten
		b.Publish(event(renewedKind, "a", 1))
		select {
		case e := <-l.events:
			t.Errorf("a forgotten node gets %v", e)
		case err := <-ended:
			if err != forgotten {
				t.Errorf("the subscription of a forgotten node ended with %v", err)
			}
		}
		if len(b.readers) != 0 {
			t.Errorf("%d subscriptions are left", len(b.readers))
		}
	})
}

// One caller that opens and opens leaves places for the others.
func TestOneCallerCannotHaveAllSubscriptions(t *testing.T) {
	b := NewBoard("a")
	one := identity.ID{Domain: "d", Kind: identity.Node, Name: "node-1"}
	other := identity.ID{Domain: "d", Kind: identity.Node, Name: "node-2"}
	var open []*reader
	for range maxOfCaller {
		r, err := b.join(one, "")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, r)
	}
	_, err := b.join(one, "a")
	if fault.CodeOf(err) != fault.CodeStreamLimit {
		t.Errorf("one more: %v", err)
	} else if _, ok := wire.RetryAfter(err); !ok {
		t.Error("and it does not say when to come back")
	}
	if _, err := b.join(other, ""); err != nil {
		t.Errorf("another caller: %v", err)
	}
	b.leave(open[0])
	if _, err := b.join(one, ""); err != nil {
		t.Errorf("once one has ended: %v", err)
	}
	for _, r := range open[1:] {
		b.leave(r)
	}
	if len(b.callers) != 2 {
		t.Errorf("%d callers are remembered", len(b.callers))
	}
}

// One that opens and closes without end is refused before it refuses others.
func TestOneCallersChurnRefusesNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a")
		one := identity.ID{Domain: "d", Kind: identity.Node, Name: "node-1"}
		var refused error
		for range 10 * subscribeBurst {
			r, err := b.join(one, "")
			if err != nil {
				refused = err
				continue
			}
			b.leave(r)
		}
		if fault.CodeOf(refused) != fault.CodeAdmission {
			t.Errorf("it is refused with %v", refused)
		} else if _, ok := wire.RetryAfter(refused); !ok {
			t.Error("and it is not told when to come back")
		}
		for i := range subscribeBurst / 2 {
			if _, err := b.join(identity.ID{Domain: "d", Kind: identity.Node, Name: fmt.Sprintf("node-%d", i+2)}, ""); err != nil {
				t.Fatalf("caller %d besides it: %v", i+1, err)
			}
		}
		time.Sleep(callerEvery)
		if _, err := b.join(one, ""); err != nil {
			t.Errorf("when it comes back later: %v", err)
		}
		// Callers at rest are forgotten.
		for i := range 3 * callerSweep {
			time.Sleep(callerEvery)
			r, err := b.join(identity.ID{Domain: "d", Kind: identity.Operator, Name: fmt.Sprintf("op-%d", i)}, "")
			if err != nil {
				t.Fatal(err)
			}
			b.leave(r)
		}
		if n := len(b.callers); n > 2*callerSweep {
			t.Errorf("%d callers are remembered", n)
		}
	})
}

// Whose subscription it is says the certificate of the connection.
func TestSubscriptionsAreCountedByCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard("a")
		cert := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "d", Path: "/node/node-1"}}}
		state := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert}}
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
		ended := make(chan error, maxOfCaller+1)
		for range maxOfCaller + 1 {
			go func() {
				ended <- b.Subscribe(&mesh.LeadershipSubscribeRequest{}, &listener{ctx: ctx, events: make(chan *mesh.LeadershipEvent)})
			}()
		}
		synctest.Wait()
		if len(b.readers) != maxOfCaller {
			t.Fatalf("%d subscriptions of one certificate are open", len(b.readers))
		}
		if err := <-ended; fault.CodeOf(err) != fault.CodeStreamLimit {
			t.Errorf("one more: %v", err)
		}
		b.Close()
		synctest.Wait()
	})
}
