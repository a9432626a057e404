package schema

import (
	"sync"

	"github.com/meshkit/meshkit/pkg/resource"
)

// envelope is resource.Resource with documentation; its spec is filled in per kind.
type envelope struct {
	APIVersion string            `json:"apiVersion" required:"true" example:"meshkit.dev/v1" doc:"Version of the format; meshkit.dev/v1."`
	Kind       string            `json:"kind" required:"true" doc:"Kind of the resource, like Route."`
	Metadata   resource.Metadata `json:"metadata" required:"true" doc:"Name, namespace, labels and annotations."`
	Scope      *resource.Scope   `json:"scope,omitempty" doc:"Which nodes are given the resource; without it, all."`
	Spec       struct{}          `json:"spec" required:"true" doc:"What the resource says; its fields depend on the kind."`
}

var bareEnvelope = sync.OnceValue(func() *Schema { return Of(envelope{}) })

// Metadata is the schema of every envelope's metadata, the same pointer each time.
var Metadata = sync.OnceValue(func() *Schema {
	f, _ := bareEnvelope().Field("metadata")
	return f.Schema
})

// Envelope is the schema of a whole resource whose spec has that schema;
// nil leaves spec an object without fields.
func Envelope(spec *Schema) *Schema {
	bare := bareEnvelope()
	if spec == nil {
		return bare
	}
	s := *bare
	s.Fields = nil
	s.index = make(map[string]*Field, len(bare.Fields))
	for _, f := range bare.Fields {
		if f.Name == "spec" {
			c := *f
			c.Schema = spec
			f = &c
		}
		s.Fields = append(s.Fields, f)
		s.index[f.Name] = f
	}
	return &s
}
