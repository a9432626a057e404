// Command meshagent is the agent of one node. See docs/runbooks/agent.md.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/version"
)

func main() { os.Exit(realMain()) }

// realMain runs the command line that the process was started with.
func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return execute(ctx, cliutil.SystemIO(), os.Args[1:])
}

// execute runs one command and gives the exit code.
func execute(ctx context.Context, io *cliutil.IO, args []string) int {
	root := newRoot(io)
	root.SetArgs(append([]string{}, args...)) // not nil, or cobra takes the process's own
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && (errors.Is(err, context.Canceled) || fault.KindOf(err) == fault.Canceled) {
		return cliutil.ExitInterrupted
	}
	cliutil.Report(io, err)
	return cliutil.ExitCode(err)
}

func newRoot(io *cliutil.IO) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshagent",
		Short: "The agent of one node of a MeshKit domain",
		Long: `The agent of one node: it verifies what a hub sends, keeps last-known-good on disk,
and serves it to the node's processes, also while every hub is gone.

Exit codes: 0 ok, 1 error, 4 not permitted (token, pin, identity), 5 not found,
64 usage, 65 bad input, 130 interrupted.`,
		Example: `  meshagent join --hub 10.0.0.1:8443 --token TOKEN --ca-pin sha256:PIN --data ./agent
  meshagent run --config ./agent/meshagent.yaml
  meshagent status --config ./agent/meshagent.yaml`,
		Version:       version.String(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cliutil.Usagef("%v", err) })
	root.AddCommand(newJoin(io), newRun(io), newFleet(io), newStatus(io), newPin(io), newUnpin(io), newRevert(io))
	for _, c := range root.Commands() {
		usageOf(c)
	}
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return cliutil.Usagef("there is no command %q; `meshagent --help` lists all", args[0])
		}
		return nil
	}
	return root
}

// usageOf makes wrong arguments end with the exit code for usage.
func usageOf(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return cliutil.Usagef("%s: %v", c.CommandPath(), err)
		}
		return nil
	}
}

// required fails when a flag that a command cannot do without is empty.
func required(c *cobra.Command, names ...string) error {
	var missing []string
	for _, n := range names {
		if f := c.Flags().Lookup(n); f.Value.String() == "" {
			missing = append(missing, "--"+n)
		}
	}
	if len(missing) > 0 {
		return cliutil.Usagef("%s needs %s", c.CommandPath(), strings.Join(missing, ", "))
	}
	return nil
}

// tuneMemory sets the garbage collector; the GOGC and GOMEMLIMIT variables of the
// environment win.
func tuneMemory(gcPercent int, limitMiB int64) {
	if os.Getenv("GOGC") == "" && gcPercent > 0 {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" && limitMiB > 0 {
		debug.SetMemoryLimit(limitMiB << 20)
	}
}
