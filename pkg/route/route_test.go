package route_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	kindroute "github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/route"
)

// raw is a spec as JSON text.
type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func write(kind, name, spec string, scope ...string) graph.Change {
	return graphtest.New(kind, name, raw(spec), scope...)
}

const endpoint = `"endpoints":[{"address":"10.0.0.1:80"}]`

func cluster(name, more string) graph.Change {
	return write("Cluster", name, `{`+endpoint+more+`}`)
}

// mesh compiles changes that must be valid, with clusters a, b and c.
func mesh(t testing.TB, changes ...graph.Change) *route.Table {
	t.Helper()
	for _, name := range []string{"a", "b", "c"} {
		if !slices.ContainsFunc(changes, func(c graph.Change) bool { return c.Key.Kind == "Cluster" && c.Key.Name == name }) {
			changes = append(changes, cluster(name, ""))
		}
	}
	g, findings := graph.New().Update(changes)
	if resource.HasErrors(findings) {
		t.Fatalf("mesh is not valid: %v", findings)
	}
	return route.Compile(g)
}

func steps(d route.Decision) string {
	var lines []string
	for _, s := range d.Steps {
		lines = append(lines, fmt.Sprintf("%s %s %s: %s", s.Outcome, s.Resource, s.Field, s.Why))
	}
	return strings.Join(lines, "\n")
}

func TestTheBestRuleTakesTheRequest(t *testing.T) {
	rule := func(name, match, to string) string {
		if match != "" {
			match = `"match":` + match + `,`
		}
		return fmt.Sprintf(`{"name":%q,%s"clusters":[{"name":%q}]}`, name, match, to)
	}
	r := func(name string, priority int, rules ...string) graph.Change {
		return write("Route", name, fmt.Sprintf(`{"service":"s","priority":%d,"rules":[%s]}`, priority, strings.Join(rules, ",")))
	}
	table := mesh(t,
		r("high", 5, rule("beta", `{"headers":[{"name":"X-Beta","exact":"1"},{"name":"x-no","present":true,"invert":true}]}`, "a"), rule("tenant", `{"tenants":["acme"],"shards":["s1"]}`, "b")),
		r("exact", 0, rule("pay", `{"procedures":["Pay::now"]}`, "a")),
		r("longer", 0, rule("pay", `{"procedures":["Pay::*"]}`, "b")),
		r("shorter", 0, rule("p", `{"procedures":["P*"],"headers":[{"name":"v","regex":"[0-9]+"}]}`, "c")),
		r("any", 0, rule("key", `{"routingKeys":["k1"]}`, "a"), rule("rest", "", "c")),
	)
	cases := []struct {
		name string
		req  route.Request
		want string
		why  string // a step that the explanation holds
	}{
		{"header without regard to case", route.Request{Headers: map[string]string{"x-BETA": "1"}}, "high/beta", "not reached Route/default/any spec.priority: Route/default/high has matched at priority 5, above 0"},
		{"inverted header", route.Request{Headers: map[string]string{"X-Beta": "1", "X-No": ""}}, "any/rest", `passed over Route/default/high spec.rules[0].match.headers[1]: header x-no is ""; the rule wants it not present`},
		{"all conditions", route.Request{Tenant: "acme", ShardKey: "s1"}, "high/tenant", `matched Route/default/high spec.rules[1]: rule "tenant" takes the request`},
		{"one condition fails", route.Request{Tenant: "acme", ShardKey: "s2"}, "any/rest", `passed over Route/default/high spec.rules[1].match.shards: shard key "s2" is not "s1"`},
		{"exact before prefix", route.Request{Procedure: "Pay::now"}, "exact/pay", "passed over Route/default/longer spec.rules[0]: Route/default/exact matches at least as exactly"},
		{"longer prefix first", route.Request{Procedure: "Pay::later", Headers: map[string]string{"v": "12"}}, "longer/pay", "passed over Route/default/shorter spec.rules[0]: Route/default/longer matches at least"},
		{"shorter prefix", route.Request{Procedure: "Put", Headers: map[string]string{"v": "12"}}, "shorter/p", "passed over Route/default/any spec.rules[1]: Route/default/shorter matches the procedure more exactly"},
		{"regex takes the whole value", route.Request{Procedure: "Put", Headers: map[string]string{"v": "12x"}}, "any/rest", `header v is "12x"; the rule wants it to match "[0-9]+"`},
		{"first rule first", route.Request{RoutingKey: "k1"}, "any/key", "matched Route/default/any spec.rules[0]"},
		{"nothing set", route.Request{}, "any/rest", "the request has no tenant; the rule wants"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.req.Service = "s"
			d := table.Decide(c.req)
			if got := strings.TrimPrefix(d.Route, "Route/default/") + "/" + d.Rule; got != c.want || d.Outcome != route.Routed {
				t.Errorf("%s (%s); want %s\n%s", got, d.Outcome, c.want, steps(d))
			}
			if !strings.Contains(steps(d), c.why) {
				t.Errorf("steps lack %q:\n%s", c.why, steps(d))
			}
		})
	}
	if d := table.Decide(route.Request{Service: "none"}); d.Outcome != route.NoRoute || !strings.Contains(steps(d), `no route is for service "none"`) {
		t.Errorf("unknown service: %+v", d)
	}
}

