// Package read holds the verbs that show a domain: get and describe. They are
// generic over kinds: a kind's columns come from its descriptor.
//
// With -o json, yaml or jsonpath=, one named thing is printed as its object, a
// list as {"items": […]}; docs/cli.md describes the objects.
package read

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
)

type getOptions struct {
	app           *cliutil.App
	namespace     string
	allNamespaces bool
	selector      string
	output        string
	watch         bool

	format cliutil.Format
	ref    cliutil.Ref
}

// NewGet is `meshctl get`.
func NewGet(app *cliutil.App) *cobra.Command {
	o := &getOptions{app: app}
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List resources, agents, hubs, domains or tokens",
		Long: `Get lists what there is of a kind, or shows one by name. KIND is a kind of resource ("meshctl explain" lists them),
or agents, hubs, domains, tokens, or all (every resource).

-o json and yaml print one named thing as an object and a list as {"items": […]}, but a list of resources in YAML as
documents: what get -o yaml prints of resources can be edited and applied again. Apply refuses it for a resource that was changed
meanwhile, by its metadata.resourceVersion; without that field it applies the file regardless. -o jsonpath= takes an RFC 9535 expression and prints each match on a line.
With --watch, changes follow as they happen.`,
		Example: `  meshctl get routes
  meshctl get agents -o wide -l region=eu
  meshctl get route checkout -o yaml > checkout.yaml
  meshctl get agents -o 'jsonpath=$.items[?@.phase=="degraded"].node'
  meshctl get all -o yaml > backup.yaml
  meshctl get all --watch`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeRef(app, false),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.namespace, "namespace", "n", "", "only this namespace (a name without one is in \"default\")")
	fl.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "every namespace, which is also the default for lists")
	fl.StringVarP(&o.selector, "selector", "l", "", "label selector, like region=eu,tier!=test")
	fl.StringVarP(&o.output, "output", "o", "", "table, wide, json, yaml, name or jsonpath=EXPRESSION")
	fl.BoolVarP(&o.watch, "watch", "w", false, "go on with every change until interrupted")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.Formats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *getOptions) run(cmd *cobra.Command, args []string) error {
	var err error
	if o.format, err = cliutil.ParseFormat(o.output); err != nil {
		return err
	}
	if o.ref, err = cliutil.ParseRef(args, o.namespace); err != nil {
		return err
	}
	if o.ref.Name == "" && len(args) == 2 {
		o.ref.Name = args[1]
	}
	if err := cliutil.CheckSelector(o.selector); err != nil {
		return err
	}
	if o.ref.Name != "" && o.selector != "" {
		return cliutil.Usagef("a name and a selector exclude each other")
	}
	if o.ref.Name != "" && o.ref.List == cliutil.All {
		return cliutil.Usagef("%q is a list without names", args[0])
	}
	if err := o.applies(args[0]); err != nil {
		return err
	}
	if o.watch {
		return o.runWatch(cmd)
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		l, err := o.fetch(ctx, c)
		if err != nil {
			return didYouMean(ctx, c, o.ref, err)
		}
		return o.app.IO.Print(o.format, l)
	})
}

// applies refuses flags that say nothing of what was asked for.
func (o *getOptions) applies(what string) error {
	switch o.ref.List {
	case "", cliutil.All:
		return nil
	case cliutil.Agents:
	default:
		if o.selector != "" {
			return cliutil.Usagef("%s have no labels to select by: --selector does not go with them", what)
		}
	}
	if o.namespace != "" {
		return cliutil.Usagef("%s are in no namespace: --namespace does not go with them", what)
	}
	return nil
}

// fetch reads what was asked for.
func (o *getOptions) fetch(ctx context.Context, c *client.Client) (*cliutil.Listing, error) {
	t := tables{now: o.app.Now(), wide: o.format.Name == "wide"}
	switch o.ref.List {
	case cliutil.Agents:
		return o.fetchAgents(ctx, c, t)
	case cliutil.Hubs:
		hubs, err := c.Hubs(ctx)
		if !o.format.Structured() {
			o.app.NoteHubs(len(hubs))
		}
		return one(o.ref, t.hubs(hubs), err)
	case cliutil.Domains:
		d, err := c.Domain(ctx)
		if err != nil {
			return nil, err
		}
		return one(o.ref, t.domains(d), nil)
	case cliutil.Tokens:
		tokens, err := c.Tokens(ctx)
		return one(o.ref, t.tokens(tokens), err)
	case cliutil.All:
		rs, err := c.List(ctx, o.selection())
		if err != nil {
			return nil, err
		}
		return t.mixed(rs)
	}
	if o.ref.Name != "" {
		r, err := c.Get(ctx, cliutil.WireKey(o.ref.Key()))
		if err != nil {
			return nil, err
		}
		l, err := t.resources(o.ref.Descriptor, r)
		if err != nil {
			return nil, err
		}
		l.Single = true
		return l, nil
	}
	rs, err := c.List(ctx, o.selection())
	if err != nil {
		return nil, err
	}
	return t.resources(o.ref.Descriptor, rs...)
}

func (o *getOptions) fetchAgents(ctx context.Context, c *client.Client, t tables) (*cliutil.Listing, error) {
	if o.ref.Name != "" {
		a, err := c.Agent(ctx, o.ref.Name)
		if err != nil {
			return nil, err
		}
		l := t.agents(a.GetAgent())
		l.Single = true
		return l, nil
	}
	agents, err := c.Agents(ctx, o.selector)
	if err != nil {
		return nil, err
	}
	l := t.agents(agents...)
	if o.selector != "" {
		l.Empty = "no agents match " + o.selector
	}
	return l, nil
}

func (o *getOptions) selection() client.Selection {
	s := client.Selection{Namespace: o.namespace, Selector: o.selector}
	if o.ref.Descriptor != nil {
		s.Kind = o.ref.Descriptor.Kind
	}
	return s
}
