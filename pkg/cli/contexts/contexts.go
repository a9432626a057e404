// Package contexts holds `meshctl context`: which hub meshctl talks to, and as
// whom.
package contexts

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// New is `meshctl context`.
func New(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "context",
		Aliases: []string{"ctx"},
		Short:   "Choose the hub that meshctl talks to",
		Long: `A context names a hub, or several of one domain, and the credentials to use there. Contexts are kept in $MESHKIT_CONFIG,
else meshkit/config.yaml in the user's configuration directory. Flags and MESHKIT_HUB, MESHKIT_CA_FILE, MESHKIT_CERT_FILE, MESHKIT_KEY_FILE and
MESHKIT_CONTEXT go before them.`,
	}
	cmd.AddCommand(newList(app), newUse(app), newShow(app), newAdd(app), newSync(app), newRemove(app))
	return cmd
}

func load(app *cliutil.App) (*cliutil.Contexts, error) {
	return cliutil.LoadContexts(cliutil.ContextPath(app.IO.Env))
}

func complete(app *cliutil.App) func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		file, err := load(app)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return file.Names(), cobra.ShellCompDirectiveNoFileComp
	}
}

func newList(app *cliutil.App) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List contexts",
		Long:  "List shows the contexts; the current one has a star.",
		Example: `  meshctl context list
  meshctl context list -o name`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := cliutil.ParseFormat(output)
			if err != nil {
				return err
			}
			file, err := load(app)
			if err != nil {
				return err
			}
			l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"CURRENT", "NAME", "HUB", "DOMAIN"}}, Empty: "no contexts in " + file.Path()}
			for _, c := range file.Contexts {
				star := ""
				if c.Name == file.CurrentContext {
					star = "*"
				}
				doc, err := json.Marshal(c)
				if err != nil {
					return fmt.Errorf("encode context: %w", err)
				}
				l.Table.Add(star, c.Name, c.Hub, c.Domain)
				l.Items = append(l.Items, doc)
				l.Names = append(l.Names, c.Name)
			}
			return app.IO.Print(format, l)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, json, yaml, name or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.Formats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func newUse(app *cliutil.App) *cobra.Command {
	return &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a context the current one",
		Long:              "Use makes a context the one that commands use when neither --context nor MESHKIT_CONTEXT names another.",
		Example:           "  meshctl context use eu-west",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: complete(app),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := load(app)
			if err != nil {
				return err
			}
			c, err := file.Choose(args[0])
			if err != nil {
				return err
			}
			file.CurrentContext = c.Name
			if err := file.Save(); err != nil {
				return err
			}
			app.IO.Donef("current context: %s (hub %s)", c.Name, c.Hub)
			return nil
		},
	}
}

func newShow(app *cliutil.App) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show which hub and credentials commands would use",
		Long:  "Show prints what flags, environment and context file add up to. Keys are named by file and never shown.",
		Example: `  meshctl context show
  meshctl --context us-east context show -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := cliutil.ParseFormat(output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			cfg, err := app.Target()
			if err != nil {
				return err
			}
			if format.Structured() {
				doc, err := json.Marshal(cliutil.Context{Name: app.Chosen(), Hub: cfg.Hub, Domain: cfg.Domain, CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile})
				if err != nil {
					return fmt.Errorf("encode context: %w", err)
				}
				return app.IO.PrintDocument(format, doc)
			}
			app.IO.Outf("hub         %s\ndomain      %s\nca          %s\ncertificate %s\nkey         %s\nfile        %s", cfg.Hub,
				cmp.Or(cfg.Domain, "(of the certificate)"), cfg.CAFile, cfg.CertFile, cfg.KeyFile, cliutil.ContextPath(app.IO.Env))
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	return cmd
}

type addOptions struct {
	app    *cliutil.App
	from   string
	domain string
	use    bool
}

func newAdd(app *cliutil.App) *cobra.Command {
	o := &addOptions{app: app}
	cmd := &cobra.Command{
		Use:   "add [NAME]",
		Short: "Add a context",
		Long: `Add puts a context into the context file, or replaces the one of that name. --from takes it from a file, as
