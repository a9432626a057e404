package subscriber

import (
	"fmt"
	"slices"
	"testing"

	"go.uber.org/goleak"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCandidatesPreferWhatANoticeNamed(t *testing.T) {
	c := newCandidates([]string{"a:1"})
	c.learn([]string{"b:1", "", "no port", "esc\x1b:1", "a:1"})
	if got := slices.Sorted(slices.Values(c.known)); !slices.Equal(got, []string{"a:1", "b:1"}) {
		t.Errorf("known hubs %q", got)
	}
	c.prefer([]string{"z:1"})
	if got := c.next(); got != "z:1" {
		t.Errorf("next is %s, want the hub that the notice named", got)
	}
	if got := []string{c.next(), c.next()}; !slices.Contains(got, "a:1") || !slices.Contains(got, "b:1") {
		t.Errorf("then %q, want both known hubs in turn", got)
	}
}

func TestOutboxKeepsTheNewestLevelAndTheOrder(t *testing.T) {
	gate := make(chan struct{})
	var sent []string
	o := &outbox{send: func(m *controlv1.StreamRequest) error {
		<-gate
		switch {
		case m.GetAck() != nil:
			sent = append(sent, fmt.Sprint("ack", m.GetAck().GetVersion()))
		case m.GetNack() != nil:
			sent = append(sent, fmt.Sprint("nack", m.GetNack().GetVersion()))
		default:
			sent = append(sent, "status")
		}
		return nil
	}}
	ack := func(v uint64) {
		o.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Version: v}}})
	}
	nack := func(v uint64) {
		o.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Nack{Nack: &controlv1.Nack{Version: v}}})
	}
	status := func() {
		o.put(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Status{Status: &controlv1.Status{}}})
	}
	status() // taken by the sender, which waits at the gate
	for o.waiting() > 0 {
		// the sender is on its way to the gate
	}
	ack(1)
	status()
	nack(2)
	ack(3)
	status()
	close(gate)
	o.busy.Wait()
	if got := fmt.Sprint(sent); got != "[status nack2 ack3 status]" {
		t.Errorf("sent %s", got)
	}
}

func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending)
}

func TestClientDropsDeltasUntilTheSnapshotItAskedFor(t *testing.T) {
	c := &Client{out: &outbox{send: func(*controlv1.StreamRequest) error { return nil }}}
	c.Nack(&controlv1.Nack{Resync: true})
	c.out.busy.Wait()
	if c.wanted(&Update{}) {
		t.Error("a delta was handed on that was on its way when the snapshot was asked for")
	}
	if !c.wanted(&Update{Snapshot: true}) || !c.wanted(&Update{}) {
		t.Error("the snapshot, or a delta after it, was dropped")
	}
}
