// Package schema describes what may stand in a resource: a Schema is derived by
// reflection from the Go struct of a spec and its tags, and is what decoding
// checks against, what `meshctl explain` and completion show, and what merging
// of edits follows. A Descriptor is a kind: its schema with names, rules,
// references and columns.
//
// Schemas and descriptors are immutable and shared; all functions are safe for
// concurrent use.
package schema

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/resource"
)

// Type is the type of a value in a file.
type Type string

// Types.
const (
	TypeObject   Type = "object"
	TypeList     Type = "list"
	TypeMap      Type = "map"
	TypeString   Type = "string"
	TypeInteger  Type = "integer"
	TypeNumber   Type = "number"
	TypeBoolean  Type = "boolean"
	TypeDuration Type = "duration"
)

// Schema describes a value: what decoding checks, and what `meshctl explain`
// and completion show. Schemas are immutable and shared.
type Schema struct {
	Type Type
	// Fields of an object, in the order in which they are documented.
	Fields []*Field
	// Items describes the elements of a list and the values of a map, whose
	// keys are text.
	Items *Schema
	// Enum lists the permitted values of a string; nil permits all.
	Enum []string
	// Min and Max bound a number; nil: no bound. For a duration they are
	// nanoseconds.
	Min, Max *float64
	// MinItems and MaxItems bound a list or map; MinLen and MaxLen a string, in
	// bytes. A maximum of 0 means the decoder's own limit.
	MinItems, MaxItems, MinLen, MaxLen int
	// Unique: a list's elements differ from each other.
	Unique bool
	// Format names a further rule for a string or map; see Formats.
	Format string
	// Refers lists the kinds that a string of format "reference" can name.
	Refers []string
	// Required counts the required fields of an object.
	Required int
	// Nanoseconds: a duration whose Go type is time.Duration, whose JSON is a
	// number.
	Nanoseconds bool

	index map[string]*Field
}

// Field is one field of an object.
type Field struct {
	Name string
	// Doc is one or two sentences.
	Doc string
	// Default is what applies when the field is absent, as written in a file;
	// empty if nothing does.
	Default string
	// Example is a valid value, as written in a file, or empty.
	Example string
	// Capability is what a node needs to honour the field, or empty.
	Capability string
	Required   bool
	Schema     *Schema
}

// Field finds a field of an object by name; nil-safe.
func (s *Schema) Field(name string) (*Field, bool) {
	if s == nil {
		return nil, false
	}
	f, ok := s.index[name]
	return f, ok
}

// FieldNames lists the fields of an object, in documented order.
func (s *Schema) FieldNames() []string {
	names := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		names[i] = f.Name
	}
	return names
}

// TypeName says what the value is in words, like "list of string" or "duration
// like 250ms".
func (s *Schema) TypeName() string {
	switch s.Type {
	case TypeList:
		return "list of " + plural(s.Items)
	case TypeMap:
		return "map of string to " + s.Items.TypeName()
	default:
		return string(s.Type)
	}
}

func plural(s *Schema) string {
	if s.Type == TypeList {
		return "lists of " + plural(s.Items)
	}
	return string(s.Type) + "s"
}

// Wanted says what the schema takes, with an example where it helps.
func (s *Schema) Wanted() string {
	switch {
	case s.Type == TypeDuration:
		return "duration like 250ms"
	case s.Type == TypeObject:
		return "mapping with " + strings.Join(FirstFew(s.FieldNames(), 3), ", ")
	case len(s.Enum) > 0:
		return "one of " + strings.Join(s.Enum, ", ")
	case s.Type == TypeString && s.Format != "":
		return formats[s.Format].Like
	}
	return s.TypeName()
}

// FirstFew cuts a list of names for a message: the first n, then "…".
func FirstFew(names []string, n int) []string {
	if len(names) > n {
		return append(slices.Clone(names[:n]), "…")
	}
	return names
}

// FindPath gives the path of the first field of that name somewhere below an
// object's own fields, without indexes, or "".
func (s *Schema) FindPath(name string) string { return s.find(name, "") }

func (s *Schema) find(name, at string) string {
	for s != nil && s.Type == TypeList {
		s = s.Items
	}
	if s == nil || s.Type != TypeObject {
		return ""
	}
	if _, ok := s.index[name]; ok && at != "" {
		return at + "." + name
	}
	for _, f := range s.Fields {
		if found := f.Schema.find(name, strings.TrimPrefix(at+"."+f.Name, ".")); found != "" {
			return found
		}
	}
	return ""
}

// Range says in words which values Min and Max permit, of which at least one is
// set: "from 1 to 5".
func (s *Schema) Range(show func(float64) string) string {
	switch {
	case s.Min == nil:
		return "of at most " + show(*s.Max)
	case s.Max == nil:
		return "of at least " + show(*s.Min)
	}
	return "from " + show(*s.Min) + " to " + show(*s.Max)
}

var (
	durationType = reflect.TypeFor[resource.Duration]()
	stdDuration  = reflect.TypeFor[time.Duration]()
	schemaCache  sync.Map // of reflect.Type to *Schema
)

