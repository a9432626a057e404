package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestTheTokenComesFromFlagFileOrEnvironment(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, empty, large := write("good", "from-file\n"), write("empty", " \n"), write("large", strings.Repeat("x", maxTokenFile+1))
	env := map[string]string{tokenVariable: "from-env"}
	for _, c := range []struct {
		name, flag, file string
		env              map[string]string
		want             string
		code             fault.Code
	}{
		{"flag", "from-flag", "", env, "from-flag", ""},
		{"file before environment", "", good, env, "from-file", ""},
		{"environment", "", "", env, "from-env", ""},
		{"none", "", "", nil, "", ""},
		{"empty file", "", empty, env, "", fault.CodeJoinArguments},
		{"no file", "", filepath.Join(dir, "none"), env, "", fault.CodeJoinArguments},
		{"large file", "", large, env, "", fault.CodeJoinArguments},
	} {
		t.Run(c.name, func(t *testing.T) {
			io, _, _, _ := cliutil.TestIO(c.env)
			got, err := joinToken(io, c.flag, c.file)
			if got != c.want || fault.CodeOf(err) != c.code {
				t.Fatalf("got %q, %v; want %q, code %q", got, err, c.want, c.code)
			}
			if err != nil && strings.Contains(err.Error(), "from-") {
				t.Fatalf("the error shows a token: %v", err)
			}
		})
	}
	if code, _, stderr := invoke(t, "join", "--hub", "h:1", "--token", "a", "--token-file", good, "--ca-pin", "x", "--data", dir); code != 64 || !strings.Contains(stderr, "--token-file") {
		t.Errorf("both flags: exit %d, %s", code, stderr)
	}
}
