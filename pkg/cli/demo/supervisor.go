package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// supervisor owns every process of the demo. Whatever it starts has ended when
// Close returns; if the demo dies without Close, the janitor (and on Linux the
// kernel) ends what is left. Its methods are safe for concurrent use.
type supervisor struct {
	dir     string
	grace   time.Duration // how long a program may take to end after SIGTERM
	janitor *exec.Cmd
	orders  io.WriteCloser // to the janitor
	starts  chan func()    // run on the thread that all children belong to

	mu      sync.Mutex // guards orders and the fields below
	running map[*process]bool
	started int
}

// process is one program.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	// exited is closed when the process has been waited for.
	exited chan struct{}
	err    error // how it ended; read after exited
}

// newSupervisor makes one that removes dir in the end. janitor makes the
// command that cleans up after a demo that died.
func newSupervisor(dir string, janitor func(dir string) (*exec.Cmd, error)) (*supervisor, error) {
	s := &supervisor{dir: dir, grace: 3 * time.Second, starts: make(chan func()), running: make(map[*process]bool)}
	var err error
	if s.janitor, err = janitor(dir); err != nil {
		return nil, err
	}
	if s.orders, err = s.janitor.StdinPipe(); err != nil {
		return nil, fault.New(fault.CodeDemoProcess, "start the janitor: %w", err)
	}
	if err := s.janitor.Start(); err != nil {
		return nil, fault.New(fault.CodeDemoProcess, "start the janitor: %w", err)
	}
	go s.spawn()
	return s, nil
}

// spawn runs the starts on one locked thread: on Linux, children get their
// parent-death signal when the thread that forked them ends.
func (s *supervisor) spawn() {
	runtime.LockOSThread()
	for start := range s.starts {
		start()
	}
}

// start runs a program with its output in a log file.
func (s *supervisor) start(name, file string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(s.dir, name+".log"), exited: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "open log: %w", err)
	}
	defer out.Close()
	p.cmd = exec.Command(file, args...)
	p.cmd.Dir = s.dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	own(p.cmd)
	done := make(chan error)
	s.starts <- func() { done <- p.cmd.Start() }
	if err := <-done; err != nil {
		return nil, fault.New(fault.CodeDemoProcess, "start %s: %w", name, err)
	}
	s.mu.Lock()
	s.running[p] = true
	s.started++
	s.order("+%d", p.cmd.Process.Pid)
	s.mu.Unlock()
	go func() {
		p.err = p.cmd.Wait()
		s.mu.Lock()
		delete(s.running, p)
		s.order("-%d", p.cmd.Process.Pid)
		s.mu.Unlock()
		close(p.exited)
	}()
	return p, nil
}

// order tells the janitor; the caller holds mu.
func (s *supervisor) order(format string, args ...any) {
	fmt.Fprintf(s.orders, format+"\n", args...) // if the janitor is gone, Close still ends everything
}

// run runs a program to its end.
func (s *supervisor) run(ctx context.Context, name, file string, args ...string) error {
	p, err := s.start(name, file, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
		<-p.exited
		return context.Cause(ctx)
	}
	if p.err != nil {
		return fault.New(fault.CodeDemoProcess, "%s: %w\n%s", name, p.err, p.tail())
	}
	return nil
}

// kill ends the process at once and waits for it.
func (p *process) kill() {
	killGroup(p.cmd.Process.Pid) // an error means that it has ended
	<-p.exited
}

// stop asks the process to end, and ends it when it does not.
func (s *supervisor) stop(p *process) {
	terminate(p.cmd.Process)
	select {
	case <-p.exited:
	case <-time.After(s.grace):
	}
	p.kill()
}

// ended gives an error once the process has ended.
func (p *process) ended() error {
	select {
	case <-p.exited:
		return fault.New(fault.CodeDemoProcess, "%s ended (%v)\n%s", p.name, p.err, p.tail())
	default:
		return nil
	}
}

// tail is the end of the program's log, indented.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	return tail(string(data), 8)
}

// snapshot gives the processes that run now.
func (s *supervisor) snapshot() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*process, 0, len(s.running))
	for p := range s.running {
		out = append(out, p)
	}
	return out
}

// Close ends every process, removes the directory and lets the janitor go. It
// says how many processes had been started.
func (s *supervisor) Close() (started int, err error) {
	var wg sync.WaitGroup
	for _, p := range s.snapshot() {
		wg.Go(func() { s.stop(p) })
	}
	wg.Wait()
	close(s.starts)
	err = removeAll(s.dir)
	s.mu.Lock()
	if err == nil {
		s.order("done")
	}
	s.orders.Close()
	started = s.started
	s.mu.Unlock()
	return started, errors.Join(err, s.janitor.Wait())
}

// removeAll removes a directory, trying again while something that is ending
// still writes into it.
func removeAll(dir string) error {
	var err error
	for range 50 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fault.New(fault.CodeIO, "remove %s: %w", dir, err)
}
