package view_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	kindroute "github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/view"
)

// raw is a spec as JSON text.
type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func write(kind, name, spec string, scope ...string) graph.Change {
	return graphtest.New(kind, name, raw(spec), scope...)
}

func key(kind, name string) resource.Key {
	return resource.Key{Kind: kind, Namespace: "default", Name: name}
}

const endpoint = `"endpoints":[{"address":"10.0.0.1:80"}]`

func mesh(t *testing.T, changes ...graph.Change) *graph.Graph {
	t.Helper()
	g, findings := graph.New().Update(changes)
	if resource.HasErrors(findings) {
		t.Fatalf("mesh is not valid: %v", findings)
	}
	return g
}

func without(capability ...string) []string {
	return slices.DeleteFunc(view.Known(), func(c string) bool { return slices.Contains(capability, c) })
}

// sent lists the keys of a view.
func sent(v *view.View) []string {
	var out []string
	for l := range v.Trie.All() {
		out = append(out, l.Key)
	}
	slices.Sort(out)
	return out
}

func content(t *testing.T, v *view.View, kind, name string) string {
	t.Helper()
	l, ok := v.Trie.Get(key(kind, name).String())
	if !ok {
		t.Fatalf("%s/%s is not in the view: %v", kind, name, sent(v))
	}
	return string(l.Content)
}

func reasons(v *view.View) string {
	var lines []string
	for _, d := range v.Downlevels() {
		lines = append(lines, fmt.Sprintf("%s withheld=%v %s: %s", d.Key, d.Withheld, d.Capability, d.Reason))
	}
	return strings.Join(lines, "\n")
}

func TestCapabilitiesComeFromTheKinds(t *testing.T) {
	want := []string{"authz-cel/v1", "core/v1", "failover/v1", "mirror/v1", "policy/v1", "ratelimit/v1"}
	if got := view.Known(); !slices.Equal(got, want) {
		t.Fatalf("known: %v", got)
	}
}

func TestClassesDependOnKnownCapabilitiesAndScopeLabelsOnly(t *testing.T) {
	g := mesh(t, write("Cluster", "a", `{`+endpoint+`}`, "region", "eu"))
	base := view.ClassOf(g, []string{"core/v1", "mirror/v1"}, map[string]string{"region": "eu", "rack": "7"})
	same := view.ClassOf(g, []string{"mirror/v1", "future/v9", "core/v1", "core/v1"}, map[string]string{"region": "eu", "rack": "8"})
	if base.ID() != same.ID() || len(base.ID()) != 32 {
		t.Errorf("ids %s and %s", base.ID(), same.ID())
	}
	for _, other := range []view.Class{
		view.ClassOf(g, []string{"core/v1"}, map[string]string{"region": "eu"}),
		view.ClassOf(g, []string{"core/v1", "mirror/v1"}, map[string]string{"region": "us"}),
		view.ClassOf(g, []string{"core/v1", "mirror/v1"}, nil),
	} {
		if other.ID() == base.ID() {
			t.Errorf("class %v has the id of %v", other, base)
		}
	}
	if (view.Class{}).ID() != (view.Class{Profile: []string{}, Labels: map[string]string{}}).ID() {
		t.Error("nil and empty give two ids")
	}
}

