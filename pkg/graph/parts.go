package graph

import (
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// Part is a field that a node can use only if it has a capability: one whose
// struct field has the tag cap.
type Part struct {
	// Field is its path, like "spec.rules[0].mirror".
	Field string
	// Path is the same as member names (string) and list indices (int), from the
	// resource's root.
	Path       []any
	Capability string
}

// tagged remembers which types hold a cap tag somewhere below.
var tagged sync.Map // reflect.Type → bool

// partsOf finds the parts that are set in spec, a pointer to a struct.
func partsOf(spec any) []Part {
	if spec == nil {
		return nil
	}
	w := partWalker{path: []any{"spec"}}
	w.walk(reflect.ValueOf(spec))
	return w.parts
}

// partWalker is used by one goroutine for one spec.
type partWalker struct {
	path  []any
	parts []Part
}

func (w *partWalker) walk(v reflect.Value) {
	if !hasTag(v.Type(), nil) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			w.walk(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			w.in(i, func() { w.walk(v.Index(i)) })
		}
	case reflect.Struct:
		for i := range v.NumField() {
			w.field(v.Type().Field(i), v.Field(i))
		}
	}
}

func (w *partWalker) field(f reflect.StructField, v reflect.Value) {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" || name == "-" || v.IsZero() {
		return
	}
	w.in(name, func() {
		if capability := f.Tag.Get("cap"); capability != "" {
			w.parts = append(w.parts, Part{Field: fieldPath(w.path), Path: append([]any(nil), w.path...), Capability: capability})
		}
		w.walk(v)
	})
}

func (w *partWalker) in(step any, f func()) {
	w.path = append(w.path, step)
	f()
	w.path = w.path[:len(w.path)-1]
}

func fieldPath(path []any) string {
	var b strings.Builder
	for i, step := range path {
		switch s := step.(type) {
		case string:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s)
		case int:
			b.WriteString("[" + strconv.Itoa(s) + "]")
		}
	}
	return b.String()
}

// hasTag says whether a cap tag lies at or below a type. outer holds the types on
// the way down, so that a recursive type ends.
func hasTag(t reflect.Type, outer []reflect.Type) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	if known, ok := tagged.Load(t); ok {
		return known.(bool)
	}
	for _, o := range outer {
		if o == t {
			return false
		}
	}
	found := false
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("cap") != "" || hasTag(f.Type, append(outer, t)) {
			found = true
			break
		}
	}
	if len(outer) == 0 || found {
		tagged.Store(t, found)
	}
	return found
}

// Capabilities lists the capabilities that a kind's parts can need, given a
// pointer to its spec struct.
func Capabilities(spec any) []string {
	var out []string
	seen := map[reflect.Type]bool{}
	var visit func(t reflect.Type)
	visit = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || seen[t] {
			return
		}
		seen[t] = true
		for i := range t.NumField() {
			if c := t.Field(i).Tag.Get("cap"); c != "" {
				out = append(out, c)
			}
			visit(t.Field(i).Type)
		}
	}
	visit(reflect.TypeOf(spec))
	return out
}
