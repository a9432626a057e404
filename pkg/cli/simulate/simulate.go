// Package simulate is `meshctl simulate`: which route, cluster, policies and
// mirror a request would meet, and why, against the live state or against
// files, by the engine that a data plane embeds (pkg/route).
package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/change"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/cli/read"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/route"
)

type options struct {
	app     *cliutil.App
	req     adminv1.SimulateRequest
	headers []string
	files   []string
	output  string
	explain bool
}

// New is `meshctl simulate`.
func New(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Ask what would happen to a request",
		Long:  "Simulate answers what the mesh would do, without doing it.",
	}
	cmd.AddCommand(newRoute(app))
	return cmd
}

func newRoute(app *cliutil.App) *cobra.Command {
	o := &options{app: app}
	cmd := &cobra.Command{
		Use:   "route --service NAME",
		Short: "Show which route, cluster, policies and mirror a request would meet, and why",
		Long: `Simulate route describes one request and shows what would become of it: the rule that takes it, the clusters that share
it, its endpoints by priority, mirror, timeouts, policies and whether it is authorized. With --explain, every step that
was considered is shown with its reason.

It asks the hub about the live state, or with --agent about what that agent is given; with -f it looks at files instead and
needs no hub. Weighted choices are made by --draw, a number from 0 up to 1 that stands for the random draw.`,
		Example: `  meshctl simulate route --service checkout --procedure Checkout::pay --header tenant=acme
  meshctl simulate route --service checkout --tenant acme --explain
  meshctl simulate route -f mesh/ --service checkout --draw 0.95 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fl := cmd.Flags()
	fl.StringVar(&o.req.Service, "service", "", "service that is called")
	fl.StringVar(&o.req.Procedure, "procedure", "", "procedure, like Checkout::pay")
	fl.StringArrayVar(&o.headers, "header", nil, "request header, NAME=VALUE (repeatable)")
	fl.StringVar(&o.req.Tenant, "tenant", "", "tenant")
	fl.StringVar(&o.req.ShardKey, "shard", "", "shard key")
	fl.StringVar(&o.req.RoutingKey, "routing-key", "", "routing key")
	fl.StringVar(&o.req.Caller, "caller", "", "calling service, or its SPIFFE id")
	fl.StringVar(&o.req.Locality, "locality", "", "where the caller runs, region/zone")
	fl.StringVar(&o.req.Agent, "agent", "", "look at what this agent is given")
	fl.Float64Var(&o.req.Draw, "draw", 0, "the random draw among weighted clusters, from 0 up to 1")
	fl.StringArrayVarP(&o.files, "filename", "f", nil, "look at files instead of the live state (repeatable)")
	fl.BoolVar(&o.explain, "explain", false, "show every step with its reason")
	fl.StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.MarkFlagRequired("service")
	cmd.MarkFlagsMutuallyExclusive("filename", "agent")
	cmd.RegisterFlagCompletionFunc("service", read.CompleteServices(app))
	cmd.RegisterFlagCompletionFunc("agent", func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return read.Names(cmd.Context(), app, cliutil.Agents), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func (o *options) run(cmd *cobra.Command) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	if o.req.Headers, err = cliutil.ParseLabels(o.headers); err != nil {
		return cliutil.Usagef("--header: %v", err)
	}
	if o.req.Draw < 0 || o.req.Draw >= 1 {
		return cliutil.Usagef("--draw %v is not from 0 up to 1", o.req.Draw)
	}
	decision, err := o.decide(cmd)
	if err != nil {
		return err
	}
	if format.Structured() {
		return o.app.IO.PrintDocument(format, decision)
	}
	return o.print(decision)
}

// decide gives the decision as JSON.
func (o *options) decide(cmd *cobra.Command) ([]byte, error) {
	if len(o.files) > 0 {
		return o.offline()
	}
	var decision []byte
	err := o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.Simulate(ctx, &o.req)
		decision = resp.GetDecision()
		return err
	})
	return decision, err
}

func (o *options) offline() ([]byte, error) {
	in, err := change.Load(o.app.IO.In, o.files)
	if err != nil {
		return nil, err
	}
	findings := in.Findings
	g, found := in.Graph()
	if !resource.HasErrors(findings) {
		findings = append(findings, found...)
	}
	if err := change.ShowFindings(o.app.IO, findings); err != nil {
		return nil, err
	}
	decision, err := json.Marshal(route.Compile(g).Decide(Request(&o.req)))
	if err != nil {
		return nil, fmt.Errorf("encode decision: %w", err)
	}
	return decision, nil
}

// Request is what the admin API's request means to the engine.
func Request(r *adminv1.SimulateRequest) route.Request {
	req := route.Request{Service: r.GetService(), Procedure: r.GetProcedure(), Headers: r.GetHeaders(), Tenant: r.GetTenant(), ShardKey: r.GetShardKey(),
		RoutingKey: r.GetRoutingKey(), Caller: r.GetCaller(), Locality: r.GetLocality(), Draw: r.GetDraw()}
	if strings.HasPrefix(req.Caller, "spiffe://") {
		req.CallerID = req.Caller
	}
	return req
}

func (o *options) print(decision []byte) error {
	var d route.Decision
	if err := json.Unmarshal(decision, &d); err != nil {
		return fault.New(fault.CodeUnexpectedReply, "read the decision: %w", err)
	}
	_, err := o.app.IO.Out.Write([]byte(render(o.app.IO, d, o.explain)))
	return err
}