func TestScopeIsHeldAgainstNodeLabels(t *testing.T) {
	table := mesh(t,
		write("Route", "eu", `{"service":"s","rules":[{"name":"r","clusters":[{"name":"a"}]}]}`, "region", "eu"),
		write("Route", "us", `{"service":"s","rules":[{"name":"r","clusters":[{"name":"b"}]}]}`, "region", "us"),
		write("Policy", "eu-only", `{"targets":[{"kind":"Cluster","name":"b"}],"timeout":{"request":"7s"}}`, "region", "eu"),
	)
	for region, want := range map[string]string{"eu": "Cluster/default/a", "us": "Cluster/default/b", "xx": ""} {
		d := table.Decide(route.Request{Service: "s", NodeLabels: map[string]string{"region": region}})
		if d.Cluster != want || d.Timeout.Value == resource.Duration(7*time.Second) {
			t.Errorf("%s goes to %q with %v\n%s", region, d.Cluster, d.Timeout, steps(d))
		}
	}
}

func TestWeightsShareRequestsAndKeysStay(t *testing.T) {
	spec := func(a, b, c int) graph.Change {
		return write("Route", "r", fmt.Sprintf(`{"service":"s","rules":[{"name":"r","clusters":[{"name":"a","weight":%d},{"name":"b","weight":%d},{"name":"c","weight":%d}]}]}`, a, b, c))
	}
	table, moved := mesh(t, spec(70, 30, 0)), mesh(t, spec(60, 40, 0))
	const n = 20_000
	draws, keys := map[string]int{}, map[string]int{}
	for i := range n {
		draws[table.Pick(route.Request{Service: "s", Draw: float64(i) / n}).Cluster]++
		key := fmt.Sprint("user-", i)
		first := table.Pick(route.Request{Service: "s", RoutingKey: key, Draw: 0.1})
		keys[first.Cluster]++
		if again := table.Pick(route.Request{Service: "s", RoutingKey: key, Draw: 0.9}); again.Cluster != first.Cluster {
			t.Fatalf("key %s went to %s and %s", key, first.Cluster, again.Cluster)
		}
		after := moved.Pick(route.Request{Service: "s", RoutingKey: key}).Cluster
		if after != first.Cluster && after != "Cluster/default/b" {
			t.Fatalf("key %s moved from %s to %s, whose share did not grow", key, first.Cluster, after)
		}
	}
	if draws["Cluster/default/a"] != 14_000 || draws["Cluster/default/c"] != 0 {
		t.Errorf("draws: %v", draws)
	}
	if got := keys["Cluster/default/a"]; got < 13_600 || got > 14_400 {
		t.Errorf("keys: %v", keys)
	}
	for _, draw := range []float64{-1, 1, 2} {
		if d := table.Pick(route.Request{Service: "s", Draw: draw}); d.Outcome != route.Routed || d.Weight == 0 {
			t.Errorf("draw %g: %+v", draw, d)
		}
	}
	if d := table.Pick(route.Request{Service: "s", ShardKey: "x", RoutingKey: "y"}); d.ChosenBy != "shardKey" {
		t.Errorf("chosen by %s", d.ChosenBy)
	}
}

