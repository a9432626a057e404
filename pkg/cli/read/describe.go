package read

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
)

type describeOptions struct {
	app       *cliutil.App
	namespace string
	output    string
}

// NewDescribe is `meshctl describe`.
func NewDescribe(app *cliutil.App) *cobra.Command {
	o := &describeOptions{app: app}
	cmd := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Show one resource, agent or hub with all that is connected to it",
		Long: `Describe shows a resource with who refers to it, what it refers to, which agents are given it, who owns which fields
and what changed lately; or an agent with its generations, what its capabilities withhold from it and its newest refusal;
or a hub.`,
		Example: `  meshctl describe cluster payments
  meshctl describe route/checkout
  meshctl describe agent eu-1`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeRef(app, false),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of the resource")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *describeOptions) run(cmd *cobra.Command, args []string) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	ref, err := cliutil.ParseRef(args, o.namespace)
	if err != nil {
		return err
	}
	if d := ref.Descriptor; d != nil && d.Singleton != "" && ref.Name == "" {
		ref.Name = d.Singleton
	}
	if ref.Name == "" && ref.List != "" && len(args) == 2 {
		ref.Name = args[1]
	}
	if ref.Name == "" && ref.List != cliutil.Domains {
		return cliutil.Usagef("describe which %s? `meshctl get %s` lists them", args[0], args[0])
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		p, err := o.page(ctx, c, ref)
		if err != nil {
			return didYouMean(ctx, c, ref, err)
		}
		if format.Structured() {
			return o.app.IO.PrintDocument(format, p.doc)
		}
		_, err = o.app.IO.Out.Write([]byte(p.render(o.app.IO)))
		return err
	})
}

func (o *describeOptions) page(ctx context.Context, c *client.Client, ref cliutil.Ref) (*page, error) {
	switch ref.List {
	case "":
		return o.resource(ctx, c, ref)
	case cliutil.Agents:
		return o.agent(ctx, c, ref.Name)
	case cliutil.Hubs:
		return o.hub(ctx, c, ref)
	case cliutil.Domains:
		return o.domain(ctx, c, ref.Name)
	}
	return nil, cliutil.Usagef("there is nothing more to show of %s than `meshctl get %s -o wide`", ref.List, ref.List)
}

// described is the JSON of `describe KIND NAME -o json` for a resource.
type described struct {
	Resource     json.RawMessage `json:"resource"`
	ReferredToBy []string        `json:"referredToBy"`
	RefersTo     []string        `json:"refersTo"`
	Policies     []string        `json:"policies"`
	Agents       []string        `json:"agents"`
	AgentsTotal  int             `json:"agentsTotal"`
	Owners       json.RawMessage `json:"owners"`
	Changes      json.RawMessage `json:"changes"`
}

func (o *describeOptions) resource(ctx context.Context, c *client.Client, ref cliutil.Ref) (*page, error) {
	r, err := c.Get(ctx, cliutil.WireKey(ref.Key()))
	if err != nil {
		return nil, err
	}
	all, err := c.List(ctx, client.Selection{})
	if err != nil {
		return nil, err
	}
	agents, err := c.Agents(ctx, "")
	if err != nil {
		return nil, err
	}
	changes, err := c.History(ctx, cliutil.WireKey(ref.Key()), 5)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return nil, err
	}
	object, err := kind.Parse(r.GetContent())
	if err != nil {
		return nil, fault.New(fault.CodeUnexpectedReply, "read %s: %w", ref.Key(), err)
	}
	out := described{AgentsTotal: len(agents), ReferredToBy: []string{}, RefersTo: []string{}, Policies: []string{}, Agents: []string{}}
	out.connect(meshOf(all), object)
	for _, a := range agents {
		if inScope(object.Resource, a.GetLabels()) {
			out.Agents = append(out.Agents, a.GetNode())
		}
	}
	if out.Resource, err = resourceJSON(r); err != nil {
		return nil, err
	}
	out.Owners, out.Changes = ownersJSON(r), changesJSON(changes)
	doc, err := cliutil.MarshalJSON(out)
	if err != nil {
		return nil, fmt.Errorf("encode description: %w", err)
	}
	p := &page{doc: doc}
	o.describeResource(p, r, object, out, changes)
	return p, nil
}

