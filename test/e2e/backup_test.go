package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// domainRow is what the tests read of `get domains -o json`: first the domain that was
// asked for, then those that its hub serves besides.
type domainRow struct {
	Domain    string `json:"domain"`
	Epoch     uint64 `json:"epoch"`
	Term      uint64 `json:"term"`
	Seq       uint64 `json:"seq"`
	ConfigSeq uint64 `json:"configSeq"`
	Digest    string `json:"digest"`
	Store     string `json:"store"`
	Leader    string `json:"leader"`
	Problem   string `json:"problem"`
}

func domainOf(t *testing.T, c *harness.Cluster) domainRow {
	t.Helper()
	var d list[domainRow]
	c.JSON(&d, "get", "domains")
	return d.Items[0]
}

// wantGrowingActivations checks that an agent that recorded them never went back.
func wantGrowingActivations(t *testing.T, a *harness.Agent) {
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
		if now[0] < last[0] || now[0] == last[0] && now[1] <= last[1] {
			t.Errorf("the agent went from %v to %v", last, now)
		}
		last = now
	}
}

// applyProbe changes one cluster's address and waits for the agents.
func applyProbe(t *testing.T, c *harness.Cluster, address string) {
	t.Helper()
	path := c.Path("probe.yaml")
	if err := os.WriteFile(path, []byte(clusterYAML("probe", address)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Ctl("apply", "-f", path, "--wait")
}

func stop(t *testing.T, h *harness.Hub) {
	t.Helper()
	if code := h.Stop(); code != 0 {
		t.Fatalf("hub %s exits %d", h.Name, code)
	}
}

// TestFromBoltToConsulAndBack moves a domain with an agent to Consul and back by
// backups: content and history stay, epochs grow, and the agent follows.
func TestFromBoltToConsulAndBack(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	server := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	url := "consul://" + server.HTTP + "/meshkit"
	hub := c.NewHub("eu-west")
	agent := c.JoinAgent(hub, "node-1", "region=eu")
	agent.RecordActivations()
	agent.Start()
	c.Ctl("apply", "-f", exampleMesh(t, c), "--wait")
	applyProbe(t, c, "10.9.0.1:80")
	restore := func(args ...string) harness.Result {
		return c.Run("meshhub", append([]string{"restore", "--data", hub.Data}, args...)...)
	}
	move := func(name, store, want, probe string) {
		t.Helper()
		was, history := domainOf(t, c), c.Ctl("history", "-o", "json")
		file := c.Path(name)
		c.Ctl("store", "export", "-o", file)
		out := c.Ctl("store", "verify", file, "--root", filepath.Join(hub.Data, "root", "root-1.json"))
		wantContains(t, "store verify", out, "signed by  hub hub1")
		wantContains(t, "store verify -o json", c.Ctl("store", "verify", file, "-o", "json"), `"domain": "eu-west"`, `"hub": "hub1"`, `"pinned": false`)
		wantRefused(t, c.Run("meshctl", "store", "verify", file, "--root", filepath.Join(hub.Data, "root", "root-1.key")), cliutil.ExitError, fault.CodeMetadataInvalid, "root-1.key is not root metadata", "root-1.json")
		wantRefused(t, restore("--from", file, "--store", store), cliutil.ExitError, fault.CodeStoreLocked, "Stop all hubs")
		stop(t, hub)
		r := restore("--from", file, "--store", store)
		if r.Code != 0 {
			t.Fatalf("restore into %s: %s", store, r.Stderr)
		}
		wantContains(t, "restore", r.Stdout, "goes on in term", "Nothing here tells of changes after")
		hub.Start()
		awaitStatus(t, c, agent, "the agent is back", func(st statusOf) bool { return st.Connected })
		now := domainOf(t, c)
		if now.Digest != was.Digest || now.Store != want || now.Epoch <= was.Epoch || now.Seq <= was.Seq {
			t.Errorf("after the restore into %s the domain is %+v, it was %+v", store, now, was)
		}
		if got := c.Ctl("history", "-o", "json"); got != history {
			t.Errorf("the history is another one:\n%s\nwas\n%s", got, history)
		}
		applyProbe(t, c, probe)
		st := awaitStatus(t, c, agent, "the new change", func(st statusOf) bool { return strings.Contains(bundleOf(t, c, agent), probe) })
		if st.Highest.Epoch <= was.Epoch {
			t.Errorf("the agent is at %+v, the epoch was %d", st.Highest, was.Epoch)
		}
	}
	move("first.mk", url, "consul", "10.9.0.2:80")
	db := filepath.Join(hub.Data, "store.db")
	if err := os.Rename(db, db+".old"); err != nil {
		t.Fatal(err)
	}
	move("second.mk", "bolt", "bolt", "10.9.0.3:80")
	wantGrowingActivations(t, agent)
}

// TestABackupThatCannotBeBelievedChangesNothing holds restore to every refusal, and
// then restores with a loss that it names.
func TestABackupThatCannotBeBelievedChangesNothing(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	other := c.Path("other")
	c.Must("meshhub", "init", "--domain", "eu-west", "--data", other, "--name", "stranger")
	foreign := c.Path("foreign")
	c.Must("meshhub", "init", "--domain", "us-east", "--data", foreign)
	hub := c.NewHub("eu-west")
	agent := c.JoinAgent(hub, "node-1", "region=eu")
	agent.RecordActivations()
	agent.Start()
	applyProbe(t, c, "10.9.0.1:80")
	file := c.Path("backup.mk")
	r := c.Run("meshctl", "store", "export")
	if r.Code != 0 {
		t.Fatalf("export: %s", r.Stderr)
	}
	whole := []byte(r.Stdout)
	write := func(path string, data []byte) string {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(file, whole)
	applyProbe(t, c, "10.9.0.2:80") // after the backup
	later := domainOf(t, c)
	stop(t, hub)
	restore := func(from string, args ...string) harness.Result {
		return c.Run("meshhub", append([]string{"restore", "--data", hub.Data, "--from", from}, args...)...)
	}
	db, config := filepath.Join(hub.Data, "store.db"), filepath.Join(hub.Data, "meshhub.yaml")
	before, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, restore(file), cliutil.ExitError, fault.CodeRestoreNotEmpty, db, "mv ")
	if now, err := os.ReadFile(db); err != nil || !bytes.Equal(now, before) {
		t.Errorf("a refused restore changed the store (%v)", err)
	}
	server := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	url := "consul://" + server.HTTP + "/meshkit"
	wantRefused(t, restore(file, "--store", url), cliutil.ExitBaseMoved, fault.CodeRestoreLoss, "there were changes after it", "--accept-loss")
	if err := os.Rename(db, db+".old"); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	wantRefused(t, restore(write(c.Path("flipped.mk"), flipped)), cliutil.ExitBadInput, fault.CodeBackupDamaged)
	for _, n := range []int{0, 9, 200, len(whole) / 2, len(whole) - 1} {
		wantRefused(t, restore(write(c.Path("cut.mk"), whole[:n])), cliutil.ExitBadInput, fault.CodeBackupDamaged, "cut short")
	}
	wantRefused(t, restore(file, "--root", filepath.Join(other, "root", "root-1.json")), cliutil.ExitAuth, fault.CodeBackupUntrusted, "root")
	wantRefused(t, c.Run("meshhub", "restore", "--data", foreign, "--from", file), cliutil.ExitBadInput, fault.CodeBackupDomain, "us-east")
	wantRefused(t, restore(file, "--term-floor", "1"), cliutil.ExitBadInput, fault.CodeTermFloor)
	if err := os.Rename(filepath.Join(hub.Data, "root"), filepath.Join(hub.Data, "offline")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, restore(file), cliutil.ExitNotFound, fault.CodeNoRootPin, "--root")
	if err := os.Rename(filepath.Join(hub.Data, "offline"), filepath.Join(hub.Data, "root")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(db); !os.IsNotExist(err) {
		t.Errorf("a refused restore made %s (%v)", db, err)
	}
	if keys, _, err := server.Client().KV().Keys("", "", nil); err != nil || len(keys) > 0 {
		t.Errorf("a refused restore wrote %q into Consul (%v)", keys, err)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if r := restore(file, "--check"); r.Code != 0 {
		t.Errorf("--check: %s", r.Stderr)
	}

	// The old store is known again, and the loss accepted.
	if err := os.Rename(db+".old", db); err != nil {
		t.Fatal(err)
	}
	r = restore(file, "--store", url, "--accept-loss")
	if r.Code != 0 {
		t.Fatalf("restore with a loss: %s", r.Stderr)
	}
	wantContains(t, "restore", r.Stdout, "Lost:")
	if now, err := os.ReadFile(config); err != nil || bytes.Equal(now, text) || !bytes.Contains(now, []byte(url)) {
		t.Errorf("the configuration is %s (%v)", now, err)
	}
	hub.Start()
	awaitStatus(t, c, agent, "what the backup has, as newer", func(st statusOf) bool {
		return st.Connected && st.Highest.Epoch > later.Epoch && strings.Contains(bundleOf(t, c, agent), "10.9.0.1:80")
	})
	applyProbe(t, c, "10.9.0.3:80")
	wantGrowingActivations(t, agent)

	// The store that the hub uses now is not filled again.
	wantRefused(t, restore(file), cliutil.ExitError, fault.CodeStoreLocked, "leads on the store", "Stop all hubs")
	stop(t, hub)
	wantRefused(t, restore(file, "--accept-loss"), cliutil.ExitError, fault.CodeRestoreNotEmpty, "consul kv delete -recurse meshkit/eu-west/")
}

// TestAHubThatIsLeftOnTheOldStoreWritesNothing restores a ring's domain into another
// store on one hub, and starts the other with its old configuration.
func TestAHubThatIsLeftOnTheOldStoreWritesNothing(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	url := "consul://" + consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0].HTTP + "/meshkit"
	ring := c.NewRing("eu-west", url, url)
	applyProbe(t, c, "10.9.0.1:80")
	file := c.Path("backup.mk")
	c.Ctl("store", "export", "-o", file)
	stop(t, ring[1])
	stop(t, ring[0])
	out := c.Must("meshhub", "restore", "--data", ring[0].Data, "--from", file, "--store", "bolt", "--accept-loss")
	wantContains(t, "restore", out, "Other hubs", string(fault.CodeRingSplit))
	ring[0].Start()
	ring[1].Start()
	if err := harness.Poll(harness.Patience, func() (bool, error) {
		p := problems(t, c)
		return strings.Contains(p["hub2"], "the ring is split") && p["hub1"] == "", nil
	}); err != nil {
		t.Fatalf("%v; get hubs says %q", err, problems(t, c))
	}
	path := c.Path("probe.yaml")
	if err := os.WriteFile(path, []byte(clusterYAML("probe", "10.9.0.2:80")), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, c.Run("meshctl", "--hub", ring[1].Address, "apply", "-f", path), cliutil.ExitError, fault.CodeRingSplit, "store.url")
	applyProbe(t, c, "10.9.0.3:80")
}

// TestAgentsFollowAHubWhoseKeyWasReplacedInTheTimeThatWasLost restores a backup that is
// older than a rotation of the hub's key. Agents know the keyset of after it, and refuse
// what the key of before signs, until the rotation is made again.
func TestAgentsFollowAHubWhoseKeyWasReplacedInTheTimeThatWasLost(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	hub := c.NewHub("eu-west")
	agent := c.JoinAgent(hub, "node-1", "region=eu")
	agent.RecordActivations()
	agent.Start()
	c.Ctl("apply", "-f", exampleMesh(t, c), "--wait")
	backup := c.Path("backup.mk")
	c.Ctl("store", "export", "-o", backup)
	c.Ctl("key", "rotate")
	applyProbe(t, c, "10.9.0.1:80")
	stop(t, hub)
	if err := os.Rename(filepath.Join(hub.Data, "store.db"), c.Path("old.db")); err != nil {
		t.Fatal(err)
	}
	c.Must("meshhub", "restore", "--data", hub.Data, "--from", backup, "--accept-loss")
	hub.Start()
	path := c.Path("probe.yaml")
	if err := os.WriteFile(path, []byte(clusterYAML("probe", "10.9.0.2:80")), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, c.Run("meshctl", "apply", "-f", path, "--wait"), 9, fault.CodePartial, "agents refused")
	c.Ctl("key", "rotate") // to the keyset's version of before
	c.Ctl("key", "rotate")
	awaitStatus(t, c, agent, "what was refused", func(statusOf) bool { return strings.Contains(bundleOf(t, c, agent), "10.9.0.2:80") })
	applyProbe(t, c, "10.9.0.3:80")
	wantGrowingActivations(t, agent)
}
