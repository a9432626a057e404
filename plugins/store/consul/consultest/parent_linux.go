package consultest

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel end the child should the test process be killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
