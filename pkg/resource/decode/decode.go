// Package decode turns YAML and JSON into resources, strictly: unknown and
// duplicate fields, values of the wrong type or out of bounds, and what a file
// should not hold at all are findings with line, column and a remedy.
//
// Resources (or kind.Decode, which knows every kind) turns a file into Documents;
// Document.Content is what is stored, hashed and distributed from then on, and
// resource.ParseCanonical reads it back. Value reads a single document of any
// schema, like a configuration file.
//
// The package is pure: no I/O, no goroutines, no clock. All functions are safe
// for concurrent use; values are plain data, to be treated as immutable once
// shared.
package decode

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
	"go.yaml.in/yaml/v3"
)

// Resources reads a YAML stream of one or more documents, or JSON, strictly.
// schemas gives the schema of a kind's spec, nil for an unknown kind. file is
// only named in positions. Findings are sorted by position and at most
// lim.Findings, with one more that counts the rest; a document with an error
// finding is not among the documents.
func Resources(file string, data []byte, schemas func(kind string) *schema.Schema, lim resource.Limits) ([]Document, []resource.Finding) {
	return Decoder{Schemas: schemas, Limits: lim}.Decode(file, data)
}

// Decoder is Resources with more to say about kinds. Set Schemas and Limits.
type Decoder struct {
	// Schemas gives the schema of a kind's spec, nil for an unknown kind.
	Schemas func(kind string) *schema.Schema
	// Kinds lists the kinds that Schemas knows, for suggestions.
	Kinds []string
	// Check, if set, applies a kind's own rules to a document whose values are all
	// of the right type. Its findings have Field and no Pos.
	Check  func(r *resource.Resource) []resource.Finding
	Limits resource.Limits
}

// Decode is the function Resources with d's settings.
func (d Decoder) Decode(file string, data []byte) ([]Document, []resource.Finding) {
	run := &decoding{Decoder: d, Collector: resource.Collector{Limit: d.Limits.Findings}, seen: make(map[resource.Key]resource.Position), envelopes: make(map[string]*schema.Schema)}
	run.file(file, data)
	return run.docs, run.Result()
}

// decoding is one run of a Decoder.
type decoding struct {
	Decoder
	resource.Collector
	docs       []Document
	count      int // documents seen
	pinpointed int // syntax errors whose line was searched for
	seen       map[resource.Key]resource.Position
	envelopes  map[string]*schema.Schema
	scratch    []byte // walker.out, from one document to the next
}

func (d *decoding) file(file string, data []byte) {
	if len(data) > d.Limits.RequestBytes {
		d.Add([]resource.Finding{{Code: fault.CodeTooLarge, Severity: resource.Error, Pos: resource.Position{File: file, Line: 1, Column: 1}, Remedy: "split it over several requests", Reason: fmt.Sprintf("the input has %d bytes, at most %d are permitted", len(data), d.Limits.RequestBytes)}})
		return
	}
	parts, bad := source.Open(file, data)
	if len(bad) > 0 {
		d.Add(bad)
		return
	}
	for _, p := range parts {
		if !d.part(p) {
			return
		}
	}
	if d.count == 0 && len(d.Kept) == 0 {
		d.Add([]resource.Finding{{Code: fault.CodeNothing, Severity: resource.Warning, Pos: resource.Position{File: file, Line: 1, Column: 1}, Remedy: "check the path, or remove the file", Reason: "the file holds no resource"}})
	}
}

// part decodes the documents of a part; false: stop reading.
func (d *decoding) part(p source.Part) bool {
	if p.Blank() {
		return true
	}
	if p.Size() > d.Limits.DocumentBytes {
		d.count++
		d.Add([]resource.Finding{{Code: fault.CodeTooLarge, Severity: resource.Error, Pos: p.Start(), Remedy: "split it into several resources", Reason: fmt.Sprintf("the document has %d bytes, at most %d are permitted", p.Size(), d.Limits.DocumentBytes)}})
		return true
	}
	roots, err := p.Documents()
	for i, root := range roots {
		if d.count++; d.count > d.Limits.RequestResources {
			d.Add([]resource.Finding{{Code: fault.CodeTooMany, Severity: resource.Error, Pos: p.Position(root), Remedy: "split it over several requests", Reason: fmt.Sprintf("more than %d resources in one request", d.Limits.RequestResources)}})
			return false
		}
		d.document(p, i, root)
	}
	if err != nil {
		d.count++
		d.pinpointed++
		d.Add([]resource.Finding{p.SyntaxFinding(err, d.pinpointed <= maxPinpointed)})
	}
	return true
}

