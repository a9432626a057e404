// Package harness runs the real programs for the tests that span them: it
// builds them once per test process, starts them on loopback ports of their own
// choice in a directory of their own, and ends them with the test, however it
// ends.
//
// A Cluster and what it starts belong to one test; its methods are safe for
// concurrent use.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Patience bounds every wait for another process. It is generous: it decides
// only how long a broken build takes to fail.
const Patience = 30 * time.Second

var programs struct {
	once sync.Once
	dir  string
	err  error
}

// Programs builds meshhub, meshagent and meshctl and gives their directory, or
// gives the directory that MESHKIT_TEST_PROGRAMS names. Call Cleanup from TestMain
// when all tests are done.
func Programs() (string, error) {
	if dir := os.Getenv("MESHKIT_TEST_PROGRAMS"); dir != "" {
		return dir, nil
	}
	programs.once.Do(func() {
		root, err := moduleRoot()
		if err != nil {
			programs.err = err
			return
		}
		if programs.dir, programs.err = os.MkdirTemp("", "meshkit-bin-"); programs.err != nil {
			return
		}
		args := []string{"build", "-o", programs.dir + string(filepath.Separator)}
		if raceEnabled {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/...")...)
		cmd.Dir, cmd.Env = root, os.Environ()
		if !raceEnabled { // as they are released; the race detector needs cgo
			cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	})
	return programs.dir, programs.err
}

// Cleanup removes the built programs.
func Cleanup() {
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
}

// TB is what the harness needs of a test or benchmark; *testing.T has it.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(f func())
}

// Main is a TestMain body: m is a *testing.M.
func Main(m interface{ Run() int }) int {
	defer Cleanup()
	return m.Run()
}

func moduleRoot() (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("no caller information")
	}
	dir := filepath.Dir(self)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the test harness")
		}
		dir = parent
	}
}

// Cluster is a directory with a hub and agents in it.
type Cluster struct {
	tb  TB
	Dir string
	bin string
	env []string
	// via comes before the programs that are run: see Via.
	via []string
	// patience bounds the wait for a program to be ready: see Patient.
	patience time.Duration
}

// New makes an empty cluster.
func New(tb TB) *Cluster {
	tb.Helper()
	bin, err := Programs()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	// Not tb.TempDir: its name is too long for a Unix socket path.
	dir, err := os.MkdirTemp("", "mk")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() && os.Getenv("MESHKIT_TEST_KEEP") != "" {
			tb.Logf("kept %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	c := &Cluster{tb: tb, Dir: dir, bin: bin, patience: Patience}
	c.env = append(os.Environ(),
		"HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, "xdg"),
		"MESHKIT_CONFIG="+filepath.Join(dir, "context.yaml"), "NO_COLOR=1")
	return c
}

// Path joins a name to the cluster's directory.
func (c *Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command makes a program's command, to be run by the caller.
func (c *Cluster) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	line := c.line(program, args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env, cmd.Dir = c.env, c.Dir
	return cmd
}

// line is the command line that runs a program.
func (c *Cluster) line(program string, args ...string) []string {
	return slices.Concat(c.via, []string{filepath.Join(c.bin, program)}, args)
}

// Run runs a program to its end.
func (c *Cluster) Run(program string, args ...string) Result {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	cmd := c.Command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ee := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ee) {
		c.tb.Errorf("run %s %s: %v", program, strings.Join(args, " "), err)
		return Result{Code: -1, Stderr: err.Error()}
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Must runs a program and fails the test unless it exits 0; it gives stdout.
func (c *Cluster) Must(program string, args ...string) string {
	c.tb.Helper()
	r := c.Run(program, args...)
	if r.Code != 0 {
		c.tb.Fatalf("%s %s exited %d\nstdout: %s\nstderr: %s", program, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Ctl runs meshctl and fails the test unless it exits 0.
func (c *Cluster) Ctl(args ...string) string {
	c.tb.Helper()
	return c.Must("meshctl", args...)
}

// JSON runs meshctl with -o json and decodes what it prints.
func (c *Cluster) JSON(into any, args ...string) {
	c.tb.Helper()
	out := c.Ctl(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		c.tb.Fatalf("meshctl %s -o json printed no JSON: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Process is a running program.
type Process struct {
	tb   TB
	Name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed once the process has been waited for
	// Ready is what the program wrote to its ready file.
	Ready map[string]string
}

// Start starts a program that takes --ready-file and waits until it is ready.
func (c *Cluster) Start(name, program string, args ...string) *Process {
	c.tb.Helper()
	p, err := c.TryStart(name, program, args...)
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return p
}

// TryStart is Start, with an error when the program ends before it is ready.
func (c *Cluster) TryStart(name, program string, args ...string) (*Process, error) {
	ready := c.Path(name + ".ready")
	_ = os.Remove(ready)
	log, err := os.OpenFile(c.Path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	line := c.line(program, append(args, "--ready-file", ready)...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, c.Dir, log, log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	p := &Process{tb: c.tb, Name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		_ = log.Close()
		close(p.done)
	}()
	c.tb.Cleanup(p.Kill)
	if err := p.awaitReady(ready, c.patience); err != nil {
		p.Kill()
		out, _ := os.ReadFile(c.Path(name + ".log"))
		return nil, fmt.Errorf("%s: %w\n%s", name, err, tail(out, 4000))
	}
	return p, nil
}

func (p *Process) awaitReady(path string, patience time.Duration) error {
	return Poll(patience, func() (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("ended before it was ready: %v", p.cmd.ProcessState)
		default:
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			return false, nil
		}
		return true, json.Unmarshal(data, &p.Ready)
	})
}

// Kill sends SIGKILL and waits for the process to be gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Ended is closed once the process is gone, whoever ended it.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Stop interrupts the process and gives its exit code; it fails the test when
// the process does not end.
func (p *Process) Stop() int {
	p.tb.Helper()
	p.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.tb.Errorf("%s did not stop within %v", p.Name, Patience)
		p.Kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Poll calls f until it gives true or an error, or patience ends. It is for
// conditions of other processes, which offer nothing to wait on.
func Poll(patience time.Duration, f func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		ok, err := f()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not so within %v", patience)
		}
		<-time.After(wait)
	}
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// Setenv sets a variable for the programs that are started from now on.
func (c *Cluster) Setenv(name, value string) { c.env = append(c.env, name+"="+value) }
