package change

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

type applyOptions struct {
	app   *cliutil.App
	input inputFlags
	write writeFlags
	plan  string
}

// NewApply is `meshctl apply`.
func NewApply(app *cliutil.App) *cobra.Command {
	o := &applyOptions{app: app}
	cmd := &cobra.Command{
		Use:   "apply -f FILE…",
		Short: "Make the domain match files",
		Long: `Apply commits the resources in files with server-side apply: whole or not at all.

Files are checked here first; with errors, nothing is sent. The hub validates the change against the whole mesh,
and answers once it is durable. With --wait, the command then follows it until every connected agent concerned
has it active (exit 0), some refused it (exit 9), or --timeout passed (exit 8).

Every apply carries a request id (shown by -v): the same id is committed at most once. If the connection breaks so
that the outcome is unknown, the exact command to retry is printed.

With --plan, exactly the change that "plan --save" wrote is applied, and only if the domain has not moved since.`,
		Example: `  meshctl apply -f mesh/ --wait
  meshctl apply -f checkout.yaml -m "10% to v2" --wait --timeout 30s
  cat route.yaml | meshctl apply -f - --dry-run
  meshctl plan -f mesh/ --save change.plan && meshctl apply --plan change.plan`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.input.register(cmd)
	o.write.register(cmd)
	cmd.Flags().StringVar(&o.plan, "plan", "", "apply a plan file that \"plan --save\" wrote")
	cmd.MarkFlagsMutuallyExclusive("plan", "filename")
	cmd.MarkFlagsOneRequired("plan", "filename")
	return cmd
}

func (o *applyOptions) run(cmd *cobra.Command) error {
	format, id, err := o.write.begin(o.app)
	if err != nil {
		return err
	}
	in, change, domain, err := o.load()
	if err != nil {
		return err
	}
	c, err := o.app.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := o.app.Deadline(cmd.Context())
	defer cancel()
	if err := checkDomain(ctx, c, domain); err != nil {
		return err
	}
	resp, err := in.commit(ctx, o.app, c, &adminv1.ApplyRequest{Change: change, RequestId: id, DryRun: o.write.dryRun})
	if err != nil {
		return err
	}
	return finish(cmd.Context(), o.app, c, format, outcome{verb: "applied", resp: resp, doc: cliutil.ProtoJSON(resp), write: o.write})
}

// load makes the change out of files or a plan; domain is the one that it must
// be applied to, "" for any.
func (o *applyOptions) load() (*Input, *adminv1.Change, string, error) {
	if o.plan != "" {
		f, err := loadPlan(o.plan)
		if err != nil {
			return nil, nil, "", err
		}
		change, err := f.change()
		return &Input{}, change, f.Domain, err
	}
	in, err := Load(o.app.IO.In, o.input.files)
	if err != nil {
		return nil, nil, "", err
	}
	if err := ShowFindings(o.app.IO, in.Findings); err != nil {
		return nil, nil, "", err
	}
	return in, o.input.change(in), "", in.needed(o.input.files)
}

// checkDomain refuses a plan that was made for another domain.
func checkDomain(ctx context.Context, c *client.Client, want string) error {
	if want == "" {
		return nil
	}
	d, err := c.Domain(ctx)
	if err != nil {
		return err
	}
	if d.GetDomain() != want {
		return fault.New(fault.CodePlanDomain, "the plan is for domain %q; hub %s serves %q", want, c.Hub(), d.GetDomain())
	}
	return nil
}
