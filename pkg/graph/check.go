package graph

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph/pmap"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
)

// checkOwn looks again at one resource's references and use.
func (u *updater) checkOwn(key resource.Key) {
	e, ok := u.next.objects.Get(key)
	if !ok {
		if u.changed[key] {
			u.problem(key).own = u.broken[key]
		}
		return
	}
	own := slices.Clone(e.local)
	for _, ref := range e.refs {
		target, ok := u.next.objects.Get(ref.Target)
		switch {
		case !ok && ref.Optional:
		case !ok:
			own = append(own, u.dangling(key, ref))
		case !within(scopeOf(target), scopeOf(e)):
			own = append(own, outOfScope(key, ref, scopeOf(e), scopeOf(target)))
		}
	}
	switch spec := e.object.Spec.(type) {
	case *policy.Spec:
		if set, _ := u.next.referrers.Get(key); set.Len() == 0 && len(spec.Targets) == 0 {
			own = append(own, resource.Warningf(fault.CodePolicyTarget, key, "spec", "name it in spec.policies of a Route or Cluster, or add spec.targets", "no route and no cluster uses the policy, so it has no effect"))
		}
	case *domainsettings.Spec:
		own = append(own, checkSettings(key, spec)...)
	}
	if had, ok := u.next.problems.Get(key); len(own) > 0 || ok && len(had.own) > 0 || u.edits[key] != nil {
		u.problem(key).own = own
	}
}

func checkSettings(key resource.Key, spec *domainsettings.Spec) []resource.Finding {
	settings := spec.Effective()
	if *settings.Limits.MaxRemovalPercent >= 100 {
		return []resource.Finding{resource.Warningf(fault.CodeSettingsRange, key, "spec.limits.maxRemovalPercent", "set it to 50 or less, and use --allow-large-change for the rare change that means it",
			"at 100 percent one change can remove the whole mesh without being asked about it")}
	}
	return nil
}

func (u *updater) dangling(key resource.Key, ref resource.Ref) resource.Finding {
	remedy := "create " + ref.Target.String() + " in the same change, or correct the name"
	if near, ok := u.nearest(ref.Target); ok {
		remedy = "did you mean " + near + "? Otherwise create " + ref.Target.String() + " in the same change"
	}
	return resource.Errorf(fault.CodeRefDangling, key, ref.Field, remedy, "%s does not exist", ref.Target)
}

// nearest finds the existing name most like the missing one, within its namespace
// before others.
func (u *updater) nearest(missing resource.Key) (string, bool) {
	if u.suggestions == 0 {
		return "", false
	}
	u.suggestions--
	var same, elsewhere []string
	for o := range ofKind(u.next, missing.Kind) {
		m := o.Resource.Metadata
		if m.Namespace == missing.Namespace {
			same = append(same, m.Name)
		} else {
			elsewhere = append(elsewhere, m.Namespace+"/"+m.Name)
		}
		if len(same)+len(elsewhere) == 5000 {
			break
		}
	}
	if near, ok := resource.FindField(missing.Name, same); ok {
		return near, true
	}
	return resource.FindField(missing.Namespace+"/"+missing.Name, elsewhere)
}

func outOfScope(key resource.Key, ref resource.Ref, from, to map[string]string) resource.Finding {
	return resource.Errorf(fault.CodeRefScope, key, ref.Field, "add the labels "+labels(to)+" to this resource's scope, or take those it lacks from that of "+ref.Target.String(),
		"%s goes only to nodes with %s, but this resource goes to %s", ref.Target, labels(to), nodesWith(from))
}

// within says whether every node in scope inner is in scope outer.
func within(outer, inner map[string]string) bool {
	for k, v := range outer {
		if have, ok := inner[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// compatible says whether some node can be in both scopes.
func compatible(a, b map[string]string) bool {
	for k, v := range a {
		if other, ok := b[k]; ok && other != v {
			return false
		}
	}
	return true
}

func nodesWith(scope map[string]string) string {
	if len(scope) == 0 {
		return "all nodes"
	}
	return "nodes with " + labels(scope)
}

func labels(m map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ",")
}

// checkSize holds the whole graph against the limits of its settings.
func checkSize(g *Graph) []resource.Finding {
	limits := g.Settings().Limits
	var out []resource.Finding
	if n := g.Len(); n > limits.MaxResources {
		out = append(out, resource.Errorf(fault.CodeMeshCount, settingsKey, "spec.limits.maxResources", "remove resources, or raise the limit",
			"the domain would hold %d resources; %d are allowed", n, limits.MaxResources))
	}
	if n := g.trie.Bytes(); n > limits.MaxBundleBytes {
		out = append(out, resource.Errorf(fault.CodeMeshBytes, settingsKey, "spec.limits.maxBundleBytes", "remove or shorten resources, or raise the limit",
			"the contents of all resources would be %d bytes; %d are allowed", n, limits.MaxBundleBytes))
	}
	return out
}

func newKeySet() keySet { return pmap.New[resource.Key, struct{}](resource.CompareKeys) }

func newKeyedEntries() keyedEntries { return pmap.New[resource.Key, *entry](resource.CompareKeys) }

func adjust(m pmap.Map[string, int], key string, by int) pmap.Map[string, int] {
	n, _ := m.Get(key)
	if n += by; n == 0 {
		return m.Delete(key)
	}
	return m.Set(key, n)
}

func targets(e *entry) map[resource.Key]bool {
	if e == nil || len(e.refs) == 0 {
		return nil
	}
	out := make(map[resource.Key]bool, len(e.refs))
	for _, r := range e.refs {
		out[r.Target] = true
	}
	return out
}

func refTarget(e *entry, field string) resource.Key {
	if e != nil {
		for _, r := range e.refs {
			if r.Field == field {
				return r.Target
			}
		}
	}
	return resource.Key{}
}

func serviceOf(old, e *entry) (string, bool) {
	for _, x := range []*entry{e, old} {
		if x != nil {
			spec, ok := x.object.Spec.(*route.Spec)
			if ok {
				return spec.Service, true
			}
		}
	}
	return "", false
}

func failoverOf(e *entry) []resource.Key {
	if e == nil {
		return nil
	}
	var out []resource.Key
	for _, r := range e.refs {
		if r.Target.Kind == cluster.Kind {
			out = append(out, r.Target)
		}
	}
	return out
}

func countEndpoints(e *entry) int {
	if e == nil {
		return 0
	}
	if spec, ok := e.object.Spec.(*cluster.Spec); ok {
		return len(spec.Endpoints)
	}
	return 0
}

func listKeys(keys []resource.Key, most int) string {
	names := make([]string, 0, most+1)
	for i, k := range keys {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(keys)-most))
			break
		}
		names = append(names, k.String())
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
