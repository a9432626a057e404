//go:build chaos

package chaos

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/plugins/builtin"
	"github.com/meshkit/meshkit/test/chaos/check"
	"github.com/meshkit/meshkit/test/harness"
)

// patience bounds how long a healed ring may take until it is well.
const patience = 3 * time.Minute

// TestARingKeepsItsPromisesUnderFaults has hubs, Consul, the ways between them and
// agents fail, several at a time, while clients write and read through every hub.
// Then all is healed, and held against what was promised: no acknowledged write is
// lost, no two terms overlap, reads and writes have an order that agrees with time,
// all hubs hold the same, and no agent went back.
func TestARingKeepsItsPromisesUnderFaults(t *testing.T) {
	if !isolate(t) {
		return
	}
	t.Logf("-seed %d -faults %d -writes %d", *seed, *faults, *writes)
	r := newRing(t)
	t.Logf("%.1f s: the ring is up", time.Since(r.began).Seconds())

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	rec, wait := r.work(ctx)
	defer wait()
	s := &schedule{r: r, rec: rec, byName: make(map[string]int)}
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if s.count.Load() >= int64(*faults) && rec.acknowledged() >= *writes {
				stop()
			}
			<-tick.C
		}
	}()
	s.run(ctx)
	wait()
	t.Logf("%.1f s: %d faults:%s", time.Since(r.began).Seconds(), s.count.Load(), s.report())

	r.converge()
	r.checkHealth()
	log := r.log()
	for _, p := range check.All(rec.ops, log) {
		t.Error(p)
	}
	r.checkAgents()
	rec.summary(t, log, s.losses)
}

// converge waits until all hubs hold the same and all agents have it.
func (r *ring) converge() {
	r.Helper()
	begin := time.Now()
	why := ""
	defer func() {
		if why != "" {
			r.Errorf("the healed ring does not become well: %s", why)
		}
	}()
	_ = harness.Poll(patience, func() (bool, error) {
		why = r.differs()
		return why == "", nil
	})
	if why == "" {
		r.Logf("all hubs and agents are well %.1f s after the last fault", time.Since(begin).Seconds())
	}
}

// differs tells what is not well yet, or "".
func (r *ring) differs() string {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	var first *adminv1.GetDomainResponse
	for _, m := range r.hubs {
		d, err := m.hub.Client().Domain(ctx)
		if err != nil {
			return fmt.Sprintf("%s: %v", m.name, err)
		}
		if first == nil {
			first = d
		}
		if d.GetSeq() != first.GetSeq() || d.GetConfigSeq() != first.GetConfigSeq() || d.GetDigest() != first.GetDigest() || d.GetLeader() == "" {
			return fmt.Sprintf("%s is at entry %d with digest %s, %s at %d with %s", first.GetHub(), first.GetSeq(), first.GetDigest(), d.GetHub(), d.GetSeq(), d.GetDigest())
		}
	}
	all, err := r.hubs[0].hub.Client().Agents(ctx, "")
	if err != nil {
		return err.Error()
	}
	if len(all) != fleetSize+singles {
		return fmt.Sprintf("%d agents of %d are listed", len(all), fleetSize+singles)
	}
	for _, a := range all {
		if !a.GetConnected() || a.GetActive().GetVersion() != first.GetConfigSeq() || !bytes.Equal(a.GetActive().GetDigest(), all[0].GetActive().GetDigest()) {
			return fmt.Sprintf("agent %s, connected %v to %s, has version %d of epoch %d with digest %x; the domain is at %d, and %s has digest %x: %s", a.GetNode(), a.GetConnected(), a.GetHub(),
				a.GetActive().GetVersion(), a.GetActive().GetEpoch(), a.GetActive().GetDigest(), first.GetConfigSeq(), all[0].GetNode(), all[0].GetActive().GetDigest(), a.GetMessage())
		}
	}
	return ""
}

