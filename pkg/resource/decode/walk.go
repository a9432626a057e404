package decode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
	"go.yaml.in/yaml/v3"
)

// walker holds one document against a schema: it appends the canonical JSON to
// out and collects a finding for each mistake. After a finding out is garbage.
type walker struct {
	part     source.Part
	limits   resource.Limits
	key      resource.Key
	root     *schema.Schema
	out      []byte
	findings []resource.Finding
	// broken: out lacks something, so that rules on the whole would mislead.
	broken bool
	// specAt and specEnd bound the spec within out.
	specAt, specEnd int
}

// keepsValue lists the findings after which the value is still in out.
func keepsValue(code fault.Code) bool {
	switch code {
	case fault.CodeRange, fault.CodeFormat, fault.CodeRegex, fault.CodeEnum, fault.CodeLabel, fault.CodeDuplicateItem, fault.CodeAPIVersion:
		return true
	}
	return false
}

func (w *walker) errorf(code fault.Code, n *yaml.Node, p *fieldpath.Path, remedy, format string, args ...any) {
	w.broken = w.broken || !keepsValue(code)
	w.findings = append(w.findings, resource.Finding{
		Code: code, Severity: resource.Error, Key: w.key, Field: p.String(), Pos: w.part.Position(n), Remedy: remedy, Reason: fmt.Sprintf(format, args...),
	})
}

// value appends the canonical form of n, which must fit s.
func (w *walker) value(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	at := n
	n = source.Target(n)
	if !w.plainTag(n, p) {
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		w.errorf(fault.CodeNoValue, at, p, "give it a value, or delete the line", "expected %s, got no value", s.Wanted())
		return
	}
	switch s.Type {
	case schema.TypeObject:
		if w.expect(n, yaml.MappingNode, s, p) {
			w.object(n, s, p, nil)
		}
	case schema.TypeMap:
		if w.expect(n, yaml.MappingNode, s, p) {
			w.mapping(n, s, p)
		}
	case schema.TypeList:
		if w.expect(n, yaml.SequenceNode, s, p) {
			w.list(n, s, p)
		}
	default:
		if w.expect(n, yaml.ScalarNode, s, p) {
			w.scalar(n, s, p)
		}
	}
}

// plainTag refuses tags that are not those of JSON's types.
func (w *walker) plainTag(n *yaml.Node, p *fieldpath.Path) bool {
	switch n.Tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq":
		return true
	case "!!timestamp", "!!merge", "":
		return n.Kind == yaml.ScalarNode
	}
	w.errorf(fault.CodeYAMLFeature, n, p, "remove the tag", "tag %s is not accepted", safetext.Quote(n.Tag))
	return false
}

// got says what a node is, for people.
func got(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "mapping"
	case n.Kind == yaml.SequenceNode:
		return "list"
	case n.Kind == yaml.AliasNode:
		return "alias"
	case n.Tag == "!!null":
		return "no value"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "number " + strings.Trim(safetext.Quote(n.Value), `"`)
	case n.Tag == "!!bool":
		return "boolean " + strings.Trim(safetext.Quote(n.Value), `"`)
	}
	return "text " + safetext.Quote(n.Value)
}

func article(noun string) string {
	if strings.HasPrefix(noun, "a") {
		return "an"
	}
	return "a"
}

func (w *walker) expect(n *yaml.Node, kind yaml.Kind, s *schema.Schema, p *fieldpath.Path) bool {
	if n.Kind == kind {
		return true
	}
	remedy := ""
	switch {
	case kind == yaml.SequenceNode && n.Kind == yaml.ScalarNode:
		remedy = fmt.Sprintf("write it as a list: [%s]", strings.Trim(safetext.Quote(n.Value), `"`))
	case kind == yaml.SequenceNode:
		remedy = "begin each item with '- '"
	case kind == yaml.ScalarNode:
		remedy = "write a single value"
	case s.Type == schema.TypeObject && len(s.Fields) > 0:
		remedy = "indent its fields below it"
	}
	w.errorf(fault.CodeWrongType, n, p, remedy, "expected %s, got %s", s.Wanted(), got(n))
	return false
}

// pair is one entry of a mapping.
type pair struct {
	key, value *yaml.Node
	name       string
}

