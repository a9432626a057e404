package demo

import "syscall"

// dieWithParent lets the kernel end the child when the demo's thread that
// started it ends, however that comes about; the supervisor keeps that thread.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