// Of derives the schema of a spec, given as a struct or a pointer to one,
// from its fields and their tags:
//
//	json:"name,omitempty"   name in files; "-" leaves the field out
//	doc:"…"                 documentation
//	required:"true"         must be present
//	default:"…" example:"…" shown by explain; decoding does not fill defaults in
//	enum:"a,b"              permitted values, of the elements for a list
//	min:"…" max:"…"         bounds of a number or duration
//	minItems:"…" maxItems:"…" minLen:"…" maxLen:"…" unique:"true"
//	format:"…"              see Formats; of the elements for a list
//	ref:"Kind,Kind"         kinds that a reference can name
//	cap:"mirror/v1"         capability that a node needs to honour the field
//
// A struct that it cannot describe is a defect and panics; so do bad tags.
func Of(spec any) *Schema {
	t := reflect.TypeOf(spec)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := schemaCache.Load(t); ok {
		return s.(*Schema)
	}
	s, _ := schemaCache.LoadOrStore(t, objectSchema(t, nil))
	return s.(*Schema)
}

func objectSchema(t reflect.Type, outer []reflect.Type) *Schema {
	for _, o := range outer {
		if o == t {
			panic(fmt.Sprintf("schema: %v contains itself; schemas are finite", t))
		}
	}
	outer = append(outer[:len(outer):len(outer)], t)
	s := &Schema{Type: TypeObject, index: make(map[string]*Field)}
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if name == "-" || !sf.IsExported() {
			continue
		}
		if name == "" {
			panic(fmt.Sprintf("schema: %v.%s has no json name", t, sf.Name))
		}
		f := &Field{
			Name: name, Doc: sf.Tag.Get("doc"), Default: sf.Tag.Get("default"), Example: sf.Tag.Get("example"),
			Capability: sf.Tag.Get("cap"), Required: sf.Tag.Get("required") == "true", Schema: schemaOfType(sf.Type, outer),
		}
		applyTags(f.Schema, sf)
		s.Fields = append(s.Fields, f)
		s.index[name] = f
		if f.Required {
			s.Required++
		}
	}
	return s
}

func schemaOfType(t reflect.Type, outer []reflect.Type) *Schema {
	if t == durationType || t == stdDuration {
		return &Schema{Type: TypeDuration, Format: "duration", Nanoseconds: t == stdDuration}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOfType(t.Elem(), outer)
	case reflect.Struct:
		return objectSchema(t, outer)
	case reflect.Slice:
		return &Schema{Type: TypeList, Items: schemaOfType(t.Elem(), outer)}
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return &Schema{Type: TypeMap, Items: schemaOfType(t.Elem(), outer)}
		}
	case reflect.String:
		return &Schema{Type: TypeString}
	case reflect.Bool:
		return &Schema{Type: TypeBoolean}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64, reflect.Uint16:
		return integerSchema(t)
	case reflect.Float64:
		return &Schema{Type: TypeNumber}
	}
	panic(fmt.Sprintf("schema: no schema for %v", t))
}

// maxExact is the largest integer that canonical JSON, whose numbers are
// doubles, keeps exactly.
const maxExact = 1<<53 - 1

// integerSchema bounds integers to what both the Go type and a double hold.
func integerSchema(t reflect.Type) *Schema {
	lo, hi := float64(-maxExact), float64(maxExact)
	if t.Bits() < 53 {
		lo, hi = -float64(uint64(1)<<(t.Bits()-1)), float64(uint64(1)<<(t.Bits()-1)-1)
	}
	if t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64 {
		lo = 0
		if t.Bits() < 53 {
			hi = float64(uint64(1)<<t.Bits() - 1)
		}
	}
	return &Schema{Type: TypeInteger, Min: &lo, Max: &hi}
}

func applyTags(s *Schema, sf reflect.StructField) {
	target := s
	for target.Type == TypeList {
		target = target.Items
	}
	if v := sf.Tag.Get("enum"); v != "" {
		target.Enum = strings.Split(v, ",")
	}
	if v := sf.Tag.Get("ref"); v != "" {
		target.Refers = strings.Split(v, ",")
	}
	if v := sf.Tag.Get("format"); v != "" {
		if _, ok := formats[v]; !ok && !labelMap[v] {
			panic(fmt.Sprintf("schema: field %s: unknown format %s", sf.Name, v))
		}
		target.Format = v
	}
	switch target.Format {
	case "labels":
		target.Items = &Schema{Type: TypeString, Format: "labelValue"}
	case "annotations":
		target.Items = &Schema{Type: TypeString, Format: "text"}
	}
	target.Min = boundTag(target, sf, "min", target.Min)
	target.Max = boundTag(target, sf, "max", target.Max)
	target.MinLen, target.MaxLen = intTag(sf, "minLen"), intTag(sf, "maxLen")
	s.MinItems, s.MaxItems = intTag(sf, "minItems"), intTag(sf, "maxItems")
	s.Unique = sf.Tag.Get("unique") == "true"
}

func boundTag(s *Schema, sf reflect.StructField, tag string, otherwise *float64) *float64 {
	v := sf.Tag.Get(tag)
	if v == "" {
		return otherwise
	}
	var f float64
	var err error
	if s.Type == TypeDuration {
		var d time.Duration
		d, err = time.ParseDuration(v)
		f = float64(d)
	} else {
		f, err = strconv.ParseFloat(v, 64)
	}
	if err != nil {
		panic(fmt.Sprintf("schema: field %s: tag %s: %v", sf.Name, tag, err))
	}
	return &f
}

func intTag(sf reflect.StructField, tag string) int {
	v := sf.Tag.Get(tag)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		panic(fmt.Sprintf("schema: field %s: tag %s: %v", sf.Name, tag, err))
	}
	return n
}
