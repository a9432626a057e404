package change

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/view"
)

// What happens to a resource.
const (
	ActionCreate    = "create"
	ActionUpdate    = "update"
	ActionDelete    = "delete"
	ActionUnchanged = "unchanged"
)

// Bounds of a description, so that the plan of a large change still fits into one
// message: beyond them the counts tell the rest.
const (
	maxFieldDiffs   = 200
	maxContentBytes = 16 << 20
	maxAgentNames   = 100
)

// Describe says what the change does: field by field, in words, and to which of
// the nodes. roster gives all joined ones, for scopes that use some labels.
func (p *Prepared) Describe(roster func(keys []string) *view.Roster) *adminv1.PlanResponse {
	out := &adminv1.PlanResponse{Findings: p.findings, Base: p.base.ConfigSeq(), Epoch: p.base.ConfigEpoch()}
	budget := maxContentBytes
	ownershipOnly := make(map[resource.Key]bool, len(p.unchanged))
	for _, k := range p.unchanged {
		ownershipOnly[k] = true
		out.Unchanged++
		out.Diffs = append(out.Diffs, &adminv1.ResourceDiff{Key: KeyTo(k), Action: ActionUnchanged})
	}
	for _, w := range p.writes {
		k := resource.Key{Kind: w.GetKind(), Namespace: w.GetNamespace(), Name: w.GetName()}
		if ownershipOnly[k] {
			continue
		}
		d := &adminv1.ResourceDiff{Key: KeyTo(k), After: w.GetContent()}
		live, exists := p.base.Get(k)
		if exists {
			d.Before = live.Content
		}
		switch {
		case w.GetDelete():
			d.Action = ActionDelete
			out.Deleted++
		case !exists:
			d.Action = ActionCreate
			out.Created++
		default:
			d.Action = ActionUpdate
			out.Updated++
		}
		if p.Refused() { // after is not what the change leads to
			Complete(d)
		} else {
			completeFields(d)
			before, _ := p.before.Get(k)
			after, _ := p.after.Get(k)
			d.Effects = effects(k, before, after)
		}
		if budget -= len(d.Before) + len(d.After); budget < 0 {
			d.Before, d.After, d.Fields = nil, nil, nil
		}
		out.Diffs = append(out.Diffs, d)
	}
	slices.SortStableFunc(out.Diffs, func(a, b *adminv1.ResourceDiff) int {
		return resource.CompareKeys(KeyOf(a.GetKey()), KeyOf(b.GetKey()))
	})
	if roster != nil {
		r := roster(view.ScopeKeys(p.before, p.after))
		n, names := r.Touched(p.before, p.after, maxAgentNames)
		out.AgentsTotal, out.AgentsTouched, out.Agents = uint64(r.Len()), uint64(n), names
	}
	return out
}

// Complete fills in the fields and the effects of a diff from its Before and
// After.
func Complete(d *adminv1.ResourceDiff) {
	completeFields(d)
	d.Effects = effectsOfContent(KeyOf(d.GetKey()), d.GetBefore(), d.GetAfter())
}

func completeFields(d *adminv1.ResourceDiff) {
	if d.GetAction() == ActionUpdate {
		d.Fields = Fields(d.GetBefore(), d.GetAfter())
	}
}

// Fields lists what differs between two JSON documents, by path; at most 200
// fields. Lists whose items have names are compared by name.
func Fields(before, after []byte) []*adminv1.FieldDiff {
	var a, b any
	if json.Unmarshal(before, &a) != nil || json.Unmarshal(after, &b) != nil {
		return nil
	}
	d := fieldDiffer{}
	d.diff("", a, b)
	return d.out
}

type fieldDiffer struct{ out []*adminv1.FieldDiff }

func (d *fieldDiffer) diff(path string, a, b any) {
	if len(d.out) >= maxFieldDiffs {
		return
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			d.maps(path, x, y)
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			d.lists(path, x, y)
			return
		}
	}
	before, after := encode(a), encode(b)
	if before != after {
		d.out = append(d.out, &adminv1.FieldDiff{Field: path, Before: before, After: after})
	}
}

func (d *fieldDiffer) maps(path string, a, b map[string]any) {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		at := k
		if path != "" {
			at = path + "." + k
		}
		d.diff(at, a[k], b[k])
	}
}

func (d *fieldDiffer) lists(path string, a, b []any) {
	byName, okA := named(a)
	inB, okB := named(b)
	if okA && okB && len(a)+len(b) > 0 {
		for _, item := range a {
			name := nameOf(item)
			d.diff(fmt.Sprintf("%s[%s]", path, name), item, inB[name])
		}
		for _, item := range b {
			if name := nameOf(item); byName[name] == nil {
				d.diff(fmt.Sprintf("%s[%s]", path, name), nil, item)
			}
		}
		d.order(path, a, b, byName, inB)
		return
	}
	for i := range max(len(a), len(b)) {
		var x, y any
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		d.diff(path+"["+strconv.Itoa(i)+"]", x, y)
	}
}

// order notes that the items common to both lists changed places.
func (d *fieldDiffer) order(path string, a, b []any, inA, inB map[string]any) {
	common := func(list []any, other map[string]any) []string {
		var names []string
		for _, item := range list {
			if n := nameOf(item); other[n] != nil {
				names = append(names, n)
			}
		}
		return names
	}
	x, y := common(a, inB), common(b, inA)
	if !slices.Equal(x, y) {
		d.out = append(d.out, &adminv1.FieldDiff{Field: path + " (order)", Before: encode(x), After: encode(y)})
	}
}

// named maps a list's items by name, if all have one and none has it twice.
func named(list []any) (map[string]any, bool) {
	out := make(map[string]any, len(list))
	for _, item := range list {
		name := nameOf(item)
		if name == "" || out[name] != nil {
			return nil, false
		}
		out[name] = item
	}
	return out, true
}

func nameOf(item any) string {
	m, _ := item.(map[string]any)
	for _, k := range []string{"name", "address", "region"} {
		if s, ok := m[k].(string); ok {
			return s
		}
	}
	return ""
}

// encode writes a value as JSON; an absent one is empty.
func encode(v any) string {
	if v == nil {
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return ""
	}
	return string(bytes.TrimSpace(b.Bytes()))
}