func TestPartsThatANodeCannotHonourAreLeftOut(t *testing.T) {
	g := mesh(t,
		write("Cluster", "a", `{`+endpoint+`,"failover":{"clusters":["b"]},"policies":["limits"]}`),
		write("Cluster", "b", `{`+endpoint+`}`),
		write("Policy", "limits", `{"rateLimit":{"requestsPerSecond":5}}`),
		write("Policy", "both", `{"rateLimit":{"requestsPerSecond":5},"retry":{"attempts":2}}`),
		write("Route", "r", `{"service":"s","rules":[{"name":"x","clusters":[{"name":"a"}],"mirror":{"cluster":"b"},"policies":["limits","both"]}],"policies":["limits"]}`),
	)
	v := view.Build(g, view.ClassOf(g, without("mirror/v1", "failover/v1", "ratelimit/v1"), nil))
	if got := content(t, v, "Route", "r"); strings.Contains(got, "mirror") || !strings.Contains(got, `"policies":["both"]`) || strings.Contains(got, "limits") {
		t.Errorf("route: %s", got)
	}
	if got := content(t, v, "Cluster", "a"); strings.Contains(got, "failover") || strings.Contains(got, "policies") {
		t.Errorf("cluster: %s", got)
	}
	if got := content(t, v, "Policy", "both"); strings.Contains(got, "rateLimit") || !strings.Contains(got, "retry") {
		t.Errorf("policy: %s", got)
	}
	if slices.Contains(sent(v), "Policy/default/limits") {
		t.Errorf("a policy without content is sent: %v", sent(v))
	}
	if !slices.Equal(v.Required, []string{"core/v1", "policy/v1"}) {
		t.Errorf("required: %v", v.Required)
	}
	for _, want := range []string{
		"Cluster/default/a withheld=false failover/v1: spec.failover is left out",
		"Policy/default/limits withheld=true ratelimit/v1:",
		"Policy/default/both withheld=false ratelimit/v1: spec.rateLimit is left out",
		"Route/default/r withheld=false mirror/v1: spec.rules[0].mirror is left out",
		"Route/default/r withheld=false ratelimit/v1: spec.rules[0].policies[0] is left out",
	} {
		if !strings.Contains(reasons(v), want) {
			t.Errorf("reasons lack %q:\n%s", want, reasons(v))
		}
	}
	full := view.Build(g, view.ClassOf(g, view.Known(), nil))
	if full.Trie.Root() != g.Trie().Root() || len(full.Downlevels()) != 0 {
		t.Errorf("a node that can do all gets %v with %s", sent(full), reasons(full))
	}
	if !slices.Equal(full.Required, []string{"core/v1", "failover/v1", "mirror/v1", "policy/v1", "ratelimit/v1"}) {
		t.Errorf("required of all: %v", full.Required)
	}
}

func TestAuthorizationFailsClosed(t *testing.T) {
	guard := `"authz":{"rules":[{"name":"r","effect":"allow","when":"request.tenant == 'x'"}]}`
	route := func(name, service, cluster, more string) graph.Change {
		return write("Route", name, fmt.Sprintf(`{"service":%q,"rules":[{"name":"x","clusters":[{"name":%q}]}]%s}`, service, cluster, more))
	}
	g := mesh(t,
		write("Policy", "listed", `{`+guard+`}`),
		write("Policy", "targets-route", `{`+guard+`,"targets":[{"kind":"Route","name":"targeted"}]}`),
		write("Policy", "targets-cluster", `{`+guard+`,"targets":[{"kind":"Cluster","name":"secret"}]}`),
		write("Policy", "mild", `{"timeout":{"request":"1s"},"targets":[{"kind":"Route","name":"targeted"},{"kind":"Route","name":"open"}]}`),
		write("Cluster", "plain", `{`+endpoint+`}`),
		write("Cluster", "secret", `{`+endpoint+`}`),
		write("Cluster", "backup", `{`+endpoint+`,"failover":{"clusters":["secret"]}}`),
		route("open", "s1", "plain", ""), route("lists", "s2", "plain", `,"policies":["listed"]`), route("targeted", "s3", "plain", ""),
		route("to-secret", "s4", "secret", ""), route("to-backup", "s5", "backup", ""),
	)
	v := view.Build(g, view.ClassOf(g, without("authz-cel/v1"), nil))
	if got, want := sent(v), []string{"Cluster/default/plain", "Policy/default/mild", "Route/default/open"}; !slices.Equal(got, want) {
		t.Fatalf("sent %v; want %v\n%s", got, want, reasons(v))
	}
	if got := content(t, v, "Policy", "mild"); !strings.Contains(got, `"targets":[{"kind":"Route","name":"open"}]`) {
		t.Errorf("policy still names a withheld route: %s", got)
	}
	for _, want := range []string{
		"Route/default/to-backup withheld=true authz-cel/v1: it refers to Cluster/default/backup, which is withheld",
		"Cluster/default/secret withheld=true authz-cel/v1: Policy/default/targets-cluster protects it",
		"Policy/default/listed withheld=true authz-cel/v1: the node does not support authz-cel/v1 and cannot enforce",
	} {
		if !strings.Contains(reasons(v), want) {
			t.Errorf("reasons lack %q:\n%s", want, reasons(v))
		}
	}
	// Without failover the way to the secret cluster is not there in the first place.
	v = view.Build(g, view.ClassOf(g, without("authz-cel/v1", "failover/v1"), nil))
	if !slices.Contains(sent(v), "Route/default/to-backup") {
		t.Errorf("sent %v\n%s", sent(v), reasons(v))
	}
}

