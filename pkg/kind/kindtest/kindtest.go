// Package kindtest is the suite that every resource kind passes. A new kind
// needs no test of its own beyond files in pkg/kind/<name>/testdata: each
// NAME.yaml there is decoded, and its findings and content must be those in
// NAME.golden. Run the tests with -update to write the golden files, and read
// what changed.
package kindtest

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/decode"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Run holds one kind against what every kind must do.
func Run(t *testing.T, d *kind.Descriptor) {
	t.Run("IsDescribed", func(t *testing.T) { described(t, d) })
	t.Run("EveryFieldIsDocumented", func(t *testing.T) { documented(t, d.Schema, strings.ToLower(d.Kind)+".spec") })
	t.Run("DefaultsAndExamplesAreValid", func(t *testing.T) { validSamples(t, d.Schema, strings.ToLower(d.Kind)+".spec") })
	t.Run("EveryFieldIsExplained", func(t *testing.T) { explained(t, schema.Envelope(d.Schema), "") })
	t.Run("ExampleRoundTrips", func(t *testing.T) { RoundTrip(t, example(t, d)) })
	t.Run("ContentDoesNotDependOnOrderOrStyle", func(t *testing.T) { sameContent(t, d) })
	t.Run("ZeroSpecHarmsNothing", func(t *testing.T) { zeroSpec(t, d) })
	t.Run("ColumnsAreSafeToPrint", func(t *testing.T) { columns(t, d) })
	t.Run("LookupKnowsEveryName", func(t *testing.T) { lookup(t, d) })
}

func example(t *testing.T, d *kind.Descriptor) decode.Document {
	t.Helper()
	docs, findings := kind.Decode(d.Kind+".yaml", []byte(d.Example), resource.DefaultLimits())
	if len(docs) != 1 || len(findings) != 0 {
		t.Fatalf("the example of %s gives %d documents and %v", d.Kind, len(docs), findings)
	}
	return docs[0]
}

func described(t *testing.T, d *kind.Descriptor) {
	if d.Plural == "" || !strings.HasSuffix(d.Summary, ".") || d.Capability == "" || d.Schema == nil || d.New == nil || d.Validate == nil || d.Refs == nil || len(d.Columns) == 0 {
		t.Errorf("the descriptor of %s is not complete", d.Kind)
	}
	for _, c := range d.Columns {
		if c.Name == "" || c.Name != strings.ToUpper(c.Name) || c.Value == nil {
			t.Errorf("column %q of %s needs an upper-case name and a value", c.Name, d.Kind)
		}
	}
}

func documented(t *testing.T, s *schema.Schema, at string) {
	for s.Type == schema.TypeList || s.Type == schema.TypeMap {
		s = s.Items
	}
	for _, f := range s.Fields {
		path := at + "." + f.Name
		if !strings.HasSuffix(f.Doc, ".") && !strings.HasSuffix(f.Doc, "'") {
			t.Errorf("%s: the documentation %q is not a sentence", path, f.Doc)
		}
		if f.Required && f.Default != "" {
			t.Errorf("%s: is required and has a default", path)
		}
		documented(t, f.Schema, path)
	}
}

// validSamples decodes each default and example as a value of its field; for a
// list, an example may be one element.
func validSamples(t *testing.T, s *schema.Schema, at string) {
	for s.Type == schema.TypeList || s.Type == schema.TypeMap {
		s = s.Items
	}
	for _, f := range s.Fields {
		path := at + "." + f.Name
		for _, sample := range []string{f.Default, f.Example} {
			value := f.Schema
			if value.Type == schema.TypeList && !strings.HasPrefix(sample, "[") {
				value = value.Items
			}
			if sample == "" {
				continue
			}
			if _, _, findings := decode.Value(path, []byte(sample), value, resource.DefaultLimits()); len(findings) > 0 {
				t.Errorf("%s: sample %q: %v", path, sample, findings)
			}
		}
		validSamples(t, f.Schema, path)
	}
}

func explained(t *testing.T, s *schema.Schema, path string) {
	e, err := s.Explain(path)
	if err != nil {
		t.Fatalf("explain %s: %v", path, err)
	}
	if path != "" && e.Doc == "" || e.Type == "" {
		t.Errorf("explain %s: no documentation or no type: %+v", path, e)
	}
	for _, f := range e.Fields {
		explained(t, s, f.Path)
	}
}