// The hash is part of what data planes in other languages must reproduce.
func TestConsistentHashIsTheDocumentedOne(t *testing.T) {
	table := mesh(t, write("Route", "r", `{"service":"s","rules":[{"name":"r","clusters":[{"name":"a","weight":50},{"name":"b","weight":50}]}]}`))
	var got []string
	for i := range 12 {
		got = append(got, strings.TrimPrefix(table.Pick(route.Request{Service: "s", ShardKey: fmt.Sprint("k", i)}).Cluster, "Cluster/default/"))
	}
	if strings.Join(got, "") != golden {
		t.Fatalf("keys k0 to k11 go to %s; want %s", strings.Join(got, ""), golden)
	}
}

// golden was computed by an implementation in another language from the comments.
const golden = "babbbabababa"

func TestEndpointsComeInTiers(t *testing.T) {
	places := `"endpoints":[{"address":"e1:1","locality":{"region":"eu","zone":"a"}},{"address":"e2:1","locality":{"region":"eu","zone":"b"}},{"address":"u1:1","locality":{"region":"us"}},{"address":"x1:1"},{"address":"off:1","weight":0}]`
	r := write("Route", "r", `{"service":"s","rules":[{"name":"r","clusters":[{"name":"a"}]}]}`)
	show := func(tiers []route.Tier) string {
		var out []string
		for _, tier := range tiers {
			var names []string
			for _, e := range tier.Endpoints {
				names = append(names, strings.TrimSuffix(e.Address, ":1"))
			}
			out = append(out, strings.Join(names, ","))
		}
		return strings.Join(out, " > ")
	}
	cases := []struct{ name, more, locality, want string }{
		{"one tier", "", "eu/a", "e1,e2,u1,x1"},
		{"priorities", `,"failover":{"priorities":[{"regions":["us"]},{"zones":["b"]}]}`, "eu/a", "u1 > e2 > e1,x1"},
		{"near first", `,"failover":{"clusters":["b"]}`, "eu/b", "e2 > e1 > u1,x1"},
		{"near by region", `,"failover":{"clusters":["b"]}`, "us", "u1 > e1,e2,x1"},
		{"nowhere near", `,"failover":{"clusters":["b"]}`, "asia/a", "e1,e2,u1,x1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			table := mesh(t, r, write("Cluster", "a", `{`+places+c.more+`}`), cluster("b", `,"failover":{"clusters":["c"]}`))
			d := table.Pick(route.Request{Service: "s", Locality: c.locality})
			if got := show(d.Endpoints); got != c.want {
				t.Errorf("tiers %s; want %s", got, c.want)
			}
			if strings.Contains(c.more, "clusters") && (len(d.Failover) != 2 || d.Failover[0].Cluster != "Cluster/default/b" || d.Failover[1].Cluster != "Cluster/default/c") {
				t.Errorf("failover: %+v", d.Failover)
			}
		})
	}
	own := mesh(t, r, write("Cluster", "a", `{"endpoints":[{"address":"p1:1","priority":1},{"address":"p0:1"},{"address":"q1:1","priority":1}]}`))
	if got := show(own.Pick(route.Request{Service: "s"}).Endpoints); got != "p0 > p1,q1" {
		t.Errorf("own priorities: %s", got)
	}
}

