package fleet

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
)

// NewDomain is `meshctl domain`.
func NewDomain(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "domain",
		Short: "Make domains and move their leadership",
		Long: `Domains are shown with "meshctl get domains" and "meshctl describe domain"; here they are made, and their leadership is moved
between hubs.`,
	}
	cmd.AddCommand(newCreate(app), newTransfer(app))
	return cmd
}

func newTransfer(app *cliutil.App) *cobra.Command {
	var to, requestID string
	cmd := &cobra.Command{
		Use:   "transfer DOMAIN --to HUB",
		Short: "Hand leadership to another hub",
		Long: `Transfer has the hub that leads hand over to another one, in order: what was acknowledged stands, and writes that come in
meanwhile wait for the new leader, some milliseconds. The other hub must answer, be well and not be drained.`,
		Example: "  meshctl domain transfer eu-west --to hub3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return cliutil.Usagef("name the hub that is to lead with --to").WithRemedy("`meshctl get hubs` lists them")
			}
			id := cmp.Or(requestID, app.NewID())
			app.Verbosef("request id %s", id)
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				d, err := c.Domain(ctx)
				if err != nil {
					return err
				}
				if d.GetDomain() != args[0] {
					return cliutil.Usagef("the context is for domain %s, not %s", d.GetDomain(), args[0]).
						WithRemedy("choose another with --context; `meshctl context list` shows them")
				}
				r, err := c.TransferLeadership(ctx, to, id)
				switch {
				case err != nil:
					return app.Unknown(err, id)
				case r.GetTook() == nil:
					app.IO.Donef("hub %s leads %s already, term %d", r.GetLeader(), args[0], r.GetTerm())
				default:
					app.IO.Donef("hub %s leads %s, term %d; handed over in %s", r.GetLeader(), args[0], r.GetTerm(), r.GetTook().AsDuration().Round(time.Millisecond))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "hub that is to lead")
	cmd.Flags().StringVar(&requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	cmd.RegisterFlagCompletionFunc("to", func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return read.Names(cmd.Context(), app, cliutil.Hubs), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}
