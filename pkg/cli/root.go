// Package cli is meshctl: it joins the verbs, each in a package by noun below,
// into one command. Run is the whole program as a function.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/backups"
	"github.com/meshkit/meshkit/pkg/cli/change"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/contexts"
	"github.com/meshkit/meshkit/pkg/cli/credentials"
	"github.com/meshkit/meshkit/pkg/cli/demo"
	"github.com/meshkit/meshkit/pkg/cli/explain"
	"github.com/meshkit/meshkit/pkg/cli/fleet"
	"github.com/meshkit/meshkit/pkg/cli/keys"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/cli/simulate"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Groups of commands in the help.
const (
	groupChange = "change"
	groupRead   = "read"
	groupFleet  = "fleet"
	groupOther  = "other"
)

// Run runs meshctl with arguments (program name first) and gives the exit code.
// A context that ends stops it; its cause is shown.
func Run(ctx context.Context, app *cliutil.App) int {
	app.IO.In = cliutil.Interruptible(ctx, app.IO.In)
	root := NewRoot(app)
	root.SetArgs(app.Args[1:])
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && ctx.Err() != nil && (fault.CodeOf(err) == fault.CodeCanceled || fault.CodeOf(err) == "" && errors.Is(err, context.Canceled)) {
		fmt.Fprintln(app.IO.Err, "interrupted") // a read: there is nothing more to say
		err = cliutil.Silent{Err: fault.New(fault.CodeInterrupted, "interrupted")}
	}
	err = usage(cmd, err)
	cliutil.Report(app.IO, err)
	return cliutil.ExitCode(err)
}

// NewRoot makes the command tree.
func NewRoot(app *cliutil.App) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshctl",
		Short: "Operate a MeshKit domain",
		Long: `meshctl is how operators work with MeshKit: it checks, plans and applies configuration, follows it to every agent,
shows what is where and why, and takes changes back.

stdout is data, stderr is for people. Exit codes: ` + exitSummary() + `.`,
		Example: `  meshctl demo
  meshctl validate mesh/ && meshctl plan -f mesh/ && meshctl apply -f mesh/ --wait
  meshctl get agents -o wide
  meshctl explain route`,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Version:                    version.String(),
		Args:                       cobra.ArbitraryArgs,
		RunE:                       groupHelp,
	}
	root.SetIn(app.IO.In)
	root.SetOut(app.IO.Out)
	root.SetErr(app.IO.Err)
	root.SetVersionTemplate("meshctl {{.Version}}\n")
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	persistentFlags(root, app)
	root.AddGroup(&cobra.Group{ID: groupChange, Title: "Change:"}, &cobra.Group{ID: groupRead, Title: "Look:"},
		&cobra.Group{ID: groupFleet, Title: "Fleet and trust:"}, &cobra.Group{ID: groupOther, Title: "Other:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	deletes := change.NewDelete(app)
	deletes.ValidArgsFunction = read.CompleteResources(app)
	undo := change.NewUndo(app)
	undo.ValidArgsFunction = read.CompleteChanges(app)
	history := change.NewHistory(app)
	history.ValidArgsFunction = read.CompleteRef(app)
	add(groupChange, change.NewValidate(app), change.NewPlan(app), change.NewApply(app), deletes, undo)
	add(groupRead, read.NewGet(app), read.NewDescribe(app), history, simulate.New(app), explain.New(app))
	add(groupFleet, fleet.NewToken(app), fleet.NewAgent(app), fleet.NewHub(app), fleet.NewDomain(app), keys.NewKey(app), keys.NewTrust(app), credentials.New(app), backups.New(app))
	add(groupOther, demo.New(app), contexts.New(app), newVersion(app))
	root.AddCommand(demo.NewJanitor())
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	if w := app.IO.Width; w > 0 {
		root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages |", fmt.Sprintf("Flags.FlagUsagesWrapped %d |", w)))
	}
	forEach(root, func(c *cobra.Command) {
		c.SetFlagErrorFunc(flagError)
		checkArgs(c)
		c.Long = cliutil.WrapParagraphs(c.Long, app.IO.Width)
		if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
			c.Args = cobra.ArbitraryArgs
			c.RunE = groupHelp
		}
	})
	return root
}

func persistentFlags(root *cobra.Command, app *cliutil.App) {
	fl := root.PersistentFlags()
	fl.StringVar(&app.Flags.Context, "context", "", "context to use ($MESHKIT_CONTEXT)")
	fl.StringVar(&app.Flags.Hub, "hub", "", "hub address, host:port; several, with commas, are tried in order ($MESHKIT_HUB)")
	fl.StringVar(&app.Flags.CAFile, "ca-file", "", "CA bundle, PEM ($MESHKIT_CA_FILE)")
	fl.StringVar(&app.Flags.CertFile, "cert-file", "", "client certificate, PEM ($MESHKIT_CERT_FILE)")
	fl.StringVar(&app.Flags.KeyFile, "key-file", "", "client key, PEM ($MESHKIT_KEY_FILE)")
	fl.BoolVarP(&app.Flags.Verbose, "verbose", "v", false, "say more on stderr, like request ids")
	fl.StringVar(&app.Flags.Consistency, "consistency", "", "of reads: default (linearizable while the store answers), linearizable or stale ($MESHKIT_CONSISTENCY)")
	root.RegisterFlagCompletionFunc("consistency", cobra.FixedCompletions(wire.Consistencies, cobra.ShellCompDirectiveNoFileComp))
	fl.DurationVar(&app.Flags.RequestTimeout, "request-timeout", 30*time.Second, "time limit of one request to the hub")
	for _, f := range []string{"ca-file", "cert-file", "key-file"} {
		root.MarkPersistentFlagFilename(f, "pem", "key")
	}
	root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		file, err := cliutil.LoadContexts(cliutil.ContextPath(app.IO.Env))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return file.Names(), cobra.ShellCompDirectiveNoFileComp
	})
}

func forEach(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		forEach(sub, f)
	}
}

func exitSummary() string {
	parts := make([]string, len(cliutil.ExitMeanings))
	for i, m := range cliutil.ExitMeanings {
		parts[i] = fmt.Sprintf("%d %s", m.Code, m.Short)
	}
	return strings.Join(parts, ", ")
}

type versionOptions struct{ output string }

func newVersion(app *cliutil.App) *cobra.Command {
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of meshctl",
		Long:    "Version prints which build this is. The hub's is shown by `meshctl describe domain`.",
		Example: "  meshctl version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			if format.Structured() {
				return app.IO.PrintDocument(format, fmt.Appendf(nil, `{"version":%q,"commit":%q,"build":%q}`, version.Version(), version.Commit(), version.String()))
			}
			app.IO.Outf("meshctl %s", version.String())
			return nil
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	return cmd
}