func TestPoliciesMergeInTheDocumentedOrder(t *testing.T) {
	p := func(name, spec string) graph.Change { return write("Policy", name, spec) }
	table := mesh(t,
		p("p-rule", `{"retry":{"attempts":1},"rateLimit":{"requestsPerSecond":1}}`),
		p("p-route", `{"retry":{"attempts":2},"timeout":{"request":"2s","idle":"20s"}}`),
		p("t-route", `{"targets":[{"kind":"Route","name":"r"}],"timeout":{"request":"3s","idle":"30s"},"shadow":{"cluster":"c","percent":10}}`),
		p("p-cluster", `{"circuitBreaker":{"maxRequests":4},"timeout":{"request":"4s"}}`),
		p("t-cluster", `{"targets":[{"kind":"Cluster","name":"a"}],"circuitBreaker":{"maxRequests":5},"rateLimit":{"requestsPerSecond":5}}`),
		cluster("a", `,"policies":["p-cluster"]`),
		write("Route", "r", `{"service":"s","policies":["p-route"],"rules":[
			{"name":"own","match":{"tenants":["x"]},"timeout":"1s","clusters":[{"name":"a"}]},
			{"name":"rest","policies":["p-rule"],"clusters":[{"name":"a"}],"mirror":{"cluster":"b"}}]}`),
		write("Route", "plain", `{"service":"plain","rules":[{"name":"r","clusters":[{"name":"b"}]}]}`),
		write("Route", "timed", `{"service":"timed","timeout":"9s","policies":["p-route"],"rules":[{"name":"r","clusters":[{"name":"b"}]}]}`),
	)
	d := table.Decide(route.Request{Service: "s"})
	var names []string
	for _, a := range d.Policies {
		names = append(names, strings.TrimPrefix(a.Policy, "Policy/default/")+" via "+a.Via)
	}
	want := []string{"p-rule via rule", "p-route via route", "t-route via targets route", "p-cluster via cluster", "t-cluster via targets cluster"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
	if d.Timeout.Value != resource.Duration(2*time.Second) || d.IdleTimeout.Value != resource.Duration(20*time.Second) || d.Retry.Attempts != 1 || d.CircuitBreaker.MaxRequests != 4 || len(d.RateLimits) != 2 {
		t.Errorf("timeout %v idle %v retry %v breaker %v limits %v", d.Timeout, d.IdleTimeout, d.Retry, d.CircuitBreaker, d.RateLimits)
	}
	if diff := cmp.Diff([]route.Mirror{{Cluster: "Cluster/default/b", Percent: 100, From: "rule"}, {Cluster: "Cluster/default/c", Percent: 10, From: "Policy/default/t-route"}}, d.Mirrors); diff != "" {
		t.Errorf("mirrors (-want +got):\n%s", diff)
	}
	for _, want := range []string{
		"overridden Policy/default/p-route spec.retry: Policy/default/p-rule comes first",
		"overridden Policy/default/p-cluster spec.timeout.request: the timeout is that of: Policy/default/p-route",
		"overridden Policy/default/t-cluster spec.circuitBreaker: Policy/default/p-cluster comes first",
	} {
		if !strings.Contains(steps(d), want) {
			t.Errorf("steps lack %q:\n%s", want, steps(d))
		}
	}
	for service, want := range map[string]route.Timeout{"plain": {Value: resource.Duration(route.DefaultTimeout), From: "default"}, "timed": {Value: resource.Duration(9 * time.Second), From: "route"}} {
		if d := table.Pick(route.Request{Service: service}); d.Timeout != want {
			t.Errorf("%s: timeout %v", service, d.Timeout)
		}
	}
	if d := table.Pick(route.Request{Service: "s", Tenant: "x"}); d.Timeout.From != "rule" || d.Retry.Attempts != 2 {
		t.Errorf("rule's own: %v, retry %v", d.Timeout, d.Retry)
	}
	if _, err := json.Marshal(d); err != nil {
		t.Errorf("decision does not encode: %v", err)
	}
}

func TestAuthorizationDeniesFirstAndFailsClosed(t *testing.T) {
	table := mesh(t,
		write("Policy", "first", `{"authz":{"default":"allow","rules":[{"name":"acme","effect":"allow","when":"request.tenant == 'acme'"},{"name":"blocked","effect":"deny","when":"request.caller == 'bad'"}]}}`),
		write("Policy", "second", `{"targets":[{"kind":"Cluster","name":"a"}],"authz":{"rules":[{"name":"role","effect":"allow","when":"request.headers['x-role'] == 'admin'"}]}}`),
		write("Route", "both", `{"service":"both","policies":["first"],"rules":[{"name":"r","clusters":[{"name":"a"}]}]}`),
		write("Route", "one", `{"service":"one","policies":["first"],"rules":[{"name":"r","clusters":[{"name":"b"}]}]}`),
		write("Route", "none", `{"service":"none","rules":[{"name":"r","clusters":[{"name":"c"}]}]}`),
	)
	admin := map[string]string{"X-Role": "admin"}
	cases := []struct {
		name         string
		req          route.Request
		effect, rule string
		outcome      route.Outcome
	}{
		{"allowed by a rule", route.Request{Service: "one", Tenant: "acme"}, "allow", "acme", route.Routed},
		{"deny wins over an earlier allow", route.Request{Service: "one", Tenant: "acme", Caller: "bad"}, "deny", "blocked", route.Denied},
		{"default", route.Request{Service: "one"}, "allow", "", route.Routed},
		{"all policies must allow", route.Request{Service: "both", Tenant: "acme", Headers: map[string]string{"x-role": "user"}}, "deny", "", route.Denied},
		{"both allow", route.Request{Service: "both", Tenant: "acme", Headers: admin}, "allow", "acme", route.Routed},
		{"undecidable denies", route.Request{Service: "both", Tenant: "acme"}, "deny", "role", route.Denied},
		{"no policy", route.Request{Service: "none"}, "", "", route.Routed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := table.Decide(c.req)
			if d.Authz.Effect != c.effect || d.Authz.Rule != c.rule || d.Outcome != c.outcome {
				t.Fatalf("%s, verdict %+v\n%s", d.Outcome, d.Authz, steps(d))
			}
		})
	}
}