func TestRequestsOfAWithheldRouteDoNotFallThrough(t *testing.T) {
	route := func(name, service string, priority int, more string) graph.Change {
		return write("Route", name, fmt.Sprintf(`{"service":%q,"priority":%d,"rules":[{"name":"x","match":{"tenants":[%q]},"clusters":[{"name":"a"}]}]%s}`, service, priority, name, more))
	}
	g := mesh(t,
		write("Policy", "guard", `{"authz":{"rules":[{"name":"r","effect":"allow","when":"true"}]}}`), write("Cluster", "a", `{`+endpoint+`}`),
		route("before", "s", 2, ""), route("guarded", "s", 1, `,"policies":["guard"]`), route("beside", "s", 1, ""), route("after", "s", 0, ""), route("elsewhere", "t", 0, ""),
	)
	v := view.Build(g, view.ClassOf(g, without("authz-cel/v1"), nil))
	if got, want := sent(v), []string{"Cluster/default/a", "Route/default/before", "Route/default/elsewhere"}; !slices.Equal(got, want) {
		t.Fatalf("sent %v; want %v\n%s", got, want, reasons(v))
	}
	if want := "Route/default/after withheld=true authz-cel/v1: it would take requests of Route/default/guarded"; !strings.Contains(reasons(v), want) {
		t.Errorf("reasons lack %q:\n%s", want, reasons(v))
	}
}

// The policy does not change, and still has to lose the route among its targets.
func TestARouteThatComesToAWithheldOnesServiceIsCutFromTargets(t *testing.T) {
	route := func(name, service, more string) graph.Change {
		return write("Route", name, fmt.Sprintf(`{"service":%q,"rules":[{"name":"x","clusters":[{"name":"a"}]}]%s}`, service, more))
	}
	g := mesh(t,
		write("Policy", "guard", `{"authz":{"rules":[{"name":"r","effect":"allow","when":"true"}]}}`), write("Cluster", "a", `{`+endpoint+`}`),
		write("Policy", "mild", `{"timeout":{"request":"1s"},"targets":[{"kind":"Cluster","name":"a"},{"kind":"Route","name":"moves"}]}`),
		route("guarded", "s", `,"policies":["guard"]`), route("moves", "t", ""),
	)
	c := view.ClassOf(g, without("authz-cel/v1"), nil)
	next, findings := g.Update([]graph.Change{route("moves", "s", `,"priority":-1`)})
	if resource.HasErrors(findings) {
		t.Fatal(findings)
	}
	v := view.Build(g, c).Update(next, nil)
	if got := content(t, v, "Policy", "mild"); strings.Contains(got, "moves") {
		t.Errorf("the policy names a withheld route: %s", got)
	}
	if diff := cmp.Diff(facts(view.Build(next, c)), facts(v)); diff != "" {
		t.Errorf("-built +updated:\n%s", diff)
	}
}

func TestScopeLimitsAViewToItsNodes(t *testing.T) {
	g := mesh(t, write("Cluster", "all", `{`+endpoint+`}`), write("Cluster", "eu", `{`+endpoint+`}`, "region", "eu"), write("Cluster", "us", `{`+endpoint+`}`, "region", "us"))
	for labels, want := range map[string][]string{
		"eu": {"Cluster/default/all", "Cluster/default/eu"}, "us": {"Cluster/default/all", "Cluster/default/us"}, "": {"Cluster/default/all"},
	} {
		m := map[string]string{"region": labels}
		if labels == "" {
			m = nil
		}
		if got := sent(view.Build(g, view.ClassOf(g, view.Known(), m))); !slices.Equal(got, want) {
			t.Errorf("region %q gets %v", labels, got)
		}
	}
}

