//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/test/harness"
)

// crowd is many nodes of the product's own client, with its backoff and jitter. They
// take the digests of manifests for what they hold and store no content, so that one
// process can be thousands.
type crowd struct {
	script    *controlScript
	connected atomic.Int64
	snapshots atomic.Int64
	deltas    atomic.Int64
	refusals  atomic.Int64 // attempts that did not end in a stream
}

// crowdState answers "state".
type crowdState struct {
	Connected int64 `json:"connected"`
	Snapshots int64 `json:"snapshots"`
	Deltas    int64 `json:"deltas"`
	Refusals  int64 `json:"refusals"`
}

func crowdPart(spec clientSpec) (handlers, error) {
	ctx := context.Background()
	s, err := newControlScript(ctx, &clients{spec: spec, failed: make(chan error, 1)})
	if err != nil {
		return nil, err
	}
	c := &crowd{script: s.(*controlScript)}
	return handlers{
		"connect": func(json.RawMessage) (any, error) { return nil, c.start(ctx, spec.Count) },
		"state": func(json.RawMessage) (any, error) {
			return crowdState{c.connected.Load(), c.snapshots.Load(), c.deltas.Load(), c.refusals.Load()}, nil
		},
	}, nil
}

// startPace is how often another agent starts: a little below the rate at which a hub
// admits them, since their first arrival is not what is measured.
const startPace = 6 * time.Millisecond

func (c *crowd) start(ctx context.Context, n int) error {
	for i := range n {
		<-time.After(startPace)
		creds, err := c.script.credentials(i)
		if err != nil {
			return err
		}
		m := &member{crowd: c, i: i, resume: c.script.resume}
		m.client, err = subscriber.New(subscriber.Config{
			Hubs: []string{c.script.clients.spec.Address}, DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(creds)}, Handler: m,
		})
		if err != nil {
			return err
		}
		go func() { _ = m.client.Run(ctx) }() // until the process ends
	}
	return nil
}

// member is one node of a crowd. Its client's goroutine owns it.
type member struct {
	crowd  *crowd
	client *subscriber.Client
	i      int
	resume *controlv1.ResumePoint
	up     bool
}

// Hello implements subscriber.Handler.
func (m *member) Hello() *controlv1.Hello {
	h := m.crowd.script.say(m.i)
	h.Resume, h.Highest = m.resume, m.resume
	return h
}

// Accepted implements subscriber.Handler.
func (m *member) Accepted(context.Context, string, *controlv1.Accepted) {
	if !m.up {
		m.up = true
		m.crowd.connected.Add(1)
	}
}

// Update implements subscriber.Handler.
func (m *member) Update(_ context.Context, u *subscriber.Update) {
	var man trustv1.Manifest
	if proto.Unmarshal(u.Manifest.GetPayload(), &man) != nil {
		return
	}
	if u.Snapshot {
		m.crowd.snapshots.Add(1)
	} else {
		m.crowd.deltas.Add(1)
	}
	m.resume = &controlv1.ResumePoint{Epoch: man.GetEpoch(), Version: man.GetVersion(), Digest: man.GetDigest(), View: man.GetView()}
	m.client.Ack(ackOf(&man))
}

func (m *member) Freshness(context.Context, *trustv1.Envelope) {}
func (m *member) Trust(context.Context, *trustv1.Metadata)     {}
func (m *member) Notice(context.Context, *controlv1.Notice)    {}

// Disconnected implements subscriber.Handler.
func (m *member) Disconnected(string, error, time.Duration) {
	if m.up {
		m.up = false
		m.crowd.connected.Add(-1)
		return
	}
	m.crowd.refusals.Add(1)
}

// hubProcess is the real program.
type hubProcess struct {
	config, ready string
	cmd           *exec.Cmd
}

