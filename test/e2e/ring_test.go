package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// hubRow is what the tests read of `get hubs -o json`.
type hubRow struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
	Drained bool   `json:"drained"`
	Streams uint64 `json:"streams"`
	Problem string `json:"problem"`
}

// newRing starts three hubs on a Consul of three servers, one each.
func newRing(t *testing.T, c *harness.Cluster) []*harness.Hub {
	t.Helper()
	servers := consultest.Start(t, c.Path("consul"), consultest.Options{Servers: 3}).Servers
	var urls []string
	for _, s := range servers {
		urls = append(urls, "consul://"+s.HTTP+"/meshkit?dc=dc1")
	}
	return c.NewRing("eu-west", urls...)
}

// leaderOf waits until one hub says that it leads, and gives it.
func leaderOf(t *testing.T, ring []*harness.Hub) *harness.Hub {
	t.Helper()
	var leader *harness.Hub
	clients := make(map[*harness.Hub]*client.Client)
	for _, h := range ring {
		clients[h] = h.Client()
	}
	err := harness.Poll(harness.Patience, func() (bool, error) {
		for _, h := range ring {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			hubs, err := clients[h].Hubs(ctx)
			cancel()
			if err != nil {
				continue
			}
			for _, x := range hubs {
				for _, candidate := range ring {
					if x.GetLeader() && x.GetName() == candidate.Name {
						leader = candidate
						return true, nil
					}
				}
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("no hub leads: %v", err)
	}
	return leader
}

// A hub that follows and comes back at another address is reached there by the others,
// without leading first, and its certificate names the host.
func TestAHubThatGetsAnotherAddressIsReachedThere(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	moved := ring[2]
	if leader := leaderOf(t, ring); leader == moved {
		moved = ring[1]
	}
	moved.Stop()
	leaderOf(t, ring[:1])
	ports, err := consultest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.2:%d", ports[0]) // this machine, by another name
	path := filepath.Join(moved.Data, "meshhub.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(config), moved.Address, address, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	moved.Start()
	moved.Address = address
	row := func() (out hubRow) {
		var hubs list[hubRow]
		c.JSON(&hubs, "get", "hubs")
		for _, h := range hubs.Items {
			if h.Name == moved.Name {
				out = h
			}
		}
		return out
	}
	if err := harness.Poll(harness.Patience, func() (bool, error) { h := row(); return h.Address == address && h.Problem == "", nil }); err != nil {
		t.Fatalf("the others do not reach it: %+v", row())
	}
	c.Ctl("domain", "transfer", "eu-west", "--to", moved.Name)
	if h := row(); !h.Leader {
		t.Errorf("it was handed leadership, and is %+v", h)
	}
	err = harness.Poll(harness.Patience, func() (bool, error) {
		data, err := os.ReadFile(filepath.Join(moved.Data, "tls", "hub.pem"))
		if err != nil {
			return false, err
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		return err == nil && cert.VerifyHostname("127.0.0.2") == nil, err
	})
	if err != nil {
		t.Errorf("its certificate does not name the host: %v", err)
	}

	// meshctl, which knows all of them now, does without the one that its context named.
	c.Ctl("context", "sync")
	ring[0].Kill()
	if h := row(); h.Address != address {
		t.Errorf("with the first hub away: %+v", h)
	}
}

// TestARingSurvivesTheLossOfItsLeader has writers on every hub while leaders are
// killed, stopped and ended. Each write that was acknowledged is in the log, once.
func TestARingSurvivesTheLossOfItsLeader(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var acked sync.Map // id of each token that was acknowledged
	var writers sync.WaitGroup
	var count atomic.Int64
	for _, h := range ring {
		client := h.Client()
		writers.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond) // a domain holds 10,000 tokens at most
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-pace.C
				wctx, cancel := context.WithTimeout(ctx, 20*time.Second)
				// The id stays the same for as long as it takes.
				got, err := client.CreateToken(wctx, &adminv1.CreateTokenRequest{RequestId: fmt.Sprintf("%s-%d", h.Name, i)})
				cancel()
				switch {
				case err == nil:
					acked.Store(got.GetId(), true)
					count.Add(1)
				case ctx.Err() != nil:
				case errors.Is(err, fault.CodeTokenShown): // done by an earlier try, whose answer was lost
				default:
					i-- // try the same again
				}
			}
		})
	}
	written := func(more int64) {
		t.Helper()
		want := count.Load() + more
		if err := harness.Poll(harness.Patience, func() (bool, error) { return count.Load() >= want, nil }); err != nil {
			t.Fatalf("no writes get through: %v", err)
		}
	}
	written(20)
	for _, sig := range []os.Signal{syscall.SIGKILL, os.Interrupt, syscall.SIGSTOP} {
		old := leaderOf(t, ring)
		t.Logf("%v for %s, which leads", sig, old.Name)
		old.Signal(sig)
		others := make([]*harness.Hub, 0, 2)
		for _, h := range ring {
			if h != old {
				others = append(others, h)
			}
		}
		if next := leaderOf(t, others); next == old {
			t.Fatalf("%s leads after %v", old.Name, sig)
		}
		written(20)
		if sig == syscall.SIGSTOP {
			old.Signal(syscall.SIGCONT)
		} else {
			old.Kill()
			old.Start()
		}
		written(20)
	}
	stop()
	writers.Wait()
	for _, h := range ring {
		have, client := make(map[string]int), h.Client()
		if err := harness.Poll(harness.Patience, func() (bool, error) {
			clear(have)
			all, err := client.Tokens(t.Context())
			if err != nil {
				return false, nil
			}
			for _, x := range all {
				have[x.GetId()]++
			}
			return int64(len(have)) >= count.Load(), nil
		}); err != nil {
			t.Fatalf("%s lists %d tokens, %d were acknowledged", h.Name, len(have), count.Load())
		}
		acked.Range(func(id, _ any) bool {
			if have[id.(string)] != 1 {
				t.Errorf("token %v was acknowledged, and %s has it %d times", id, h.Name, have[id.(string)])
			}
			return true
		})
	}
}

// TestAnyHubAnswersForTheRing joins agents through different hubs and asks one for
// all of them.
func TestAnyHubAnswersForTheRing(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	for i, h := range ring {
		c.NewAgent(h, fmt.Sprintf("n%d", i+1))
	}
	follower := ring[1]
	if leaderOf(t, ring) == follower {
		follower = ring[2]
	}
	asked := func(args ...string) harness.Result {
		t.Helper()
		admin := func(name string) string { return filepath.Join(follower.Admin, name) }
		return c.Run("meshctl", append(args, "--hub", follower.Address, "--ca-file", admin("ca.pem"), "--cert-file", admin("admin.pem"), "--key-file", admin("admin.key"))...)
	}
	mesh := exampleMesh(t, c)
	if r := asked("apply", "-f", mesh, "--wait"); r.Code != 0 || !strings.Contains(r.Stderr, "active on 3 of 3 agents") {
		t.Fatalf("apply through a follower: exit %d\n%s", r.Code, r.Stderr)
	}
	// What was written through one hub is read from it at once.
	if r := asked("get", "routes", "-o", "name"); !strings.Contains(r.Stdout, "route/checkout") {
		t.Errorf("the follower does not show what was written through it: %s%s", r.Stdout, r.Stderr)
	}
	// The log tells who wrote, not who forwarded.
	if r := asked("history", "route/checkout"); !strings.Contains(r.Stdout, "operator/admin") {
		t.Errorf("the author is lost on the way: %s", r.Stdout)
	}
	var agents list[agentRow]
	c.JSON(&agents, "get", "agents")
	for _, a := range agents.Items {
		if !a.Connected {
			t.Errorf("agent %s is not connected as the first hub sees it", a.Node)
		}
	}
	gone := ring[2]
	if gone == follower {
		gone = ring[1]
	}
	gone.Kill()
	var hubs list[hubRow]
	c.JSON(&hubs, "get", "hubs")
	for _, h := range hubs.Items {
		if silent := strings.Contains(h.Problem, "does not answer"); silent != (h.Name == gone.Name) {
			t.Errorf("hub %s: %q", h.Name, h.Problem)
		}
	}
	follower.Kill()
	wantRefused(t, c.Run("meshctl", "hub", "drain", "hub1"), 6, fault.CodeLastHub, "hub2 (", "hub3 (")
}

// TestLeadershipAndStreamsGoWhereTheyAreSent transfers leadership, drains hubs, also
// the one that leads, and restarts a drained one.
func TestLeadershipAndStreamsGoWhereTheyAreSent(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	agent := c.NewAgent(ring[1], "n1")
	hubs := func() map[string]hubRow {
		t.Helper()
		var rows list[hubRow]
		c.JSON(&rows, "get", "hubs")
		by := make(map[string]hubRow)
		for _, h := range rows.Items {
			by[h.Name] = h
		}
		return by
	}
	for _, to := range []string{"hub3", "hub2"} {
		c.Ctl("domain", "transfer", "eu-west", "--to", to)
		if !hubs()[to].Leader {
			t.Fatalf("%s does not lead after the transfer: %+v", to, hubs())
		}
	}
	wantRefused(t, c.Run("meshctl", "domain", "transfer", "eu-west", "--to", "hub9"), 5, fault.CodeNoSuchHub)
	wantRefused(t, c.Run("meshctl", "domain", "transfer", "elsewhere", "--to", "hub1"), 64, fault.CodeUsage)

	// hub2 leads and has the agent's stream.
	c.Ctl("hub", "drain", "hub2")
	now := hubs()
	if h := now["hub2"]; h.Leader || h.Streams != 0 || !h.Drained {
		t.Fatalf("drained: %+v", h)
	}
	onAnother := func() (bool, error) {
		now := hubs()
		return now["hub1"].Streams+now["hub3"].Streams == 1 && now["hub2"].Streams == 0, nil
	}
	if err := harness.Poll(harness.Patience, onAnother); err != nil {
		t.Fatalf("the agent did not go to another hub: %+v", hubs())
	}
	wantRefused(t, c.Run("meshctl", "domain", "transfer", "eu-west", "--to", "hub2"), 6, fault.CodeNotTransferred)
	// A restart does not undo what an operator decided.
	ring[1].Kill()
	ring[1].Start()
	agent.Kill()
	agent.Start()
	if err := harness.Poll(harness.Patience, onAnother); err != nil {
		t.Fatalf("after a restart the agent is not where it should be: %+v", hubs())
	}
	c.Ctl("hub", "drain", "hub3")
	wantRefused(t, c.Run("meshctl", "hub", "drain", "hub1"), 6, fault.CodeLastHub)
	// The others are lost: a drained hub leads rather than nobody.
	ring[0].Kill()
	ring[1].Kill()
	admin := func(name string) string { return filepath.Join(ring[2].Admin, name) }
	r := c.Run("meshctl", "hub", "undrain", "hub3", "--hub", ring[2].Address, "--ca-file", admin("ca.pem"), "--cert-file", admin("admin.pem"), "--key-file", admin("admin.key"))
	if r.Code != 0 {
		t.Fatalf("a drained hub that is alone takes no writes: exit %d\n%s", r.Code, r.Stderr)
	}
	if leader := leaderOf(t, ring[2:]); leader.Name != "hub3" {
		t.Errorf("%s leads", leader.Name)
	}
}

// TestARingIsManagedWhenAnotherHubLeadsThanHasTheKeys changes keys through the hub that
// holds the keyset key while another leads, has hubs join through any, and drops hubs,
// also the one that leads.
func TestARingIsManagedWhenAnotherHubLeadsThanHasTheKeys(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	c.Ctl("domain", "transfer", "eu-west", "--to", "hub2")
	c.Ctl("key", "rotate") // of hub1, which meshctl talks to
	token, pin := c.Token("--hub", "--uses", "4")
	join := func(name string, through *harness.Hub) harness.Result {
		return c.Run("meshhub", "join", "--hub", through.Address, "--token", token, "--ca-pin", pin, "--name", name, "--data", c.Path(name), "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:8443")
	}
	for i, name := range []string{"hub4", "hub5", "hub6"} { // through the keys, the lead, and neither
		if r := join(name, ring[i]); r.Code != 0 {
			t.Errorf("join of %s through %s: exit %d\n%s", name, ring[i].Name, r.Code, r.Stderr)
		}
	}
	ring[0].Kill()
	wantRefused(t, join("hub7", ring[2]), 1, fault.CodeNoHubCA, "Start hub hub1 ("+ring[0].Address+")", "the token is still good")
	ring[0].Start()
	if r := join("hub7", ring[2]); r.Code != 0 {
		t.Errorf("once the hub with the keys is back: exit %d\n%s", r.Code, r.Stderr)
	}
	if leader := leaderOf(t, ring); leader.Name != "hub2" {
		t.Errorf("%s leads", leader.Name)
	}

	c.Ctl("key", "drop", "hub3", "--reason", "lost")
	admin := func(name string) string { return filepath.Join(ring[2].Admin, name) }
	write := []string{"token", "create", "--hub=" + ring[2].Address, "--ca-file", admin("ca.pem"), "--cert-file", admin("admin.pem"), "--key-file", admin("admin.key")}
	if r := c.Run("meshctl", write...); r.Code == 0 || !strings.Contains(r.Stderr, string(fault.CodeNotPermitted)) && !strings.Contains(r.Stderr, string(fault.CodeHubDropped)) {
		t.Errorf("a write through a hub that was dropped: exit %d\n%s", r.Code, r.Stderr)
	}
	c.Ctl("key", "drop", "hub2", "--reason", "lost") // which leads
	if leader := leaderOf(t, ring[:1]); leader.Name != "hub1" {
		t.Errorf("%s leads", leader.Name)
	}
	c.Ctl("token", "create")
	wantRefused(t, c.Run("meshctl", "hub", "drain", "hub1"), 6, fault.CodeLastHub, "hub4 (", "hub7 (") // which do not run

	// Another takes hub3's place. What it signs counts; what the lost one signs does not,
	// nor did it while hub3 was dropped.
	as := func(data string) []string {
		t.Helper()
		out := c.Path("operator-of-" + filepath.Base(data))
		if _, err := os.Stat(out); err != nil {
			c.Must("meshhub", "credentials", "issue", "--config", filepath.Join(data, "meshhub.yaml"), "--operator", "other", "--out", out)
		}
		file := func(name string) string { return filepath.Join(out, name) }
		return []string{"--hub", ring[0].Address, "--ca-file", file("ca.pem"), "--cert-file", file("other.pem"), "--key-file", file("other.key")}
	}
	asks := func(data string) harness.Result {
		return c.Run("meshctl", append([]string{"get", "hubs"}, as(data)...)...)
	}
	wantRefused(t, asks(ring[2].Data), 4, fault.CodeHubDropped)
	token, _ = c.Token("--hub", "--uses", "2")
	replace := []string{"join", "--hub", ring[0].Address, "--ca-pin", pin, "--name", "hub3", "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:8443"}
	r := c.Run("meshhub", append(replace, "--token", token, "--data", c.Path("hub3b"))...)
	wantRefused(t, r, 1, fault.CodeHubExists, "was dropped", "--hub --node hub3")
	for _, data := range []string{c.Path("hub3b"), c.Path("hub3c")} {
		token, _ = c.Token("--hub", "--node", "hub3")
		c.Must("meshhub", append(replace, "--token", token, "--data", data)...)
		if r := asks(data); r.Code != 0 {
			t.Errorf("an operator of the hub that has the place: exit %d\n%s", r.Code, r.Stderr)
		}
		wantRefused(t, asks(ring[2].Data), 4, fault.CodeHubDropped)
	}
	wantRefused(t, asks(c.Path("hub3b")), 4, fault.CodeHubDropped)
}

// TestOneRingServesSeveralDomains makes two more domains on a ring: each has agents,
// operators and a leader of its own, also after the hubs were restarted.
func TestOneRingServesSeveralDomains(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	in := func(domain string, args ...string) []string { return append([]string{"--context", domain}, args...) }
	for _, domain := range []string{"eu-central", "eu-north"} {
		c.Ctl("domain", "create", domain)
		wantRefused(t, c.Run("meshctl", "domain", "create", domain, "--out", c.Path("again-"+domain)), 1, fault.CodeDomainExists)
	}
	// A domain that is hosted hosts none.
	wantRefused(t, c.Run("meshctl", in("eu-north", "domain", "create", "eu-south", "--out", c.Path("south"))...), 65, fault.CodeNoDomainHost)

	// An agent joins by pin at the same address, through a hub that adopted the domain.
	var token struct{ Token, CaPin string }
	c.JSON(&token, in("eu-central", "token", "create")...)
	data := c.Path("central-node")
	c.Must("meshagent", "join", "--hub", ring[2].Address, "--token", token.Token, "--ca-pin", token.CaPin, "--node", "n1", "--data", data)
	c.Start("central-node", "meshagent", "run", "--config", filepath.Join(data, "meshagent.yaml"))
	mesh := exampleMesh(t, c)
	if r := c.Run("meshctl", in("eu-central", "apply", "-f", mesh, "--wait")...); r.Code != 0 || !strings.Contains(r.Stderr, "active on 1 of 1 agent") {
		t.Fatalf("apply in a domain that was made: exit %d\n%s", r.Code, r.Stderr)
	}
	if r := c.Run("meshctl", "get", "routes", "-o", "name"); r.Code != 0 || strings.Contains(r.Stdout, "checkout") {
		t.Errorf("a route of eu-central is in eu-west: %s%s", r.Stdout, r.Stderr)
	}
	// Operators of one domain are strangers in the other.
	central := c.Path("eu-central")
	r := c.Run("meshctl", "get", "routes", "--hub", ring[0].Address, "--ca-file", filepath.Join(ring[0].Admin, "ca.pem"),
		"--cert-file", filepath.Join(central, "admin.pem"), "--key-file", filepath.Join(central, "admin.key"))
	if r.Code == 0 {
		t.Errorf("an operator of eu-central reads eu-west: %s", r.Stdout)
	}

	// Three domains on three hubs end up with three leaders, also after one was away.
	spread := func() (bool, error) {
		leaders := make(map[string]bool)
		var domains list[domainRow]
		c.JSON(&domains, "get", "domains")
		for _, d := range domains.Items {
			leaders[d.Leader] = d.Problem == ""
		}
		delete(leaders, "")
		return len(domains.Items) == 3 && len(leaders) == 3, nil
	}
	if err := harness.Poll(harness.Patience, spread); err != nil {
		t.Fatalf("leadership is not spread:\n%s", c.Ctl("get", "domains", "-o", "wide"))
	}
	ring[2].Kill()
	ring[2].Start()
	if err := harness.Poll(2*harness.Patience, spread); err != nil {
		t.Fatalf("leadership is not spread after a restart:\n%s", c.Ctl("get", "domains", "-o", "wide"))
	}
	c.JSON(&token, in("eu-north", "token", "create")...)

	// A hub that has lost its directory of a domain joins it again, as the hub that it is.
	holder, lost := ring[0], ring[2]
	for _, h := range ring {
		if _, err := os.Stat(filepath.Join(h.Data, "domains", "eu-central", "keys", "keyset.key")); err == nil {
			holder = h
		}
	}
	if holder == lost {
		lost = ring[1]
	}
	lost.Kill()
	dir := filepath.Join(lost.Data, "domains", "eu-central")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	c.Ctl(in("eu-central", "domain", "transfer", "eu-central", "--to", holder.Name)...)
	c.JSON(&token, in("eu-central", "token", "create", "--hub", "--node", lost.Name)...)
	r = c.Run("meshhub", "join", "--hub", holder.Address, "--token", token.Token, "--ca-pin", token.CaPin, "--data", dir)
	if r.Code != 0 || !strings.Contains(r.Stderr, "run --config "+filepath.Join(lost.Data, "meshhub.yaml")) {
		t.Fatalf("join a further domain: exit %d\n%s", r.Code, r.Stderr)
	}
	lost.Start()
	back := func() (bool, error) {
		var hubs list[hubRow]
		c.JSON(&hubs, in("eu-central", "get", "hubs")...)
		for _, h := range hubs.Items {
			if h.Problem != "" {
				return false, nil
			}
		}
		return len(hubs.Items) == 3, nil
	}
	if err := harness.Poll(harness.Patience, back); err != nil {
		t.Fatalf("hub %s does not serve eu-central again:\n%s", lost.Name, c.Ctl(in("eu-central", "get", "hubs")...))
	}
}
