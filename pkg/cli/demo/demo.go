// Package demo is `meshctl demo`: the main job of MeshKit on one machine, with
// the real programs. It starts a hub, two agents and a fleet of eighteen more,
// and walks through publishing, changing, refusing, losing the hub, restarting
// without it and resuming, each step checked as it goes.
//
// story.go drives; steps_*.go are the steps; supervisor.go owns the processes
// and janitor.go ends them if the demo itself is killed; narrator.go speaks.
// One goroutine runs the story.
package demo

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
)

type options struct {
	app      *cliutil.App
	headless bool
	hold     bool
	ring     bool
	consul   string
	data     string
	// janitor makes the command that cleans up after a demo that died.
	janitor func(dir string) (*exec.Cmd, error)
}

// New is `meshctl demo`.
func New(app *cliutil.App) *cobra.Command {
	o := &options{app: app, janitor: ownJanitor}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See the whole story on this machine",
		Long: `Demo runs the real meshhub and meshagent (beside meshctl, on PATH, or built first when run in the checkout) on free
loopback ports in a temporary directory: one hub, two agents, and eighteen more agents in one process. It publishes a
sample mesh, makes a change and shows it arriving, tries a broken configuration, kills the hub, restarts an agent without
it, and brings the hub back.

It needs nothing else, takes at most a minute once the programs are built, and leaves no process and no directory behind,
however it ends. With --headless it prints one line per step and exits with 0 only if every step held. With --hold
everything keeps running until interrupted, and the settings for other clients are printed; when stdout goes into a
file, it holds nothing but them.

With --ring it runs three hubs on a Consul of three servers instead (the program is found on PATH or named with --consul), kills
the hub that leads three times while clients write through all of them, and prints how long writes waited.`,
		Example: `  meshctl demo
  meshctl demo --headless
  meshctl demo --ring --consul /usr/local/bin/consul
  meshctl demo --hold > demo.env     # then, in another terminal: . ./demo.env && meshctl get agents`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.ring && o.hold:
				return cliutil.Usagef("--ring and --hold exclude each other")
			case o.consul != "" && !o.ring:
				return cliutil.Usagef("--consul goes with --ring")
			}
			return o.run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&o.headless, "headless", false, "print one line per step, with figures")
	fl.BoolVar(&o.hold, "hold", false, "keep all running until interrupted, and print export MESHKIT_…= lines")
	fl.BoolVar(&o.ring, "ring", false, "three hubs on a Consul, whose leader is killed under writes")
	fl.StringVar(&o.consul, "consul", "", "with --ring, the Consul program (default: consul on PATH)")
	fl.StringVar(&o.data, "data", "", "directory to use, empty or absent; removed at the end")
	cmd.MarkFlagDirname("data")
	return cmd
}

func (o *options) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer watchParent(cancel)()
	dir, err := makeDir(o.data)
	if err != nil {
		return err
	}
	sup, err := newSupervisor(dir, o.janitor)
	if err != nil {
		os.RemoveAll(dir)
		return err
	}
	n := newNarrator(o.narration(), o.headless)
	defer func() {
		n.stopSpinner()
		started, closeErr := sup.Close()
		if err == nil && closeErr == nil {
			n.farewell(started, dir)
		}
		err = errors.Join(err, closeErr)
	}()
	s := &story{app: o.app, sup: sup, dir: dir, say: n}
	steps, close := s.steps(), s.close
	if o.ring {
		r := &ring{story: s, consul: cmp.Or(o.consul, "consul")}
		steps, close = r.steps(), r.close
	}
	defer close()
	n.welcome()
	for i, st := range steps {
		if err := n.step(ctx, i+1, len(steps), st); err != nil {
			return s.failed(ctx, st, err)
		}
	}
	if !o.hold {
		return nil
	}
	s.hold()
	<-ctx.Done()
	return nil // interrupted, as asked
}

// narration is where the story is told: on stderr when --hold's settings go into
// a file or pipe on stdout.
func (o *options) narration() *cliutil.IO {
	if !o.hold || o.app.IO.OutTerminal {
		return o.app.IO
	}
	io := *o.app.IO
	io.Out, io.OutTerminal, io.Width = io.Err, io.ErrTerminal, io.ErrWidth
	return &io
}

// makeDir makes the directory that all of the demo lives in, with the marker
// that lets the janitor remove it.
func makeDir(data string) (string, error) {
	dir := data
	var err error
	if data == "" {
		dir, err = os.MkdirTemp("", "meshkit-demo-")
	} else if dir, err = filepath.Abs(data); err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", fault.New(fault.CodeDemoDirectory, "make the demo's directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fault.New(fault.CodeDemoDirectory, "read the demo's directory: %w", err)
	}
	if len(entries) > 0 {
		return "", fault.New(fault.CodeDemoDirectory, "%s is not empty", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, marker), []byte("made by meshctl demo, which removes this directory\n"), 0o600); err != nil {
		return "", fault.New(fault.CodeDemoDirectory, "write into the demo's directory: %w", err)
	}
	return dir, nil
}

// watchParent ends the demo when `go run`, which started it, is killed: it
// passes no signal on. The function that it returns stops the watch.
func watchParent(cancel context.CancelCauseFunc) (stop func()) {
	exe, err := os.Executable()
	if err != nil || !underGoRun(exe) {
		return func() {}
	}
	parent, done, ended := os.Getppid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if os.Getppid() != parent {
					cancel(fault.New(fault.CodeInterrupted, "the program that started the demo is gone"))
					return
				}
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
