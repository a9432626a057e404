package graph_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/pkg/resource"
)

// raw is a spec as JSON text.
type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func write(kind, name, spec string, scope ...string) graph.Change {
	return graphtest.New(kind, name, raw(spec), scope...)
}

func remove(kind, name string) graph.Change {
	return graph.Change{Key: key(kind, name)}
}

func key(kind, name string) resource.Key {
	return resource.Key{Kind: kind, Namespace: "default", Name: name}
}

func endpoints(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"address":"10.0.0.%d:80"}`, i+1))
	}
	return `"endpoints":[` + strings.Join(out, ",") + `]`
}

func cluster(name string, failover ...string) graph.Change {
	spec := `{` + endpoints(2)
	if len(failover) > 0 {
		spec += `,"failover":{"clusters":["` + strings.Join(failover, `","`) + `"]}`
	}
	return write("Cluster", name, spec+`}`)
}

func route(name string, priority int, match, to string, scope ...string) graph.Change {
	if match != "" {
		match = `"match":` + match + `,`
	}
	return write("Route", name, fmt.Sprintf(`{"service":"checkout","priority":%d,"rules":[{"name":"r",%s"clusters":[{"name":"%s"}]}]}`, priority, match, to), scope...)
}

func rules(name string, matches ...string) graph.Change {
	var out []string
	for i, m := range matches {
		if m != "" {
			m = `"match":` + m + `,`
		}
		out = append(out, fmt.Sprintf(`{"name":"r%d",%s"clusters":[{"name":"a"}]}`, i, m))
	}
	return write("Route", name, `{"service":"checkout","rules":[`+strings.Join(out, ",")+`]}`)
}

func policy(name, when string) graph.Change {
	return write("Policy", name, fmt.Sprintf(`{"targets":[{"kind":"Cluster","name":"a"}],"authz":{"rules":[{"name":"r","effect":"allow","when":%q}]}}`, when))
}

func show(findings []resource.Finding) string {
	var lines []string
	for _, f := range findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

func TestFindingsNameCodeFieldAndRemedy(t *testing.T) {
	cases := []struct {
		name          string
		before, apply []graph.Change
		want          string // lines, each of which must be one finding; parts joined by " … "
	}{
		{"valid", nil, []graph.Change{cluster("a"), route("r", 0, "", "a")}, ``},
		{"dangling, nearest suggested", nil, []graph.Change{cluster("payments"), route("r", 0, "", "paymnts")},
			`error MK2401: Route/default/r spec.rules[0].clusters[0].name: Cluster/default/paymnts does not exist … did you mean payments?`},
		{"delete leaves danglers", []graph.Change{cluster("a"), route("r", 0, "", "a"), cluster("b", "a")}, []graph.Change{remove("Cluster", "a")},
			`error MK2402: Cluster/default/a: Cluster/default/a is removed but Cluster/default/b and Route/default/r still refer to it … in the same change`},
		{"delete with its referrer", []graph.Change{cluster("a"), route("r", 0, "", "a")}, []graph.Change{remove("Cluster", "a"), remove("Route", "r")}, ``},
		{"cycle", nil, []graph.Change{cluster("a", "b"), cluster("b", "c"), cluster("c", "a"), cluster("d", "a")},
			`error MK2404: Cluster/default/a spec.failover.clusters[0]: failover leads back to where it began: a → b → c → a`},
		{"cycle closed later", []graph.Change{cluster("a"), cluster("b", "a")}, []graph.Change{cluster("a", "b")},
			`error MK2404: Cluster/default/a spec.failover.clusters[0]: failover leads back to where it began: a → b → a`},
		{"out of scope", nil, []graph.Change{write("Cluster", "a", `{`+endpoints(1)+`}`, "region", "eu"), route("r", 0, "", "a")},
			`error MK2403: Route/default/r spec.rules[0].clusters[0].name: Cluster/default/a goes only to nodes with region=eu, but this resource goes to all nodes`},
		{"in scope", nil, []graph.Change{write("Cluster", "a", `{`+endpoints(1)+`}`, "region", "eu"), route("r", 0, "", "a", "region", "eu", "zone", "1")}, ``},
		{"target narrowed later", []graph.Change{cluster("a"), route("r", 0, "", "a")}, []graph.Change{write("Cluster", "a", `{`+endpoints(1)+`}`, "region", "eu")},
			`error MK2403: Route/default/r`},
		{"unreachable in one route", nil, []graph.Change{cluster("a"), rules("r", `{"tenants":["x","y"]}`, `{"tenants":["y"],"procedures":["A::b"]}`)},
			`error MK2406: Route/default/r spec.rules[1]: rule "r1" can never match: rule "r0" before it`},
		{"reachable in one route", nil, []graph.Change{cluster("a"), rules("r", `{"tenants":["x"]}`, `{"tenants":["x","y"]}`, "")}, ``},
		{"unreachable by prefix and header", nil, []graph.Change{cluster("a"), rules("r", `{"procedures":["A::*"],"headers":[{"name":"X-Beta","present":true}]}`, `{"procedures":["A::b","A::c*"],"headers":[{"name":"x-beta","exact":"1"}]}`)},
			`error MK2406: Route/default/r spec.rules[1]`},
		{"shadowed by priority", []graph.Change{cluster("a"), route("low", 0, `{"tenants":["x"]}`, "a")}, []graph.Change{route("high", 5, "", "a")},
			`warning MK2406: Route/default/high spec.rules[0]: rule "r" takes every request of rule "r" of Route/default/low, at priority 5 over 0`},
		{"higher priority elsewhere", []graph.Change{cluster("a"), route("low", 0, "", "a")}, []graph.Change{route("high", 5, "", "a", "region", "eu")}, ``},
		{"conflict", []graph.Change{cluster("a"), route("r1", 0, "", "a")}, []graph.Change{route("r2", 0, `{"tenants":["x"]}`, "a")},
			`error MK2407: Route/default/r2 spec.rules[0]: rule "r" and rule "r" of Route/default/r1 match the same requests of service "checkout" at priority 0`},
		{"conflict shown where the change is", []graph.Change{cluster("a"), route("r2", 0, "", "a")}, []graph.Change{route("r1", 0, "", "a")}, `error MK2407: Route/default/r1 spec.rules[0]`},
		{"exact beats prefix: no conflict", nil, []graph.Change{cluster("a"), route("r1", 0, `{"procedures":["A::b"]}`, "a"), route("r2", 0, `{"procedures":["A::*"]}`, "a"), route("r3", 0, "", "a")}, ``},
		{"apart by tenant", nil, []graph.Change{cluster("a"), route("r1", 0, `{"tenants":["x"]}`, "a"), route("r2", 0, `{"tenants":["y"]}`, "a")}, ``},
		{"apart by header", nil, []graph.Change{cluster("a"), route("r1", 0, `{"headers":[{"name":"v","exact":"1"}]}`, "a"), route("r2", 0, `{"headers":[{"name":"v","regex":"[2-9]"}]}`, "a")}, ``},
		{"apart by scope", nil, []graph.Change{cluster("a"), route("r1", 0, "", "a", "region", "eu"), route("r2", 0, "", "a", "region", "us")}, ``},
		{"perhaps in conflict", nil, []graph.Change{cluster("a"), route("r1", 0, `{"headers":[{"name":"v","regex":"a.*"}]}`, "a"), route("r2", 0, `{"headers":[{"name":"v","regex":".*b"}]}`, "a")},
			`warning MK2407: Route/default/r2 spec.rules[0]`},
		{"condition syntax", nil, []graph.Change{cluster("a"), policy("p", `request.service ==`)}, `error MK2301: Policy/default/p spec.authz.rules[0].when: condition of rule "r": line 1, column`},
		{"condition type", nil, []graph.Change{cluster("a"), policy("p", `request.tennant == "x"`)}, `error MK2302: Policy/default/p spec.authz.rules[0].when … did you mean request.tenant?`},
		{"condition cost", nil, []graph.Change{cluster("a"), policy("p", `request.headers.exists(a, request.headers.exists(b, request.headers[a].contains(request.headers[b])))`)}, `error MK2303: Policy/default/p spec.authz.rules[0].when`},
		{"policy without use", nil, []graph.Change{write("Policy", "p", `{"timeout":{"request":"1s"}}`)}, `warning MK2408: Policy/default/p spec: no route and no cluster uses the policy`},
		{"policy target missing", nil, []graph.Change{write("Policy", "p", `{"targets":[{"kind":"Route","name":"nope"}],"timeout":{"request":"1s"}}`)}, `error MK2401: Policy/default/p spec.targets[0].name: Route/default/nope does not exist`},
		{"too many", []graph.Change{cluster("a"), cluster("b")}, []graph.Change{write("DomainSettings", "domain", `{"limits":{"maxResources":2}}`)}, `error MK2409: DomainSettings/default/domain spec.limits.maxResources: the domain would hold 3 resources; 2 are allowed`},
		{"too large", []graph.Change{write("DomainSettings", "domain", `{"limits":{"maxBundleBytes":1024}}`)}, []graph.Change{write("Cluster", "a", `{`+endpoints(60)+`}`)}, `error MK2410: DomainSettings/default/domain spec.limits.maxBundleBytes`},
		{"guard off", nil, []graph.Change{write("DomainSettings", "domain", `{"limits":{"maxRemovalPercent":100}}`)}, `warning MK2411: DomainSettings/default/domain spec.limits.maxRemovalPercent`},
		{"unreadable", []graph.Change{cluster("a")}, []graph.Change{{Key: key("Cluster", "a"), Content: []byte(`{"kind":`)}}, `error MK2413: Cluster/default/a`},
		{"content of another key", nil, []graph.Change{{Key: key("Cluster", "b"), Content: cluster("a").Content}}, `error MK2413: Cluster/default/b: the content is that of "Cluster/default/a"`},
		{"twice in one change", nil, []graph.Change{cluster("a"), cluster("a", "b"), cluster("b")}, `error MK2019: Cluster/default/a`},
		{"the kind's own rules", nil, []graph.Change{cluster("a"), cluster("b"), write("Route", "r", `{"service":"s","rules":[{"name":"r","clusters":[{"name":"a","weight":50},{"name":"b","weight":30}]}]}`)}, `error MK2101: Route/default/r`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g, findings := graph.New().Update(c.before)
			if len(findings) > 0 {
				t.Fatalf("before: %s", show(findings))
			}
			_, findings = g.Update(c.apply)
			var want []string
			if c.want != "" {
				want = strings.Split(c.want, "\n")
			}
			if len(findings) != len(want) {
				t.Fatalf("got %d findings, want %d:\n%s", len(findings), len(want), show(findings))
			}
			for i, f := range findings {
				for _, part := range strings.Split(want[i], " … ") {
					if !strings.Contains(f.String(), part) {
						t.Errorf("finding %q lacks %q", f, part)
					}
				}
				if _, ok := fault.Lookup(f.Code); !ok || f.Remedy == "" {
					t.Errorf("finding %q has no registered code or no remedy", f)
				}
			}
		})
	}
}

func TestErrorsElsewhereAreStillReported(t *testing.T) {
	g, findings := graph.New().Update([]graph.Change{cluster("a"), route("r", 0, "", "nope")})
	if !resource.HasErrors(findings) {
		t.Fatal("dangling reference not found")
	}
	_, findings = g.Update([]graph.Change{cluster("b")})
	if len(findings) != 1 || findings[0].Key != key("Route", "r") {
		t.Fatalf("after an unrelated change: %s", show(findings))
	}
	g, findings = g.Update([]graph.Change{cluster("nope")})
	if len(findings) > 0 {
		t.Fatalf("after mending it: %s", show(findings))
	}
	if left := g.Findings(); len(left) > 0 {
		t.Fatalf("left over: %s", show(left))
	}
}

func TestAccessorsFollowTheResources(t *testing.T) {
	g, _ := graph.New().Update([]graph.Change{
		cluster("a"), cluster("b", "a"), route("r", 0, "", "a", "region", "eu"), write("Route", "s", `{"service":"other","rules":[{"name":"r","clusters":[{"name":"b"}],"mirror":{"cluster":"a"}}]}`, "region", "eu", "zone", "z"),
	})
	if d := g.Dependents(key("Cluster", "a")); !slices.Equal(d, []resource.Key{key("Cluster", "b"), key("Route", "r"), key("Route", "s")}) {
		t.Errorf("dependents: %v", d)
	}
	if k := g.ScopeKeys(); !slices.Equal(k, []string{"region", "zone"}) {
		t.Errorf("scope keys: %v", k)
	}
	if s := g.Services(); !slices.Equal(s, []string{"checkout", "other"}) {
		t.Errorf("services: %v", s)
	}
	if p := g.Parts(key("Route", "s")); len(p) != 1 || p[0].Field != "spec.rules[0].mirror" || p[0].Capability != "mirror/v1" {
		t.Errorf("parts: %v", p)
	}
	g, _ = g.Update([]graph.Change{remove("Route", "s"), remove("Route", "r")})
	if g.Count("Route") != 0 || g.Len() != 2 || len(g.ScopeKeys()) != 0 || len(g.Services()) != 0 {
		t.Errorf("after removal: %d routes of %d, scope %v, services %v", g.Count("Route"), g.Len(), g.ScopeKeys(), g.Services())
	}
}

func TestLargeRemovalsAreFoundAndSmallOnesAreFree(t *testing.T) {
	// many makes clusters of two endpoints.
	many := func(n int, scope ...string) []graph.Change {
		var out []graph.Change
		for i := range n {
			out = append(out, write("Cluster", fmt.Sprintf("c%03d", i), `{`+endpoints(2)+`}`, scope...))
		}
		return out
	}
	big := func(name string, n int, scope ...string) graph.Change {
		return write("Cluster", name, `{`+endpoints(n)+`}`, scope...)
	}
	const narrowed = "leave nodes because their scope was narrowed"
	cases := []struct {
		name          string
		before, apply []graph.Change
		want          string
	}{
		{"one of three", many(3), []graph.Change{remove("Cluster", "c000")}, ""},
		{"two of three", many(3), []graph.Change{remove("Cluster", "c000"), remove("Cluster", "c001")}, ""},
		{"all three", many(3), []graph.Change{remove("Cluster", "c000"), remove("Cluster", "c001"), remove("Cluster", "c002")}, "removes 3 of 3 Cluster resources (100 %), more than the 20 %"},
		{"20 of 100", many(100), removeAll(many(20)), ""},
		{"21 of 100", many(100), removeAll(many(21)), "removes 21 of 100 Cluster resources (21 %), more than the 20 % that one change may: "},
		{"endpoints", []graph.Change{write("Cluster", "a", `{`+endpoints(10)+`}`)}, []graph.Change{write("Cluster", "a", `{`+endpoints(7)+`}`)}, "removes 3 of 10 endpoints (30 %)"},
		{"the limit before the change counts", append(many(10), write("DomainSettings", "domain", `{"limits":{"maxRemovalPercent":10}}`)), append(removeAll(many(3)), write("DomainSettings", "domain", `{"limits":{"maxRemovalPercent":90}}`)), "more than the 10 %"},

		{"a scope that holds no node", many(40), many(40, "region", "nowhere"), "error MK2412: Cluster/default/c000 scope.nodeLabels: removes 40 of 40 Cluster resources (100 %), more than the 20 % that one change may: "},
		{"a scope for everyone narrowed", many(40), many(9, "region", "eu"), "; 9 of them " + narrowed},
		{"one label more", many(40, "region", "eu"), many(9, "region", "eu", "zone", "a"), narrowed},
		{"another value", many(40, "region", "eu"), many(9, "region", "us"), narrowed},
		{"another key", many(40, "region", "eu"), many(9, "zone", "a"), narrowed},
		{"narrowed and removed together", many(40), append(many(5, "region", "eu"), removeAll(many(9)[5:])...), "removes 9 of 40 Cluster resources (22 %), more than the 20 % that one change may: "},
		{"and each is told apart", many(40), append(many(5, "region", "eu"), removeAll(many(9)[5:])...), "; 5 of them " + narrowed},
		{"kinds together", append(many(10), policies(10)...), append(many(3, "region", "eu"), policies(3, "region", "eu")...), "removes 6 of 20 resources (30 %)"},
		{"a canary", many(40), many(8, "canary", "yes"), ""},
		{"a canary in a small mesh", many(3), many(2, "canary", "yes"), ""},
		{"no label", many(40, "region", "eu"), many(40), ""},
		{"one label less", many(40, "region", "eu", "zone", "a"), many(40, "region", "eu"), ""},
		{"the same scope with other content", many(3, "region", "eu"), []graph.Change{big("c000", 3, "region", "eu"), big("c001", 3, "region", "eu"), big("c002", 3, "region", "eu")}, ""},
		{"created with a scope", many(3), []graph.Change{big("x", 9, "region", "eu"), big("y", 9, "region", "eu"), big("z", 9, "region", "eu")}, ""},
		{"endpoints of narrowed clusters", append(many(20), big("big", 40)), append(many(2, "region", "eu"), big("big", 40, "region", "eu")), "error MK2412: Cluster/default/big scope.nodeLabels: removes 44 of 80 endpoints (55 %), more than the 20 % that one change may; 44 of them " + narrowed},
		{"endpoints of few narrowed clusters", append(many(20), big("big", 40)), []graph.Change{big("big", 40, "region", "eu")}, ""},
		{"endpoints that few narrowed clusters lose besides", append(many(20), big("big", 40)), []graph.Change{big("big", 20, "region", "eu")}, "error MK2412: removes 20 of 80 endpoints (25 %)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before, _ := graph.New().Update(c.before)
			after, _ := before.Update(c.apply)
			findings := graph.CheckRemoval(before, after)
			if c.want == "" && len(findings) > 0 || c.want != "" && !strings.Contains(show(findings), c.want) {
				t.Fatalf("findings: %s\nwant: %s", show(findings), c.want)
			}
		})
	}
}

func policies(n int, scope ...string) []graph.Change {
	var out []graph.Change
	for i := range n {
		out = append(out, write("Policy", fmt.Sprintf("p%03d", i), `{"timeout":{"request":"1s"}}`, scope...))
	}
	return out
}

func removeAll(changes []graph.Change) []graph.Change {
	out := slices.Clone(changes)
	for i := range out {
		out[i].Content = nil
	}
	return out
}

// drawChange makes changes that collide often: few names, every kind of finding.
func drawChange(t *rapid.T) graph.Change {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	n := name.Draw(t, "name")
	scope := rapid.SampledFrom([][]string{nil, nil, {"region", "eu"}, {"region", "us"}, {"region", "eu", "zone", "1"}}).Draw(t, "scope")
	match := rapid.SampledFrom([]string{"", `{"tenants":["x"]}`, `{"tenants":["x","y"]}`, `{"procedures":["A::b"]}`, `{"procedures":["A::*"]}`, `{"headers":[{"name":"v","regex":"a.*"}]}`, `{"headers":[{"name":"v","exact":"abc"}]}`})
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		return write("Cluster", n, `{`+endpoints(1)+`}`, scope...)
	case 1:
		return write("Cluster", n, fmt.Sprintf(`{%s,"policies":[%q]}`, endpoints(1), name.Draw(t, "policy")), scope...)
	case 2, 3:
		return write("Cluster", n, fmt.Sprintf(`{%s,"failover":{"clusters":[%q]}}`, endpoints(1), name.Draw(t, "failover")), scope...)
	case 4, 5:
		var list []string
		for i := range rapid.IntRange(1, 2).Draw(t, "rules") {
			m := match.Draw(t, "match")
			if m != "" {
				m = `"match":` + m + `,`
			}
			list = append(list, fmt.Sprintf(`{"name":"r%d",%s"clusters":[{"name":%q}]}`, i, m, name.Draw(t, "cluster")))
		}
		service := rapid.SampledFrom([]string{"s", "s", "t"}).Draw(t, "service")
		return write("Route", n, fmt.Sprintf(`{"service":%q,"priority":%d,"rules":[%s]}`, service, rapid.IntRange(0, 1).Draw(t, "priority"), strings.Join(list, ",")), scope...)
	case 6:
		when := rapid.SampledFrom([]string{"true", "request.service", `request.tenant == "x"`}).Draw(t, "when")
		return write("Policy", n, fmt.Sprintf(`{"targets":[{"kind":"Route","name":%q}],"authz":{"rules":[{"name":"r","effect":"allow","when":%q}]}}`, name.Draw(t, "target"), when), scope...)
	case 7:
		return write("Policy", n, `{"timeout":{"request":"1s"}}`, scope...)
	case 8:
		return write("DomainSettings", "domain", fmt.Sprintf(`{"limits":{"maxResources":%d}}`, rapid.IntRange(1, 12).Draw(t, "max")))
	default:
		kind := rapid.SampledFrom([]string{"Cluster", "Route", "Policy"}).Draw(t, "kind")
		c := remove(kind, n)
		if rapid.IntRange(0, 5).Draw(t, "broken") == 0 {
			c.Content = []byte("{")
		}
		return c
	}
}

func TestUpdateEqualsBuildingFromScratch(t *testing.T) {
	for range 4 { // some of what can go wrong takes a rare sequence
		rapid.Check(t, updateEqualsBuild)
	}
}

func updateEqualsBuild(t *rapid.T) {
	g := graph.New()
	content := map[resource.Key][]byte{}
	for range rapid.IntRange(1, 12).Draw(t, "updates") {
		changes := rapid.SliceOfNDistinct(rapid.Custom(drawChange), 1, 5, func(c graph.Change) resource.Key { return c.Key }).Draw(t, "changes")
		for _, c := range changes {
			if c.Content == nil {
				delete(content, c.Key)
			} else {
				content[c.Key] = c.Content
			}
		}
		var all []graph.Change
		for k, v := range content {
			all = append(all, graph.Change{Key: k, Content: v})
		}
		var told []resource.Finding
		g, told = g.Update(changes)
		fresh, findings := graph.New().Update(all)
		if diff := cmp.Diff(show(withoutRemedies(fresh.Findings())), show(withoutRemedies(g.Findings()))); diff != "" {
			t.Fatalf("findings of the whole graph (-fresh +updated):\n%s", diff)
		}
		if resource.HasErrors(told) != resource.HasErrors(findings) {
			t.Fatalf("update says %s\nfresh says %s", show(told), show(findings))
		}
		same(t, g, fresh)
	}
}

// withoutRemedies drops the suggestions, which name what existed when the finding
// was made.
func withoutRemedies(findings []resource.Finding) []resource.Finding {
	for i := range findings {
		findings[i].Remedy = ""
	}
	return findings
}

func same(t *rapid.T, g, fresh *graph.Graph) {
	if g.Trie().Root() != fresh.Trie().Root() || g.Len() != fresh.Len() || g.Trie().Bytes() != fresh.Trie().Bytes() {
		t.Fatalf("root %s with %d resources; fresh %s with %d", g.Trie().Root(), g.Len(), fresh.Trie().Root(), fresh.Len())
	}
	if diff := cmp.Diff(facts(fresh), facts(g)); diff != "" {
		t.Fatalf("-fresh +updated:\n%s", diff)
	}
}

// facts lists what the indexes of a graph say.
func facts(g *graph.Graph) []string {
	out := []string{fmt.Sprint("scopes ", g.ScopeKeys()), fmt.Sprint("settings ", g.Settings().Limits.MaxResources)}
	for o := range g.All() {
		out = append(out, fmt.Sprint(o.Key(), " used by ", g.Dependents(o.Key()), " parts ", len(g.Parts(o.Key()))))
	}
	for _, name := range g.Services() {
		s, _ := g.Service(name)
		for r := range s.Routes() {
			out = append(out, name+" "+r.Key().String())
		}
	}
	for _, kind := range []string{"Cluster", "Route", "Policy"} {
		out = append(out, fmt.Sprint(kind, " ", g.Count(kind)))
		for _, n := range []string{"a", "b", "c", "d"} {
			out = append(out, fmt.Sprint(n, " used by ", g.Dependents(key(kind, n))))
		}
	}
	return out
}

func BenchmarkBuild10000(b *testing.B) {
	changes := graphtest.Mesh(10_000, 1)
	b.ReportAllocs()
	for b.Loop() {
		graph.New().Update(changes)
	}
}

func BenchmarkUpdateOneOf10000(b *testing.B) { benchmarkUpdate(b, 10_000) }

func BenchmarkUpdateOneOf1000(b *testing.B) { benchmarkUpdate(b, 1000) }

func benchmarkUpdate(b *testing.B, n int) {
	changes := graphtest.Mesh(n, 1)
	g, _ := graph.New().Update(changes)
	var edits []graph.Change
	for revision := range 2 {
		for i := range 64 {
			edits = append(edits, graphtest.Edit(changes[(i*37)%n], revision))
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		g, _ = g.Update(edits[i%128 : i%128+1])
		i++
	}
}
