package change

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/resource"
)

type validateOptions struct {
	app    *cliutil.App
	files  []string
	live   bool
	output string
}

// NewValidate is `meshctl validate`.
func NewValidate(app *cliutil.App) *cobra.Command {
	o := &validateOptions{app: app}
	cmd := &cobra.Command{
		Use:   "validate FILE…",
		Short: "Check files without a hub",
		Long: `Validate checks files, directories or standard input (-) with the engine that the hub and the agents use: syntax,
fields, values, references, weights, cycles, unreachable rules, CEL expressions. It needs no hub: the files must hold
everything that they refer to. With --live, they are checked against the hub's present state instead.

Findings name file:line:column; any error ends in exit code 65.`,
		Example: `  meshctl validate mesh/
  meshctl validate checkout.yaml --live
  meshctl validate mesh/ -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, append(args, o.files...)) },
	}
	cmd.Flags().StringArrayVarP(&o.files, "filename", "f", nil, "file, directory, or - for standard input (repeatable)")
	cmd.Flags().BoolVar(&o.live, "live", false, "check against the hub's present state")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *validateOptions) run(cmd *cobra.Command, paths []string) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	in, err := Load(o.app.IO.In, paths)
	if err != nil {
		return err
	}
	findings := in.Findings
	switch {
	case resource.HasErrors(findings): // the graph of half a mesh only misleads
	case o.live:
		err := o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
			plan, err := c.Plan(ctx, (&inputFlags{manager: fieldManager, forceConflicts: true}).change(in))
			findings = append(findings, in.fromHub(plan.GetFindings())...)
			return err
		})
		if err != nil {
			return err
		}
	default:
		_, found := in.Graph()
		findings = append(findings, found...)
	}
	if format.Structured() {
		if err := o.printFindings(format, findings); err != nil {
			return err
		}
	}
	if err := ShowFindings(o.app.IO, findings); err != nil {
		return err
	}
	o.app.IO.Donef("%s in %s: no errors", plural(len(in.Documents), "resource"), plural(in.Files, "file"))
	return nil
}

func (o *validateOptions) printFindings(format cliutil.Format, findings []resource.Finding) error {
	resource.SortFindings(findings)
	if findings == nil {
		findings = []resource.Finding{}
	}
	doc, err := cliutil.MarshalJSON(map[string]any{"findings": findings, "valid": !resource.HasErrors(findings)})
	if err != nil {
		return fmt.Errorf("encode findings: %w", err)
	}
	return o.app.IO.PrintDocument(format, doc)
}

// Graph is the mesh that the input alone makes, with what is wrong in it.
func (in *Input) Graph() (*graph.Graph, []resource.Finding) {
	changes := make([]graph.Change, len(in.Documents))
	for i, d := range in.Documents {
		changes[i] = graph.Change{Key: d.Resource.Key(), Content: d.Content}
	}
	g, findings := graph.New().Update(changes)
	return g, in.locate(findings)
}
