//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/test/chaos/check"
	"github.com/meshkit/meshkit/test/harness"
)

// TestAllAgentsReturnToARestartedHub kills a hub that many agents follow, and starts
// it again: all return, at the pace that the hub admits; none goes back; and none is
// sent a snapshot, neither those that hold the newest version nor, after that, those
// that a delta can serve.
func TestAllAgentsReturnToARestartedHub(t *testing.T) {
	t.Logf("-agents %d", *agents)
	c := harness.New(t)
	hub := c.NewHub("chaos")
	begin := time.Now()
	lap := func(what string) {
		t.Helper()
		t.Logf("%6.1f s: %s", time.Since(begin).Seconds(), what)
		begin = time.Now()
	}
	run := joinFleet(t, c, hub, *agents)
	lap("the agents have joined")
	fleet := c.Start("fleet-1", "meshagent", run...)
	cl := hub.Client()
	for n := range 20 {
		change(t, cl, n)
	}
	everyoneHas(t, cl)
	lap("all follow the hub")

	hub.Kill()
	hub.Start()
	everyoneHas(t, cl)
	lap("all are back after the hub was killed")
	if n := updates(t, hub, "snapshot") + updates(t, hub, "delta"); n != 0 {
		t.Errorf("%d updates were sent to agents that had the newest version", n)
	}
	change(t, cl, 20)
	everyoneHas(t, cl)
	lap("a change has reached all")
	fleet.Kill()
	change(t, cl, 21)
	c.Start("fleet-2", "meshagent", run...)
	everyoneHas(t, cl)
	lap("all are back after they were killed, and have what changed meanwhile")
	if n := updates(t, hub, "snapshot"); n != 0 {
		t.Errorf("%d snapshots were sent where a delta could serve", n)
	}
	if n := updates(t, hub, "delta"); n < 2**agents {
		t.Errorf("%d deltas were sent for two changes to %d agents: this test measures nothing", n, *agents)
	}

	activations := fleetActivations(t, c, "fleet-1", "fleet-2")
	nodes := make(map[string]bool)
	for _, a := range activations {
		nodes[a.Node] = true
	}
	if len(nodes) != *agents {
		t.Errorf("%d agents logged what they activated, of %d", len(nodes), *agents)
	}
	for _, p := range check.Agents(activations) {
		t.Error(p)
	}
}

// change writes one more resource.
func change(t *testing.T, cl *client.Client, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	_, err := cl.Apply(ctx, &adminv1.ApplyRequest{RequestId: fmt.Sprintf("change-%d", n), Change: &adminv1.Change{
		FieldManager: "chaos", Resources: [][]byte{fmt.Appendf(nil,
			`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"cluster-%02d"},"spec":{"endpoints":[{"address":"10.0.0.%d:80"}]}}`, n, n+1)},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// everyoneHas waits until all agents are connected and have the newest version.
func everyoneHas(t *testing.T, cl *client.Client) {
	t.Helper()
	have, version := 0, uint64(0)
	err := harness.Poll(4*harness.Patience, func() (bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		d, err := cl.Domain(ctx)
		if err != nil {
			return false, nil // the hub starts
		}
		all, err := cl.Agents(ctx, "")
		if err != nil {
			return false, nil
		}
		have, version = 0, d.GetConfigSeq()
		for _, a := range all {
			if a.GetConnected() && a.GetActive().GetVersion() == version {
				have++
			}
		}
		return have == *agents, nil
	})
	if err != nil {
		t.Fatalf("%d agents of %d are connected and have version %d: %v", have, *agents, version, err)
	}
}

// updates reads from the hub's metrics how many updates of a kind it sent to streams.
func updates(t *testing.T, h *harness.Hub, how string) int {
	t.Helper()
	file := func(name string) string { return filepath.Join(h.Admin, name) }
	source, err := client.LoadCredentials(client.Config{Hub: h.Metrics, CAFile: file("ca.pem"), CertFile: file("admin.pem"), KeyFile: file("admin.key")})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: mtls.ClientConfig(source, mtls.AnyHub)}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: harness.Patience}).Get("https://" + h.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s, %v", resp.Status, err)
	}
	m := regexp.MustCompile(`(?m)^meshkit_control_updates_total\{how="` + how + `"\} (\d+)$`).FindSubmatch(body)
	if m == nil {
		return 0 // none was sent yet
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
