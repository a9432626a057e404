//go:build unix && !linux

package demo

import "syscall"

// dieWithParent has no counterpart here: the janitor ends the children.
func dieWithParent(*syscall.SysProcAttr) {}
