package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// agentRow is what the tests read of `get agents -o json`.
type agentRow struct {
	Node   string `json:"node"`
	Phase  string `json:"phase"`
	Active struct {
		Version json.Number `json:"version"`
		Epoch   json.Number `json:"epoch"`
		Digest  string      `json:"digest"`
	} `json:"active"`
	Connected bool `json:"connected"`
}

// list is the envelope of every list that meshctl prints as JSON.
type list[T any] struct {
	Items []T `json:"items"`
}

// exampleMesh copies the example that the README points to.
func exampleMesh(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	dir := c.Path("mesh")
	if err := os.CopyFS(dir, os.DirFS("../../docs/examples/mesh")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), from) {
		t.Fatalf("%s does not hold %q", path, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantContains(t *testing.T, what, out string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, out)
		}
	}
}

// TestReadmeJourney does what the README says, in its order.
func TestReadmeJourney(t *testing.T) {
	c := harness.New(t)
	hub := c.NewHub("eu-west")
	agent := c.NewAgent(hub, "node-1", "region=eu")
	mesh := exampleMesh(t, c)

	c.Ctl("validate", mesh)
	wantContains(t, "plan", c.Ctl("plan", "-f", mesh), "checkout", "payments-limits")
	c.Ctl("apply", "-f", mesh, "--wait")

	wantContains(t, "get routes", c.Ctl("get", "routes"), "checkout", "payments")
	if wide := c.Ctl("get", "agents", "-o", "wide"); !strings.Contains(wide, "Staging") && !strings.Contains(wide, "Active") { // in its probation, or past it
		t.Errorf("get agents -o wide shows neither phase:\n%s", wide)
	}
	wantContains(t, "describe cluster payments", c.Ctl("describe", "cluster", "payments"), "10.1.1.11:9000", "payments-limits", "route/payments")
	wantContains(t, "simulate", c.Ctl("simulate", "route", "--service", "checkout", "--procedure", "Checkout::pay", "--header", "tenant=acme"), "checkout-v2", "pay")

	edit(t, filepath.Join(mesh, "checkout.yaml"), "weight: 90", "weight: 80")
	edit(t, filepath.Join(mesh, "checkout.yaml"), "weight: 10", "weight: 20")
	if r := c.Run("meshctl", "plan", "-f", mesh, "--exit-code"); r.Code != 2 {
		t.Errorf("plan --exit-code of a changed mesh exited %d, want 2\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Ctl("apply", "-f", mesh, "--wait", "--message", "more canary")
	wantContains(t, "history", c.Ctl("history", "route/checkout"), "more canary")
	changed := bundleOf(t, c, agent)
	wantContains(t, "bundle after the change", changed, `"weight":80`)

	c.Ctl("undo", "--wait")
	wantContains(t, "bundle after undo", bundleOf(t, c, agent), `"weight":90`)

	wantContains(t, "meshagent status", c.Must("meshagent", "status", "--config", agent.Config()), "Active")
	if code := agent.Stop(); code != 0 {
		t.Errorf("meshagent exited %d on interrupt, want 0", code)
	}
	if code := hub.Stop(); code != 0 {
		t.Errorf("meshhub exited %d on interrupt, want 0", code)
	}
}

// bundleOf is the resource bytes that an agent serves, newest.
func bundleOf(t *testing.T, c *harness.Cluster, a *harness.Agent) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Data, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestBrokenConfigIsRefusedWhereItIsWrong shows file:line:column, exit 65, and
// that nothing of the set was applied.
func TestBrokenConfigIsRefusedWhereItIsWrong(t *testing.T) {
	c := harness.New(t)
	c.NewHub("eu-west")
	mesh := exampleMesh(t, c)
	c.Ctl("apply", "-f", mesh)
	var before list[json.RawMessage]
	c.JSON(&before, "get", "all")

	edit(t, filepath.Join(mesh, "checkout.yaml"), "cluster", "clusster")
	edit(t, filepath.Join(mesh, "payments.yaml"), "percent: 5", "percent: 25")
	r := c.Run("meshctl", "apply", "-f", mesh)
	if r.Code != 65 {
		t.Errorf("exit %d, want 65\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	wantContains(t, "the finding", r.Stderr, "checkout.yaml:", "MK2", "clusters")

	var after list[json.RawMessage]
	c.JSON(&after, "get", "all")
	b, _ := json.Marshal(before)
	a, _ := json.Marshal(after)
	if string(a) != string(b) {
		t.Errorf("a refused apply changed something:\nbefore %s\nafter  %s", b, a)
	}
}

// TestAgentsOutliveTheHub is promise P5 with real processes: the hub is killed,
// the agent restarts without it, and serves what it had kept.
func TestAgentsOutliveTheHub(t *testing.T) {
	c := harness.New(t)
	hub := c.NewHub("eu-west")
	agent := c.NewAgent(hub, "node-1", "region=eu")
	mesh := exampleMesh(t, c)
	c.Ctl("apply", "-f", mesh, "--wait")
	before := bundleOf(t, c, agent)

	hub.Kill()
	agent.Kill()
	if err := os.Remove(filepath.Join(agent.Data, "bundle.json")); err != nil {
		t.Fatal(err)
	}
	agent.Start()
	if after := bundleOf(t, c, agent); after != before {
		t.Errorf("after a restart without the hub the agent serves\n%s\nwant\n%s", after, before)
	}
	wantContains(t, "status without a hub", c.Must("meshagent", "status", "--config", agent.Config()), "node-1")

	hub.Start()
	// --wait is for agents that are connected.
	awaitStatus(t, c, agent, "the hub's return", func(st statusOf) bool { return st.Connected })
	edit(t, filepath.Join(mesh, "payments.yaml"), "percent: 5", "percent: 7")
	c.Ctl("apply", "-f", mesh, "--wait")
	wantContains(t, "bundle once the hub is back", bundleOf(t, c, agent), `"percent":7`)
}

// TestATokenJoinsOneNode covers a token used twice and a wrong pin.
func TestATokenJoinsOneNode(t *testing.T) {
	c := harness.New(t)
	hub := c.NewHub("eu-west")
	token, pin := c.Token("--label", "region=eu", "--uses", "1")
	c.Must("meshagent", "join", "--hub", hub.Address, "--token", token, "--ca-pin", pin, "--node", "first", "--data", c.Path("first"))
	r := c.Run("meshagent", "join", "--hub", hub.Address, "--token", token, "--ca-pin", pin, "--node", "second", "--data", c.Path("second"))
	if r.Code != 4 {
		t.Errorf("a spent token exited %d, want 4\n%s", r.Code, r.Stderr)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	r = c.Run("meshagent", "join", "--hub", hub.Address, "--token", token, "--ca-pin", wrong, "--node", "third", "--data", c.Path("third"))
	if r.Code != 4 || !strings.Contains(r.Stderr, "pin") {
		t.Errorf("a wrong pin exited %d, want 4 and the word pin\n%s", r.Code, r.Stderr)
	}
	var agents list[agentRow]
	c.JSON(&agents, "get", "agents")
	if len(agents.Items) != 1 || agents.Items[0].Node != "first" {
		t.Errorf("joined agents are %+v, want first alone", agents.Items)
	}
}

// TestDemoHoldsEveryStepAndLeavesNothing runs the README's first command with
// the built programs.
func TestDemoHoldsEveryStepAndLeavesNothing(t *testing.T) {
	demoHolds(t, []string{"--headless"}, "publish", "change", "refuse", "kill", "restart", "resume", "cleanup")
}

// TestRingDemoHoldsEveryStepAndLeavesNothing runs it with three hubs on a Consul.
func TestRingDemoHoldsEveryStepAndLeavesNothing(t *testing.T) {
	t.Parallel()
	consul, err := consultest.Program()
	if err != nil {
		t.Fatal(err)
	}
	demoHolds(t, []string{"--ring", "--headless", "--consul", consul}, "consul", "ring", "agents", "publish", "kill", "handover", "check", "cleanup")
}

func demoHolds(t *testing.T, args []string, steps ...string) {
	t.Helper()
	c := harness.New(t)
	// A Unix socket's path must stay short, so this is not below t.TempDir.
	tmp := c.Path("tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Setenv("TMPDIR", tmp)
	r := c.Run("meshctl", append([]string{"demo"}, args...)...)
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, step := range steps {
		wantContains(t, "the demo", r.Stdout, step)
	}
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("the demo left %s behind", e.Name())
	}
}

// TestHeldDemoPrintsNothingButSettings holds the demo, uses what it prints as a
// shell would, and interrupts it.
func TestHeldDemoPrintsNothingButSettings(t *testing.T) {
	c := harness.New(t)
	tmp := c.Path("tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := c.Command(ctx, "meshctl", "demo", "--headless", "--hold")
	var story bytes.Buffer
	cmd.Stderr = &story
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	settings := make(map[string]string)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line, ok := strings.CutPrefix(lines.Text(), "export MESHKIT_")
		name, value, _ := strings.Cut(line, "=")
		if !ok {
			t.Errorf("stdout has the line %q, want nothing but exports", lines.Text())
		}
		settings["MESHKIT_"+name] = value
		if name != "AGENT_SOCKET" { // the last one
			continue
		}
		for name, value := range settings {
			c.Setenv(name, value)
		}
		var agents list[agentRow]
		if c.JSON(&agents, "get", "agents"); len(agents.Items) != 20 {
			t.Errorf("the held demo has %d agents, want 20", len(agents.Items))
		}
		wantContains(t, "status by the socket that was printed", c.Must("meshagent", "status"), "eu-1")
		cancel()
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the interrupted demo ended with %v\n%s", err, story.String())
	}
	for _, want := range []string{"MESHKIT_HUB", "MESHKIT_CA_FILE", "MESHKIT_CERT_FILE", "MESHKIT_KEY_FILE", "MESHKIT_CONFIG", "MESHKIT_AGENT_SOCKET"} {
		if settings[want] == "" {
			t.Errorf("%s was not printed", want)
		}
	}
	wantContains(t, "the story", story.String(), "resume")
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v behind (%v)", left, err)
	}
}
