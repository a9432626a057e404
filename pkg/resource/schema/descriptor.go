package schema

import "github.com/meshkit/meshkit/pkg/resource"

// Column is one column of a kind's table.
type Column struct {
	// Name is the heading, upper case.
	Name string
	// Wide columns are shown by -o wide only.
	Wide bool
	// Value renders the cell; spec is what Descriptor.New makes, filled. It
	// holds no control characters.
	Value func(r *resource.Resource, spec any) string
}

// Descriptor is all that the generic parts of MeshKit (decoding, graph, CLI,
// TUI) know of a kind. Descriptors are immutable and shared.
type Descriptor struct {
	// Kind is the name in files, like "Route"; Plural the one in commands, like
	// "routes"; Short holds abbreviations.
	Kind, Plural string
	Short        []string
	Namespaced   bool
	// Singleton is the only name that a resource of the kind may have, or "".
	Singleton string
	// Summary is one sentence for `meshctl explain`.
	Summary string
	// Capability is what a node must have to be given the kind at all.
	Capability string
	// Example is a complete YAML document that validates.
	Example string
	Schema  *Schema
	// New makes a pointer to a zero spec.
	New func() any
	// Validate applies the kind's own rules; it looks at no other resource. spec
	// is what New makes, filled. Findings have Key and Field and no Pos.
	Validate func(key resource.Key, spec any) []resource.Finding
	// Refs lists the references in spec.
	Refs func(key resource.Key, spec any) []resource.Ref
	// Columns come after NAMESPACE and NAME and before AGE.
	Columns []Column
}
