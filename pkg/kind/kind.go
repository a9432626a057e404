// Package kind is the list of resource kinds: one descriptor each, from which
// every generic part of MeshKit (decoding, graph, views, CLI, TUI) works. A new
// kind is a package below this one and one line in All.
//
// Descriptors are immutable; all functions are safe for concurrent use.
package kind

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/decode"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

// Descriptor, Ref and Column are declared below the kinds that fill them in.
type (
	Descriptor = schema.Descriptor
	Ref        = resource.Ref
	Column     = schema.Column
)

var all = []*Descriptor{
	cluster.Descriptor(),
	domainsettings.Descriptor(),
	policy.Descriptor(),
	route.Descriptor(),
}

// All lists every kind, by name. Do not change the slice.
func All() []*Descriptor { return all }

// Of gives the descriptor of an exact kind name, or nil.
func Of(name string) *Descriptor {
	for _, d := range all {
		if d.Kind == name {
			return d
		}
	}
	return nil
}

// Lookup finds a kind by name, plural or abbreviation, in any case.
func Lookup(nameOrPluralOrShort string) (*Descriptor, bool) {
	for _, d := range all {
		if strings.EqualFold(d.Kind, nameOrPluralOrShort) || strings.EqualFold(d.Plural, nameOrPluralOrShort) ||
			slices.ContainsFunc(d.Short, func(s string) bool { return strings.EqualFold(s, nameOrPluralOrShort) }) {
			return d, true
		}
	}
	return nil, false
}

// Object is a resource with its spec parsed. Treat it as immutable.
type Object struct {
	Resource *resource.Resource
	// Spec is a pointer to the kind's spec struct; nil when Descriptor is nil.
	Spec any
	// Descriptor is nil for a kind that this build does not know: such content
	// is kept and passed on as it is.
	Descriptor *Descriptor
}

// Key identifies the object.
func (o Object) Key() resource.Key { return o.Resource.Key() }

// Parse reads content that was validated before it was stored or signed. It
// ignores spec fields that this build does not know.
func Parse(content []byte) (Object, error) {
	r, err := resource.ParseCanonical(content)
	if err != nil {
		return Object{}, err
	}
	return FromResource(r)
}

// FromResource parses the spec of a resource.
func FromResource(r *resource.Resource) (Object, error) {
	d := Of(r.Kind)
	if d == nil {
		return Object{Resource: r}, nil
	}
	spec := d.New()
	if err := json.Unmarshal(r.Spec, spec); err != nil {
		return Object{}, fault.New(fault.CodeResourceContent, "parse the spec of %s: %w", r.Key(), err)
	}
	return Object{Resource: r, Spec: spec, Descriptor: d}, nil
}

// Schema gives the schema of a kind's spec, nil for an unknown kind.
func Schema(kind string) *schema.Schema {
	if d := Of(kind); d != nil {
		return d.Schema
	}
	return nil
}

// Names lists the kinds' names.
func Names() []string {
	names := make([]string, len(all))
	for i, d := range all {
		names[i] = d.Kind
	}
	return names
}

// Decode reads a YAML stream or JSON strictly into resources of known kinds and
// applies each kind's own rules. It is what hub, agent and command line use;
// references between resources are the graph's business. See decode.Resources.
func Decode(file string, data []byte, lim resource.Limits) ([]decode.Document, []resource.Finding) {
	return decode.Decoder{Schemas: Schema, Kinds: Names(), Check: check, Limits: lim}.Decode(file, data)
}

// Validate applies the rules of the object's kind; an unknown kind has none.
func (o Object) Validate() []resource.Finding {
	d := o.Descriptor
	if d == nil {
		return nil
	}
	key := o.Key()
	findings := d.Validate(key, o.Spec)
	if d.Singleton != "" && key.Name != d.Singleton {
		findings = append(findings, resource.Errorf(fault.CodeSingleton, key, "metadata.name", "name it "+d.Singleton, "a domain has one %s, named %s, not %s", d.Kind, d.Singleton, safetext.Quote(key.Name)))
	}
	if d.Singleton != "" && key.Namespace != resource.DefaultNamespace {
		findings = append(findings, resource.Errorf(fault.CodeSingleton, key, "metadata.namespace", "remove the namespace", "the one %s of a domain is in namespace %s", d.Kind, resource.DefaultNamespace))
	}
	return findings
}

// Refs lists the references of the object's spec.
func (o Object) Refs() []Ref {
	if o.Descriptor == nil {
		return nil
	}
	return o.Descriptor.Refs(o.Key(), o.Spec)
}

func check(r *resource.Resource) []resource.Finding {
	o, err := FromResource(r)
	if err != nil {
		return []resource.Finding{resource.Errorf(fault.CodeOf(err), r.Key(), "spec", fault.RemedyOf(err), "%v", err)}
	}
	return o.Validate()
}
