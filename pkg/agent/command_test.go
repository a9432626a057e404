//go:build unix

package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestAHookThatLeavesAProcessBehindHasNotFailed starts something that keeps the hook's
// output open, as a data plane does that is started without redirection.
func TestAHookThatLeavesAProcessBehindHasNotFailed(t *testing.T) {
	pidFile := t.TempDir() + "/pid"
	err := execute(t.Context(), fault.CodeActivationFailed, 10*time.Second, []string{"/bin/sh", "-c", "sleep 30 & echo $! >" + pidFile}, &bundle{}, "x")
	if err != nil {
		t.Errorf("exit status 0 counts as %v", err)
	}
	reap(t, pidFile)
}

// reap ends the process that a test's command left behind.
func reap(t *testing.T, pidFile string) {
	t.Helper()
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), fault.CodeInternal, 5*time.Second, []string{"/bin/kill", strings.TrimSpace(string(text))}, &bundle{}, "x"); err != nil {
		t.Error(err)
	}
}

func TestATimeoutTakesTheWholeProcessGroupAlong(t *testing.T) {
	start := time.Now()
	err := execute(t.Context(), fault.CodeActivationFailed, 200*time.Millisecond, []string{"/bin/sh", "-c", "sleep 60 & wait"}, &bundle{}, "x")
	if fault.CodeOf(err) != fault.CodeActivationFailed || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("got %v", err)
	}
	// With the child alive the output would stay open for WaitDelay.
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("took %s: the child was not ended", took)
	}
}

func TestCommandsDoNotSeeTheJoinToken(t *testing.T) {
	t.Setenv("MESHKIT_TOKEN", "a-secret")
	err := execute(t.Context(), fault.CodeActivationFailed, 5*time.Second, []string{"/bin/sh", "-c", `test -z "$MESHKIT_TOKEN" && test -n "$MESHKIT_BUNDLE"`}, &bundle{}, "x")
	if err != nil {
		t.Error(err)
	}
}

func TestOutputOfACommandIsBoundedAndClean(t *testing.T) {
	err := execute(t.Context(), fault.CodeActivationFailed, 10*time.Second, []string{"/bin/sh", "-c", `i=0; while [ $i -lt 3000 ]; do echo 0123456789abcdef; i=$((i+1)); done; printf '\033[2Jend'; exit 7`}, &bundle{}, "x")
	if err == nil || len(err.Error()) > maxOutput+200 || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "exit status 7") || !strings.HasSuffix(err.Error(), "end") {
		t.Errorf("got %d bytes: %.80v…", len(err.Error()), err)
	}
}
