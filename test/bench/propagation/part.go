//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// A part is one process of the bench: a server, or a process with many clients. It
// reads one JSON request per line on stdin and answers each with one line on
// stdout:
//
//	{"do":"memory"}        → {"data":{"bytes":12345678}}
//	{"do":"change","with":{"bytes":1500}} → {"data":{"at":1790000000000000000}}
//	{"do":"nonsense"}      → {"error":"..."}
//
// It ends when stdin does.
type request struct {
	Do   string          `json:"do"`
	With json.RawMessage `json:"with,omitempty"`
}

type answer struct {
	Error string          `json:"error,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
}

// handlers are what a part does, by name.
type handlers map[string]func(with json.RawMessage) (any, error)

// serve answers requests until in ends.
func (h handlers) serve(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	enc := json.NewEncoder(out)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return fmt.Errorf("decode request: %w", err)
		}
		if err := enc.Encode(h.answer(req)); err != nil {
			return fmt.Errorf("answer %s: %w", req.Do, err)
		}
	}
	return lines.Err()
}

func (h handlers) answer(req request) answer {
	f, ok := h[req.Do]
	if !ok {
		return answer{Error: "this part does not know " + req.Do}
	}
	v, err := f(req.With)
	if err != nil {
		return answer{Error: err.Error()}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Data: data}
}

// with decodes a request's argument.
func with[T any](f func(T) (any, error)) func(json.RawMessage) (any, error) {
	return func(raw json.RawMessage) (any, error) {
		var v T
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &v); err != nil {
				return nil, fmt.Errorf("decode argument: %w", err)
			}
		}
		return f(v)
	}
}

// inUse is what a server part holds after a collection, in bytes: objects that are
// reachable and stacks. Unlike the resident set it holds no garbage, such as of
// handshakes. Spans are what the allocator has taken from the system for these objects;
// how full they are depends on when collections fell, by tens of MiB. What the kernel
// keeps for sockets is in neither.
type inUse struct {
	Bytes uint64 `json:"bytes"`
	Spans uint64 `json:"spans"`
}

func memory(json.RawMessage) (any, error) {
	runtime.GC()
	debug.FreeOSMemory() // collects again, and sweeps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return inUse{m.HeapAlloc + m.StackInuse, m.HeapInuse + m.StackInuse}, nil
}

// child is a running part, or another server process that answers nothing. It is
// used by one goroutine.
type child struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
}

// callPatience bounds one request: 5,000 handshakes and snapshots on two cores are
// the longest.
const callPatience = 5 * time.Minute

// startPart starts a part with the given command line. It dies with this process.
func startPart(name, program string, args ...string) (*child, error) {
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	dieWithParent(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &child{name: name, cmd: cmd, in: in, lines: bufio.NewReaderSize(out, 1<<20)}, nil
}

// call sends a request and decodes the answer into out, unless it is nil.
func (c *child) call(do string, arg, out any) error {
	data, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	line, err := json.Marshal(request{Do: do, With: data})
	if err != nil {
		return err
	}
	late := time.AfterFunc(callPatience, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %s: %w", c.name, do, err)
	}
	reply, err := c.lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.name, do, err)
	}
	var a answer
	if err := json.Unmarshal(reply, &a); err != nil {
		return fmt.Errorf("%s: %s: %w", c.name, do, err)
	}
	if a.Error != "" {
		return fmt.Errorf("%s: %s: %s", c.name, do, a.Error)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(a.Data, out)
}

// stop ends the process and waits for it.
func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // killed: its exit code says nothing
}

// cpu is the processor time that the process has used, by all its threads and in
// the kernel on its behalf.
func (c *child) cpu() (time.Duration, error) {
	var ts unix.Timespec
	// The clock of a process, as clock_getcpuclockid(3) makes it: ^pid<<3 | CPUCLOCK_SCHED.
	if err := unix.ClockGettime(int32(^c.cmd.Process.Pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the processor time of %s: %w", c.name, err)
	}
	return time.Duration(ts.Nano()), nil
}

// settled waits until the process has next to nothing more to do, and gives the
// processor time used up to then.
func (c *child) settled(ctx context.Context) (time.Duration, error) {
	const (
		pause = 20 * time.Millisecond
		idle  = 400 * time.Microsecond
		most  = 10 * time.Second
	)
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(most); ; {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		now, err := c.cpu()
		if err != nil || now-before < idle {
			return now, err
		}
		if time.Now().After(deadline) {
			return 0, errors.New(c.name + " does not come to rest")
		}
		before = now
	}
}
