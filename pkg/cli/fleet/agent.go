package fleet

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
)

// NewAgent is `meshctl agent`.
func NewAgent(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Manage agents",
		Long:  "Agents are listed with `meshctl get agents` and shown with `meshctl describe agent NAME`; here they are removed.",
	}
	cmd.AddCommand(newForget(app))
	return cmd
}

func newForget(app *cliutil.App) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "forget NAME…",
		Short: "Remove an agent from the domain",
		Long: `Forget frees a node's name: its certificate is refused from then on, its stream is ended, and it is given nothing more.
It keeps serving what it has. To come back it must join again with a new token.`,
		Example: `  meshctl agent forget eu-1
  meshctl agent forget eu-1 eu-2 --reason "decommissioned"`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return read.Names(cmd.Context(), app, cliutil.Agents), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				for i, name := range args {
					r, err := c.ForgetAgent(ctx, name, reason)
					if err != nil && i > 0 {
						return fmt.Errorf("agent %s (those before it are forgotten): %w", name, err)
					}
					if err != nil {
						return err
					}
					app.IO.Donef("agent %s forgotten: seq %d", name, r.GetSeq())
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the log")
	return cmd
}