func (h *hubProcess) start(programs string) error {
	_ = os.Remove(h.ready)
	h.cmd = exec.Command(filepath.Join(programs, "meshhub"), "run", "--config", h.config, "--ready-file", h.ready, "--log-level", "error")
	h.cmd.Stderr = os.Stderr
	dieWithParent(h.cmd)
	if err := h.cmd.Start(); err != nil {
		return err
	}
	return harness.Poll(harness.Patience, func() (bool, error) {
		data, err := os.ReadFile(h.ready)
		return err == nil && len(data) > 0, nil
	})
}

// kill ends the program as a crash does.
func (h *hubProcess) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait() // killed
}

// restart crashes a hub with n agents and starts it again: how long until all streams
// are back, and what they were sent.
func restart(ctx context.Context, o options, dir string, n int) ([]figure, error) {
	programs, err := harness.Programs()
	if err != nil {
		return nil, err
	}
	listen, metrics, err := freeAddresses()
	if err != nil {
		return nil, err
	}
	d, err := initDomain(dir, listen, metrics)
	if err != nil {
		return nil, err
	}
	h := &hubProcess{config: filepath.Join(d, "meshhub.yaml"), ready: filepath.Join(d, "ready")}
	if err := h.start(programs); err != nil {
		return nil, err
	}
	defer func() { h.kill() }()
	op, err := operator(ctx, listen, d, o.resources)
	if err != nil {
		return nil, err
	}
	defer func() { _ = op.Close() }()
	spec := clientSpec{Kind: "crowd", Address: listen, Count: n}
	if spec.Token, spec.Pin, err = token(ctx, op, n); err != nil {
		return nil, err
	}
	agents, err := startClients("agents", spec)
	if err != nil {
		return nil, err
	}
	defer agents.stop()
	if err := agents.call("connect", nil, nil); err != nil {
		return nil, err
	}
	first, err := agents.until(func(s crowdState) bool { return s.Connected == int64(n) })
	if err != nil {
		return nil, err
	}
	h.kill()
	began := time.Now()
	if _, err := agents.until(func(s crowdState) bool { return s.Connected == 0 }); err != nil {
		return nil, err
	}
	if err := h.start(programs); err != nil {
		return nil, err
	}
	back, err := agents.until(func(s crowdState) bool { return s.Connected == int64(n) })
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	used, err := (&child{name: "hub", cmd: h.cmd}).cpu()
	if err != nil {
		return nil, err
	}
	mesh := graphtest.Mesh(o.resources, 1)
	c := &adminv1.Change{FieldManager: "bench", Resources: [][]byte{graphtest.Edit(mesh[1], 1).Content}}
	if _, err := op.Apply(ctx, &adminv1.ApplyRequest{RequestId: "after", Change: c}); err != nil {
		return nil, err
	}
	end, err := agents.until(func(s crowdState) bool { return s.Deltas+s.Snapshots >= back.Deltas+back.Snapshots+int64(n) })
	if err != nil {
		return nil, err
	}
	snapshots := end.Snapshots - first.Snapshots
	return []figure{
		{
			name: fmt.Sprintf("hub killed and started again, %d agents: all streams back", n), target: "≤ 30 s",
			text: fmt.Sprintf("%.1f s", took.Seconds()), met: took <= 30*time.Second,
			detail: fmt.Sprintf("from the kill on; %d attempts were refused or failed; the new hub used %s of CPU per agent", back.Refusals-first.Refusals, millis(used/time.Duration(n))),
		},
		{
			name: fmt.Sprintf("hub killed and started again, %d agents: snapshots sent", n), target: "0",
			text: fmt.Sprint(snapshots), met: snapshots == 0,
			detail: fmt.Sprintf("agents that were up to date; the first change after it went out as %d deltas", end.Deltas-back.Deltas),
		},
	}, nil
}

// until polls the crowd until ok.
func (c *child) until(ok func(crowdState) bool) (crowdState, error) {
	var s crowdState
	err := harness.Poll(3*time.Minute, func() (bool, error) {
		if err := c.call("state", nil, &s); err != nil {
			return false, err
		}
		return ok(s), nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w; last seen %+v", c.name, err, s)
	}
	return s, err
}