// connect finds what the object refers to and what refers to it.
func (d *described) connect(g *graph.Graph, object kind.Object) {
	for _, key := range g.Dependents(object.Key()) {
		d.ReferredToBy = append(d.ReferredToBy, cliutil.Short(key))
		if key.Kind == "Policy" { // a policy that targets it
			d.Policies = append(d.Policies, cliutil.Short(key))
		}
	}
	for _, ref := range object.Refs() {
		name := cliutil.Short(ref.Target)
		if ref.Target.Kind == "Policy" && object.Resource.Kind != "Policy" {
			d.Policies = append(d.Policies, name)
		}
		d.RefersTo = append(d.RefersTo, name)
	}
	for _, list := range []*[]string{&d.ReferredToBy, &d.RefersTo, &d.Policies} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

func (o *describeOptions) describeResource(p *page, r *adminv1.Resource, object kind.Object, d described, changes []*adminv1.HistoryEntry) {
	now := o.app.Now()
	p.title(object.Resource.Kind + " " + object.Resource.Metadata.Name)
	p.field("Namespace", object.Resource.Metadata.Namespace)
	p.field("Labels", cliutil.Labels(object.Resource.Metadata.Labels))
	p.field("Annotations", cliutil.Labels(object.Resource.Metadata.Annotations))
	p.field("Scope", orElse(scope(object.Resource), "every node"))
	p.field("Generation", fmt.Sprintf("%d, written at seq %d", r.GetGeneration(), r.GetResourceVersion()))
	p.field("Created", age(now, r.GetCreatedAt().AsTime()))
	p.field("Changed", age(now, r.GetUpdatedAt().AsTime()))
	if object.Descriptor != nil {
		for _, col := range object.Descriptor.Columns {
			p.field(strings.ToUpper(col.Name[:1])+strings.ToLower(col.Name[1:]), col.Value(object.Resource, object.Spec))
		}
	}
	p.field("Agents", agentsLine(d.Agents, d.AgentsTotal))
	p.list("Referred to by", d.ReferredToBy)
	p.list("Refers to", d.RefersTo)
	p.list("Policies", d.Policies)
	var owners []string
	for _, ow := range r.GetOwners() {
		owners = append(owners, ow.GetManager()+": "+strings.Join(topFields(ow.GetFields()), ", "))
	}
	p.list("Field owners", owners)
	var recent []string
	for _, e := range changes {
		recent = append(recent, changeLine(now, e))
	}
	p.list("Recent changes", recent)
	if spec, err := cliutil.YAML(object.Resource.Spec); err == nil {
		p.block("Spec", string(spec))
	}
}

// topFields shortens field paths to two names, each once: an owner of
// "spec.rules[name=pay].clusters" is shown to own of "spec.rules".
func topFields(paths []string) []string {
	var out []string
	for _, p := range paths {
		parts := strings.SplitN(p, ".", 3)
		top, _, _ := strings.Cut(strings.Join(parts[:min(2, len(parts))], "."), "[")
		if !slices.Contains(out, top) {
			out = append(out, top)
		}
	}
	return out
}

// changeLine is one change in a line: sequence number, age, author, what.
func changeLine(now time.Time, e *adminv1.HistoryEntry) string {
	var what []string
	for _, f := range e.GetDiff().GetFields() {
		what = append(what, fmt.Sprintf("%s: %s → %s", f.GetField(), orElse(f.GetBefore(), "(none)"), orElse(f.GetAfter(), "(none)")))
	}
	if len(what) > 3 {
		what = append(what[:3], fmt.Sprintf("and %d more", len(what)-3))
	}
	line := fmt.Sprintf("seq %d, %s ago, %s", e.GetSeq(), cliutil.Ago(now, e.GetTime().AsTime()), e.GetAuthor())
	if action := e.GetDiff().GetAction(); action == "create" || action == "delete" {
		what = []string{action + "d"}
	}
	if m := e.GetMessage(); m != "" {
		line += ", " + strconv.Quote(m)
	}
	if len(what) > 0 {
		line += ": " + strings.Join(what, "; ")
	}
	return line
}

// meshOf builds the graph of a list of resources; what does not fit in is left
// out, since the hub has validated it by its own rules.
func meshOf(rs []*adminv1.Resource) *graph.Graph {
	changes := make([]graph.Change, 0, len(rs))
	for _, r := range rs {
		changes = append(changes, graph.Change{Key: resource.Key{Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName()}, Content: r.GetContent()})
	}
	g, _ := graph.New().Update(changes)
	return g
}

// inScope tells whether a node with these labels is given the resource.
func inScope(r *resource.Resource, labels map[string]string) bool {
	if r.Scope == nil {
		return true
	}
	for k, v := range r.Scope.NodeLabels {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func agentsLine(names []string, total int) string {
	line := fmt.Sprintf("%d of %d are in its scope", len(names), total)
	if len(names) == 0 || len(names) == total {
		return line
	}
	shown := names[:min(len(names), 8)]
	line += ": " + strings.Join(shown, ", ")
	if len(names) > len(shown) {
		line += ", …"
	}
	return line
}

func ownersJSON(r *adminv1.Resource) json.RawMessage {
	items := make([]json.RawMessage, 0, len(r.GetOwners()))
	for _, ow := range r.GetOwners() {
		items = append(items, cliutil.ProtoJSON(ow))
	}
	return (&cliutil.Listing{Items: items}).Array()
}

func changesJSON(changes []*adminv1.HistoryEntry) json.RawMessage {
	items := make([]json.RawMessage, 0, len(changes))
	for _, e := range changes {
		items = append(items, cliutil.ProtoJSON(e))
	}
	return (&cliutil.Listing{Items: items}).Array()
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func age(now, t time.Time) string {
	if a := cliutil.Ago(now, t); a != "" {
		return fmt.Sprintf("%s ago (%s)", a, t.UTC().Format(time.RFC3339))
	}
	return ""
}
