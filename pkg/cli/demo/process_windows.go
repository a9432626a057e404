package demo

import (
	"os"
	"os/exec"
	"os/signal"
)

func own(*exec.Cmd) {}

func killGroup(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

func groupAlive(pid int) bool {
	_, err := os.FindProcess(pid)
	return err == nil
}

func terminate(p *os.Process) error { return p.Kill() }

func ignoreSignals() { signal.Ignore(os.Interrupt) }

func detach(*exec.Cmd) {}
