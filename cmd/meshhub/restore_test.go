package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/restore"
)

// A hub that was started from the directory of one of its further domains would serve that
// one alone.
func TestAfterARestoreTheHubIsStartedFromItsOwnDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub1")
	further := filepath.Join(dir, hubdir.DomainsDir, "eu-north")
	for _, d := range []string{dir, further} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, hubdir.ConfigFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range []string{dir, further} {
		var out bytes.Buffer
		o := &restoreOptions{data: data}
		o.tell(&out, config{Domain: "eu-north"}, target{path: "store.db"}, backup.Verified{}, backup.Plan{}, restore.Evidence{})
		want := "meshhub run --config " + filepath.Join(dir, hubdir.ConfigFile) + "\n"
		if !strings.Contains(out.String(), want) {
			t.Errorf("restore into %s ends with\n%s\nwant %s", data, out.String(), want)
		}
	}
}
