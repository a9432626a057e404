package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/meshkit/meshkit/pkg/hub/hubdir"
)

func TestOnlyTheStoreOfAConfigurationIsSwitched(t *testing.T) {
	const consulURL = "consul://127.0.0.1:8500/meshkit"
	for name, c := range map[string]struct {
		text string
		to   target
		want string
	}{
		"as init writes it": {
			"# Mine.\ndomain: \"eu-west\"\nname: \"hub1\"\nlisten: \"127.0.0.1:1\"\nstore:\n  driver: bolt\n  path: store.db\n# after\nkeys:\n  dir: keys\n",
			target{driver: "consul", url: consulURL},
			"# Mine.\ndomain: \"eu-west\"\nname: \"hub1\"\nlisten: \"127.0.0.1:1\"\nstore:\n  driver: consul\n  url: \"" + consulURL + "\"\n# after\nkeys:\n  dir: keys\n",
		},
		"back": {
			"domain: eu-west\nname: hub1\nstore:\n  driver: consul\n\n  url: " + consulURL + "\n  position: seen\n",
			target{driver: "bolt"},
			"domain: eu-west\nname: hub1\nstore:\n  driver: bolt\n  path: \"store.db\"\n  position: \"seen\"\n",
		},
		"in one line": {
			"domain: eu-west\nstore: {driver: bolt, path: /var/lib/mk.db}\nname: hub1\n",
			target{driver: "consul", url: consulURL},
			"domain: eu-west\nstore:\n  driver: consul\n  url: \"" + consulURL + "\"\n  path: \"/var/lib/mk.db\"\nname: hub1\n",
		},
		"without a section": {
			"domain: eu-west\nname: hub1",
			target{driver: "consul", url: consulURL},
			"domain: eu-west\nname: hub1\nstore:\n  driver: consul\n  url: \"" + consulURL + "\"\n",
		},
	} {
		path := filepath.Join(t.TempDir(), hubdir.ConfigFile)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := switchStore(path, c.to); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
			t.Errorf("%s: it is now\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// What cannot be changed as meant is left as it is, with the text to write by hand.
func TestAConfigurationThatCannotBeSwitchedIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), hubdir.ConfigFile)
	const text = "{domain: eu-west, name: hub1, store: {driver: bolt}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := switchStore(path, target{driver: "consul", url: "consul://127.0.0.1:8500/meshkit"}); err == nil {
		t.Error("it was switched")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("it is now %q (%v)", got, err)
	}
}
