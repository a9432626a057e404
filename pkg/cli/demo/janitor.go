package demo

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/fault"
)

// marker is the file that says that a directory is the demo's to remove.
const marker = ".meshkit-demo"

// janitorCommand is the hidden command that runs the janitor.
const janitorCommand = "__demo-janitor"

// ownJanitor runs the janitor out of the same program.
func ownJanitor(dir string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.CodeDemoProcess, "find meshctl itself: %w", err)
	}
	cmd := exec.Command(exe, janitorCommand, dir)
	detach(cmd)
	return cmd, nil
}

// NewJanitor is the hidden command behind the demo: it reads on stdin which
// processes run, and when the demo dies without a word, ends them and removes
// the directory.
func NewJanitor() *cobra.Command {
	return &cobra.Command{
		Use:    janitorCommand + " DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ignoreSignals()
			return Janitor(cmd.InOrStdin(), args[0])
		},
	}
}

// Janitor follows orders ("+PID", "-PID", "done") until they end. If they end
// without "done", the process groups still there are ended and dir, which must
// hold the demo's marker, is removed.
func Janitor(orders io.Reader, dir string) error {
	running := make(map[int]bool)
	for s := bufio.NewScanner(orders); s.Scan(); {
		line := s.Text()
		if line == "done" {
			return nil
		}
		pid, err := strconv.Atoi(strings.TrimLeft(line, "+-"))
		if err != nil || pid <= 1 {
			continue
		}
		if running[pid] = strings.HasPrefix(line, "+"); !running[pid] {
			delete(running, pid)
		}
	}
	for pid := range running {
		killGroup(pid) // an error means that it has ended
	}
	end := time.Now().Add(time.Second) // the dead may wait for long to be reaped
	for pid := range running {
		for groupAlive(pid) && time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return nil
	}
	return removeAll(dir)
}
