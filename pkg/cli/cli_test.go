package cli_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshkit/meshkit/pkg/cli"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
)

var update = flag.Bool("update", false, "write golden files and docs/cli.md")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"meshctl": func() {
		os.Exit(cli.Run(context.Background(), cliutil.NewApp(cliutil.SystemIO(), os.Args)))
	}})
}

// Scripts need no hub. `exits CODE COMMAND…` runs a command and holds its exit
// code to CODE.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("MESHKIT_CONFIG", e.WorkDir+"/config.yaml")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("run %s: %v", args[1], err)
		}
		got = failed.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// A remedy that names a command which is none sends people astray.
func TestRemediesNameCommandsThatThereAre(t *testing.T) {
	io, _, _, _ := cliutil.TestIO(nil)
	root := cli.NewRoot(cliutil.NewApp(io, []string{"meshctl"}))
	quoted := regexp.MustCompile("`meshctl ([^`]+)`")
	for _, e := range fault.All() {
		for _, m := range quoted.FindAllStringSubmatch(e.Explanation+" "+e.Remedy, -1) {
			cmd, args, err := root.Find(strings.Fields(m[1]))
			if err != nil {
				t.Errorf("%s: %s: %v", e.Code, m[0], err)
				continue
			}
			for i, arg := range args {
				name, isFlag := strings.CutPrefix(arg, "--")
				switch {
				case isFlag && cmd.Flags().Lookup(name) == nil && name != "help":
					t.Errorf("%s: %s: there is no flag --%s", e.Code, m[0], name)
				case cmd == root && !isFlag:
					t.Errorf("%s: %s: there is no command %s", e.Code, m[0], arg)
				case cmd.Name() == "get" && i == 0 && arg != "KIND":
					if _, err := cliutil.ParseRef([]string{arg}, ""); err != nil {
						t.Errorf("%s: %s: %v", e.Code, m[0], err)
					}
				}
			}
		}
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	const path = "../../docs/cli.md"
	io, _, _, _ := cliutil.TestIO(nil)
	want := cli.Reference(cli.NewRoot(cliutil.NewApp(io, []string{"meshctl"})))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/cli.md is not what the commands say; run `go test ./pkg/cli -run Reference -update` (-want +got):\n%s", diff)
	}
}
