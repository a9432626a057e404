package read

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// completionTime bounds what a press of the tab key may wait for a hub.
const completionTime = time.Second

// Completion is what cobra asks to complete arguments.
type Completion = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeRef completes "KIND NAME" and "KIND/NAME" with live names; many
// allows any number of KIND/NAME.
func completeRef(app *cliutil.App, many bool) Completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		none := cobra.ShellCompDirectiveNoFileComp
		word, _, slash := strings.Cut(toComplete, "/")
		switch {
		case slash && (many || len(args) == 0):
			var out []cobra.Completion
			for _, n := range Names(cmd.Context(), app, word) {
				out = append(out, word+"/"+n)
			}
			return out, none
		case many:
			var out []cobra.Completion
			for _, k := range cliutil.KindNames() {
				out = append(out, k+"/")
			}
			return out, none | cobra.ShellCompDirectiveNoSpace
		case len(args) == 0:
			return slices.Clone(cliutil.Topics()), none
		case len(args) == 1 && !many && !strings.Contains(args[0], "/"):
			return Names(cmd.Context(), app, args[0]), none
		}
		return nil, none
	}
}

// CompleteResources completes KIND/NAME… with live names.
func CompleteResources(app *cliutil.App) Completion { return completeRef(app, true) }

// CompleteRef completes KIND NAME or KIND/NAME with live names.
func CompleteRef(app *cliutil.App) Completion { return completeRef(app, false) }

// CompleteNames completes one argument with the names of a kind or list.
func CompleteNames(app *cliutil.App, word string) Completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return Names(cmd.Context(), app, word), cobra.ShellCompDirectiveNoFileComp
	}
}

// CompleteChanges completes the sequence number of a change that can be undone.
func CompleteChanges(app *cliutil.App) Completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var out []cobra.Completion
		if len(args) == 0 {
			ask(cmd.Context(), app, func(ctx context.Context, c *client.Client) {
				entries, _ := c.History(ctx, nil, 20)
				for _, e := range entries {
					if e.GetUndoneBy() == 0 {
						out = append(out, cobra.CompletionWithDesc(strconv.FormatUint(e.GetSeq(), 10), cliutil.Clean(e.GetMessage())))
					}
				}
			})
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// CompleteServices completes the services that routes are for.
func CompleteServices(app *cliutil.App) Completion {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var out []cobra.Completion
		ask(cmd.Context(), app, func(ctx context.Context, c *client.Client) {
			routes, _ := c.List(ctx, client.Selection{Kind: "Route"})
			for _, r := range routes {
				var content struct{ Spec struct{ Service string } }
				if json.Unmarshal(r.GetContent(), &content) == nil && !slices.Contains(out, content.Spec.Service) {
					out = append(out, cliutil.Clean(content.Spec.Service))
				}
			}
		})
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// ask lets f talk to the hub for at most completionTime; it does not when there
// is no hub.
func ask(ctx context.Context, app *cliutil.App, f func(context.Context, *client.Client)) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	c, err := app.Connect()
	if err != nil {
		return
	}
	defer c.Close()
	f(ctx, c)
}

// Names asks the hub for the names of a kind or list, for at most a second;
// nothing is completed when it does not answer. Names that need a namespace are
// left out where the syntax has no place for it.
func Names(ctx context.Context, app *cliutil.App, word string) []string {
	ref, err := cliutil.ParseRef([]string{word}, "")
	if err != nil {
		return nil
	}
	var out []string
	ask(ctx, app, func(ctx context.Context, c *client.Client) { out = names(ctx, c, ref) })
	return out
}

// didYouMean adds the nearest name there is to the error of one there is not.
func didYouMean(ctx context.Context, c *client.Client, ref cliutil.Ref, err error) error {
	if ref.Name == "" || fault.KindOf(err) != fault.NotFound || fault.CodeOf(err) == "" {
		return err
	}
	near, ok := resource.FindField(ref.Name, names(ctx, c, ref))
	if !ok {
		return err
	}
	return fault.New(fault.CodeOf(err), "%s", err).WithRemedy("did you mean %s? %s", near, fault.RemedyOf(err))
}

func names(ctx context.Context, c *client.Client, ref cliutil.Ref) []string {
	var out []string
	switch {
	case ref.Descriptor != nil:
		rs, _ := c.List(ctx, client.Selection{Kind: ref.Descriptor.Kind, Namespace: resource.DefaultNamespace})
		for _, r := range rs {
			out = append(out, r.GetName())
		}
	case ref.List == cliutil.Agents:
		agents, _ := c.Agents(ctx, "")
		for _, a := range agents {
			out = append(out, a.GetNode())
		}
	case ref.List == cliutil.Hubs:
		hubs, _ := c.Hubs(ctx)
		for _, h := range hubs {
			out = append(out, h.GetName())
		}
	case ref.List == cliutil.Domains:
		if d, err := c.Domain(ctx); err == nil {
			out = append(out, d.GetDomain())
			for _, o := range d.GetAlsoServed() {
				out = append(out, o.GetDomain())
			}
		}
	case ref.List == cliutil.Tokens:
		tokens, _ := c.Tokens(ctx)
		for _, t := range tokens {
			if !t.GetRevoked() {
				out = append(out, t.GetId())
			}
		}
	}
	return out
}