func TestNodesWithoutCoreGetNothing(t *testing.T) {
	g := graphtest.Build(20, 1)
	v := view.Build(g, view.ClassOf(g, []string{"mirror/v1"}, nil))
	if v.Trie.Len() != 0 || len(v.Required) != 0 || len(v.Downlevels()) != 20 {
		t.Fatalf("sent %v, required %v, %d downlevels", sent(v), v.Required, len(v.Downlevels()))
	}
}

func TestTouchedIsExactAcrossClassChanges(t *testing.T) {
	nodes := slices.Values([]view.Node{
		{Name: "eu2", Capabilities: view.Known(), Labels: map[string]string{"region": "eu", "zone": "2"}},
		{Name: "eu1", Capabilities: view.Known(), Labels: map[string]string{"region": "eu", "zone": "1"}},
		{Name: "us1", Capabilities: view.Known(), Labels: map[string]string{"region": "us", "zone": "1"}},
		{Name: "old", Capabilities: []string{"core/v1"}, Labels: map[string]string{"region": "eu", "zone": "1"}},
	})
	base := mesh(t, write("Cluster", "a", `{`+endpoint+`}`), write("Cluster", "b", `{`+endpoint+`}`))
	cases := []struct {
		name   string
		change graph.Change
		want   []string
	}{
		{"for all", write("Cluster", "c", `{`+endpoint+`}`), []string{"eu1", "eu2", "old", "us1"}},
		{"new scope key", write("Cluster", "c", `{`+endpoint+`}`, "zone", "1"), []string{"eu1", "old", "us1"}},
		{"existing resource narrowed", write("Cluster", "a", `{`+endpoint+`}`, "region", "us"), []string{"eu1", "eu2", "old", "us1"}},
		{"only what one profile can do", write("Cluster", "a", `{`+endpoint+`,"failover":{"clusters":["b"]}}`), []string{"eu1", "eu2", "us1"}},
		{"no one", write("Cluster", "c", `{`+endpoint+`}`, "zone", "9"), nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			after, findings := base.Update([]graph.Change{c.change})
			if resource.HasErrors(findings) {
				t.Fatal(findings)
			}
			r := view.NewRoster(view.ScopeKeys(base, after), nodes)
			if n, got := r.Touched(base, after, 9); n != len(c.want) || !slices.Equal(got, c.want) {
				t.Fatalf("touched %d: %v; want %v", n, got, c.want)
			}
			if n, got := r.Touched(base, after, 1); n != len(c.want) || !slices.Equal(got, c.want[:min(len(c.want), 1)]) {
				t.Fatalf("touched %d: %v; want the first of %v", n, got, c.want)
			}
		})
	}
	r := view.NewRoster(view.ScopeKeys(base), nodes)
	if n, got := r.Touched(base, base, 9); n != 0 || got != nil || r.Len() != 4 {
		t.Fatalf("nothing changed but touched %d of %d: %v", n, r.Len(), got)
	}
	finer := view.NewRoster([]string{"zone"}, nodes)
	if !r.Fits(nil) || r.Fits([]string{"zone"}) || !finer.Fits([]string{"zone"}) || finer.Fits(nil) {
		t.Fatal("a roster is kept for scopes that use other labels")
	}
}

