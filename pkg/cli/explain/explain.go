// Package explain is `meshctl explain`: every kind, every field of every kind,
// and every error code, from the tables that the programs themselves use. It
// needs no hub.
package explain

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

// codesTopic lists the error codes.
const codesTopic = "codes"

type options struct {
	app     *cliutil.App
	output  string
	example bool
}

// New is `meshctl explain`.
func New(app *cliutil.App) *cobra.Command {
	o := &options{app: app}
	cmd := &cobra.Command{
		Use:   "explain [KIND[.FIELD…] | CODE | codes]",
		Short: "Explain a kind, a field or an error code",
		Long: `Explain documents every kind of resource, each of its fields (type, bounds, default, what a node needs to honour it)
and every error code: what it means and what to do. Without an argument it lists the kinds; "codes" lists the codes.`,
		Example: `  meshctl explain
  meshctl explain route
  meshctl explain route.spec.rules.clusters
  meshctl explain policy --example > policy.yaml
  meshctl explain MK2401
  meshctl explain codes`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: complete,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || strings.EqualFold(args[0], codesTopic) {
				return o.index(len(args) > 0)
			}
			return o.topic(args[0])
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.Flags().BoolVar(&o.example, "example", false, "print a complete example of the kind, in YAML")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *options) json(v any) (bool, error) {
	f, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil || f.Name == "table" {
		return false, err
	}
	doc, err := cliutil.MarshalJSON(v)
	if err != nil {
		return true, fmt.Errorf("encode explanation: %w", err)
	}
	return true, o.app.IO.PrintDocument(f, doc)
}

// indexDoc is the JSON of `explain -o json`.
type indexDoc struct {
	Kinds []kindDoc `json:"kinds"`
	Codes []codeDoc `json:"codes"`
}

type kindDoc struct {
	Kind    string `json:"kind"`
	Plural  string `json:"plural"`
	Summary string `json:"summary"`
}

type codeDoc struct {
	Code        fault.Code `json:"code"`
	Kind        string     `json:"kind"`
	Title       string     `json:"title"`
	Explanation string     `json:"explanation"`
	Remedy      string     `json:"remedy"`
	ExitCode    int        `json:"exitCode"`
}

func codeDocOf(e fault.Entry) codeDoc {
	return codeDoc{e.Code, e.Kind.String(), e.Title, e.Explanation, e.Remedy, cliutil.ExitCode(fault.New(e.Code, "x"))}
}

// index lists the kinds, or the codes; as JSON always both.
func (o *options) index(codes bool) error {
	doc := indexDoc{}
	for _, d := range kind.All() {
		doc.Kinds = append(doc.Kinds, kindDoc{d.Kind, d.Plural, d.Summary})
	}
	for _, e := range fault.All() {
		doc.Codes = append(doc.Codes, codeDocOf(e))
	}
	if done, err := o.json(doc); done || err != nil {
		return err
	}
	bold := func(h string) string { return o.app.IO.PaintOut(cliutil.Bold, h) }
	if codes {
		t := &cliutil.Table{Headings: []string{"CODE", "KIND", "WHAT IT MEANS"}}
		for _, e := range fault.All() {
			t.Add(string(e.Code), e.Kind.String(), e.Title)
		}
		return t.Write(o.app.IO.Out, true, bold)
	}
	var b strings.Builder
	for _, d := range kind.All() {
		fmt.Fprintf(&b, "%s  (%s)\n    %s\n", o.app.IO.PaintOut(cliutil.Bold, d.Kind), strings.Join(append([]string{d.Plural}, d.Short...), ", "), o.wrap(d.Summary, 4))
	}
	fmt.Fprintf(&b, "\n%s\n", o.wrap("Fields: `meshctl explain route.spec`. An error: `meshctl explain MK2401`; all of them: `meshctl explain codes`.", 0))
	_, err := o.app.IO.Out.Write([]byte(b.String()))
	return err
}

func (o *options) topic(topic string) error {
	if e, ok := fault.Lookup(fault.Code(strings.ToUpper(topic))); ok {
		return o.code(e)
	}
	path := strings.Split(topic, ".")
	d, ok := kind.Lookup(path[0])
	if !ok {
		return unknown(topic)
	}
	if o.example {
		_, err := fmt.Fprintln(o.app.IO.Out, strings.TrimSpace(d.Example))
		return err
	}
	return o.field(d, path[1:])
}

func unknown(topic string) error {
	err := fault.New(fault.CodeUnknownTopic, "%q is neither a kind nor an error code", topic)
	candidates := cliutil.KindNames()
	for _, e := range fault.All() {
		candidates = append(candidates, string(e.Code))
	}
	if near, ok := resource.FindField(topic, candidates); ok {
		return err.WithRemedy("did you mean %q? `meshctl explain` lists every topic", near)
	}
	return err
}

func (o *options) code(e fault.Entry) error {
	doc := codeDocOf(e)
	if done, err := o.json(doc); done || err != nil {
		return err
	}
	s := o.app.IO
	fmt.Fprintf(s.Out, "%s  %s\n\n%s\n\n%s %s\n\n%s, exit code %d\n", s.PaintOut(cliutil.Bold, string(e.Code)), e.Title, o.wrap(e.Explanation, 0),
		s.PaintOut(cliutil.Green, "fix:"), o.wrap(e.Remedy, 5), doc.Kind, doc.ExitCode)
	return nil
}

// field explains what a path within a kind leads to. The path may leave out
// "spec", and holds indexes or not.
func (o *options) field(d *kind.Descriptor, path []string) error {
	envelope := schema.Envelope(d.Schema)
	if len(path) > 0 {
		first, _, _ := strings.Cut(path[0], "[")
		if _, ok := envelope.Field(first); !ok {
			path = append([]string{"spec"}, path...)
		}
	}
	e, err := envelope.Explain(strings.Join(path, "."))
	if err != nil {
		return fault.New(fault.CodeUnknownTopic, "%s: %w", d.Kind, err).WithRemedy("%s", fault.RemedyOf(err))
	}
	e.Path = strings.TrimSuffix(d.Kind+"."+e.Path, ".")
	if len(path) == 0 {
		e.Doc, e.Capability = d.Summary, d.Capability
	}
	if done, err := o.json(e); done || err != nil {
		return err
	}
	o.print(e)
	if len(path) == 0 && d.Example != "" {
		fmt.Fprintf(o.app.IO.Out, "\nEXAMPLE\n%s\n", indent(strings.TrimSpace(d.Example)))
	}
	return nil
}

func (o *options) print(e schema.Explanation) {
	s := o.app.IO
	var b strings.Builder
	fmt.Fprintf(&b, "%s  <%s>%s\n\n%s\n", s.PaintOut(cliutil.Bold, e.Path), e.Type, required(e), o.wrap(e.Doc, 0))
	if f := facts(e); len(f) > 0 {
		b.WriteString("\n" + indent(strings.Join(f, "\n")) + "\n")
	}
	if len(e.Fields) > 0 {
		b.WriteString("\nFIELDS\n")
	}
	for _, sub := range e.Fields {
		fmt.Fprintf(&b, "  %s  <%s>%s\n      %s\n", s.PaintOut(cliutil.Cyan, sub.Name), sub.Type, required(sub), o.wrap(sub.Doc, 6))
		if f := facts(sub); len(f) > 0 {
			b.WriteString("      " + s.PaintOut(cliutil.Dim, o.wrap(strings.Join(f, "; "), 6)) + "\n")
		}
	}
	s.Out.Write([]byte(b.String()))
}

func required(e schema.Explanation) string {
	if e.Required {
		return " required"
	}
	return ""
}

func facts(e schema.Explanation) []string {
	var out []string
	for _, f := range []struct{ words, value string }{
		{"one of ", strings.Join(e.Values, ", ")}, {"name of a ", strings.Join(e.Refers, " or ")}, {"", e.Rule},
		{"default ", e.Default}, {"like ", e.Example}, {"needs nodes with ", e.Capability},
	} {
		if f.value != "" {
			out = append(out, f.words+f.value)
		}
	}
	return out
}

func indent(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight("  "+l, " ")
	}
	return strings.Join(lines, "\n")
}

