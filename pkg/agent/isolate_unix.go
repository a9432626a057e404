//go:build unix

package agent

import (
	"os/exec"
	"syscall"
)

// isolate puts a command into a process group of its own and makes its end take
// the whole group along, so that what it started does not stay behind.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
