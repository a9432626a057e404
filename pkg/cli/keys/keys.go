// Package keys holds the verbs about trust: the hubs' config keys and the root
// of trust that covers them.
package keys

import (
	"cmp"
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
)

// NewKey is `meshctl key`.
func NewKey(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, rotate and drop the hubs' config keys",
		Long: `Each hub signs configuration with a key of its own, which the domain's keyset lists. Agents follow the keyset without
a restart.`,
	}
	cmd.AddCommand(newKeyList(app), newKeyRotate(app), newKeyDrop(app))
	return cmd
}

func newKeyList(app *cliutil.App) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the hubs' config keys",
		Long:  "List shows the key of each hub in the keyset that is in force.",
		Example: `  meshctl key list
  meshctl key list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cliutil.ParseFormat(output)
			if err != nil {
				return err
			}
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				t, err := c.Trust(ctx)
				if err != nil {
					return err
				}
				return app.IO.Print(format, keyListing(t))
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, wide, json, yaml, name or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.Formats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func keyListing(t *adminv1.GetTrustResponse) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"HUB", "ALGORITHM", "KEY"}}, Empty: "the keyset lists no hub"}
	for _, k := range t.GetHubKeys() {
		l.Table.Add(k.GetHub(), k.GetAlgorithm(), k.GetKeyId())
		l.Items = append(l.Items, cliutil.ProtoJSON(k))
		l.Names = append(l.Names, "key/"+k.GetHub())
	}
	return l
}

func newKeyRotate(app *cliutil.App) *cobra.Command {
	var requestID, output string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Give the hub a new config key",
		Long: `Rotate makes the answering hub sign with a new key. The new key is in the keyset before its first use, and agents
follow without a restart; the old key is refused from then on. Where the context names several hubs, say with --hub whose
key is meant, also with --request-id: that of one hub's rotation is refused by another.`,
		Example: `  meshctl key rotate
  meshctl --hub 10.0.0.1:8443 key rotate`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cliutil.ParseFormat(output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			id := cmp.Or(requestID, app.NewID())
			app.Verbosef("request id %s", id)
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.RotateHubKey(ctx, id)
				if err != nil {
					return app.Unknown(err, id)
				}
				if format.Structured() {
					return app.IO.PrintDocument(format, cliutil.ProtoJSON(r))
				}
				app.IO.Outf("%s", cliutil.Clean(r.GetNewKeyId()))
				app.IO.Donef("hub %s signs with key %s (before: %s); keyset version %d", r.GetHub(), r.GetNewKeyId(), r.GetOldKeyId(), r.GetKeysetVersion())
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	return cmd
}

func newKeyDrop(app *cliutil.App) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "drop HUB",
		Short: "Take a hub's config key out of the keyset",
		Long: `Drop removes a hub's key: agents refuse what it signs as soon as they have the new keyset. The other hubs answer it no more,
and nobody whose certificate its issuing CA signed, unless the log has it. Use it when a hub is lost, compromised or has
equivocated. Its access to the store is taken away in the store. A hub does not drop its own key.`,
		Example:           `  meshctl key drop hub2 --reason "disk stolen"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: read.CompleteNames(app, cliutil.Hubs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.DropHubKey(ctx, args[0], reason)
				if err != nil {
					return err
				}
				app.IO.Donef("key of hub %s dropped; keyset version %d", args[0], r.GetKeysetVersion())
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the log")
	return cmd
}
