package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestANewKeysetKeyIsFollowedWithoutARestart replaces the key that signs keysets
// under a connected agent. Neither the hub nor the agent is restarted.
func TestANewKeysetKeyIsFollowedWithoutARestart(t *testing.T) {
	s := newSite(t)
	follows := func(what string, root, keyset uint64) {
		t.Helper()
		awaitStatus(t, s.Cluster, s.agent, what, func(st statusOf) bool { return st.RootVersion == root && st.Keyset >= keyset })
		s.hubWorks(t)
	}
	before := status(t, s.Cluster, s.agent)
	root := func(name string) string { return filepath.Join(s.hub.Data, "root", name) }
	key := func(name string) string { return filepath.Join(s.hub.Data, "keys", name) }
	was, err := os.ReadFile(key("keyset.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.Ctl("trust", "show", "--save", s.Path("trust"))
	s.Must("meshhub", "root", "rotate", "--data", s.hub.Data, "--new-keyset-key", "--metadata", s.Path("trust"))
	if kept, err := os.ReadFile(key("keyset-before-root-2.key")); err != nil || string(kept) != string(was) {
		t.Fatalf("the old key is not kept (%v)", err)
	}
	wantRefused(t, s.Run("meshctl", "trust", "publish", "--root", root("root-2.json")), 4, fault.CodeKeysetUnsigned)
	s.Ctl("trust", "publish", "--root", root("root-2.json"), "--keyset", root("keyset-root-2.json"), "--reason", "new keyset key")
	follows("the new root and keyset", before.RootVersion+1, before.Keyset+1)
	s.Ctl("key", "rotate")
	follows("a hub key under the new keyset key", before.RootVersion+1, before.Keyset+2)

	// With the old key in its place, the hub changes the keyset no more.
	fresh, err := os.ReadFile(key("keyset.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key("keyset.key"), was, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, s.Run("meshctl", "key", "rotate"), 4, fault.CodeKeysetUnsigned)
	if err := os.WriteFile(key("keyset.key"), fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Ctl("key", "rotate")
	s.hubWorks(t)
}
