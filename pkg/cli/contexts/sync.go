package contexts

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

func newSync(app *cliutil.App) *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use:   "sync [NAME]",
		Short: "Take the addresses of the domain's hubs into a context",
		Long: `Sync asks a hub which hubs the domain has, and writes their addresses into the context, behind those that are there. Commands
try them in that order: with one hub away they go to the next. No other command changes the addresses of a context.

With --replace, addresses at which no hub is advertised are left out, such as that of a hub that has moved. Keep them where a
hub is reached by another address than the one that it knows, as through a tunnel.`,
		Example: `  meshctl context sync
  meshctl context sync eu-west --replace
  meshctl --hub 10.0.0.2:8443 context sync`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: complete(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				app.Flags.Context = args[0]
			}
			file, err := load(app)
			if err != nil {
				return err
			}
			c, err := file.Choose(cmp.Or(app.Flags.Context, app.IO.Env("MESHKIT_CONTEXT")))
			if err != nil {
				return err
			}
			app.Flags.Context = c.Name // also where flags or the environment name all the rest
			return app.Call(cmd, func(ctx context.Context, from *client.Client) error {
				hubs, err := from.Hubs(ctx)
				if err != nil {
					return err
				}
				return sync(app, file, c, hubs, replace)
			})
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "leave out addresses at which no hub is advertised")
	return cmd
}

// sync writes the addresses of hubs into the context c of a file.
func sync(app *cliutil.App, file *cliutil.Contexts, c cliutil.Context, hubs []*adminv1.Hub, replace bool) error {
	present, err := client.Addresses(c.Hub)
	if err != nil {
		return fault.New(fault.CodeContextFile, "context %s: %w", c.Name, err)
	}
	advertised := usable(app, present, hubs)
	var stale []string
	next := slices.Clone(present)
	for _, addr := range present {
		if !slices.Contains(advertised, addr) {
			stale = append(stale, addr)
		}
	}
	if replace && len(advertised) > 0 {
		next = slices.DeleteFunc(next, func(addr string) bool { return slices.Contains(stale, addr) })
	}
	for _, addr := range advertised {
		if !slices.Contains(next, addr) {
			next = append(next, addr)
		}
	}
	switch text := strings.Join(next, ","); {
	case slices.Equal(next, present):
		app.IO.Donef("context %s stays as it is: hub %s", c.Name, text)
	default:
		c.Hub = text
		file.Put(c)
		if err := file.Save(); err != nil {
			return err
		}
		app.IO.Donef("context %s: hub %s, in %s", c.Name, text, file.Path())
	}
	if len(stale) > 0 && !replace {
		app.IO.Notef("no hub is advertised at %s; --replace leaves that out", strings.Join(stale, ", "))
	}
	return nil
}

// usable gives the addresses of hubs that are of use where present is: not those that
// only the hub's own machine reaches, unless this is it.
func usable(app *cliutil.App, present []string, hubs []*adminv1.Hub) []string {
	here := slices.ContainsFunc(present, cliutil.Loopback)
	var out []string
	for _, h := range hubs {
		addr, err := client.Addresses(h.GetAddress())
		switch {
		case err != nil || len(addr) != 1 || addr[0] != cliutil.Clean(addr[0]):
			app.IO.Notef("hub %s is left out: its address is %q", h.GetName(), h.GetAddress())
		case cliutil.Loopback(addr[0]) && !here:
			app.IO.Notef("hub %s is left out: it is advertised at %s, which other machines do not reach", h.GetName(), addr[0])
		default:
			out = append(out, addr[0])
		}
	}
	return out
}