func drawChange(t *rapid.T) graph.Change {
	names := rapid.SampledFrom([]string{"a", "b", "c"})
	name := names.Draw(t, "name")
	scope := rapid.SampledFrom([][]string{nil, nil, nil, {"region", "eu"}, {"zone", "1"}}).Draw(t, "scope")
	optional := func(part string) string {
		if rapid.Bool().Draw(t, "with "+part[:6]) {
			return "," + part
		}
		return ""
	}
	switch rapid.IntRange(0, 6).Draw(t, "what") {
	case 0, 1:
		return write("Cluster", name, `{`+endpoint+optional(fmt.Sprintf(`"failover":{"clusters":[%q]}`, names.Draw(t, "failover")))+optional(fmt.Sprintf(`"policies":[%q]`, names.Draw(t, "policy")))+`}`, scope...)
	case 2, 3:
		rule := fmt.Sprintf(`{"name":"x","clusters":[{"name":%q}]`, names.Draw(t, "cluster")) + optional(fmt.Sprintf(`"mirror":{"cluster":%q}`, names.Draw(t, "mirror"))) + optional(fmt.Sprintf(`"policies":[%q,"d"]`, names.Draw(t, "policy"))) + `}`
		service, priority := rapid.SampledFrom([]string{"s", "s", "t"}).Draw(t, "service"), rapid.IntRange(-1, 1).Draw(t, "priority")
		return write("Route", name, fmt.Sprintf(`{"service":%q,"priority":%d,"rules":[%s]`, service, priority, rule)+optional(fmt.Sprintf(`"policies":[%q]`, names.Draw(t, "policy")))+`}`, scope...)
	case 4, 5:
		var parts []string
		for _, p := range []string{`"retry":{"attempts":1}`, `"rateLimit":{"requestsPerSecond":1}`, fmt.Sprintf(`"shadow":{"cluster":%q}`, names.Draw(t, "shadow")),
			`"authz":{"rules":[{"name":"r","effect":"allow","when":"true"}]}`, fmt.Sprintf(`"targets":[{"kind":"Route","name":%q},{"kind":"Cluster","name":%q}]`, names.Draw(t, "target"), names.Draw(t, "target cluster"))} {
			if rapid.IntRange(0, 2).Draw(t, "part") == 0 {
				parts = append(parts, p)
			}
		}
		if len(parts) == 0 {
			parts = []string{`"timeout":{"request":"1s"}`}
		}
		return write("Policy", rapid.SampledFrom([]string{name, "d"}).Draw(t, "policy name"), `{`+strings.Join(parts, ",")+`}`, scope...)
	default:
		return graph.Change{Key: key(rapid.SampledFrom([]string{"Cluster", "Route", "Policy"}).Draw(t, "kind"), name)}
	}
}

func TestUpdateEqualsBuildAndViewsAreValidAndClosed(t *testing.T) {
	for range 8 { // some of what can go wrong takes a rare sequence
		rapid.Check(t, updateEqualsBuild)
	}
}

func updateEqualsBuild(t *rapid.T) {
	profile := rapid.SliceOfDistinct(rapid.SampledFrom(without(view.Core)), rapid.ID[string]).Draw(t, "profile")
	class := view.ClassOf(graph.New(), append(profile, view.Core), nil)
	class.Labels = rapid.SampledFrom([]map[string]string{{}, {"region": "eu"}, {"zone": "1"}, {"region": "eu", "zone": "1"}}).Draw(t, "labels")
	g := graph.New()
	v := view.Build(g, class)
	for range rapid.IntRange(1, 10).Draw(t, "updates") {
		changes := rapid.SliceOfN(rapid.Custom(drawChange), 1, 4).Draw(t, "changes")
		next, _ := g.Update(changes)
		findings := next.Findings()
		g = next // also of meshes that are not valid: nothing may depend on it
		v = v.Update(g, nil)
		fresh := view.Build(g, class)
		if diff := cmp.Diff(facts(fresh), facts(v)); diff != "" {
			t.Fatalf("-built +updated:\n%s", diff)
		}
		failsClosed(t, g, v)
		noFallThrough(t, g, v)
		if !resource.HasErrors(findings) {
			valid(t, v)
		}
	}
}

func facts(v *view.View) []string {
	out := append(strings.Split(reasons(v), "\n"), fmt.Sprint(v.Required), v.Trie.Root().String())
	for l := range v.Trie.All() {
		out = append(out, string(l.Content))
	}
	return out
}

