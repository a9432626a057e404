package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestADamagedStoreIsRefusedAndLeftAlone truncates and overwrites the hub's store:
// the hub says what is wrong with a code, exits, and does not touch the file. With
// the file back, everything that was acknowledged is there.
func TestADamagedStoreIsRefusedAndLeftAlone(t *testing.T) {
	s := newSite(t)
	before := s.everything(t)
	if code := s.hub.Stop(); code != 0 {
		t.Fatalf("the hub exited %d", code)
	}
	path := filepath.Join(s.hub.Data, "store.db")
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noise := bytes.Clone(sound)
	for i := range noise {
		noise[i] ^= byte(i*7 + i>>8)
	}
	for name, data := range map[string][]byte{
		"first half":      sound[:len(sound)/2],
		"100 bytes":       sound[:100],
		"noise":           noise,
		"another file":    []byte("#!/bin/sh\necho I am no store\n"),
		"flipped content": bytes.ReplaceAll(sound, []byte("10.1.1.11:9000"), []byte("10.6.6.66:9000")),
	} {
		if bytes.Equal(data, sound) {
			t.Fatalf("%s is not damaged", name)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := s.Run("meshhub", "run", "--config", filepath.Join(s.hub.Data, "meshhub.yaml"))
		wantRefused(t, r, 1, "", "store.db")
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, data) {
			t.Errorf("%s: the damaged file was touched (%v)", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, s.Run("meshhub", "run", "--config", filepath.Join(s.hub.Data, "meshhub.yaml")), 5, fault.CodeStoreMissing, "store.db")
	if _, err := os.Stat(path); err == nil {
		t.Error("the hub made a new, empty store in place of a missing one")
	}
	if err := os.WriteFile(path, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	s.hub.Start()
	awaitStatus(t, s.Cluster, s.agent, "the agent's return", func(st statusOf) bool { return st.Connected })
	if after := s.everything(t); after != before {
		t.Errorf("with the store back the state is\n%s\nwas\n%s", after, before)
	}
	s.hubWorks(t)
}

// TestADamagedLastKnownGoodNeverActivatesSomethingElse truncates and flips an
// agent's journal, starts it without a hub, and looks at what it serves: what was
// stored, or nothing; and it says what it lost. A hub heals it.
func TestADamagedLastKnownGoodNeverActivatesSomethingElse(t *testing.T) {
	s := newSite(t)
	s.hubWorks(t)
	want := bundleOf(t, s.Cluster, s.agent)
	highest := status(t, s.Cluster, s.agent).Highest
	s.agent.Kill()
	s.hub.Kill()
	journals, err := filepath.Glob(filepath.Join(s.agent.Data, "lkg", "journal-*"))
	if err != nil || len(journals) != 1 {
		t.Fatalf("journals %v (%v)", journals, err)
	}
	sound, err := os.ReadFile(journals[0])
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sound)
	for i := 200; i < len(flipped); i += len(flipped) / 20 {
		flipped[i] ^= 0x40
	}
	bundle := filepath.Join(s.agent.Data, "bundle.json")
	for name, data := range map[string][]byte{
		"first half": sound[:len(sound)/2], "end torn off": sound[:len(sound)-7], "flipped": flipped, "empty": {},
		"altered content": bytes.ReplaceAll(sound, []byte("10.1.1.11:9000"), []byte("10.6.6.66:9000")),
	} {
		if bytes.Equal(data, sound) {
			t.Fatalf("%s is not damaged", name)
		}
		_ = os.Remove(bundle)
		if err := os.WriteFile(journals[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		s.agent.Start()
		st := status(t, s.Cluster, s.agent)
		if got, err := os.ReadFile(bundle); err == nil && strings.Contains(string(got), "10.6.6.66") {
			t.Errorf("%s: the agent serves what nobody signed", name)
		}
		if st.active().Version > highest.Version || st.Highest.Version != highest.Version || st.Highest.Epoch != highest.Epoch {
			t.Errorf("%s: active %+v, highest %+v, was %+v", name, st.active(), st.Highest, highest)
		}
		s.agent.Kill()
	}
	if log := s.Log(s.agent.Node); !strings.Contains(log, "last-known-good damaged") {
		t.Errorf("the agent's log does not say what it lost:\n%s", log)
	}
	s.hub.Start()
	s.agent.Start()
	st := awaitStatus(t, s.Cluster, s.agent, "healing by the hub", func(st statusOf) bool { return st.Connected && st.active().Digest == highest.Digest })
	if got := bundleOf(t, s.Cluster, s.agent); resourcesIn(got) != resourcesIn(want) {
		t.Errorf("after healing, at %+v, the agent serves\n%s\nwant\n%s", st.active(), got, want)
	}
}

// resourcesIn cuts the point and manifest off a bundle: freshness may have moved them.
func resourcesIn(bundle string) string {
	_, rest, _ := strings.Cut(bundle, `"resources"`)
	return rest
}
