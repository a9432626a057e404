package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// TestAcknowledgedWritesSurviveAKilledHub is promise P1: the hub is killed again and
// again while clients write and retry under one request id. Every acknowledged write
// is there at the end, at the sequence number that was told, and none is there twice.
func TestAcknowledgedWritesSurviveAKilledHub(t *testing.T) {
	c := harness.New(t)
	hub := c.NewHub("eu-west")
	const writers, writes, kills = 4, 12, 3
	acked := make([][]uint64, writers)
	progress := make(chan struct{}, writers*writes)
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for w := range writers {
		cl := hub.Client()
		wg.Go(func() {
			for n := range writes {
				seq, err := insist(ctx, cl, fmt.Sprintf("w%d-%d", w, n))
				if err != nil {
					t.Errorf("writer %d, write %d: %v", w, n, err)
					cancel()
					return
				}
				acked[w] = append(acked[w], seq)
				progress <- struct{}{}
			}
		})
	}
	for range kills { // each while writes are under way
		for range writers * writes / (kills + 2) {
			select {
			case <-progress:
			case <-ctx.Done():
				t.Fatal("the writers got nowhere")
			}
		}
		hub.Kill()
		hub.Start()
	}
	wg.Wait()
	hub.Kill()
	hub.Start()

	history, err := resources(t, hub).History(limited(t), &adminv1.HistoryRequest{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	committed := make(map[string]uint64)
	for _, e := range history.GetEntries() {
		if other, twice := committed[e.GetRequestId()]; twice {
			t.Errorf("request %s was committed as %d and %d", e.GetRequestId(), other, e.GetSeq())
		}
		committed[e.GetRequestId()] = e.GetSeq()
		if e.GetAuthor() != "spiffe://eu-west/operator/admin" || e.GetTime() == nil || e.GetOrigin() == "" {
			t.Errorf("entry %d does not say who, when and from where: %v", e.GetSeq(), e)
		}
	}
	for w := range acked {
		for n, seq := range acked[w] {
			if id := fmt.Sprintf("w%d-%d", w, n); committed[id] != seq {
				t.Errorf("%s was acknowledged as %d and is %d after the kills", id, seq, committed[id])
			}
		}
	}
	if names := strings.Count(c.Ctl("get", "clusters", "-o", "name"), "\n"); names != writers*writes {
		t.Errorf("%d clusters, want %d", names, writers*writes)
	}
}

// insist applies one cluster under a request id until the outcome is known.
func insist(ctx context.Context, cl *client.Client, name string) (uint64, error) {
	req := &adminv1.ApplyRequest{RequestId: name, Change: &adminv1.Change{Resources: [][]byte{clusterJSON(name, "10.0.0.1:80")}}}
	for {
		resp, err := cl.Apply(ctx, req)
		if err == nil {
			return resp.GetSeq(), nil
		}
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Unknown, fault.Conflict:
		default:
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, err
		}
	}
}
