package change

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

type planOptions struct {
	app      *cliutil.App
	input    inputFlags
	output   string
	save     string
	exitCode bool
}

// NewPlan is `meshctl plan`, also known as diff.
func NewPlan(app *cliutil.App) *cobra.Command {
	o := &planOptions{app: app}
	cmd := &cobra.Command{
		Use:     "plan -f FILE…",
		Aliases: []string{"diff"},
		Short:   "Show what applying files would change, and whom it would touch",
		Long: `Plan lets the hub validate files against the whole mesh and shows the differences field by field, what they mean
for requests, and exactly how many agents they touch. It changes nothing.

With --save, the plan goes into a file that "apply --plan" applies, if the domain has not moved by then.
With --exit-code, differences end in exit code 2.`,
		Example: `  meshctl plan -f mesh/
  meshctl plan -f mesh/ --save change.plan
  meshctl plan -f mesh/ --exit-code -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.input.register(cmd)
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.Flags().StringVar(&o.save, "save", "", "write the plan to this file")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 2 when there are differences")
	cmd.MarkFlagRequired("filename")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *planOptions) run(cmd *cobra.Command) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	in, err := Load(o.app.IO.In, o.input.files)
	if err != nil {
		return err
	}
	if err := ShowFindings(o.app.IO, in.Findings); err != nil {
		return err
	}
	if err := in.needed(o.input.files); err != nil {
		return err
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error { return o.plan(ctx, c, in, format) })
}

func (o *planOptions) plan(ctx context.Context, c *client.Client, in *Input, format cliutil.Format) error {
	change := o.input.change(in)
	plan, err := c.Plan(ctx, change)
	if err != nil {
		return in.stale(err)
	}
	if format.Structured() {
		if err := o.app.IO.PrintDocument(format, cliutil.ProtoJSON(plan)); err != nil {
			return err
		}
	}
	if err := ShowFindings(o.app.IO, in.fromHub(plan.GetFindings())); err != nil {
		return err
	}
	changes := plan.GetCreated() + plan.GetUpdated() + plan.GetDeleted()
	if !format.Structured() {
		o.app.IO.Out.Write([]byte(planText(o.app.IO, plan, true)))
		if changes > 0 {
			o.app.IO.Out.Write([]byte("\n"))
		}
		o.app.IO.Outf("%s", planSummary(plan))
	}
	if o.save != "" {
		d, err := c.Domain(ctx)
		if err != nil {
			return err
		}
		if err := savePlan(o.save, d.GetDomain(), o.app.Now(), change, plan); err != nil {
			return err
		}
		o.app.IO.Notef("saved; apply it with: meshctl apply --plan %s", cliutil.ShellQuote(o.save))
	}
	if o.exitCode && changes > 0 {
		return cliutil.Silent{Err: fault.New(fault.CodeDiffers, "%s", planSummary(plan))}
	}
	return nil
}

func planSummary(p *adminv1.PlanResponse) string {
	if p.GetCreated()+p.GetUpdated()+p.GetDeleted() == 0 {
		return fmt.Sprintf("Plan: no changes; %d unchanged. Base %d.", p.GetUnchanged(), p.GetBase())
	}
	return fmt.Sprintf("Plan: %d to create, %d to change, %d to delete, %d unchanged; touches %d of %s. Base %d.",
		p.GetCreated(), p.GetUpdated(), p.GetDeleted(), p.GetUnchanged(), p.GetAgentsTouched(), plural(int(p.GetAgentsTotal()), "agent"), p.GetBase())
}
