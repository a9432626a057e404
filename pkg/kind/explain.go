package kind

import (
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

// Explain describes a kind ("route", "routes", "rt") or a field of one
// ("route.spec.rules.match"). The kind's own explanation lists the fields of the
// envelope. An unknown kind or field is an error that names the nearest known.
func Explain(path string) (*Descriptor, schema.Explanation, error) {
	name, field, _ := strings.Cut(path, ".")
	d, ok := Lookup(name)
	if !ok {
		err := fault.New(fault.CodeUnknownKind, "unknown kind %s", safetext.Quote(name))
		if near, ok := resource.FindField(name, words()); ok {
			return nil, schema.Explanation{}, err.WithRemedy("did you mean %s?", near)
		}
		return nil, schema.Explanation{}, err.WithRemedy("known kinds: %s", strings.Join(Names(), ", "))
	}
	e, err := schema.Envelope(d.Schema).Explain(field)
	if err != nil {
		return nil, schema.Explanation{}, err
	}
	if field == "" {
		e.Name, e.Doc = d.Kind, d.Summary
	}
	return d, e, nil
}

// CompletePath lists kinds and field paths that go on from prefix, for shell
// completion: "ro" gives "route", "route.spec.r" gives "route.spec.rules".
func CompletePath(prefix string) []string {
	name, field, deeper := strings.Cut(prefix, ".")
	var out []string
	if !deeper {
		for _, d := range all {
			if low := strings.ToLower(d.Kind); strings.HasPrefix(low, strings.ToLower(name)) {
				out = append(out, low)
			}
		}
		return out
	}
	d, ok := Lookup(name)
	if !ok {
		return nil
	}
	for _, p := range schema.Envelope(d.Schema).Complete(field) {
		out = append(out, name+"."+p)
	}
	return out
}

// words lists every name by which a kind can be looked up.
func words() []string {
	var out []string
	for _, d := range all {
		out = append(append(out, strings.ToLower(d.Kind), d.Plural), d.Short...)
	}
	return out
}
