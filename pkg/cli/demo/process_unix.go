//go:build unix

package demo

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// own puts a child into a process group of its own, so that a Ctrl-C at the
// terminal reaches only the demo, which then ends its children in order.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
}

// killGroup ends a child and all that it started.
func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// groupAlive tells whether any process of the group is left, zombies included.
func groupAlive(pid int) bool { return syscall.Kill(-pid, 0) == nil }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// ignoreSignals keeps the janitor alive through what ends the demo.
func ignoreSignals() {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
}

// detach gives the janitor a session of its own, so that nothing that ends the
// demo ends it as well.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
