package demo

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/cli/change"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// The test binary plays three parts: the tests, the janitor, and a demo that is
// killed.
func TestMain(m *testing.M) {
	switch os.Getenv("DEMO_TEST_PART") {
	case "janitor":
		ignoreSignals()
		if err := Janitor(os.Stdin, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "victim":
		victim(os.Args[1])
	}
	os.Exit(m.Run())
}

func testJanitor(dir string) (*exec.Cmd, error) {
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), "DEMO_TEST_PART=janitor")
	detach(cmd)
	return cmd, nil
}

// victim starts a program as the demo does, prints its pid, and waits to be
// killed.
func victim(data string) {
	dir, err := makeDir(data)
	if err != nil {
		panic(err)
	}
	sup, err := newSupervisor(dir, testJanitor)
	if err != nil {
		panic(err)
	}
	p, err := sup.start("sleep", "sh", "-c", "sleep 600 & sleep 600")
	if err != nil {
		panic(err)
	}
	fmt.Println(p.cmd.Process.Pid)
	select {}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestKilledDemoLeavesNoProcessAndNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), "DEMO_TEST_PART=victim")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !groupAlive(pid) {
		t.Fatal("the program does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "the end of the program and its children", func() bool { return !groupAlive(pid) })
	eventually(t, "the removal of the directory", func() bool { _, err := os.Stat(dir); return os.IsNotExist(err) })
}

func TestCloseEndsEveryProcessAndRemovesTheDirectory(t *testing.T) {
	dir, err := makeDir(filepath.Join(t.TempDir(), "demo"))
	if err != nil {
		t.Fatal(err)
	}
	sup, err := newSupervisor(dir, testJanitor)
	if err != nil {
		t.Fatal(err)
	}
	sup.grace = 100 * time.Millisecond
	stubborn, err := sup.start("stubborn", "sh", "-c", `trap "" TERM; while :; do sleep 0.1; done`)
	if err != nil {
		t.Fatal(err)
	}
	if err := sup.run(t.Context(), "short", "sh", "-c", "echo oops; exit 3"); !errors.Is(err, fault.CodeDemoProcess) || !strings.Contains(err.Error(), "oops") {
		t.Errorf("a program that fails: %v", err)
	}
	started, err := sup.Close()
	if started != 2 || err != nil {
		t.Errorf("Close: %d, %v", started, err)
	}
	eventually(t, "the end of the program's children", func() bool { return !groupAlive(stubborn.cmd.Process.Pid) })
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

func TestJanitorRemovesOnlyWhatIsTheDemos(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Janitor(strings.NewReader("+1\nnonsense\n+-5\n"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Errorf("removed: %v", err)
	}
	if _, err := makeDir(dir); !errors.Is(err, fault.CodeDemoDirectory) {
		t.Errorf("a directory in use: %v", err)
	}
}

func TestSampleMeshIsValidAndItsMistakesAreMistakes(t *testing.T) {
	mesh, err := change.Load(nil, []string{"sample/mesh"})
	if err != nil {
		t.Fatal(err)
	}
	_, findings := mesh.Graph()
	for _, f := range append(findings, mesh.Findings...) {
		t.Errorf("sample: %s", f)
	}
	broken, err := change.Load(nil, []string{"sample/broken"})
	if err != nil {
		t.Fatal(err)
	}
	if len(broken.Findings) != 1 || broken.Findings[0].Code != fault.CodeUnknownField || broken.Findings[0].Pos.Line != 10 {
		t.Errorf("broken: %v", broken.Findings)
	}
	dangling, err := change.Load(nil, []string{"sample/dangling"})
	if err != nil {
		t.Fatal(err)
	}
	if _, findings := dangling.Graph(); len(dangling.Findings) != 0 || !resource.HasErrors(findings) {
		t.Errorf("dangling: %v, %v", dangling.Findings, findings)
	}
	for _, name := range []string{"change", "second"} {
		in, err := change.Load(nil, []string{"sample/" + name})
		if err != nil || len(in.Findings) != 0 || len(in.Documents) != 1 {
			t.Errorf("%s: %v, %v", name, in, err)
		}
	}
}

func TestUpdatesAreReadFromPrometheusText(t *testing.T) {
	got, err := parseUpdates(strings.NewReader("# HELP meshkit_control_updates_total x\nmeshkit_control_updates_total{how=\"delta\"} 3\nmeshkit_control_updates_total{how=\"snapshot\",domain=\"d\"} 2\nother 1\n"))
	if err != nil || got["delta"] != 3 || got["snapshot"] != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAMissingConsulIsToldWithTheFlagThatNamesOne(t *testing.T) {
	s := &story{dir: t.TempDir()}
	_, err := (&ring{story: s, consul: "no-such-consul"}).findAll(t.Context())
	if err = s.failed(t.Context(), step{name: "programs"}, err); fault.CodeOf(err) != fault.CodeDemoStep || !strings.Contains(fault.RemedyOf(err), "--consul PATH") {
		t.Errorf("%v; fix: %s", err, fault.RemedyOf(err))
	}
}
