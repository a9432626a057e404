package ssa

import (
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/meshkit/meshkit/pkg/kind"
	kindschema "github.com/meshkit/meshkit/pkg/resource/schema"
)

// typeOf gives the merge type of a kind's envelope. A kind that this build does
// not know merges by what its values look like: maps by key, lists as one value.
func typeOf(name string) typed.ParseableType {
	if t, ok := types.Load(name); ok {
		return t.(typed.ParseableType)
	}
	d := kind.Of(name)
	if d == nil {
		return typed.DeducedParseableType
	}
	text := schema.TypeRef{Inlined: scalar(schema.String)}
	texts := schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{ElementType: text}}}
	metadata := object(field("name", text), field("namespace", text), field("labels", texts), field("annotations", texts))
	// A scope is one value: half of one manager's labels and half of another's
	// would be a scope that nobody meant.
	scope := schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{
		ElementType: schema.TypeRef{Inlined: scalar(schema.Untyped)}, ElementRelationship: schema.Atomic,
	}}}
	scope.Inlined.Map.Fields = []schema.StructField{field("nodeLabels", texts)}
	envelope := object(field("apiVersion", text), field("kind", text), field("metadata", metadata), field("scope", scope), field("spec", typeRef(d.Schema)))
	s := &schema.Schema{Types: []schema.TypeDef{{Name: name, Atom: envelope.Inlined}}}
	t := typed.ParseableType{Schema: s, TypeRef: schema.TypeRef{NamedType: &s.Types[0].Name}}
	actual, _ := types.LoadOrStore(name, t)
	return actual.(typed.ParseableType)
}

func field(name string, t schema.TypeRef) schema.StructField {
	return schema.StructField{Name: name, Type: t}
}

func object(fields ...schema.StructField) schema.TypeRef {
	return schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{Fields: fields}}}
}

func scalar(s schema.Scalar) schema.Atom { return schema.Atom{Scalar: &s} }

func typeRef(s *kindschema.Schema) schema.TypeRef {
	switch s.Type {
	case kindschema.TypeObject:
		fields := make([]schema.StructField, len(s.Fields))
		for i, f := range s.Fields {
			fields[i] = field(f.Name, typeRef(f.Schema))
		}
		return object(fields...)
	case kindschema.TypeMap:
		return schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{ElementType: typeRef(s.Items)}}}
	case kindschema.TypeList:
		list := &schema.List{ElementType: typeRef(s.Items), ElementRelationship: schema.Atomic}
		if key := itemKey(s.Items); key != "" {
			list.ElementRelationship, list.Keys = schema.Associative, []string{key}
		}
		return schema.TypeRef{Inlined: schema.Atom{List: list}}
	case kindschema.TypeInteger, kindschema.TypeNumber:
		return schema.TypeRef{Inlined: scalar(schema.Numeric)}
	case kindschema.TypeBoolean:
		return schema.TypeRef{Inlined: scalar(schema.Boolean)}
	}
	return schema.TypeRef{Inlined: scalar(schema.String)}
}

// itemKey finds the field that tells a list's items apart: a required name or
// address. A list of references (weighted clusters) has none: its weights belong
// together.
func itemKey(item *kindschema.Schema) string {
	for _, f := range item.Fields {
		if f.Required && (f.Schema.Format == "name" || f.Schema.Format == "hostport") {
			return f.Name
		}
	}
	return ""
}
