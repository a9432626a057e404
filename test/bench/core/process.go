package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/test/harness"
)

// tb makes the harness usable outside tests: a failure is a panic that guarded
// turns into an error.
type tb struct{ cleanup []func() }

type failure string

func (t *tb) Helper()                           {}
func (t *tb) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (t *tb) Errorf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }
func (t *tb) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }
func (t *tb) Failed() bool                      { return false }
func (t *tb) Cleanup(f func())                  { t.cleanup = append(t.cleanup, f) }

// guarded runs f with a cluster of real processes, which end with it.
func guarded(f func(*harness.Cluster) (result, error)) (r result, err error) {
	t := &tb{}
	defer func() {
		for _, c := range slices.Backward(t.cleanup) {
			c()
		}
		if p := recover(); p != nil {
			msg, ok := p.(failure)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("%s", string(msg))
		}
	}()
	return f(harness.New(t))
}

// change is a mesh of n resources as an apply request, touched by round.
func change(n, round int) *adminv1.Change {
	c := &adminv1.Change{FieldManager: "bench", AllowLargeChange: true}
	for _, g := range graphtest.Mesh(n, 1) {
		c.Resources = append(c.Resources, touch(g, round).Content)
	}
	return c
}

// applyOf times Apply of n resources through a real hub: all new, then all
// changed, several times.
func applyOf(n int, limit time.Duration) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, _ *bench) (result, error) {
		return guarded(func(c *harness.Cluster) (result, error) {
			cl := c.NewHub("bench").Client()
			var took []time.Duration
			for round := range 3 {
				req := &adminv1.ApplyRequest{RequestId: fmt.Sprintf("bench-%d", round), Change: change(n, round)}
				begin := time.Now()
				resp, err := cl.Apply(ctx, req)
				if err != nil {
					return result{}, err
				}
				took = append(took, time.Since(begin))
				if got := resp.GetPlan().GetCreated() + resp.GetPlan().GetUpdated(); int(got) != n || resp.GetSeq() == 0 {
					return result{}, fmt.Errorf("apply of %d resources wrote %d at entry %d", n, got, resp.GetSeq())
				}
			}
			worst := slices.Max(took)
			return result{
				text: fmt.Sprintf("%.2f s", worst.Seconds()), met: worst <= limit,
				detail: fmt.Sprintf("the slowest of all new %.2f s, all changed %.2f s and %.2f s; about 1 KiB each",
					took[0].Seconds(), took[1].Seconds(), took[2].Seconds()),
			}, nil
		})
	}
}

// rss is a process's resident set, in MB (10^6 bytes).
func rss(pid int) (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb * 1024 / 1e6, nil
		}
	}
	return 0, fmt.Errorf("process %d shows no VmRSS", pid)
}

// applyAndSettle applies a mesh and waits until every agent has it.
func applyAndSettle(ctx context.Context, cl *client.Client, n, round, agents int) error {
	resp, err := cl.Apply(ctx, &adminv1.ApplyRequest{RequestId: fmt.Sprintf("settle-%d", round), Change: change(n, round)})
	if err != nil {
		return err
	}
	return harness.Poll(2*time.Minute, func() (bool, error) {
		list, err := cl.Agents(ctx, "")
		if err != nil {
			return false, err
		}
		have := 0
		for _, a := range list {
			if a.GetActive().GetVersion() >= resp.GetSeq() {
				have++
			}
		}
		return have == agents, nil
	})
}

func agentMemory(ctx context.Context, _ *bench) (result, error) {
	return guarded(func(c *harness.Cluster) (result, error) {
		hub := c.NewHub("bench")
		agent := c.NewAgent(hub, "node-1", "region=eu-west")
		cl := hub.Client()
		for round := range 5 {
			if err := applyAndSettle(ctx, cl, 1_000, round, 1); err != nil {
				return result{}, err
			}
		}
		mb, err := rss(agent.Pid())
		if err != nil {
			return result{}, err
		}
		return result{
			text: fmt.Sprintf("%.1f MB", mb), met: mb <= 40,
			detail: "after five rounds in which every resource changed; about 1 KiB each",
		}, nil
	})
}

func hubMemory(ctx context.Context, _ *bench) (result, error) {
	const agents = 1_000
	return guarded(func(c *harness.Cluster) (result, error) {
		hub := c.NewHub("bench")
		cl := hub.Client()
		if _, err := cl.Apply(ctx, &adminv1.ApplyRequest{RequestId: "first", Change: change(1_000, 0)}); err != nil {
			return result{}, err
		}
		tok, err := cl.CreateToken(ctx, &adminv1.CreateTokenRequest{
			Labels: map[string]string{"region": "eu-west"}, Ttl: durationpb.New(time.Hour), Uses: agents, RequestId: "token",
		})
		if err != nil {
			return result{}, err
		}
		c.Start("fleet", "meshagent", "fleet", "--hub", hub.Address, "--token", tok.GetToken(), "--ca-pin", tok.GetCaPin(),
			"--count", strconv.Itoa(agents), "--data", c.Path("fleet"))
		for round := 1; round <= 3; round++ {
			if err := applyAndSettle(ctx, cl, 1_000, round, agents); err != nil {
				return result{}, err
			}
		}
		mb, err := rss(hub.Pid())
		if err != nil {
			return result{}, err
		}
		return result{
			text: fmt.Sprintf("%.0f MB", mb), met: mb <= 250,
			detail: "all connected, 1,000 resources, after three rounds in which every resource changed",
		}, nil
	})
}

func middle(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