// failsClosed checks, by a plain search of its own, that nothing in the view leads
// to something that an authorization policy protects which the view lacks.
func failsClosed(t *rapid.T, g *graph.Graph, v *view.View) {
	if slices.Contains(v.Class.Profile, "authz-cel/v1") {
		return
	}
	for o := range g.OfKind("Policy") {
		if !graph.InScope(o.Resource, v.Class.Labels) || !strings.Contains(string(o.Resource.Spec), `"authz"`) {
			continue
		}
		if _, ok := v.Trie.Get(o.Key().String()); ok {
			t.Fatalf("%s is sent to a node that cannot enforce it", o.Key())
		}
		var guarded []resource.Key
		for _, r := range o.Refs() {
			if strings.HasPrefix(r.Field, "spec.targets") {
				guarded = append(guarded, r.Target)
			}
		}
		guarded = append(guarded, g.Dependents(o.Key())...)
		for _, k := range guarded {
			if _, ok := v.Trie.Get(k.String()); ok {
				t.Fatalf("%s is sent, but the policy %s that protects it is not", k, o.Key())
			}
		}
	}
}

// noFallThrough checks that no route in the view takes requests of one that is
// withheld.
func noFallThrough(t *rapid.T, g *graph.Graph, v *view.View) {
	for o := range g.OfKind("Route") {
		if _, ok := v.Trie.Get(o.Key().String()); ok || !graph.InScope(o.Resource, v.Class.Labels) {
			continue
		}
		withheld := o.Spec.(*kindroute.Spec)
		for other := range g.OfKind("Route") {
			spec := other.Spec.(*kindroute.Spec)
			if _, ok := v.Trie.Get(other.Key().String()); ok && spec.Service == withheld.Service && spec.Priority <= withheld.Priority {
				t.Fatalf("%s is withheld, but %s takes its requests", o.Key(), other.Key())
			}
		}
	}
}

// valid checks that the view is a mesh without errors, using only what its class
// can do.
func valid(t *rapid.T, v *view.View) {
	var changes []graph.Change
	for l := range v.Trie.All() {
		k, err := resource.ParseKey(l.Key)
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, graph.Change{Key: k, Content: l.Content})
	}
	g, findings := graph.New().Update(changes)
	if resource.HasErrors(findings) {
		t.Fatalf("the view is not a valid mesh: %v", findings)
	}
	needs := map[string]bool{}
	for o := range g.All() {
		needs[view.Core] = true
		for _, p := range g.Parts(o.Key()) {
			needs[p.Capability] = true
		}
	}
	if want := slices.Sorted(maps.Keys(needs)); !slices.Equal(want, v.Required) && len(want)+len(v.Required) > 0 {
		t.Fatalf("required %v; the content needs %v", v.Required, want)
	}
	for c := range needs {
		if !slices.Contains(v.Class.Profile, c) {
			t.Fatalf("content needs %s, which %v lacks", c, v.Class.Profile)
		}
	}
}

func BenchmarkBuild10000(b *testing.B) {
	g := graphtest.Build(10_000, 1)
	for name, profile := range map[string][]string{"all": view.Known(), "tailored": without("mirror/v1", "authz-cel/v1")} {
		b.Run(name, func(b *testing.B) {
			c := view.ClassOf(g, profile, nil)
			for b.Loop() {
				view.Build(g, c)
			}
		})
	}
}

func BenchmarkUpdateOneOf10000(b *testing.B) {
	changes := graphtest.Mesh(10_000, 1)
	graphs := []*graph.Graph{graphtest.Build(10_000, 1)}
	for i := range 100 {
		g, _ := graphs[0].Update([]graph.Change{graphtest.Edit(changes[i*97], 1)})
		graphs = append(graphs, g)
	}
	for name, profile := range map[string][]string{"all": view.Known(), "tailored": without("mirror/v1", "authz-cel/v1")} {
		b.Run(name, func(b *testing.B) {
			base := view.Build(graphs[0], view.ClassOf(graphs[0], profile, nil))
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				base.Update(graphs[1+i%100], nil)
				i++
			}
		})
	}
}
