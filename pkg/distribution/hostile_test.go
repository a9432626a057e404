package distribution_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// drainUntilEnd receives until the stream ends, and gives the notices and the end.
func drainUntilEnd(s controlv1.ControlService_StreamClient) (notices []*controlv1.Notice, err error) {
	for {
		m, err := s.Recv()
		if err != nil {
			return notices, err
		}
		if n := m.GetNotice(); n != nil {
			notices = append(notices, n)
		}
	}
}

func TestHelloIsHeldAgainstItsLimits(t *testing.T) {
	many := make([]string, distribution.MaxCapabilities+1)
	for i := range many {
		many[i] = fmt.Sprintf("c%d/v1", i)
	}
	for name, tc := range map[string]struct {
		hello *controlv1.Hello
		want  fault.Code
	}{
		"no node":             {&controlv1.Hello{}, fault.CodeHello},
		"escape in node":      {&controlv1.Hello{Node: "n\x1b[2J"}, fault.CodeHello},
		"many capabilities":   {&controlv1.Hello{Node: "n1", Capabilities: many}, fault.CodeHello},
		"control in label":    {&controlv1.Hello{Node: "n1", Labels: map[string]string{"a": "b\u202e"}}, fault.CodeHello},
		"long build":          {&controlv1.Hello{Node: "n1", Build: strings.Repeat("b", distribution.MaxText+1)}, fault.CodeHello},
		"short digest":        {&controlv1.Hello{Node: "n1", Resume: &controlv1.ResumePoint{Digest: []byte("short")}}, fault.CodeHello},
		"other protocol only": {&controlv1.Hello{Node: "n1", Protocols: []string{"v9"}}, fault.CodeProtocolVersion},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
				conn := l.conn()
				defer conn.Close()
				_, err := drainUntilEnd(l.open(t.Context(), conn, tc.hello))
				if !errors.Is(err, tc.want) {
					t.Errorf("ended with %v (%s), want %s", err, fault.CodeOf(err), tc.want)
				}
			})
		})
	}
}

func TestSilentStreamIsEndedForLackOfHello(t *testing.T) {
	bubble(t, distribution.ServerConfig{HelloTimeout: time.Second}, func(t *testing.T, l *lab) {
		conn := l.conn()
		defer conn.Close()
		s, err := controlv1.NewControlServiceClient(conn).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := s.Recv(); err == nil {
			t.Fatal("received something")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("ended after %s, want 1 s", took)
		}
		synctest.Wait()
		if l.server.Streams() != 0 {
			t.Error("the stream still counts")
		}
	})
}

// TestHostileStreamHurtsOnlyItself lets each kind of bad client loose beside a good
// one, and checks that it is ended and that the good one still gets its change at once.
func TestHostileStreamHurtsOnlyItself(t *testing.T) {
	ack := &controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Digest: make([]byte, 32)}}}
	flood := func(times int, m *controlv1.StreamRequest) func(controlv1.ControlService_StreamClient) {
		return func(s controlv1.ControlService_StreamClient) {
			for range times {
				if s.Send(m) != nil {
					return
				}
			}
		}
	}
	send := func(m any) func(controlv1.ControlService_StreamClient) {
		return func(s controlv1.ControlService_StreamClient) { _ = s.SendMsg(m) }
	}
	for name, tc := range map[string]struct {
		act  func(controlv1.ControlService_StreamClient)
		want fault.Code
	}{
		"ack flood": {flood(1000, ack), fault.CodeFlood},
		"resync flood": {flood(distribution.ResyncBurst+1, &controlv1.StreamRequest{Message: &controlv1.StreamRequest_Nack{Nack: &controlv1.Nack{Digest: make([]byte, 32), Resync: true}}}),
			fault.CodeFlood},
		"second hello":   {send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{}}}), fault.CodeMessageOrder},
		"digest of ack":  {send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Digest: []byte("x")}}}), fault.CodeNodeMessage},
		"long nack":      {send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Nack{Nack: &controlv1.Nack{Digest: make([]byte, 32), Message: strings.Repeat("m", distribution.MaxMessage+1)}}}), fault.CodeNodeMessage},
		"oversize":       {send(wire.NewFrame(make([]byte, wire.MaxControlRequest+1))), fault.CodeRemoteRefused},
		"not a protobuf": {send(wire.NewFrame([]byte{0xff, 0xff, 0xff})), fault.CodeRemoteRefused},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
				trie := feedtest.Trie(10, 200)
				l.publish(feedtest.At(1, 1), trie)
				good := &node{name: "good"}
				defer l.join(good)()
				conn := l.conn()
				defer conn.Close()
				s := l.open(t.Context(), conn, &controlv1.Hello{Node: "bad"})
				tc.act(s)
				_, err := drainUntilEnd(s)
				if !errors.Is(err, tc.want) {
					t.Errorf("the bad stream ended with %v (%s), want %s", err, fault.CodeOf(err), tc.want)
				}
				next := trie.Delete(feedtest.Key("r00001"))
				l.publish(feedtest.At(1, 2), next)
				synctest.Wait()
				if good.root() != next.Root() {
					t.Error("the good node did not get its change at once")
				}
				if got := l.server.Streams(); got != 1 {
					t.Errorf("%d streams open, want the good one", got)
				}
				if v := l.desk.visit("bad"); v.closed != 1 {
					t.Errorf("the bad session was closed %d times, want once", v.closed)
				}
			})
		})
	}
}