// reference finds the rule by following the package comment literally.
func reference(g *graph.Graph, req route.Request) (string, string) {
	type candidate struct {
		key               resource.Key
		rule              string
		priority, quality int
	}
	var all []candidate
	for o := range g.OfKind("Route") {
		spec := o.Spec.(*kindroute.Spec)
		if spec.Service != req.Service {
			continue
		}
		for _, r := range spec.Rules {
			if quality := referenceMatch(r.Match, req); quality >= 0 {
				all = append(all, candidate{o.Key(), r.Name, spec.Priority, quality})
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		switch {
		case a.priority != b.priority:
			return b.priority - a.priority
		case a.quality != b.quality:
			return b.quality - a.quality
		}
		return resource.CompareKeys(a.key, b.key)
	})
	if len(all) == 0 {
		return "", ""
	}
	return all[0].key.String(), all[0].rule
}

func referenceMatch(m *kindroute.Match, req route.Request) int {
	quality := 0
	if m == nil {
		return quality
	}
	if len(m.Procedures) > 0 {
		quality = -1
		for _, p := range m.Procedures {
			if p == req.Procedure {
				quality = 1_000_000
			} else if strings.HasSuffix(p, "*") && strings.HasPrefix(req.Procedure, p[:len(p)-1]) {
				quality = max(quality, len(p))
			}
		}
	}
	for _, list := range []struct {
		values []string
		value  string
	}{{m.Tenants, req.Tenant}, {m.Shards, req.ShardKey}, {m.RoutingKeys, req.RoutingKey}} {
		if len(list.values) > 0 && !slices.Contains(list.values, list.value) {
			return -1
		}
	}
	for _, h := range m.Headers {
		value, there := "", false
		for k, v := range req.Headers {
			if strings.EqualFold(k, h.Name) {
				value, there = v, true
			}
		}
		holds := false
		switch {
		case h.Present != nil:
			holds = *h.Present == there
		case h.Exact != nil:
			holds = there && value == *h.Exact
		case h.Prefix != nil:
			holds = there && strings.HasPrefix(value, *h.Prefix)
		case h.Regex != nil:
			holds = there && regexp.MustCompile(`\A(?:`+*h.Regex+`)\z`).MatchString(value)
		}
		if holds == h.Invert {
			return -1
		}
	}
	return quality
}

func TestDecideAgreesWithAPlainReading(t *testing.T) {
	text := rapid.SampledFrom([]string{"", "a", "ab", "abc", "b"})
	subset := func(t *rapid.T, name string, from ...string) string {
		v := rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, 3, rapid.ID[string]).Draw(t, name)
		out, _ := json.Marshal(v)
		return string(out)
	}
	header := rapid.Custom(func(t *rapid.T) string {
		test := rapid.SampledFrom([]string{`"exact":"a"`, `"exact":""`, `"prefix":"a"`, `"regex":"a.*"`, `"regex":"a|b"`, `"present":true`, `"present":false`}).Draw(t, "test")
		return fmt.Sprintf(`{"name":%q,%s,"invert":%v}`, rapid.SampledFrom([]string{"h", "H", "g"}).Draw(t, "header"), test, rapid.Bool().Draw(t, "invert"))
	})
	rule := func(t *rapid.T, i int) string {
		var conditions []string
		if rapid.Bool().Draw(t, "procedures") {
			conditions = append(conditions, `"procedures":`+subset(t, "procedure list", "a", "ab", "abc", "a*", "ab*", "*", "b"))
		}
		for name, field := range map[string]string{"tenants": "tenant", "shards": "shard", "routingKeys": "key"} {
			if rapid.IntRange(0, 5).Draw(t, name) == 0 {
				conditions = append(conditions, fmt.Sprintf(`%q:%s`, name, subset(t, field, "a", "ab", "b")))
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "headers") == 0 {
			conditions = append(conditions, `"headers":[`+strings.Join(rapid.SliceOfN(header, 1, 2).Draw(t, "header list"), ",")+`]`)
		}
		slices.Sort(conditions)
		return fmt.Sprintf(`{"name":"r%d","match":{%s},"clusters":[{"name":"c"}]}`, i, strings.Join(conditions, ","))
	}
	agrees := func(t *rapid.T) {
		changes := []graph.Change{cluster("c", "")}
		for i := range rapid.IntRange(0, 6).Draw(t, "routes") {
			var rules []string
			for j := range rapid.IntRange(1, 4).Draw(t, "rules") {
				rules = append(rules, rule(t, j))
			}
			changes = append(changes, write("Route", fmt.Sprint("r", i), fmt.Sprintf(`{"service":%q,"priority":%d,"rules":[%s]}`, rapid.SampledFrom([]string{"s", "s", "t"}).Draw(t, "service"), rapid.IntRange(0, 1).Draw(t, "priority"), strings.Join(rules, ","))))
		}
		g, _ := graph.New().Update(changes) // conflicts included: the answer is defined all the same
		table := route.Compile(g)
		for range 10 {
			req := route.Request{Service: rapid.SampledFrom([]string{"s", "t", "u"}).Draw(t, "to"), Procedure: text.Draw(t, "procedure"), Tenant: text.Draw(t, "tenant"), ShardKey: text.Draw(t, "shard"), RoutingKey: text.Draw(t, "key")}
			if rapid.Bool().Draw(t, "with header") {
				req.Headers = map[string]string{rapid.SampledFrom([]string{"h", "H", "G"}).Draw(t, "name"): text.Draw(t, "value")}
			}
			d := table.Decide(req)
			wantRoute, wantRule := reference(g, req)
			if d.Route != wantRoute || d.Rule != wantRule || (d.Outcome == route.Routed) != (wantRoute != "") {
				t.Fatalf("%+v\ngoes to %q %q; want %q %q\n%s", req, d.Route, d.Rule, wantRoute, wantRule, steps(d))
			}
			if len(d.Steps) == 0 {
				t.Fatal("no explanation")
			}
			d.Steps = nil
			if diff := cmp.Diff(d, table.Pick(req)); diff != "" {
				t.Fatalf("Pick differs (-Decide +Pick):\n%s", diff)
			}
		}
	}
	for range 5 { // some differences take a rare set of routes
		rapid.Check(t, agrees)
	}
}

func TestTablesAreSafeForConcurrentUse(t *testing.T) {
	g := graphtest.Build(200, 3)
	table := route.Compile(g)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				service := fmt.Sprintf("svc-%05d", (i+j)%19)
				if d := table.Pick(route.Request{Service: service, Procedure: service + "::pay", RoutingKey: fmt.Sprint(j), Locality: "eu-west/eu-westa", CallerID: "spiffe://d/node/n"}); d.Outcome != route.Routed {
					t.Errorf("%s: %+v", service, d)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkPick(b *testing.B) {
	table := route.Compile(graphtest.Build(10_000, 1))
	req := route.Request{Service: "svc-00007", Procedure: "svc-00007::pay", RoutingKey: "user-42", Headers: map[string]string{"content-type": "application/grpc", "x-request-id": "1"}, Locality: "eu-west/eu-westa"}
	b.ReportAllocs()
	for b.Loop() {
		if d := table.Pick(req); d.Outcome != route.Routed {
			b.Fatal(d)
		}
	}
}

func BenchmarkDecideWithSteps(b *testing.B) {
	table := route.Compile(graphtest.Build(10_000, 1))
	req := route.Request{Service: "svc-00007", Procedure: "svc-00007::pay", RoutingKey: "user-42"}
	b.ReportAllocs()
	for b.Loop() {
		table.Decide(req)
	}
}

func BenchmarkPickWithAuthorization(b *testing.B) {
	table := route.Compile(graphtest.Build(10_000, 1))
	req := route.Request{Service: "svc-00010", Procedure: "svc-00010::pay", RoutingKey: "user-42", CallerID: "spiffe://eu-west/node/n1"}
	if d := table.Decide(req); d.Authz.Effect != "allow" {
		b.Fatal(d.Authz, steps(d))
	}
	b.ReportAllocs()
	for b.Loop() {
		table.Pick(req)
	}
}

func ExampleTable_Decide() {
	g, _ := graph.New().Update([]graph.Change{
		write("Cluster", "payments-v1", `{"endpoints":[{"address":"10.0.0.7:8080"}]}`),
		write("Cluster", "payments-v2", `{"endpoints":[{"address":"10.0.0.8:8080"}]}`),
		write("Route", "payments", `{"service":"payments","timeout":"2s","rules":[
			{"name":"canary","match":{"tenants":["acme"]},"clusters":[{"name":"payments-v2"}]},
			{"name":"everyone","clusters":[{"name":"payments-v1"}]}]}`),
	})
	d := route.Compile(g).Decide(route.Request{Service: "payments", Tenant: "globex"})
	fmt.Println(d.Outcome, d.Rule, d.Cluster, d.Endpoints[0].Endpoints[0].Address, d.Timeout.Value)
	for _, s := range d.Steps {
		fmt.Printf("%s: %s\n", s.Outcome, s.Why)
	}
	// Output:
	// routed everyone Cluster/default/payments-v1 10.0.0.7:8080 2s
	// passed over: tenant "globex" is not "acme"
	// matched: rule "everyone" takes the request
	// chosen: Cluster/default/payments-v1, with weight 100: it is the rule's only cluster with weight
}
