// Package ssa is server-side apply: it merges what a field manager applies into
// what is stored and keeps who manages which field. The rules are those of
// sigs.k8s.io/structured-merge-diff, which this package confines: a manager owns
// the fields that it last applied; applying again without a field removes it,
// unless another manager owns it too; setting another manager's field to another
// value is a conflict, which force takes over.
//
// Lists whose items have a name (or, for endpoints, an address) merge by it;
// every other list is one value.
//
// Ownership is stored as JSON, manager to field set; the set of a manager that
// alone owns everything is written "*". All functions are pure and safe for
// concurrent use.
package ssa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/merge"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// everything is how the field set of a sole manager is written.
const everything = `"*"`

// Conflict is a field that another manager owns with another value.
type Conflict struct {
	Manager string
	Field   string
}

// Owner is a manager and the fields it owns, sorted.
type Owner struct {
	Manager string
	Fields  []string
}

// Result is what an apply leaves. Content is canonical JSON.
type Result struct {
	Content   []byte
	Ownership []byte
	// Conflicts, when not empty, refuse the apply: the other fields are unset.
	Conflicts []Conflict
}

// Apply merges config, applied by manager, into live; both are canonical JSON of
// one kind, and live is nil when the resource does not exist.
func Apply(kind string, live, ownership, config []byte, manager string, force bool) (Result, error) {
	managers, err := decodeOwnership(ownership)
	if err != nil {
		return Result{}, err
	}
	if _, own := managers[manager]; live == nil || (own && len(managers) == 1) {
		return Result{Content: config, Ownership: sole(manager)}, nil
	}
	return mergeInto(kind, live, managers, config, manager, force)
}

// Release removes what only manager owns and gives up its ownership. The result
// may lack fields that the kind requires: validate it.
func Release(kind string, live, ownership []byte, manager string) (Result, error) {
	managers, err := decodeOwnership(ownership)
	if err != nil {
		return Result{}, err
	}
	var envelope struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(live, &envelope); err != nil {
		return Result{}, fmt.Errorf("read the stored resource: %w", err)
	}
	empty, err := json.Marshal(envelope)
	if err != nil {
		return Result{}, err
	}
	return mergeInto(kind, live, managers, empty, manager, true)
}

func mergeInto(kind string, live []byte, managers map[string]*fieldpath.Set, config []byte, manager string, force bool) (Result, error) {
	t := typeOf(kind)
	liveValue, err := parse(t, live, typed.AllowDuplicates)
	if err != nil {
		return Result{}, fmt.Errorf("read the stored resource: %w", err)
	}
	configValue, err := parse(t, config)
	if err != nil {
		return Result{}, fault.New(fault.CodeBadRequest, "merge: %w", err)
	}
	managed := fieldpath.ManagedFields{}
	for m, set := range managers {
		if set == nil {
			if set, err = liveValue.ToFieldSet(); err != nil {
				return Result{}, fmt.Errorf("list the fields of the stored resource: %w", err)
			}
			set = set.Difference(identity)
		}
		managed[m] = fieldpath.NewVersionedSet(set, version, true)
	}
	updater := (&merge.UpdaterBuilder{
		Converter: same{}, ReturnInputOnNoop: true,
		IgnoredFields: map[fieldpath.APIVersion]*fieldpath.Set{version: identity},
	}).BuildUpdater()
	merged, after, err := updater.Apply(liveValue, configValue, version, managed, manager, force)
	if conflicts, ok := errors.AsType[merge.Conflicts](err); ok {
		return Result{Conflicts: conflictsOf(conflicts)}, nil
	}
	if err != nil {
		return Result{}, fault.New(fault.CodeBadRequest, "merge: %w", err)
	}
	content, err := jcs.Marshal(merged.AsValue().Unstructured())
	if err != nil {
		return Result{}, fmt.Errorf("encode the merged resource: %w", err)
	}
	owners, err := encodeOwnership(after)
	if err != nil {
		return Result{}, err
	}
	return Result{Content: content, Ownership: owners}, nil
}

func parse(t typed.ParseableType, content []byte, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	var v any
	if err := json.Unmarshal(content, &v); err != nil {
		return nil, err
	}
	return t.FromUnstructured(v, opts...)
}

