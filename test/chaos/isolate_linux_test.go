//go:build chaos

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// isolatedVariable tells the test process that it is the isolated one.
const isolatedVariable = "MESHKIT_CHAOS_ISOLATED"

// isolate runs the test that calls it once more, in a process with namespaces of its
// own for processes, mounts and the network, and reports how that went: false means
// that it is done. However that process ends, the kernel ends everything that it
// started and removes its interfaces and mounts. In that process it is true.
func isolate(t *testing.T) bool {
	t.Helper()
	if os.Getenv(isolatedVariable) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Fatalf("network namespaces and small disks need root; run it as root: sudo -E go test -tags chaos ./test/chaos -run '^%s$'", t.Name())
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatalf("ip is missing, install it: apt-get install iproute2: %v", err)
	}
	// What it needs is built here: the process inside has no network but its own.
	programs, err := harness.Programs()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consultest.Program(); err != nil {
		t.Fatal(err)
	}
	limit := 10 * time.Minute
	if d, ok := t.Deadline(); ok {
		limit = time.Until(d) - 10*time.Second
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count", "1", "-test.timeout", limit.String(),
		"-seed", fmt.Sprint(*seed), "-faults", fmt.Sprint(*faults), "-writes", fmt.Sprint(*writes), "-agents", fmt.Sprint(*agents))
	cmd.Env = append(os.Environ(), isolatedVariable+"=1", "MESHKIT_TEST_PROGRAMS="+programs)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("make namespaces for processes, mounts and the network: %v\nin a container this needs --privileged, or the capability SYS_ADMIN", err)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-interrupted:
		_ = cmd.Process.Kill()
		err = fmt.Errorf("interrupted: %w", <-ended)
	}
	if err != nil {
		t.Errorf("the isolated test: %v", err)
	}
	return false
}

// ownMounts makes what is mounted from now on visible inside only, and gives the
// process its own view of /proc and of the names of network namespaces.
func ownMounts(t *testing.T) {
	t.Helper()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatalf("mount /proc: %v", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount /run/netns: %v", err)
	}
}
