package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	io, _, out, errs := cliutil.TestIO(nil)
	code = execute(context.Background(), io, args)
	return code, out.String(), errs.String()
}

func TestExitCodesAndReasons(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("domain: eu\nnode: n1\nhubs: [\"h:1\"]\ntrustPin: x\nprobaton: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open.yaml")
	if err := os.WriteFile(open, []byte("domain: eu\nnode: n1\nhubs: [\"h:1\"]\ntrustPin: x\nlisten: 0.0.0.0:7000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pin := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no command", nil, 0, ""},
		{"unknown command", []string{"jion"}, 64, "jion"},
		{"unknown flag", []string{"run", "--confg", "x"}, 64, "--confg"},
		{"stray argument", []string{"status", "x"}, 64, "status"},
		{"join without a token", []string{"join", "--hub", "h:1", "--ca-pin", pin, "--data", dir}, 64, "--token"},
		{"join with a malformed pin", []string{"join", "--hub", "h:1", "--token", "t", "--ca-pin", "sha256:12", "--data", filepath.Join(dir, "a"), "--node", "n1"}, 65, "64 hexadecimal digits"},
		{"join with a bad node name", []string{"join", "--hub", "h:1", "--token", "t", "--ca-pin", pin, "--data", filepath.Join(dir, "b"), "--node", "N 1"}, 65, "node name"},
		{"run before join", []string{"run", "--config", filepath.Join(dir, "none.yaml")}, 5, "meshagent join"},
		{"run with a misspelt setting", []string{"run", "--config", broken}, 65, "broken.yaml:5:1"},
		{"run on an address that others reach", []string{"run", "--config", open}, 65, "open.yaml:5:9: listen: \"0.0.0.0:7000\" is not a loopback address"},
		{"join with an address that others reach", []string{"join", "--hub", "h:1", "--token", "t", "--ca-pin", pin, "--data", filepath.Join(dir, "c"), "--node", "n1", "--listen", ":7000"}, 65, "is not a loopback address"},
		{"status of no agent", []string{"status", "--socket", filepath.Join(dir, "none.sock")}, 1, "meshagent run"},
		{"fleet of none", []string{"fleet", "--hub", "h:1", "--ca-pin", pin, "--data", dir, "--count", "0"}, 65, "1 to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, stderr := invoke(t, c.args...)
			if code != c.code || !strings.Contains(stderr, c.says) {
				t.Fatalf("exit %d, want %d; it says\n%s\nwant %q in it", code, c.code, stderr, c.says)
			}
		})
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	io, _, _, _ := cliutil.TestIO(nil)
	for _, c := range newRoot(io).Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if !strings.Contains(c.Example, "meshagent "+c.Name()) {
			t.Errorf("%s has no example of itself", c.Name())
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.Name(), c.Short)
		}
	}
}
