package e2e

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// TestEveryDocumentedExitCodeHappens brings about each row of the table in
// docs/cli.md.
func TestEveryDocumentedExitCodeHappens(t *testing.T) {
	s := sharedSite(t)
	node := nodeFiles(s.agent)
	picky := s.JoinAgent(s.hub, "picky", "region=eu")
	picky.Configure("\nvalidate:\n  command: [sh, -c, '! grep -q 10.55.55.55 \"$0\"']\n")
	picky.Start()
	awaitStatus(t, s.Cluster, picky, "content", func(st statusOf) bool { return st.Connected && st.active().Version > 0 })
	t.Cleanup(func() {
		picky.Kill()
		s.Ctl("agent", "forget", "picky")
		s.Ctl("apply", "-f", s.write(t, "refuse.yaml", clusterYAML("refused", "10.0.0.1:80")))
	})
	plan := s.Path("exit.plan")
	s.Ctl("plan", "-f", s.write(t, "exit.yaml", clusterYAML("exit", "10.0.0.1:80")), "--save", plan)
	s.Ctl("apply", "-f", s.write(t, "other.yaml", clusterYAML("other", "10.0.0.1:80")))
	cases := map[int]struct {
		code fault.Code
		run  func() harness.Result
	}{
		0: {"", func() harness.Result { return s.Run("meshctl", "get", "routes") }},
		1: {fault.CodeUnreachable, func() harness.Result { return s.Run("meshctl", "get", "routes", "--hub", "127.0.0.1:1") }},
		2: {"", func() harness.Result { return s.Run("meshctl", "plan", "-f", s.Path("exit.yaml"), "--exit-code") }},
		4: {fault.CodeNotPermitted, func() harness.Result {
			return s.Run("meshctl", "get", "routes", "--cert-file", node.Cert, "--key-file", node.Key)
		}},
		5: {fault.CodeNoSuchResource, func() harness.Result { return s.Run("meshctl", "get", "cluster", "nowhere") }},
		6: {fault.CodeBaseMoved, func() harness.Result { return s.Run("meshctl", "apply", "--plan", plan) }},
		8: {fault.CodeWaitTimeout, func() harness.Result { return s.withStopped(t, picky) }},
		9: {fault.CodePartial, func() harness.Result {
			return s.Run("meshctl", "apply", "-f", s.write(t, "refuse.yaml", clusterYAML("refused", "10.55.55.55:80")), "--wait")
		}},
		64: {fault.CodeNoSuchKind, func() harness.Result { return s.Run("meshctl", "get", "routs") }},
		65: {fault.CodeUnknownField, func() harness.Result {
			return s.Run("meshctl", "apply", "-f", s.write(t, "bad.yaml", "kin: Cluster\n"))
		}},
		130: {"", func() harness.Result { return s.interrupted(t, "get", "routes", "--watch") }},
	}
	for _, code := range documentedExitCodes(t) {
		c, known := cases[code]
		if !known {
			t.Errorf("docs/cli.md documents exit code %d, which this test does not bring about", code)
			continue
		}
		delete(cases, code)
		r := c.run()
		if c.code != "" {
			wantRefused(t, r, code, c.code)
		} else if r.Code != code {
			t.Errorf("exit %d, want %d\n%s%s", r.Code, code, r.Stdout, r.Stderr)
		}
	}
	for code := range cases {
		t.Errorf("exit code %d is not in the table of docs/cli.md", code)
	}
}

func documentedExitCodes(t *testing.T) []int {
	t.Helper()
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+) \|`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// withStopped waits in vain for an agent whose process stands still.
func (s *site) withStopped(t *testing.T, a *harness.Agent) harness.Result {
	t.Helper()
	a.Signal(syscall.SIGSTOP)
	defer a.Signal(syscall.SIGCONT)
	return s.Run("meshctl", "apply", "-f", s.write(t, "slow.yaml", clusterYAML("slow", "10.0.0.1:80")), "--wait", "--timeout", "300ms")
}

// interrupted runs meshctl until it has printed something, and interrupts it.
func (s *site) interrupted(t *testing.T, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	cmd := s.Command(ctx, "meshctl", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := out.Read(first); err != nil {
		t.Errorf("meshctl %v printed nothing: %v\n%s", args, err, stderr.String())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit code says it
	return harness.Result{Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}
