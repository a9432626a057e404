// Package fleet holds the verbs about nodes: join tokens and agents.
package fleet

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// NewToken is `meshctl token`.
func NewToken(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke join tokens",
		Long: `A join token admits nodes to the domain and binds labels to them, which decide what they are given. Its secret is shown
once; the hub keeps only a hash. Every use is an entry of the log.`,
	}
	cmd.AddCommand(newTokenCreate(app), newTokenList(app), newTokenRevoke(app))
	return cmd
}

type tokenCreateOptions struct {
	app       *cliutil.App
	labels    []string
	ttl       time.Duration
	uses      uint32
	node      string
	hub       hubFlag
	requestID string
	output    string
}

func newTokenCreate(app *cliutil.App) *cobra.Command {
	return tokenCreateCommand(&tokenCreateOptions{app: app})
}

func tokenCreateCommand(o *tokenCreateOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token",
		Long: `Create makes a join token and prints it on stdout, where it is shown this once. On stderr it prints the command for the
node. With --hub the token admits hubs instead of nodes; --hub HOST:PORT is the hub to ask, as in every command, and --hub
--hub HOST:PORT is both. -o json prints the token with its id, expiry, hub address and CA pin.`,
		Example: `  meshctl token create --label region=eu --ttl 1h --uses 1
  meshctl token create --node eu-1 -o json
  meshctl token create --hub --uses 2
  TOKEN=$(meshctl token create --uses 20 --label region=us)`,
		Args: o.args,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&o.labels, "label", nil, "label of the nodes that join with it, KEY=VALUE (repeatable)")
	fl.DurationVar(&o.ttl, "ttl", time.Hour, "how long it is good for, at most 720h")
	fl.Uint32Var(&o.uses, "uses", 1, "how many may join with it, at most 10000")
	fl.StringVar(&o.node, "node", "", "admit only the node, or hub, of this name")
	fl.Var(&o.hub, "hub", "admit hubs, which meshhub join adds to the domain; with HOST:PORT, the hub to ask ($MESHKIT_HUB)")
	fl.Lookup("hub").NoOptDefVal = bareHub
	fl.StringVar(&o.requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	fl.StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

// hubFlag is --hub, which alone asks for a token for hubs and with an address is
// the flag that every command has.
type hubFlag struct {
	bare    int
	address string
}

const bareHub = "yes"

// String implements pflag.Value.
func (f *hubFlag) String() string { return f.address }

// Type implements pflag.Value.
func (f *hubFlag) Type() string { return "HOST:PORT" }

// Set implements pflag.Value.
func (f *hubFlag) Set(v string) error {
	if v == bareHub {
		f.bare++
		return nil
	}
	f.address = v
	return nil
}

// args takes the address after a --hub, which the flag does not: it may stand alone.
func (o *tokenCreateOptions) args(cmd *cobra.Command, args []string) error {
	if len(args) == 1 && o.hub.bare > 0 && o.hub.address == "" && strings.Contains(args[0], ":") {
		o.hub.bare--
		o.hub.address = args[0]
		return nil
	}
	return cobra.NoArgs(cmd, args)
}

func (o *tokenCreateOptions) run(cmd *cobra.Command) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	labels, err := cliutil.ParseLabels(o.labels)
	if err != nil {
		return err
	}
	role, what := "node", "node"
	o.app.Flags.Hub = cmp.Or(o.hub.address, o.app.Flags.Hub)
	if o.hub.bare > 0 {
		if role, what = "hub", "hub"; len(labels) > 0 {
			return cliutil.Usagef("--label and --hub exclude each other: hubs have no labels")
		}
	}
	if o.ttl <= 0 || o.uses == 0 {
		return cliutil.Usagef("--ttl and --uses must be above 0")
	}
	id := cmp.Or(o.requestID, o.app.NewID())
	o.app.Verbosef("request id %s", id)
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		if role == "hub" {
			if err := shared(ctx, c); err != nil {
				return err
			}
		}
		t, err := c.CreateToken(ctx, &adminv1.CreateTokenRequest{Labels: labels, Ttl: durationpb.New(o.ttl), Uses: o.uses, Node: o.node, Role: role, RequestId: id})
		if err != nil {
			return o.app.Unknown(err, id)
		}
		if format.Structured() {
			return o.app.IO.PrintDocument(format, cliutil.ProtoJSON(t))
		}
		o.app.IO.Outf("%s", cliutil.Clean(t.GetToken()))
		o.app.IO.Notef("token %s is good until %s for %s; it is not shown again. On the %s:", t.GetId(), t.GetExpiresAt().AsTime().Local().Format(time.RFC3339), joins(o.uses, what), what)
		o.app.IO.Notef("  %s", joinCommand(role, cmp.Or(t.GetHub(), firstOf(c.Hub())), o.node, t))
		switch {
		case role == "hub" && t.GetGuestDomain() != "":
			o.app.IO.Notef("with the directory of the hub that is to serve %s as well, in which its meshhub.yaml is, before /domains/", cliutil.Clean(t.GetGuestDomain()))
		case role == "hub":
			o.noteReach(ctx, c)
		}
		return nil
	})
}

