//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
	"github.com/meshkit/meshkit/test/chaos/check"
	"github.com/meshkit/meshkit/test/harness"
)

const (
	ringWriters = 5
	keys        = 12
	// writeEvery and readEvery pace one client.
	writeEvery = 200 * time.Millisecond
	readEvery  = 150 * time.Millisecond
)

// reading is how each reader reads.
var reading = []wire.Consistency{wire.ConsistencyLinearizable, wire.ConsistencyLinearizable, wire.ConsistencyDefault, wire.ConsistencyStale}

// recorder keeps what clients did.
type recorder struct {
	began time.Time

	mu    sync.Mutex // guards the rest
	ops   []check.Op
	acked int
	errs  map[string]int // codes of writes that were not acknowledged
}

func (r *recorder) add(o check.Op, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		o.Why = fmt.Sprintf("%s %v", fault.CodeOf(err), err)
	}
	r.ops = append(r.ops, o)
	if o.Write && o.Outcome == check.Done {
		r.acked++
	}
	if o.Write && err != nil {
		r.errs[string(fault.CodeOf(err))]++
	}
}

func (r *recorder) acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked
}

// outcome is what an error of a write means. Only kind Unknown says in so many words
// that it may be done; what the caller gave up, or a defect, says nothing.
func outcome(err error) check.Outcome {
	if err == nil {
		return check.Done
	}
	switch fault.KindOf(err) {
	case fault.Unknown, fault.Timeout, fault.Canceled, fault.Internal:
		return check.Unknown
	}
	return check.Refused
}

// valueOf finds the value in a resource of the run.
func valueOf(content []byte) string {
	var r struct {
		Metadata struct{ Annotations map[string]string }
	}
	_ = json.Unmarshal(content, &r) // what is no JSON holds no value
	return r.Metadata.Annotations["value"]
}

func keyName(n int) string { return fmt.Sprintf("key-%02d", n) }

// work has clients write and read through random hubs until ctx ends; wait waits for
// their last answers.
func (r *ring) work(ctx context.Context) (rec *recorder, wait func()) {
	rec = &recorder{began: r.began, errs: make(map[string]int)}
	var wg sync.WaitGroup
	for n := range ringWriters + len(reading) {
		every, consistency := writeEvery, wire.ConsistencyDefault
		if n >= ringWriters {
			every, consistency = readEvery, reading[n-ringWriters]
		}
		var stale bool // the hub said so of the last answer
		var hubs []*client.Client
		for _, h := range r.hubs {
			hubs = append(hubs, r.dial(h.hub, consistency, func(string) { stale = true }))
		}
		rng := rand.New(rand.NewPCG(*seed, 100+uint64(n)))
		wg.Go(func() {
			pace := time.NewTicker(every)
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				h := rng.IntN(len(hubs))
				o := check.Op{Client: n, Hub: r.hubs[h].name, Key: keyName(rng.IntN(keys))}
				var err error
				if n < ringWriters {
					o, err = rec.write(o, hubs[h], rng, i)
				} else {
					stale = false
					o, err = rec.read(o, hubs[h])
					o.Linearizable = consistency != wire.ConsistencyStale && !stale
				}
				rec.add(o, err)
				select {
				case <-pace.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return rec, wg.Wait
}

// dial makes a client of a hub whose reads are as new as asked for; it is told when
// an answer may be old all the same.
func (r *ring) dial(h *harness.Hub, consistency wire.Consistency, onStale func(string)) *client.Client {
	r.Helper()
	file := func(name string) string { return filepath.Join(h.Admin, name) }
	c, err := client.Dial(client.Config{
		Hub: h.Address, CAFile: file("ca.pem"), CertFile: file("admin.pem"), KeyFile: file("admin.key"),
		Consistency: consistency, OnStale: onStale,
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = c.Close() })
	return c
}

// write writes once; what comes of it is for the record. Some clients are impatient.
func (r *recorder) write(o check.Op, c *client.Client, rng *rand.Rand, i int) (check.Op, error) {
	o.Write, o.Value = true, fmt.Sprintf("%d-%d", o.Client, i)
	o.RequestID = "chaos-" + o.Value
	ctx, cancel := context.WithTimeout(context.Background(), []time.Duration{time.Second, 8 * time.Second, 20 * time.Second}[rng.IntN(3)])
	defer cancel()
	o.Call = time.Since(r.began)
	resp, err := c.Apply(ctx, &adminv1.ApplyRequest{RequestId: o.RequestID, Change: &adminv1.Change{
		FieldManager: "chaos", Resources: [][]byte{fmt.Appendf(nil,
			`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":%q,"annotations":{"value":%q}},"spec":{"endpoints":[{"address":"10.0.0.%d:80"}]}}`,
			o.Key, o.Value, 1+i%200)},
	}})
	o.Return = time.Since(r.began)
	o.Outcome = outcome(err)
	o.Seq, o.Term, o.Blind = resp.GetSeq(), resp.GetEpoch(), resp.GetReplayed()
	for _, d := range resp.GetPlan().GetDiffs() {
		if d.GetKey().GetName() == o.Key {
			o.Before = valueOf(d.GetBefore())
		}
	}
	return o, err
}

// read reads once.
func (r *recorder) read(o check.Op, c *client.Client) (check.Op, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	o.Call = time.Since(r.began)
	got, err := c.Get(ctx, &adminv1.Key{Kind: "Cluster", Namespace: "default", Name: o.Key})
	o.Return = time.Since(r.began)
	switch {
	case err == nil, fault.KindOf(err) == fault.NotFound:
		o.Outcome, o.Value, o.Seq = check.Done, valueOf(got.GetContent()), got.GetResourceVersion()
	default:
		o.Outcome = check.Unknown
	}
	return o, err
}