// pairs lists a mapping's entries in canonical order, each key once; what
// cannot be a key is left out with a finding.
func (w *walker) pairs(n *yaml.Node, p *fieldpath.Path) []pair {
	out := make([]pair, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind == yaml.ScalarNode && k.Tag == "!!merge":
			w.errorf(fault.CodeYAMLFeature, k, p, "write the fields out, or repeat the whole value with an alias", "merge keys (<<) are not accepted")
		case k.Kind != yaml.ScalarNode:
			w.errorf(fault.CodeYAMLFeature, k, p, "write the key as plain text", "a key is not text but %s %s", article(got(k)), got(k))
		case k.Tag != "!!str":
			w.errorf(fault.CodeWrongType, k, p, "put the key in quotes", "a key is not text but %s", got(k))
		default:
			if r, bad := safetext.FindUnsafe(k.Value, false); bad {
				w.errorf(fault.CodeControlCharacter, k, p, "delete it", "key %s has character %s", safetext.Quote(k.Value), safetext.Escape(r))
				continue
			}
			out = append(out, pair{key: k, value: v, name: k.Value})
		}
	}
	slices.SortStableFunc(out, func(a, b pair) int { return jcs.Compare(a.name, b.name) })
	for i := 1; i < len(out); {
		if out[i].name != out[i-1].name {
			i++
			continue
		}
		first := w.part.Position(out[i-1].key)
		w.errorf(fault.CodeDuplicateKey, out[i].key, p.Field(out[i].name), "remove one of the two", "key %s is already on line %d", safetext.Quote(out[i].name), first.Line)
		out = slices.Delete(out, i, i+1)
	}
	return out
}

// object appends a mapping with known fields. Fields in skip are read past.
// Optional mappings of the envelope that are empty are left out, as Resource's
// own JSON does, and a missing namespace is filled in.
func (w *walker) object(n *yaml.Node, s *schema.Schema, p *fieldpath.Path, skip map[string]bool) {
	meta := s == schema.Metadata()
	if meta {
		skip = serverMetadata
	}
	w.out = append(w.out, '{')
	start := len(w.out)
	seen, namespace := 0, false
	var meant []string // known fields that unknown ones seem to stand for
	for _, e := range w.pairs(n, p) {
		if skip[e.name] {
			continue
		}
		f, ok := s.Field(e.name)
		if !ok {
			if near := w.unknown(e.key, s, p); near != "" {
				meant = append(meant, near)
			}
			continue
		}
		if f.Required {
			seen++
		}
		namespace = namespace || e.name == "namespace"
		w.member(e, f, s, p, start)
	}
	if meta && !namespace {
		// Of metadata's fields, namespace is the last in canonical order.
		w.separate(start)
		w.out = append(w.out, `"namespace":"`+resource.DefaultNamespace+`"`...)
	}
	w.out = append(w.out, '}')
	w.missing(n, s, p, seen, meant)
}

// member appends one field of an object that began at start.
func (w *walker) member(e pair, f *schema.Field, s *schema.Schema, p *fieldpath.Path, start int) {
	before := len(w.out)
	w.separate(start)
	w.out = jcs.AppendString(w.out, e.name)
	w.out = append(w.out, ':')
	here := p.Field(e.name)
	if v := source.Target(e.value); f.Required && v.Kind == yaml.ScalarNode && v.Value == "" && v.Tag == "!!str" {
		w.errorf(fault.CodeRequired, e.value, here, exampleRemedy(f), "%s is empty", e.name)
		return
	}
	valueAt := len(w.out)
	w.value(e.value, f.Schema, here)
	if s == w.root && e.name == "spec" {
		w.specAt, w.specEnd = valueAt, len(w.out)
		return
	}
	if (f.Schema.Type == schema.TypeMap || s == w.root) && !f.Required && string(w.out[valueAt:]) == "{}" {
		w.out = w.out[:before]
	}
}

// separate appends a comma unless the list or object that began at start is
// still empty.
func (w *walker) separate(start int) {
	if len(w.out) > start {
		w.out = append(w.out, ',')
	}
}