// ownStore is the driver of the store that one hub has for itself.
const ownStore = "bolt"

// shared tells whether other hubs reach the store that holds the domain's log: without
// that no hub can join, and a token for one only misleads.
func shared(ctx context.Context, c *client.Client) error {
	d, err := c.Domain(ctx)
	if err != nil {
		return err
	}
	if d.GetStore() == ownStore {
		return fault.New(fault.CodeStoreNotShared, "no hub can join domain %s: its log is in hub %s's own store (%s), which other hubs cannot reach. No token was made", d.GetDomain(), d.GetHub(), d.GetStore())
	}
	return nil
}

// noteReach warns of hubs that a hub on another machine would not reach.
func (o *tokenCreateOptions) noteReach(ctx context.Context, c *client.Client) {
	o.app.IO.Notef("with the address at which the other hubs and agents reach it in place of HOST:PORT")
	hubs, err := c.Hubs(ctx)
	if err != nil {
		return // the token is made, and this is but a hint
	}
	for _, h := range hubs {
		if cliutil.Loopback(h.GetAddress()) {
			o.app.IO.Notef("note: hub %s is advertised at %s, which other machines do not reach. Before hubs or agents on others join, set listen (and advertise) in its meshhub.yaml, and restart it.", cliutil.Clean(h.GetName()), cliutil.Clean(h.GetAddress()))
		}
	}
}

// firstOf is the first of several addresses.
func firstOf(hubs string) string {
	first, _, _ := strings.Cut(hubs, ",")
	return strings.TrimSpace(first)
}

func joins(n uint32, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func joinCommand(role, hub, name string, t *adminv1.CreateTokenResponse) string {
	program, flag, dir := "meshagent", "--node", "./agent"
	if role == "hub" {
		program, flag, dir = "meshhub", "--name", "./"+cmp.Or(name, "hub2")
	}
	guest := role == "hub" && t.GetGuestDomain() != ""
	if guest { // name and addresses are those of the hub whose directory it is in
		dir += "/domains/" + t.GetGuestDomain()
	}
	line := fmt.Sprintf("%s join --hub %s --token %s --ca-pin %s --data %s", program, cliutil.ShellQuote(hub), cliutil.ShellQuote(t.GetToken()), cliutil.ShellQuote(t.GetCaPin()), cliutil.ShellQuote(dir))
	if guest {
		return line
	}
	if role == "hub" {
		line += " --listen HOST:PORT"
	}
	if name != "" {
		line += " " + flag + " " + cliutil.ShellQuote(name)
	}
	return line
}

func newTokenList(app *cliutil.App) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List join tokens",
		Long:  "List shows the join tokens with their state; their secrets are not kept.",
		Example: `  meshctl token list
  meshctl token list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cliutil.ParseFormat(output)
			if err != nil {
				return err
			}
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				tokens, err := c.Tokens(ctx)
				if err != nil {
					return err
				}
				return app.IO.Print(format, read.Tokens(app, tokens))
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, wide, json, yaml, name or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.Formats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func newTokenRevoke(app *cliutil.App) *cobra.Command {
	return &cobra.Command{
		Use:               "revoke ID",
		Short:             "Make a join token useless",
		Long:              "Revoke ends a join token at once. Nodes that have joined with it stay; `meshctl agent forget` removes those.",
		Example:           "  meshctl token revoke 7f3k2m",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: read.CompleteNames(app, cliutil.Tokens),
		RunE: func(cmd *cobra.Command, args []string) error {
			return app.Call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.RevokeToken(ctx, args[0])
				if err != nil {
					return err
				}
				if r.GetSeq() == 0 {
					app.IO.Notef("token %s was revoked before", args[0])
					return nil
				}
				app.IO.Donef("token %s revoked: seq %d", args[0], r.GetSeq())
				return nil
			})
		},
	}
}
