package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// problems gives what `get hubs` says is wrong, by hub.
func problems(t *testing.T, c *harness.Cluster) map[string]string {
	t.Helper()
	var hubs list[hubRow]
	c.JSON(&hubs, "get", "hubs")
	out := make(map[string]string)
	for _, h := range hubs.Items {
		out[h.Name] = h.Problem
	}
	return out
}

// awaitProblems waits until what `get hubs` says of every hub is as ok has it.
func awaitProblems(t *testing.T, c *harness.Cluster, what string, ok func(problem string) bool) {
	t.Helper()
	var last map[string]string
	err := harness.Poll(harness.Patience, func() (bool, error) {
		last = problems(t, c)
		for _, p := range last {
			if !ok(p) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%s: %v; get hubs says %q", what, err, last)
	}
}

func well(problem string) bool { return problem == "" }

// never takes an agent's record of activations for one that goes back.
func neverBack(t *testing.T, a *harness.Agent) {
	t.Helper()
	data, err := os.ReadFile(a.ActivationsPath())
	if err != nil {
		t.Fatal(err)
	}
	var last [2]uint64
	for line := range strings.Lines(string(data)) {
		var now [2]uint64
		if _, err := fmt.Sscan(line, &now[0], &now[1]); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if now[0] < last[0] || now[0] == last[0] && now[1] < last[1] {
			t.Errorf("the agent went from %v back to %v", last, now)
		}
		last = now
	}
}

// probe applies one Cluster with an address of its own.
func probe(t *testing.T, c *harness.Cluster, address string) harness.Result {
	t.Helper()
	path := c.Path("probe.yaml")
	if err := os.WriteFile(path, []byte(clusterYAML("probe", address)), 0o600); err != nil {
		t.Fatal(err)
	}
	return c.Run("meshctl", "apply", "-f", path)
}

// awaitContent waits until an agent serves what holds text, and is connected.
func awaitContent(t *testing.T, c *harness.Cluster, a *harness.Agent, text string) statusOf {
	t.Helper()
	return awaitStatus(t, c, a, "content with "+text, func(st statusOf) bool {
		return st.Connected && st.Phase != "staging" && strings.Contains(bundleOf(t, c, a), text)
	})
}

// TestAConsulSnapshotRestoredTakesNobodyBack restores an older snapshot of Consul
// under a ring of hubs: they alarm, keep what they have, refuse writes at once and
// take no agent back, also over a restart; an operator gives up what is lost, and
// all go on, above everything that was seen.
func TestAConsulSnapshotRestoredTakesNobodyBack(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	server := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	url := "consul://" + server.HTTP + "/meshkit"
	ring := c.NewRing("eu-west", url, url)
	agent := c.JoinAgent(ring[0], "node-1", "region=eu")
	agent.RecordActivations()
	agent.Start()
	apply := func(address string) harness.Result { t.Helper(); return probe(t, c, address) }
	c.Ctl("apply", "-f", exampleMesh(t, c))
	snap, _, err := server.Client().Snapshot().Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	backup, err := io.ReadAll(snap)
	if err != nil {
		t.Fatal(err)
	}
	ring[1].Kill() // so that terms move on too
	if leader := leaderOf(t, ring[:1]); leader != ring[0] {
		t.Fatalf("%s leads", leader.Name)
	}
	ring[1].Start()
	for i := range 5 {
		if r := apply(fmt.Sprintf("10.9.0.%d:80", i)); r.Code != 0 {
			t.Fatalf("apply: %s", r.Stderr)
		}
	}
	was := awaitContent(t, c, agent, "10.9.0.4:80")
	bundle := bundleOf(t, c, agent)

	if err := server.Client().Snapshot().Restore(nil, bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	awaitProblems(t, c, "the alarm", func(p string) bool { return strings.Contains(p, "went back") })
	for _, h := range ring {
		wantContains(t, h.Name+"'s log", c.Log(h.Name), "level=ERROR", "went back")
	}
	saved := c.Ctl("get", "all", "-A", "-o", "yaml")
	began := time.Now()
	r := apply("10.9.0.99:80")
	wantRefused(t, r, r.Code, fault.CodeReadOnly, "went back", "meshhub store accept")
	if r.Code == 0 {
		t.Error("a write on top of a log that went back was acknowledged")
	}
	t.Logf("a write was refused after %v", time.Since(began).Round(time.Millisecond))
	config := func(h *harness.Hub) string { return filepath.Join(h.Data, "meshhub.yaml") }
	ring[1].Kill()
	if _, err := c.TryStart(ring[1].Name, "meshhub", "run", "--config", config(ring[1])); err == nil || !strings.Contains(err.Error(), string(fault.CodeLogWentBack)) {
		t.Errorf("a restart on a log that went back: %v", err)
	}
	if st := status(t, c, agent); st.active() != was.active() || st.Highest != was.Highest || resourcesIn(bundleOf(t, c, agent)) != resourcesIn(bundle) {
		t.Errorf("the restore took the agent from %+v to %+v", was, st)
	}

	told := c.Must("meshhub", "store", "accept", "--config", config(ring[0]))
	wantContains(t, "accept", told, "Nothing was changed", "--give-up")
	var kept, lost uint64
	for line := range strings.Lines(told) {
		_, _ = fmt.Sscanf(line, "Lost: entries %d to %d", &kept, &lost)
	}
	if lost < kept+4 {
		t.Fatalf("the loss is told as %q", told)
	}
	silent := c.Run("meshhub", "store", "accept", "--config", config(ring[0]), "--give-up", fmt.Sprint(lost))
	wantRefused(t, silent, cliutil.ExitUsage, fault.CodeUsage, "--reason")
	wrong := c.Run("meshhub", "store", "accept", "--config", config(ring[0]), "--give-up", fmt.Sprint(lost-1), "--reason", "restored")
	wantRefused(t, wrong, wrong.Code, fault.CodeLossNotAsStated)
	c.Must("meshhub", "store", "accept", "--config", config(ring[0]), "--give-up", fmt.Sprint(lost), "--reason", "restored from a snapshot")
	ring[1].Start()
	awaitProblems(t, c, "the end of the alarm", well)
	if r := apply("10.9.1.1:80"); r.Code != 0 {
		t.Fatalf("apply after the loss was accepted: exit %d\n%s", r.Code, r.Stderr)
	}
	now := awaitContent(t, c, agent, "10.9.1.1:80")
	if now.active().Epoch <= was.Highest.Epoch || now.active().Version <= lost {
		t.Errorf("the agent went from %+v to %+v, which is not above all that was seen", was.Highest, now.active())
	}
	neverBack(t, agent)

	// What was saved is brought back, as the runbook has it.
	bring := func(text string) harness.Result {
		t.Helper()
		path := c.Path("again.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return c.Run("meshctl", "apply", "-f", path)
	}
	wantRefused(t, bring(saved), cliutil.ExitBaseMoved, fault.CodeBaseMoved, "grep -v '^  resourceVersion: '")
	if r := bring(regexp.MustCompile(`(?m)^  resourceVersion: .*\n`).ReplaceAllString(saved, "")); r.Code != 0 {
		t.Fatalf("what was saved is not taken back: exit %d\n%s", r.Code, r.Stderr)
	}
	awaitContent(t, c, agent, "10.9.0.4:80")
	neverBack(t, agent)
	if again := c.Must("meshhub", "store", "accept", "--config", config(ring[0])); !strings.Contains(again, "nothing to accept") {
		t.Errorf("after that, accept says %q", again)
	}
}

// TestAWriterInConsulReachesNoAgent has somebody with a token write into the keys of
// a hub that runs, and of one that starts: it refuses what it finds, says so, and its
// agent keeps what it has.
func TestAWriterInConsulReachesNoAgent(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	server := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	kv := server.Client().KV()
	hub := c.NewRing("eu-west", "consul://"+server.HTTP+"/meshkit")[0]
	config := filepath.Join(hub.Data, "meshhub.yaml")
	data, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, append(data, "snapshots:\n  entries: 5\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	hub.Kill()
	hub.Start()
	agent := c.JoinAgent(hub, "node-1", "region=eu")
	agent.RecordActivations()
	agent.Start()
	for i := range 12 {
		if r := probe(t, c, fmt.Sprintf("10.9.0.%d:80", i)); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
	}
	was := awaitContent(t, c, agent, "10.9.0.11:80")
	all := func() api.KVPairs {
		t.Helper()
		pairs, _, err := kv.List("meshkit/eu-west/", nil)
		if err != nil {
			t.Fatal(err)
		}
		return pairs
	}
	if err := harness.Poll(harness.Patience, func() (bool, error) {
		return slices.ContainsFunc(all(), func(p *api.KVPair) bool { return strings.HasSuffix(p.Key, "/manifest") }), nil
	}); err != nil {
		t.Fatalf("no snapshot: %v", err)
	}
	put := func(key string, value []byte) {
		t.Helper()
		if _, err := kv.Put(&api.KVPair{Key: key, Value: value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	// edit changes keys while the hub runs, or before it starts, and puts them back.
	edit := func(name string, running bool, says string, f func(good api.KVPairs)) {
		t.Run(name, func(t *testing.T) {
			c := c.With(t)
			hub, agent := hub.With(c), agent.With(c)
			if !running {
				hub.Stop()
			}
			good := all()
			f(good)
			if running {
				if r := probe(t, c, "10.66.66.66:80"); r.Code == 0 || !codePattern.MatchString(r.Stderr) {
					t.Errorf("a write gave exit %d\n%s", r.Code, r.Stderr)
				}
				awaitProblems(t, c, "the alarm", func(p string) bool { return strings.Contains(p, says) })
				if got := c.Ctl("get", "clusters", "-o", "json"); !strings.Contains(got, "10.9.0.11:80") {
					t.Errorf("reads do not go on: %s", got)
				}
				hub.Kill()
			}
			if _, err := c.TryStart(hub.Name, "meshhub", "run", "--config", config); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("the hub starts on what was edited: %v", err)
			}
			if st := status(t, c, agent); st.active() != was.active() || st.Highest != was.Highest || !strings.Contains(bundleOf(t, c, agent), "10.9.0.11:80") {
				t.Errorf("the edit took the agent from %+v to %+v", was, st)
			}
			if _, err := kv.DeleteTree("meshkit/eu-west/", nil); err != nil {
				t.Fatal(err)
			}
			for _, p := range good {
				put(p.Key, p.Value)
			}
		})
		// The next edit's hub, which ends with the whole test.
		hub.Start()
		awaitProblems(t, c, "a hub on what was put back", well)
		was = awaitContent(t, c, agent, "10.9.0.11:80")
	}
	find := func(pairs api.KVPairs, part string) *api.KVPair {
		t.Helper()
		var found *api.KVPair
		for _, p := range pairs {
			if strings.Contains(p.Key, part) {
				found = p // the last one
			}
		}
		if found == nil {
			t.Fatalf("no key with %s", part)
		}
		return found
	}
	edit("head", true, "is damaged", func(good api.KVPairs) { put(find(good, "/head").Key, []byte(`{"seq":1,"term":1}`)) })
	edit("head deleted", true, "went back", func(good api.KVPairs) {
		if _, err := kv.Delete(find(good, "/head").Key, nil); err != nil {
			t.Fatal(err)
		}
	})
	edit("entry planted behind a head that counts it", true, "was stored at position", func(good api.KVPairs) {
		newest, head := find(good, "/log/"), find(good, "/head")
		var h map[string]any
		if err := json.Unmarshal(head.Value[8:], &h); err != nil {
			t.Fatal(err)
		}
		seq := uint64(h["seq"].(float64)) + 1
		h["seq"] = seq
		value, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(value)
		put(fmt.Sprintf("%s%020d", newest.Key[:len(newest.Key)-20], seq), newest.Value)
		put(head.Key, append(sum[:8:8], value...))
	})
	edit("entry", false, string(fault.CodeCorrupt), func(good api.KVPairs) {
		newest := find(good, "/log/")
		newest.Value[len(newest.Value)/2] ^= 1
		put(newest.Key, newest.Value)
		newest.Value[len(newest.Value)/2] ^= 1
	})
	edit("snapshot", false, string(fault.CodeCorrupt), func(good api.KVPairs) {
		for _, p := range good {
			if strings.Contains(p.Key, "/snapshot/") {
				put(p.Key, []byte("planted"))
			}
		}
	})
	// Without the lock the hub's writes are refused by Consul, and it takes it again.
	epoch := was.Highest.Epoch
	if _, err := kv.Delete("meshkit/eu-west/leader", nil); err != nil {
		t.Fatal(err)
	}
	if err := harness.Poll(harness.Patience, func() (bool, error) { return probe(t, c, "10.9.1.1:80").Code == 0, nil }); err != nil {
		t.Fatalf("no writes after the leader key was deleted: %v", err)
	}
	if now := awaitContent(t, c, agent, "10.9.1.1:80"); now.active().Epoch <= epoch {
		t.Errorf("the epoch is %d, after %d", now.active().Epoch, epoch)
	}
	neverBack(t, agent)
}

// TestALostStoreMakesTheRingReadOnlyUntilItIsBack takes Consul's quorum away, and has
// the hub's own agent hang: writes and renewals fail soon and clearly, reads and
// streams go on, the hub says what is wrong, and goes on by itself.
func TestALostStoreMakesTheRingReadOnlyUntilItIsBack(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	cluster := consultest.Start(t, c.Path("consul"), consultest.Options{Servers: 3})
	servers := cluster.Servers
	hub := c.NewRing("eu-west", "consul://"+servers[0].HTTP+"/meshkit")[0]
	agent := c.NewAgent(hub, "node-1", "region=eu")
	if r := probe(t, c, "10.9.0.1:80"); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	was := awaitContent(t, c, agent, "10.9.0.1:80")
	identity := identityv1.NewIdentityServiceClient(dial(t, hub, nodeFiles(agent)))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "eu-west", Path: "/node/node-1"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	each := func(servers []*consultest.Server, f func(*consultest.Server)) func() {
		return func() {
			for _, s := range servers {
				f(s)
			}
		}
	}
	stop := func(s *consultest.Server) { s.Signal(syscall.SIGSTOP) }
	proceed := func(s *consultest.Server) { s.Signal(syscall.SIGCONT) }
	for i, c2 := range []struct {
		name        string
		lose, renew func()
	}{
		{"quorum killed", each(servers[1:], (*consultest.Server).Kill), each(servers[1:], (*consultest.Server).Start)},
		{"quorum stopped", each(servers[1:], stop), each(servers[1:], proceed)},
		{"own server stopped", each(servers[:1], stop), each(servers[:1], proceed)},
	} {
		t.Run(c2.name, func(t *testing.T) {
			c := c.With(t)
			c2.lose()
			var once sync.Once
			back := func() { once.Do(c2.renew) }
			defer back()
			began := time.Now()
			if r := probe(t, c, "10.66.66.66:80"); r.Code == 0 || !codePattern.MatchString(r.Stderr) {
				t.Errorf("a write gave exit %d\n%s", r.Code, r.Stderr)
			} else {
				t.Logf("the first write: %v, %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(r.Stderr))
			}
			awaitProblems(t, c, "what is wrong", func(p string) bool { return p != "" })
			began = time.Now()
			_, err := identity.Renew(limited(t), &identityv1.RenewRequest{Csr: csr})
			if kind := fault.KindOf(err); kind != fault.Unavailable && kind != fault.Unknown {
				t.Errorf("a renewal gave %v (%s), which nobody tries again", err, kind)
			}
			t.Logf("a renewal: %v, %v", time.Since(began).Round(time.Millisecond), err)
			if got := c.Ctl("get", "clusters", "-o", "json"); !strings.Contains(got, "probe") {
				t.Errorf("reads do not go on: %s", got)
			}
			if st := status(t, c, agent); !st.Connected || st.active() != was.active() {
				t.Errorf("the agent went from %+v to %+v", was, st)
			}
			back()
			awaitProblems(t, c, "recovery without a restart", well)
			at := fmt.Sprintf("10.9.2.%d:80", i)
			if err := harness.Poll(harness.Patience, func() (bool, error) { return probe(t, c, at).Code == 0, nil }); err != nil {
				t.Fatalf("no writes after the store came back: %v", err)
			}
			was = awaitContent(t, c, agent, at)
		})
	}
}
