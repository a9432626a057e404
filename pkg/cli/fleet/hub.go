package fleet

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// NewHub is `meshctl hub`.
func NewHub(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Take hubs out of use and back",
		Long: `Hubs are listed with "meshctl get hubs" and shown with "meshctl describe hub NAME"; here they are taken out of use before
maintenance, and back. "meshctl token create --hub" and "meshhub join" add one; "meshctl key drop NAME" ends what a lost
one may do; see docs/runbooks/ring.md for what else that takes.`,
	}
	cmd.AddCommand(newDrain(app), newUndrain(app))
	return cmd
}

type drainOptions struct {
	app       *cliutil.App
	requestID string
	wait      bool
	timeout   time.Duration
}

func newDrain(app *cliutil.App) *cobra.Command {
	o := &drainOptions{app: app}
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Send a hub's streams and leadership to the others",
		Long: `Drain has a hub send its agents to the other hubs, take no new ones, and hand leadership over if it has it. It answers
operators as before. It stays so, over restarts, until "meshctl hub undrain". A hub cannot be drained when no
other that is in use answers. Should all others be lost later, a drained hub leads after five seconds all the same, so that
the domain can be changed.

The command waits until the hub has no stream left and another leads.`,
		Example: `  meshctl hub drain hub2
  meshctl hub drain hub2 --wait=false`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHubs(app),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.wait, "wait", true, "wait until the streams are gone and another hub leads")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait")
	f.StringVar(&o.requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	return cmd
}

func completeHubs(app *cliutil.App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return read.Names(cmd.Context(), app, cliutil.Hubs), cobra.ShellCompDirectiveNoFileComp
	}
}

func (o *drainOptions) run(cmd *cobra.Command, hub string) error {
	if o.timeout <= 0 {
		return cliutil.Usagef("--timeout must be above 0")
	}
	c, err := o.app.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	id := cmp.Or(o.requestID, o.app.NewID())
	o.app.Verbosef("request id %s", id)
	ctx, cancel := o.app.Deadline(cmd.Context())
	defer cancel()
	r, err := c.SetDrained(ctx, hub, true, id)
	if err != nil {
		return o.app.Unknown(err, id)
	}
	if r.GetUnchanged() {
		o.app.IO.Donef("hub %s is drained already", hub)
	} else {
		o.app.IO.Donef("hub %s is being drained: seq %d", hub, r.GetSeq())
	}
	if !o.wait {
		return nil
	}
	return o.await(cmd.Context(), c, hub)
}

// await follows the hub until it has no stream and does not lead.
func (o *drainOptions) await(ctx context.Context, c *client.Client, hub string) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var drained, leader *adminv1.Hub
	for {
		hubs, err := c.Hubs(ctx)
		if err != nil && (ctx.Err() == nil || drained == nil) {
			return err
		}
		if err == nil {
			drained, leader = findHub(hubs, hub)
		}
		if drained.GetSeq() == 0 {
			o.app.IO.Donef("hub %s does not answer: whatever it had is elsewhere or away", hub)
			return nil
		}
		if drained.GetStreams() == 0 && leader != nil && leader.GetName() != hub {
			o.app.IO.Donef("hub %s has no streams; hub %s leads, term %d", hub, leader.GetName(), leader.GetTerm())
			return nil
		}
		if backoff.Sleep(ctx, backoff.Jitter(200*time.Millisecond, 0.2)) != nil {
			return fault.New(fault.CodeTimeout, "hub %s is drained, and after %s it %s", hub, o.timeout, left(drained, leader)).
				WithRemedy("It goes on by itself; look with `meshctl get hubs`. An agent that stays may not reach the other hubs; one that leads on may be the only one that reaches the store.")
		}
	}
}

// left tells what a drained hub has not given up yet.
func left(drained, leader *adminv1.Hub) string {
	leads := leader == nil || leader.GetName() == drained.GetName()
	streams := fmt.Sprintf("still has %d streams", drained.GetStreams())
	switch {
	case leads && drained.GetStreams() > 0:
		return streams + ", and no other hub leads"
	case leads:
		return "has no streams, but no other hub leads yet"
	}
	return streams
}

func findHub(hubs []*adminv1.Hub, name string) (hub, leader *adminv1.Hub) {
	for _, h := range hubs {
		if h.GetName() == name {
			hub = h
		}
		if h.GetLeader() {
			leader = h
		}
	}
	return hub, leader
}

func newUndrain(app *cliutil.App) *cobra.Command {
	var requestID string
	cmd := &cobra.Command{
		Use:   "undrain NAME",
		Short: "Take a drained hub into use again",
		Long: `Undrain has a hub take streams again, and lead when it comes to that. Agents that went elsewhere stay there until they
reconnect.`,
		Example:           "  meshctl hub undrain hub2",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHubs(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := cmp.Or(requestID, app.NewID())
			app.Verbosef("request id %s", id)
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.SetDrained(ctx, args[0], false, id)
				switch {
				case err != nil:
					return app.Unknown(err, id)
				case r.GetUnchanged():
					app.IO.Donef("hub %s is in use already", args[0])
				default:
					app.IO.Donef("hub %s is in use again: seq %d", args[0], r.GetSeq())
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	return cmd
}