// log reads the whole log from the store.
func (r *ring) log() []check.Entry {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	l, err := builtin.OpenLog(ctx, "consul", ringDomain, builtin.StoreOptions{URL: "consul://" + r.consul.Servers[0].HTTP + "/meshkit?dc=dc1"})
	if err != nil {
		r.Fatalf("open the log: %v", err)
	}
	defer l.Close()
	var out []check.Entry
	for {
		entries, err := l.Read(ctx, uint64(len(out)), 512)
		if err != nil {
			r.Fatalf("read the log after entry %d: %v", len(out), err)
		}
		if len(entries) == 0 {
			return out
		}
		for _, e := range entries {
			one := check.Entry{Seq: e.GetSeq(), Term: e.GetTerm()}
			switch e.GetKind() {
			case "TermStarted":
				var p logv1.TermStarted
				err = proto.Unmarshal(e.GetPayload(), &p)
				one.Hub = p.GetHub()
			case "ChangeSet":
				var p logv1.ChangeSet
				err = proto.Unmarshal(e.GetPayload(), &p)
				one.RequestID = e.GetRequestId()
				for _, w := range p.GetWrites() {
					one.Key, one.Value = w.GetName(), valueOf(w.GetContent())
				}
			}
			if err != nil {
				r.Errorf("entry %d: %v", e.GetSeq(), err)
			}
			out = append(out, one)
		}
	}
}

// checkAgents holds what every agent activated against the order of versions.
func (r *ring) checkAgents() {
	r.Helper()
	activations := fleetActivations(r.T, r.c, r.fleet.logs...)
	nodes := make(map[string]int)
	for _, a := range activations {
		nodes[a.Node]++
	}
	if len(nodes) != fleetSize {
		r.Errorf("%d agents of the fleet logged what they activated, of %d", len(nodes), fleetSize)
	}
	for _, a := range r.agents {
		single := hookActivations(r.T, a)
		r.Logf("%s activated %d versions", a.Node, len(single))
		activations = append(activations, single...)
	}
	for _, p := range check.Agents(activations) {
		r.Error(p)
	}
	r.Logf("%d activations by %d agents", len(activations), len(nodes)+len(r.agents))
}

// summary tells what the clients saw.
func (r *recorder) summary(t *testing.T, log []check.Entry, losses []time.Duration) {
	t.Helper()
	counts := make(map[string]int)
	var acked []check.Op
	for _, o := range r.ops {
		what := "reads that may be old"
		switch {
		case o.Write:
			what = "writes"
		case o.Linearizable:
			what = "linearizable reads"
		}
		counts[what+" "+[]string{"of unknown outcome", "done", "refused"}[o.Outcome]]++
		if o.Write && o.Outcome == check.Done {
			acked = append(acked, o)
			if o.Blind {
				counts["writes done that were found again"]++
			}
		}
	}
	slices.SortFunc(acked, func(a, b check.Op) int { return cmp.Compare(a.Return, b.Return) })
	var gap time.Duration
	for i := 1; i < len(acked); i++ {
		gap = max(gap, acked[i].Return-acked[i-1].Return)
	}
	t.Logf("%v; errors of writes %v; the log has %d entries up to term %d; the longest time without an acknowledged write was %v",
		counts, r.errs, len(log), log[len(log)-1].Term, gap.Round(time.Millisecond))
	if f := failovers(acked, losses); len(f) > 0 {
		t.Logf("from the loss of a leader to the first write of a later term: p50 %v, p90 %v, max %v of %d", f[len(f)/2], f[len(f)*9/10], f[len(f)-1], len(f))
	}
}

// failovers gives, sorted, how long after each loss of a leader the first write of a
// later term was acknowledged. Other faults at the same time are part of that.
func failovers(acked []check.Op, losses []time.Duration) []time.Duration {
	var out []time.Duration
	for _, at := range losses {
		var term uint64
		for _, o := range acked {
			if o.Return <= at {
				term = max(term, o.Term)
			} else if o.Term > term {
				out = append(out, (o.Return - at).Round(time.Millisecond))
				break
			}
		}
	}
	slices.Sort(out)
	return out
}
