package distribution_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
)

// changes publishes so many versions that no time passes between them, each once the
// node has taken the one before, and calls after for each.
func changes(l *lab, n int, after func()) {
	tries := [2]*digest.Trie{feedtest.Trie(10, 100)}
	tries[1] = tries[0].Delete(feedtest.Key("r00001"))
	for v := range n {
		l.publish(feedtest.At(1, uint64(v+1)), tries[v%2])
		synctest.Wait()
		after()
	}
}

// answer answers each update of a stream with an ack after so many statuses, until the
// stream ends, and gives why. updates counts.
func answer(s controlv1.ControlService_StreamClient, statuses int, updates *int) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		u := r.GetUpdate()
		if u == nil {
			continue
		}
		*updates++
		var m trustv1.Manifest
		if err := proto.Unmarshal(u.GetManifest().GetPayload(), &m); err != nil {
			return err
		}
		for range statuses {
			_ = s.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Status{Status: &controlv1.Status{Phase: controlv1.Phase_PHASE_STAGING}}})
		}
		ack := &controlv1.Ack{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest()}
		_ = s.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: ack}}) // receiving says why it failed
	}
}

// An agent answers an update with statuses as it stages and activates it, and an ack:
// however fast the hub's own updates are, that is no flood.
func TestNodeThatAnswersEachOfThousandsOfFastUpdatesIsNotCut(t *testing.T) {
	bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
		const updates = 3000
		conn := l.conn()
		s := l.open(t.Context(), conn, &controlv1.Hello{Node: "good"})
		var got int
		end := make(chan error, 1)
		go func() { end <- answer(s, distribution.Answers-1, &got) }()
		start := time.Now()
		changes(l, updates, func() {})
		if took := time.Since(start); took != 0 {
			t.Fatalf("the updates took %s of the clock: the limit was not tried", took)
		}
		_ = s.CloseSend()
		if err := <-end; !errors.Is(err, io.EOF) {
			t.Errorf("ended after %d updates: %v", got, err)
		}
		if v := l.desk.visit("good"); got != updates || len(v.acks) != updates {
			t.Errorf("%d updates arrived and %d acks came back, want %d", got, len(v.acks), updates)
		}
		_ = conn.Close()
	})
}

// A node that sends more than it is asked for is ended, however fast the updates are;
// and so is one that sends it all when they are over.
func TestFastUpdatesDoNotHideAFlood(t *testing.T) {
	status := &controlv1.StreamRequest{Message: &controlv1.StreamRequest_Status{Status: &controlv1.Status{}}}
	const updates, burst = 1000, 200
	for name, more := range map[string]int{"beside the updates": 1, "after the updates": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, distribution.ServerConfig{}, func(t *testing.T, l *lab) {
				conn := l.conn()
				s := l.open(t.Context(), conn, &controlv1.Hello{Node: "bad"})
				var got int
				end := make(chan error, 1)
				go func() { end <- answer(s, more*distribution.Answers, &got) }()
				changes(l, updates, func() {})
				if more == 0 {
					for range distribution.OwedMost + burst + distribution.Answers {
						_ = s.Send(status)
					}
				}
				if err := <-end; !errors.Is(err, fault.CodeFlood) {
					t.Errorf("ended after %d updates with %v (%s), want %s", got, err, fault.CodeOf(err), fault.CodeFlood)
				}
				if more > 0 && got > 2*burst {
					t.Errorf("it took %d updates to notice a message too many in each, want about %d", got, burst)
				}
				_ = conn.Close()
			})
		})
	}
}