// missing reports required fields that are not there. seen is the number of
// those that are; fields in meant have had their finding.
func (w *walker) missing(n *yaml.Node, s *schema.Schema, p *fieldpath.Path, seen int, meant []string) {
	if seen == s.Required {
		return
	}
	have := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		have[n.Content[i].Value] = true
	}
	for _, f := range s.Fields {
		if f.Required && !have[f.Name] && !slices.Contains(meant, f.Name) {
			w.errorf(fault.CodeRequired, n, p.Field(f.Name), exampleRemedy(f), "%s is missing", f.Name)
		}
	}
}

func exampleRemedy(f *schema.Field) string {
	switch {
	case f.Example != "":
		return fmt.Sprintf("add it, like %s: %s", f.Name, f.Example)
	case len(f.Schema.Enum) > 0:
		return fmt.Sprintf("add it: one of %s", strings.Join(f.Schema.Enum, ", "))
	}
	return "add it: " + strings.TrimSuffix(f.Doc, ".")
}

// unknown reports a field and gives the known one that seems to be meant, or "".
func (w *walker) unknown(key *yaml.Node, s *schema.Schema, p *fieldpath.Path) string {
	names := s.FieldNames()
	remedy := "the fields here are " + strings.Join(schema.FirstFew(names, 12), ", ")
	near, ok := resource.FindField(key.Value, names)
	if ok {
		remedy = "did you mean " + near + "?"
	} else if elsewhere := w.root.FindPath(key.Value); elsewhere != "" {
		remedy = "there is a field " + elsewhere + "; check the indentation"
	}
	where := p.String()
	if where == "" {
		where = "the document"
	}
	w.errorf(fault.CodeUnknownField, key, p.Field(key.Value), remedy, "unknown field %s in %s", safetext.Quote(key.Value), where)
	return near
}

func (w *walker) mapping(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	pairs := w.pairs(n, p)
	if s.MaxItems > 0 && len(pairs) > s.MaxItems || s.LabelKeys() && len(pairs) > resource.MaxLabels {
		most := s.MaxItems
		if most == 0 {
			most = resource.MaxLabels
		}
		w.errorf(fault.CodeRange, n, p, "remove some", "%d entries, at most %d are permitted", len(pairs), most)
	}
	w.out = append(w.out, '{')
	start, total := len(w.out), 0
	for _, e := range pairs {
		here := p.Field(e.name)
		if s.LabelKeys() {
			if why := resource.LabelKeyProblem(e.name); why != "" {
				w.errorf(fault.CodeLabel, e.key, here, "use a key like team or example.com/team", "key %s %s", safetext.Quote(e.name), why)
			}
			total += len(e.name) + len(source.Target(e.value).Value)
		}
		w.separate(start)
		w.out = jcs.AppendString(w.out, e.name)
		w.out = append(w.out, ':')
		w.value(e.value, s.Items, here)
	}
	w.out = append(w.out, '}')
	if s.Format == "annotations" && total > resource.MaxAnnotationBytes {
		w.errorf(fault.CodeTooLarge, n, p, "shorten them", "the annotations have %d bytes together, at most %d are permitted", total, resource.MaxAnnotationBytes)
	}
}

func (w *walker) list(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	switch {
	case len(n.Content) < s.MinItems:
		w.errorf(fault.CodeRange, n, p, "add an item, or remove the field", "%s, at least %d needed", items(len(n.Content)), s.MinItems)
	case s.MaxItems > 0 && len(n.Content) > s.MaxItems:
		w.errorf(fault.CodeRange, n, p, "remove some", "%s, at most %d are permitted", items(len(n.Content)), s.MaxItems)
	}
	var seen map[string]int
	if s.Unique && len(n.Content) > 1 {
		seen = make(map[string]int, len(n.Content))
	}
	w.out = append(w.out, '[')
	for i, c := range n.Content {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		here := p.Element(i)
		before := len(w.out)
		w.value(c, s.Items, here)
		if seen == nil {
			continue
		}
		if first, dup := seen[string(w.out[before:])]; dup && len(w.out) > before {
			w.errorf(fault.CodeDuplicateItem, c, here, "remove one of the two", "%s is already item %d", safetext.Quote(source.Target(c).Value), first)
		} else {
			seen[string(w.out[before:])] = i
		}
	}
	w.out = append(w.out, ']')
}

func items(n int) string {
	if n == 1 {
		return "1 item"
	}
	return strconv.Itoa(n) + " items"
}