func TestStreamThatTakesNoBytesIsCut(t *testing.T) {
	bubble(t, distribution.ServerConfig{StallTimeout: 5 * time.Second}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(3000, 1024) // more than gRPC's windows take
		l.publish(feedtest.At(1, 1), trie)
		conn := l.conn()
		defer conn.Close()
		_ = l.open(t.Context(), conn, &controlv1.Hello{Node: "stuck"}) // and never reads
		good := &node{name: "good"}
		defer l.join(good)()
		synctest.Wait()
		if got := l.server.Streams(); got != 2 {
			t.Fatalf("%d streams open, want 2", got)
		}
		next := trie.Delete(feedtest.Key("r00001"))
		l.publish(feedtest.At(1, 2), next)
		synctest.Wait()
		if good.root() != next.Root() {
			t.Error("the good node waits for the stuck one")
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := l.server.Streams(); got != 1 {
			t.Errorf("%d streams open after the stall limit, want 1", got)
		}
		if v := l.desk.visit("stuck"); !errors.Is(v.cause, fault.CodeStalled) {
			t.Errorf("the session was closed for %v, want %s", v.cause, fault.CodeStalled)
		}
	})
}

// Senders are few: were one held up by each node that takes no bytes, nobody else would
// get anything.
func TestNodesThatTakeNoBytesHoldUpNoSender(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		trie := feedtest.Trie(3000, 1024) // more than gRPC's windows take
		l.publish(feedtest.At(1, 1), trie)
		conns := make([]*grpc.ClientConn, 2*runtime.GOMAXPROCS(0)+1)
		for i := range conns {
			conns[i] = l.conn()
			_ = l.open(t.Context(), conns[i], &controlv1.Hello{Node: fmt.Sprintf("stuck%d", i)}) // and never reads
		}
		synctest.Wait()
		good := &node{name: "good"}
		leave := l.join(good)
		synctest.Wait()
		if good.root() != trie.Root() {
			t.Error("the good node waits for the stuck ones")
		}
		if running := l.server.Writing(); running != len(conns) {
			t.Errorf("%d writers wait for their nodes, want %d: the test does not do what it says", running, len(conns))
		}
		leave()
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

func TestNewestStreamOfANodeReplacesTheOlder(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		l.publish(feedtest.At(1, 1), feedtest.Trie(3, 100))
		conn := l.conn()
		defer conn.Close()
		first := l.open(t.Context(), conn, &controlv1.Hello{Node: "n1"})
		synctest.Wait()
		old := l.desk.visit("n1")
		second := l.open(t.Context(), conn, &controlv1.Hello{Node: "n1"})
		synctest.Wait()
		if old.closed != 1 || !errors.Is(old.cause, fault.CodeReplaced) {
			t.Errorf("the older session was closed %d times for %v", old.closed, old.cause)
		}
		var notice *controlv1.Notice
		for notice == nil {
			m, err := first.Recv()
			if err != nil {
				t.Fatalf("the older stream ended with %v before it was told", err)
			}
			notice = m.GetNotice()
		}
		if notice.GetCode() != string(fault.CodeReplaced) || !notice.GetClosing() || notice.GetRetryAfter().AsDuration() < 10*time.Second {
			t.Errorf("the older stream was told %v", notice)
		}
		_ = first.CloseSend()
		if _, err := drainUntilEnd(first); !errors.Is(err, fault.CodeReplaced) {
			t.Errorf("the older stream ended with %v", err)
		}
		if m, err := second.Recv(); err != nil || m.GetAccepted() == nil {
			t.Errorf("the newer stream got %v, %v", m, err)
		}
		_ = second.CloseSend()
		if _, err := drainUntilEnd(second); !errors.Is(err, io.EOF) {
			t.Errorf("the newer stream ended with %v, want a clean end", err)
		}
	})
}
