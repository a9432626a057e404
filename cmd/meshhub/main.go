// Command meshhub is the control-plane daemon of a MeshKit domain.
//
//	meshhub init --domain eu-west --data ./hub
//	meshhub run --config ./hub/meshhub.yaml
//
// The body is in pkg/hub; here are flags, configuration and the choice of
// drivers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, cliutil.SystemIO(), os.Args[1:])
	stop()
	os.Exit(code)
}

// execute runs one command line and gives the exit code of the documented table.
func execute(ctx context.Context, io *cliutil.IO, args []string) int {
	root := newRoot(io)
	root.SetArgs(append([]string{}, args...)) // not nil, or cobra takes the process's own
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	err := root.ExecuteContext(ctx)
	cliutil.Report(io, err)
	return cliutil.ExitCode(err)
}

// usage makes an error of a mistake in flags or arguments.
func usage(err error) *fault.Error { return cliutil.Usagef("%w", err) }

// arguments makes wrong arguments of c, and of what is below it, end with the exit
// code for usage.
func arguments(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usage(fmt.Errorf("%s: %w", c.CommandPath(), err))
		}
		return nil
	}
	for _, sub := range c.Commands() {
		arguments(sub)
	}
}

func newRoot(io *cliutil.IO) *cobra.Command {
	root := &cobra.Command{
		Use:           "meshhub",
		Short:         "Control-plane daemon of a MeshKit domain",
		Long:          "meshhub makes, validates, signs and distributes the configuration of a mesh domain.\nStart with `meshhub init`, then `meshhub run`; operate it with meshctl.",
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(newInit(), newJoin(io), newRun(), newKey(), newRootKeys(), newCredentials(), newStore(), newRestore())
	arguments(root)
	return root
}

// required marks a flag as required, with an error of ours.
func required(cmd *cobra.Command, names ...string) error {
	for _, n := range names {
		if f := cmd.Flag(n); f == nil || f.Value.String() == "" {
			return usage(fmt.Errorf("--%s is required; see `%s --help`", n, cmd.CommandPath()))
		}
	}
	return nil
}