"meshhub init" writes it (DIR/admin/context.yaml). The first context becomes the current one; --use makes it so. --hub takes
several addresses, separated by commas; "meshctl context sync" adds those of the hubs that the domain has.`,
		Example: `  meshctl context add --from ./hub/admin/context.yaml
  meshctl context add eu-west --hub 10.0.0.5:8443,10.0.0.6:8443 --ca-file ca.pem --cert-file me.pem --key-file me.key --use`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return o.run(args) },
	}
	fl := cmd.Flags()
	fl.StringVar(&o.from, "from", "", "context file to take it from")
	fl.StringVar(&o.domain, "domain", "", "domain that the hub must be of; that of the certificate when empty")
	fl.BoolVar(&o.use, "use", false, "make it the current one")
	cmd.MarkFlagFilename("from", "yaml")
	return cmd
}

func (o *addOptions) run(args []string) error {
	file, err := load(o.app)
	if err != nil {
		return err
	}
	var added []cliutil.Context
	switch flags := o.app.Flags; {
	case o.from != "":
		if added, err = o.fromFile(args); err != nil {
			return err
		}
	case len(args) == 0 || flags.Hub == "" || flags.CAFile == "" || flags.CertFile == "" || flags.KeyFile == "":
		return cliutil.Usagef("a context needs NAME, --hub, --ca-file, --cert-file and --key-file, or --from FILE")
	default:
		if why := resource.NameProblem(args[0]); why != "" {
			return cliutil.Usagef("context name %q %s", args[0], why)
		}
		if _, err := client.Addresses(flags.Hub); err != nil {
			return cliutil.Usagef("--hub: %w", err)
		}
		added = []cliutil.Context{{Name: args[0], Hub: flags.Hub, Domain: o.domain, CAFile: flags.CAFile, CertFile: flags.CertFile, KeyFile: flags.KeyFile}}
	}
	for _, c := range added {
		file.Put(c)
	}
	if o.use || file.CurrentContext == "" {
		file.CurrentContext = added[0].Name
	}
	if err := file.Save(); err != nil {
		return err
	}
	for _, c := range added {
		o.app.IO.Donef("context %s added (hub %s) to %s", c.Name, c.Hub, file.Path())
	}
	if file.CurrentContext != added[0].Name {
		o.app.IO.Notef("the current context is still %s; change it with: meshctl context use %s", file.CurrentContext, added[0].Name)
	}
	return nil
}

// fromFile reads the contexts of another file; a NAME renames a single one.
func (o *addOptions) fromFile(args []string) ([]cliutil.Context, error) {
	if _, err := os.Stat(o.from); err != nil {
		return nil, fault.New(fault.CodeContextFile, "read contexts: %w", err)
	}
	from, err := cliutil.LoadContexts(o.from)
	if err != nil {
		return nil, err
	}
	if len(from.Contexts) == 0 {
		return nil, fault.New(fault.CodeContextFile, "%s holds no context", o.from)
	}
	if len(args) == 0 {
		return from.Contexts, nil
	}
	c, err := from.Choose("")
	if errors.Is(err, fault.CodeNoContext) && len(from.Contexts) == 1 {
		c, err = from.Contexts[0], nil
	}
	c.Name = args[0]
	return []cliutil.Context{c}, err
}

func newRemove(app *cliutil.App) *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Remove a context",
		Long:              "Remove takes a context out of the context file. The credential files stay.",
		Example:           "  meshctl context remove eu-west",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: complete(app),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := load(app)
			if err != nil {
				return err
			}
			if _, err := file.Choose(args[0]); err != nil {
				return err
			}
			file.Remove(args[0])
			if err := file.Save(); err != nil {
				return err
			}
			app.IO.Donef("context %s removed", args[0])
			return nil
		},
	}
}
