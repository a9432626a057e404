//go:build chaos

package chaos

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// writers is how many clients write at the same time, each its own resource.
const writers = 4

// ledger is what one writer knows: the last value that was acknowledged, and
// the sequence number it was committed at.
type ledger struct {
	acknowledged int
	seq          uint64
	retried      int
}

// TestKillsLoseNoWriteAndTakeNoAgentBack is the promise of P1 and P3 under
// SIGKILL: the hub and the agents die at random while clients write. Every
// acknowledged write is there at the end, sequence numbers never go back for a
// writer, and no agent ever activates an older (epoch, version).
func TestKillsLoseNoWriteAndTakeNoAgentBack(t *testing.T) {
	t.Logf("-seed %d -for %v", *seed, *duration)
	rng := rand.New(rand.NewPCG(*seed, 0))

	c := harness.New(t)
	hub := c.NewHub("chaos")
	var agents []*harness.Agent
	for i := range 3 {
		a := c.JoinAgent(hub, fmt.Sprintf("node-%d", i), "region=eu")
		a.RecordActivations()
		// The kills come from outside and say nothing about the configuration, so
		// they are not to count as a crash loop, which goes back on purpose.
		a.Configure("probation:\n  maxRestarts: 0\n")
		a.Start()
		agents = append(agents, a)
	}

	ctx, stop := context.WithTimeout(context.Background(), *duration)
	defer stop()
	var (
		wg      sync.WaitGroup
		ledgers [writers]ledger
		total   atomic.Int64
	)
	for w := range writers {
		cl := hub.Client()
		wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				if err := ledgers[w].write(cl, w, n); err != nil {
					t.Errorf("writer %d, value %d: %v", w, n, err)
					return
				}
				total.Add(1)
			}
		})
	}

	faults := 0
	for ctx.Err() == nil {
		pause(ctx, time.Duration(100+rng.IntN(1200))*time.Millisecond)
		faults++
		if rng.IntN(2) == 0 {
			hub.Kill()
			pause(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
			hub.Start()
			continue
		}
		a := agents[rng.IntN(len(agents))]
		a.Kill()
		pause(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		a.Start()
	}
	wg.Wait()
	retried := 0
	for w := range ledgers {
		retried += ledgers[w].retried
	}
	t.Logf("%d faults, %d writes acknowledged, %d of them after a retry", faults, total.Load(), retried)
	if faults < int(*duration/(2*time.Second)) || total.Load() < int64(faults) {
		t.Errorf("too little happened to prove anything: %d faults, %d writes", faults, total.Load())
	}

	checkWrites(t, hub.Client(), &ledgers)
	checkAgents(t, hub.Client(), agents)
}

// write commits value n of writer w, retrying under one request id until the
// outcome is known.
func (l *ledger) write(cl *client.Client, w, n int) error {
	req := &adminv1.ApplyRequest{
		RequestId: fmt.Sprintf("chaos-%d-%d", w, n),
		Change: &adminv1.Change{
			FieldManager: fmt.Sprintf("writer-%d", w),
			Resources: [][]byte{fmt.Appendf(nil,
				`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"writer-%d","annotations":{"value":"%d"}},"spec":{"endpoints":[{"address":"10.0.0.%d:80"}]}}`,
				w, n, 1+n%200)},
		},
	}
	deadline := time.Now().Add(2 * harness.Patience)
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		resp, err := cl.Apply(ctx, req)
		cancel()
		if err == nil {
			if resp.GetSeq() <= l.seq {
				return fmt.Errorf("committed at %d after %d", resp.GetSeq(), l.seq)
			}
			l.acknowledged, l.seq = n, resp.GetSeq()
			if try > 0 {
				l.retried++
			}
			return nil
		}
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Unknown, fault.Timeout, fault.Canceled, fault.Exhausted:
		default:
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer after %d tries: %w", try+1, err)
		}
	}
}

// checkWrites holds the hub's state against the ledgers.
func checkWrites(t *testing.T, cl *client.Client, ledgers *[writers]ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	for w := range ledgers {
		r, err := cl.Get(ctx, &adminv1.Key{Kind: "Cluster", Namespace: "default", Name: fmt.Sprintf("writer-%d", w)})
		if err != nil {
			t.Errorf("writer %d: %v", w, err)
			continue
		}
		want := fmt.Sprintf(`"value":"%d"`, ledgers[w].acknowledged)
		if !strings.Contains(string(r.GetContent()), want) || r.GetResourceVersion() != ledgers[w].seq {
			t.Errorf("writer %d: acknowledged %s at %d, the hub holds %s at %d: an acknowledged write is lost",
				w, want, ledgers[w].seq, r.GetContent(), r.GetResourceVersion())
		}
	}
}

// checkAgents waits until every agent holds the newest version, and holds each
// agent's record of activations against the order of versions.
func checkAgents(t *testing.T, cl *client.Client, agents []*harness.Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*harness.Patience)
	defer cancel()
	dom, err := cl.Domain(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = harness.Poll(2*harness.Patience, func() (bool, error) {
		list, err := cl.Agents(ctx, "")
		if err != nil {
			return false, err
		}
		for _, a := range list {
			if a.GetActive().GetVersion() < dom.GetConfigSeq() {
				return false, nil
			}
		}
		return len(list) == len(agents), nil
	})
	if err != nil {
		t.Errorf("agents did not come to version %d: %v", dom.GetConfigSeq(), err)
	}
	for _, a := range agents {
		f, err := os.Open(a.ActivationsPath())
		if err != nil {
			t.Errorf("%s: %v", a.Node, err)
			continue
		}
		var last [2]uint64
		count := 0
		for s := bufio.NewScanner(f); s.Scan(); {
			var now [2]uint64
			if _, err := fmt.Sscan(s.Text(), &now[0], &now[1]); err != nil {
				t.Errorf("%s: activation record %q: %v", a.Node, s.Text(), err)
				continue
			}
			if now[0] < last[0] || now[0] == last[0] && now[1] < last[1] {
				t.Errorf("%s went back from epoch %d version %d to epoch %d version %d", a.Node, last[0], last[1], now[0], now[1])
			}
			last = now
			count++
		}
		_ = f.Close()
		t.Logf("%s: %d activations, the last of epoch %d version %d", a.Node, count, last[0], last[1])
		if count == 0 {
			t.Errorf("%s recorded no activation", a.Node)
		}
	}
}
