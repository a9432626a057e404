package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// TestAgentsFollowRotationsWithoutARestart rotates the hub's key, the root of trust
// and the hub's key again, under connected agents.
func TestAgentsFollowRotationsWithoutARestart(t *testing.T) {
	s := newSite(t)
	follows := func(what string, root, keyset uint64) {
		t.Helper()
		awaitStatus(t, s.Cluster, s.agent, what, func(st statusOf) bool { return st.RootVersion == root && st.Keyset >= keyset })
		s.hubWorks(t)
	}
	before := status(t, s.Cluster, s.agent)
	key := s.Ctl("key", "list", "-o", "name")
	s.Ctl("key", "rotate")
	if after := s.Ctl("key", "list", "-o", "json"); strings.Contains(after, key) && len(key) > 60 {
		t.Errorf("the key is still %s", key)
	}
	follows("the new key", before.RootVersion, before.Keyset+1)

	s.Must("meshhub", "root", "rotate", "--data", s.hub.Data)
	s.Ctl("trust", "publish", "--root", filepath.Join(s.hub.Data, "root", "root-2.json"), "--reason", "yearly")
	follows("the new root", before.RootVersion+1, before.Keyset+1)
	s.Ctl("key", "rotate")
	follows("a key after a new root", before.RootVersion+1, before.Keyset+2)

	s.hub.Kill()
	s.agent.Kill()
	s.agent.Start() // without a hub, from what it stored under older keys
	wantContains(t, "bundle", bundleOf(t, s.Cluster, s.agent), "checkout")
	s.hub.Start()
	awaitStatus(t, s.Cluster, s.agent, "the hub's return", func(st statusOf) bool { return st.Connected })
	s.hubWorks(t)
	if log := s.Log("node-1"); strings.Contains(log, "level=ERROR") {
		t.Errorf("the agent's log:\n%s", log)
	}

	// What is not signed by the root's keys, goes back or is garbage is refused.
	s.unchanged(t)
	s.Must("meshhub", "init", "--domain", "eu-west", "--data", s.Path("impostor"))
	for name, args := range map[string][]string{
		"another root":   {"--root", s.Path("impostor", "root", "root-1.json")},
		"garbage":        {"--root", s.write(t, "garbage.json", "{\"signed\": \x1b[2J")},
		"no such file":   {"--root", s.Path("nowhere.json")},
		"skipped":        {"--root", skippedRoot(t, s)},
		"root as keyset": {"--keyset", filepath.Join(s.hub.Data, "root", "root-2.json")},
	} {
		r := s.Run("meshctl", append([]string{"trust", "publish"}, args...)...)
		if r.Code != 1 && r.Code != 4 && r.Code != 65 {
			t.Errorf("%s: exit %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
		}
		wantRefused(t, r, r.Code, "MK")
	}
	wantRefused(t, s.Run("meshctl", "key", "drop", "hub1"), 65, fault.CodeOwnKey)
	wantRefused(t, s.Run("meshctl", "key", "drop", "nobody"), 5, fault.CodeNoSuchHub, "nobody")
}

// skippedRoot makes root version 4, without publishing version 3.
func skippedRoot(t *testing.T, s *site) string {
	t.Helper()
	for range 2 {
		s.Must("meshhub", "root", "rotate", "--data", s.hub.Data)
	}
	return filepath.Join(s.hub.Data, "root", "root-4.json")
}

// copyHub copies the directory of a stopped hub, as a backup or a thief would.
func copyHub(t *testing.T, s *site) string {
	t.Helper()
	dir := s.Path("copy")
	if err := os.CopyFS(dir, os.DirFS(s.hub.Data)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"keys", "keys/config.key", "keys/keyset.key", "ca", "ca/intermediate.key", "ca/hubs.key", "tls", "tls/hub.key", "admin", "admin/admin.key", "root"} {
		mode := os.FileMode(0o600)
		if info, err := os.Stat(filepath.Join(dir, p)); err == nil && info.IsDir() {
			mode = 0o700
		}
		if err := os.Chmod(filepath.Join(dir, p), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runCopy starts the hub of a copied directory at the hub's address.
func (s *site) runCopy(dir string) *harness.Process {
	return s.Cluster.Start("copy", "meshhub", "run", "--config", filepath.Join(dir, "meshhub.yaml"))
}

// TestAHubWithADroppedKeyIsRefusedAndNamed copies a hub's directory, rotates the
// hub's key, and runs the copy in the hub's place: agents apply nothing that it
// signs, and say whose key it is. The true hub then goes on.
func TestAHubWithADroppedKeyIsRefusedAndNamed(t *testing.T) {
	s := newSite(t)
	s.hub.Stop()
	dir := copyHub(t, s)
	s.hub.Start()
	s.Ctl("key", "rotate")
	awaitStatus(t, s.Cluster, s.agent, "the new key", func(st statusOf) bool { return st.Connected && st.Keyset > 1 })
	s.hubWorks(t)
	before, was := bundleOf(t, s.Cluster, s.agent), status(t, s.Cluster, s.agent)
	s.hub.Stop()

	thief := s.runCopy(dir)
	for i := range 12 { // more changes than the true hub made, so that its versions are newer
		s.Ctl("apply", "-f", s.write(t, "evil.yaml", clusterYAML("payments", "10.66.66."+string(rune('1'+i%9))+":80")), "--allow-large-change")
	}
	st := awaitStatus(t, s.Cluster, s.agent, "refusal", func(st statusOf) bool {
		return strings.Contains(st.Message, "dropped") || strings.Contains(st.Message, "hub1")
	})
	if st.active().Digest != was.active().Digest || bundleOf(t, s.Cluster, s.agent) != before {
		t.Errorf("the agent applied what a dropped key signed: %+v", st)
	}
	wantContains(t, "the agent's status", st.Message, "hub1")
	wantContains(t, "the agent's log", s.Log("node-1"), string(fault.CodeDroppedKey))
	thief.Stop()

	s.hub.Start()
	awaitStatus(t, s.Cluster, s.agent, "the true hub", func(st statusOf) bool { return st.Connected })
	s.hubWorks(t)
}

// TestAHubRestoredFromAnOldCopyTakesNoAgentBack runs a hub on a backup that is older
// than what its agent has: the agent keeps what it has, and both say so.
func TestAHubRestoredFromAnOldCopyTakesNoAgentBack(t *testing.T) {
	s := newSite(t)
	s.hub.Stop()
	dir := copyHub(t, s)
	for range 2 { // each start is a new epoch
		s.hub.Start()
		awaitStatus(t, s.Cluster, s.agent, "connection", func(st statusOf) bool { return st.Connected })
		s.hubWorks(t)
		s.hub.Stop()
	}
	before, was := bundleOf(t, s.Cluster, s.agent), status(t, s.Cluster, s.agent)

	old := s.runCopy(dir)
	s.Ctl("apply", "-f", s.write(t, "old.yaml", clusterYAML("payments", "10.66.66.66:80")))
	behind := func(st statusOf) bool { return strings.Contains(st.Message, "has not reached") }
	awaitStatus(t, s.Cluster, s.agent, "the refusal", behind)
	wantContains(t, "the agent's log", s.Log("node-1"), string(fault.CodeBehind))
	s.agent.Kill() // and after a restart of the agent
	s.agent.Start()
	st := awaitStatus(t, s.Cluster, s.agent, "the old copy again", func(st statusOf) bool { return st.Connected || behind(st) })
	if st.active().Digest != was.active().Digest || st.Highest != was.Highest || resourcesIn(bundleOf(t, s.Cluster, s.agent)) != resourcesIn(before) {
		t.Errorf("the old copy took the agent from %+v to %+v", was, st)
	}
	old.Stop()
}