// maxPinpointed bounds how often a line is searched for in one file.
const maxPinpointed = 20

func (d *decoding) document(p source.Part, index int, root *yaml.Node) {
	w := &walker{part: p, limits: d.Limits, out: d.scratch[:0]}
	doc := d.decode(w, root)
	d.scratch = w.out
	if doc != nil && d.Check != nil {
		for _, f := range d.Check(doc.Resource) {
			f.Pos = p.PositionAt(root, f.Field)
			w.findings = append(w.findings, f)
		}
	}
	if doc != nil && !resource.HasErrors(w.findings) {
		doc.Positions = p.Positions(index)
		d.docs = append(d.docs, *doc)
	}
	d.Add(w.findings)
}

// decode gives the document, or nil with findings in w.
func (d *decoding) decode(w *walker, root *yaml.Node) *Document {
	if problem, ok := w.part.Check(root, d.Limits); !ok {
		w.findings = append(w.findings, problem)
		return nil
	}
	root = source.Target(root)
	if root.Kind != yaml.MappingNode {
		remedy := "begin with apiVersion: " + resource.APIVersion
		if root.Kind == yaml.SequenceNode {
			remedy = "write each resource as a document of its own, separated by lines of ---"
		}
		w.errorf(fault.CodeWrongType, root, nil, remedy, "expected a resource (mapping with apiVersion, kind, metadata, spec), got %s", got(root))
		return nil
	}
	kind, kindNode := scalarField(root, "kind")
	w.key = peekKey(root, kind)
	if isList(root, kind) {
		w.errorf(fault.CodeListKind, kindNode, (*fieldpath.Path)(nil).Field("kind"), "write its items as documents of their own, separated by lines of ---", "%s wraps several resources in one", safetext.Quote(kind))
		return nil
	}
	spec := d.specSchema(kind)
	if spec == nil && kindNode != nil && kind != "" {
		remedy := "known kinds: " + strings.Join(d.Kinds, ", ")
		if near, ok := resource.FindField(kind, d.Kinds); ok {
			remedy = "did you mean " + near + "?"
		}
		w.errorf(fault.CodeUnknownKind, kindNode, (*fieldpath.Path)(nil).Field("kind"), remedy, "unknown kind %s", safetext.Quote(kind))
	}
	w.envelope(root, d.envelope(kind, spec), spec != nil)
	if w.broken {
		return nil
	}
	return d.finish(w, root)
}

func (d *decoding) specSchema(kind string) *schema.Schema {
	if d.Schemas == nil || kind == "" {
		return nil
	}
	return d.Schemas(kind)
}

func (d *decoding) envelope(kind string, spec *schema.Schema) *schema.Schema {
	if spec == nil {
		kind = ""
	}
	s, ok := d.envelopes[kind]
	if !ok {
		s = schema.Envelope(spec)
		d.envelopes[kind] = s
	}
	return s
}

// finish makes the document of what was walked.
func (d *decoding) finish(w *walker, root *yaml.Node) *Document {
	content := bytes.Clone(w.out)
	if len(content) > d.Limits.ResourceBytes {
		w.errorf(fault.CodeTooLarge, root, nil, "split it into several resources", "the resource has %d bytes, at most %d are permitted", len(content), d.Limits.ResourceBytes)
		return nil
	}
	r := &resource.Resource{APIVersion: resource.APIVersion, Spec: content[w.specAt:w.specEnd:w.specEnd]}
	r.Kind, _ = scalarField(root, "kind")
	meta := source.Target(field(root, "metadata"))
	r.Metadata = metadataOf(meta)
	if scope := field(root, "scope"); scope != nil {
		if labels := stringMap(field(source.Target(scope), "nodeLabels")); labels != nil {
			r.Scope = &resource.Scope{NodeLabels: labels}
		}
	}
	key := r.Key()
	here := w.part.Position(root)
	if first, dup := d.seen[key]; dup {
		w.errorf(fault.CodeDuplicate, root, nil, "remove or rename one of the two", "the resource is already at %s", first)
		return nil
	}
	d.seen[key] = here
	doc := &Document{Resource: r, Content: content}
	v, _ := scalarField(meta, "resourceVersion")
	doc.ResourceVersion, _ = strconv.ParseUint(v, 10, 64)
	return doc
}