func conflictsOf(list merge.Conflicts) []Conflict {
	out := make([]Conflict, 0, len(list))
	for _, c := range list {
		out = append(out, Conflict{Manager: c.Manager, Field: render(c.Path)})
	}
	slices.SortFunc(out, func(a, b Conflict) int { return strings.Compare(a.Manager+"\x00"+a.Field, b.Manager+"\x00"+b.Field) })
	return out
}

// Manages tells whether manager owns any field, and whether nobody else does.
func Manages(ownership []byte, manager string) (any, sole bool) {
	managers, err := decodeOwnership(ownership)
	if err != nil {
		return false, false
	}
	_, any = managers[manager]
	return any, any && len(managers) == 1
}

// Owners lists the managers and their fields, for people.
func Owners(kind string, content, ownership []byte) ([]Owner, error) {
	managers, err := decodeOwnership(ownership)
	if err != nil {
		return nil, err
	}
	out := make([]Owner, 0, len(managers))
	for m, set := range managers {
		if set == nil {
			v, err := parse(typeOf(kind), content, typed.AllowDuplicates)
			if err != nil {
				return nil, err
			}
			if set, err = v.ToFieldSet(); err != nil {
				return nil, err
			}
			set = set.Difference(identity)
		}
		o := Owner{Manager: m}
		set.Leaves().Iterate(func(p fieldpath.Path) { o.Fields = append(o.Fields, render(p)) })
		slices.Sort(o.Fields)
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Owner) int { return strings.Compare(a.Manager, b.Manager) })
	return out, nil
}

// render writes a path as findings do: "spec.rules[name=canary].clusters".
func render(p fieldpath.Path) string {
	var b strings.Builder
	for _, e := range p {
		switch {
		case e.FieldName != nil:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(*e.FieldName)
		case e.Key != nil:
			for _, f := range *e.Key {
				fmt.Fprintf(&b, "[%s=%v]", f.Name, f.Value.Unstructured())
			}
		case e.Value != nil:
			fmt.Fprintf(&b, "[=%v]", value.ToString(*e.Value))
		case e.Index != nil:
			fmt.Fprintf(&b, "[%d]", *e.Index)
		}
	}
	return b.String()
}

func sole(manager string) []byte {
	name, _ := json.Marshal(manager) // a string encodes
	return append(append([]byte{'{'}, name...), ":"+everything+"}"...)
}

// decodeOwnership reads stored ownership; a nil set stands for everything.
func decodeOwnership(ownership []byte) (map[string]*fieldpath.Set, error) {
	if len(ownership) == 0 {
		return nil, nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(ownership, &raw); err != nil {
		return nil, fmt.Errorf("read field ownership: %w", err)
	}
	out := make(map[string]*fieldpath.Set, len(raw))
	for m, text := range raw {
		if string(text) == everything {
			out[m] = nil
			continue
		}
		set := fieldpath.NewSet()
		if err := set.FromJSON(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("read field ownership of %s: %w", m, err)
		}
		out[m] = set
	}
	return out, nil
}

func encodeOwnership(m fieldpath.ManagedFields) ([]byte, error) {
	raw := make(map[string]json.RawMessage, len(m))
	for manager, set := range m {
		if set.Set().Empty() {
			continue
		}
		text, err := set.Set().ToJSON()
		if err != nil {
			return nil, fmt.Errorf("write field ownership of %s: %w", manager, err)
		}
		raw[manager] = text
	}
	return json.Marshal(raw) // keys sorted: the same ownership gives the same bytes
}

const version = fieldpath.APIVersion(resource.APIVersion)

// identity are the fields that name a resource: nobody owns them.
var identity = fieldpath.NewSet(
	fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"),
	fieldpath.MakePathOrDie("metadata", "name"), fieldpath.MakePathOrDie("metadata", "namespace"),
)

// same is a converter between versions, of which there is one.
type same struct{}

func (same) Convert(v *typed.TypedValue, _ fieldpath.APIVersion) (*typed.TypedValue, error) {
	return v, nil
}
func (same) IsMissingVersionError(error) bool { return false }

var types sync.Map // kind name to typed.ParseableType, made on first use