// wrap breaks text at the terminal's width, at most 100 columns.
func (o *options) wrap(text string, indent int) string {
	const widest = 100
	columns := widest
	if w := o.app.IO.Width; w > 0 {
		columns = min(w, widest)
	}
	return cliutil.Wrap(text, columns, indent)
}

// complete offers kinds, their fields as the path grows, and codes.
func complete(_ *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, directive
	}
	if strings.HasPrefix(strings.ToUpper(toComplete), "MK") {
		var out []cobra.Completion
		for _, e := range fault.All() {
			out = append(out, cobra.CompletionWithDesc(string(e.Code), e.Title))
		}
		return out, directive
	}
	path := strings.Split(toComplete, ".")
	if len(path) == 1 {
		var out []cobra.Completion
		for _, d := range kind.All() {
			out = append(out, cobra.CompletionWithDesc(strings.ToLower(d.Kind), d.Summary))
		}
		out = append(out, cobra.CompletionWithDesc(codesTopic, "every error code"))
		return out, directive | cobra.ShellCompDirectiveNoSpace
	}
	d, ok := kind.Lookup(path[0])
	if !ok {
		return nil, directive
	}
	var out []cobra.Completion
	for _, field := range schema.Envelope(d.Schema).Complete(strings.Join(path[1:], ".")) {
		out = append(out, path[0]+"."+field)
	}
	return out, directive | cobra.ShellCompDirectiveNoSpace
}
