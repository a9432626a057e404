package schema

import (
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// Explanation is all there is to say of a field; strings are empty and slices
// nil where there is nothing.
type Explanation struct {
	// Path is the field's path, without indexes.
	Path string `json:"path"`
	Name string `json:"name"`
	// Type is in words, like "list of objects".
	Type       string `json:"type"`
	Doc        string `json:"doc"`
	Required   bool   `json:"required,omitempty"`
	Default    string `json:"default,omitempty"`
	Example    string `json:"example,omitempty"`
	Capability string `json:"capability,omitempty"`
	// Values are the permitted values.
	Values []string `json:"values,omitempty"`
	// Rule says in words which values are permitted, like "1ms to 1h".
	Rule string `json:"rule,omitempty"`
	// Refers lists the kinds that the field can name.
	Refers []string `json:"refers,omitempty"`
	// Fields are the fields of an object or of a list's objects; theirs are left
	// out.
	Fields []Explanation `json:"fields,omitempty"`
}

// Explain describes the field at path, relative to s: "spec.rules.match" for an
// envelope's schema, "" for s itself. Indexes in the path are read past. An
// unknown field is an error that names the nearest known one.
func (s *Schema) Explain(path string) (Explanation, error) {
	here := &Field{Schema: s}
	var names []string
	for _, st := range fieldpath.Parse(path) {
		if st.Index >= 0 {
			continue
		}
		inner := here.Schema.elements()
		if inner.Type == TypeMap {
			here = &Field{Name: st.Name, Doc: here.Doc, Schema: inner.Items}
			names = append(names, st.Name)
			continue
		}
		f, ok := inner.Field(st.Name)
		if !ok {
			return Explanation{}, unknownPath(st.Name, strings.Join(names, "."), inner)
		}
		here = f
		names = append(names, f.Name)
	}
	e := here.explain(strings.Join(names, "."))
	for _, f := range here.Schema.elements().Fields {
		e.Fields = append(e.Fields, f.explain(strings.TrimPrefix(e.Path+"."+f.Name, ".")))
	}
	return e, nil
}

func unknownPath(name, at string, s *Schema) error {
	where := at
	if where == "" {
		where = "the resource"
	}
	err := fault.New(fault.CodeUnknownField, "%s has no field %s", where, safetext.Quote(name))
	if near, ok := resource.FindField(name, s.FieldNames()); ok {
		return err.WithRemedy("did you mean %s?", near)
	}
	if len(s.Fields) > 0 {
		return err.WithRemedy("its fields are %s", strings.Join(s.FieldNames(), ", "))
	}
	return err.WithRemedy("it has no fields of its own")
}

// elements is what a list is made of, through lists of lists; s for others.
func (s *Schema) elements() *Schema {
	for s.Type == TypeList {
		s = s.Items
	}
	return s
}

func (f *Field) explain(path string) Explanation {
	el := f.Schema.elements()
	return Explanation{
		Path: path, Name: f.Name, Type: f.Schema.TypeName(), Doc: f.Doc, Required: f.Required, Default: f.Default,
		Example: f.Example, Capability: f.Capability, Values: el.Enum, Refers: el.Refers, Rule: f.Schema.rule(),
	}
}

// rule renders format, bounds and counts in words.
func (s *Schema) rule() string {
	el := s.elements()
	var out []string
	if m := Formats()[el.Format]; m != "" {
		out = append(out, m)
	}
	show := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	if el.Type == TypeDuration {
		show = func(v float64) string { return resource.Duration(v).String() }
	}
	if (el.Min != nil || el.Max != nil) && !el.natural() {
		out = append(out, strings.TrimPrefix(el.Range(show), "from "))
	}
	if el.MaxLen > 0 {
		out = append(out, "at most "+strconv.Itoa(el.MaxLen)+" bytes")
	}
	if s.MinItems > 0 {
		out = append(out, "at least "+items(s.MinItems))
	}
	if s.MaxItems > 0 {
		out = append(out, "at most "+items(s.MaxItems))
	}
	if s.Unique {
		out = append(out, "each once")
	}
	return strings.Join(out, "; ")
}

// natural: the bounds are those of the type, not of the field.
func (s *Schema) natural() bool {
	return s.Type == TypeInteger && s.Max != nil && *s.Max == maxExact
}

// Complete lists the paths that begin with prefix and are one name longer than
// its last whole name, sorted: for shell completion of `explain`.
func (s *Schema) Complete(prefix string) []string {
	parent, partial := "", prefix
	if i := strings.LastIndexByte(prefix, '.'); i >= 0 {
		parent, partial = prefix[:i], prefix[i+1:]
	}
	e, err := s.Explain(parent)
	if err != nil {
		return nil
	}
	var out []string
	for _, f := range e.Fields {
		if strings.HasPrefix(f.Name, partial) {
			out = append(out, f.Path)
		}
	}
	slices.Sort(out)
	return out
}

func items(n int) string {
	if n == 1 {
		return "1 item"
	}
	return strconv.Itoa(n) + " items"
}