// RoundTrip fails unless the document's content decodes to itself.
func RoundTrip(t *testing.T, d decode.Document) {
	t.Helper()
	again, findings := kind.Decode("again.json", d.Content, resource.DefaultLimits())
	if resource.HasErrors(findings) || len(again) != 1 {
		t.Fatalf("content does not decode: %s\n%v", d.Content, findings)
	}
	if !bytes.Equal(again[0].Content, d.Content) {
		t.Fatalf("content changes on a second decode:\n%s\n%s", d.Content, again[0].Content)
	}
	canonical, err := d.Resource.Canonical()
	if err != nil || !bytes.Equal(canonical, d.Content) {
		t.Fatalf("Canonical differs from Content (%v):\n%s\n%s", err, canonical, d.Content)
	}
	o, err := kind.Parse(d.Content)
	if err != nil || o.Descriptor == nil || o.Key() != d.Resource.Key() {
		t.Fatalf("content does not parse: %v", err)
	}
	if rest := o.Validate(); resource.HasErrors(rest) {
		t.Fatalf("content that was decoded does not validate: %v", rest)
	}
}

// sameContent writes the example's fields in the reverse order, as JSON.
func sameContent(t *testing.T, d *kind.Descriptor) {
	doc := example(t, d)
	text := strings.ReplaceAll(string(doc.Content), ",", " ,\n\t")
	docs, findings := kind.Decode("x.json", []byte(text), resource.DefaultLimits())
	if len(docs) != 1 || len(findings) != 0 {
		t.Fatalf("reformatted example gives %v", findings)
	}
	if sha256.Sum256(docs[0].Content) != sha256.Sum256(doc.Content) {
		t.Errorf("the digest depends on the formatting:\n%s\n%s", doc.Content, docs[0].Content)
	}
	reversed := reverseEnvelope(d.Example)
	docs, findings = kind.Decode("x.yaml", []byte(reversed), resource.DefaultLimits())
	if len(docs) != 1 || len(findings) != 0 {
		t.Fatalf("reversed example gives %v:\n%s", findings, reversed)
	}
	if !bytes.Equal(docs[0].Content, doc.Content) {
		t.Errorf("the content depends on the order of the fields:\n%s\n%s", doc.Content, docs[0].Content)
	}
}

// reverseEnvelope puts the top-level fields of a YAML document in reverse order.
func reverseEnvelope(text string) string {
	var blocks []string
	for line := range strings.Lines(text) {
		if line[0] == ' ' {
			blocks[0] += line
		} else {
			blocks = append([]string{line}, blocks...)
		}
	}
	return strings.Join(blocks, "")
}

func zeroSpec(t *testing.T, d *kind.Descriptor) {
	key := resource.Key{Kind: d.Kind, Namespace: resource.DefaultNamespace, Name: "x"}
	d.Validate(key, d.New())
	if refs := d.Refs(key, d.New()); len(refs) > 0 {
		t.Errorf("a zero spec refers to %v", refs)
	}
	for _, c := range d.Columns {
		c.Value(&resource.Resource{}, d.New())
	}
}

func columns(t *testing.T, d *kind.Descriptor) {
	o, err := kind.FromResource(example(t, d).Resource)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Columns {
		if v := c.Value(o.Resource, o.Spec); strings.ContainsFunc(v, unicode.IsControl) {
			t.Errorf("column %s holds a control character: %q", c.Name, v)
		}
	}
}

func lookup(t *testing.T, d *kind.Descriptor) {
	for _, name := range append([]string{d.Kind, strings.ToLower(d.Kind), d.Plural, strings.ToUpper(d.Plural)}, d.Short...) {
		if got, ok := kind.Lookup(name); !ok || got != d {
			t.Errorf("Lookup(%q) does not find %s", name, d.Kind)
		}
	}
}

// Corpus decodes each YAML and JSON file in dir and compares findings and
// content with the golden file beside it.
func Corpus(t *testing.T, dir string) {
	var inputs []string
	for _, pattern := range []string{"*.yaml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, found...)
	}
	if len(inputs) == 0 {
		t.Fatalf("no input files in %s", dir)
	}
	for _, in := range inputs {
		t.Run(filepath.Base(in), func(t *testing.T) {
			data, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			docs, findings := kind.Decode(filepath.Base(in), data, resource.DefaultLimits())
			for _, d := range docs {
				RoundTrip(t, d)
			}
			golden(t, strings.TrimSuffix(in, filepath.Ext(in))+".golden", report(docs, findings))
		})
	}
}

func report(docs []decode.Document, findings []resource.Finding) []byte {
	var b bytes.Buffer
	for _, f := range findings {
		fmt.Fprintln(&b, f)
	}
	for _, d := range docs {
		fmt.Fprintf(&b, "accepted %s sha256:%x\n", d.Resource.Key(), sha256.Sum256(d.Content))
	}
	return b.Bytes()
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("findings differ from %s\ngot:\n%s\nwant:\n%s", filepath.Base(path), got, want)
	}
}
