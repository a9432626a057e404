package route

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/graph"
	kindroute "github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// service is what follows from the routes of one service alone.
type service struct {
	groups [][]*compiledRoute // by priority, highest first; in a group by key
}

type compiledRoute struct {
	key   resource.Key
	name  string // key as text
	scope *resource.Resource
	spec  *kindroute.Spec
	rules []*rule
}

type rule struct {
	route   *compiledRoute
	index   int
	spec    *kindroute.Rule
	match   matcher
	targets []*target
}

// target is one weighted cluster of a rule. Its address identifies it in the cache
// of a Table.
type target struct {
	rule    *rule
	cluster resource.Key
	name    string
	weight  float64
}

func compileService(s *graph.Service) *service {
	byPriority := map[int][]*compiledRoute{}
	for o := range s.Routes() { // by key
		spec, ok := o.Spec.(*kindroute.Spec)
		if !ok {
			continue
		}
		r := &compiledRoute{key: o.Key(), name: o.Key().String(), scope: o.Resource, spec: spec}
		for i := range spec.Rules {
			r.rules = append(r.rules, compileRule(r, i))
		}
		byPriority[spec.Priority] = append(byPriority[spec.Priority], r)
	}
	out := &service{}
	for _, group := range byPriority {
		out.groups = append(out.groups, group)
	}
	slices.SortFunc(out.groups, func(a, b []*compiledRoute) int { return cmp.Compare(b[0].spec.Priority, a[0].spec.Priority) })
	return out
}

func compileRule(r *compiledRoute, i int) *rule {
	spec := &r.spec.Rules[i]
	out := &rule{route: r, index: i, spec: spec, match: compileMatch(spec.Match)}
	for j, c := range spec.Clusters {
		key := resource.ReferenceKey("Cluster", r.key.Namespace, c.Name)
		out.targets = append(out.targets, &target{rule: out, cluster: key, name: key.String(), weight: spec.Share(j)})
	}
	return out
}

// matcher is a rule's match, prepared.
type matcher struct {
	exact       map[string]struct{}
	prefixes    []string // longest first
	headers     []headerMatcher
	tenants     map[string]struct{}
	shards      map[string]struct{}
	routingKeys map[string]struct{}
}

type headerMatcher struct {
	name  string // lower case
	spec  kindroute.HeaderMatch
	regex *regexp.Regexp // nil for one that does not compile: it matches nothing
}

func compileMatch(m *kindroute.Match) matcher {
	if m == nil {
		return matcher{}
	}
	out := matcher{tenants: setOf(m.Tenants), shards: setOf(m.Shards), routingKeys: setOf(m.RoutingKeys)}
	var exact []string
	for _, p := range m.Procedures {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			out.prefixes = append(out.prefixes, prefix)
		} else {
			exact = append(exact, p)
		}
	}
	out.exact = setOf(exact)
	slices.SortFunc(out.prefixes, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, h := range m.Headers {
		c := headerMatcher{name: strings.ToLower(h.Name), spec: h}
		if h.Regex != nil {
			c.regex, _ = regexp.Compile("^(?:" + *h.Regex + ")$")
		}
		out.headers = append(out.headers, c)
	}
	return out
}

func setOf(values []string) map[string]struct{} {
	if len(values) == 0 {
		return nil
	}
	out := make(map[string]struct{}, len(values))
	for _, v := range values {
		out[v] = struct{}{}
	}
	return out
}

func permits(set map[string]struct{}, value string) bool {
	if set == nil {
		return true
	}
	_, ok := set[value]
	return ok
}

// condition names the first condition that does not hold.
type condition struct {
	kind  string // field name below match; empty: all hold
	index int    // of a header
}

// exactly is the quality of an exact procedure match, above that of any prefix.
const exactly = math.MaxInt

// test says whether the match holds, and how well the procedure matches.
func (m *matcher) test(req *Request) (quality int, failed condition) {
	quality, ok := m.procedure(req.Procedure)
	switch {
	case !ok:
		return 0, condition{kind: "procedures"}
	case !permits(m.tenants, req.Tenant):
		return 0, condition{kind: "tenants"}
	case !permits(m.shards, req.ShardKey):
		return 0, condition{kind: "shards"}
	case !permits(m.routingKeys, req.RoutingKey):
		return 0, condition{kind: "routingKeys"}
	}
	for i := range m.headers {
		if !m.headers[i].holds(req.Headers) {
			return 0, condition{kind: "headers", index: i}
		}
	}
	return quality, condition{}
}

// procedure gives 0 for a match without procedures, 1 plus its length for a prefix.
func (m *matcher) procedure(p string) (quality int, ok bool) {
	if m.exact == nil && len(m.prefixes) == 0 {
		return 0, true
	}
	if _, ok := m.exact[p]; ok {
		return exactly, true
	}
	for _, prefix := range m.prefixes {
		if strings.HasPrefix(p, prefix) {
			return 1 + len(prefix), true
		}
	}
	return 0, false
}

func (h *headerMatcher) holds(headers map[string]string) bool {
	value, there := lookup(headers, h.name)
	holds := false
	switch {
	case h.spec.Present != nil:
		holds = there == *h.spec.Present
	case !there:
	case h.spec.Exact != nil:
		holds = value == *h.spec.Exact
	case h.spec.Prefix != nil:
		holds = strings.HasPrefix(value, *h.spec.Prefix)
	case h.spec.Regex != nil:
		holds = h.regex != nil && h.regex.MatchString(value)
	}
	return holds != h.spec.Invert
}

// lookup finds a header by its name in lower case. Of several names that differ in
// case only, the lower-case one counts, else the first in byte order.
func lookup(headers map[string]string, lower string) (string, bool) {
	if v, ok := headers[lower]; ok {
		return v, true
	}
	found := ""
	for name := range headers {
		if len(name) == len(lower) && strings.EqualFold(name, lower) && (found == "" || name < found) {
			found = name
		}
	}
	return headers[found], found != ""
}

// why explains a condition that does not hold.
func (m *matcher) why(failed condition, spec *kindroute.Match, req *Request) string {
	list := func(what, value string, wanted []string) string {
		if value == "" {
			return fmt.Sprintf("the request has no %s; the rule wants %s", what, oneOf(wanted))
		}
		return fmt.Sprintf("%s %s is not %s", what, safetext.Quote(value), oneOf(wanted))
	}
	switch failed.kind {
	case "procedures":
		return list("procedure", req.Procedure, spec.Procedures)
	case "tenants":
		return list("tenant", req.Tenant, spec.Tenants)
	case "shards":
		return list("shard key", req.ShardKey, spec.Shards)
	case "routingKeys":
		return list("routing key", req.RoutingKey, spec.RoutingKeys)
	}
	h := &m.headers[failed.index]
	value, there := lookup(req.Headers, h.name)
	state := "is " + safetext.Quote(value)
	if !there {
		state = "is missing"
	}
	return fmt.Sprintf("header %s %s; the rule wants it %s", h.name, state, h.wanted())
}

func (h *headerMatcher) wanted() string {
	var want string
	switch {
	case h.spec.Present != nil && *h.spec.Present:
		want = "present"
	case h.spec.Present != nil:
		want = "absent"
	case h.spec.Exact != nil:
		want = "to be " + safetext.Quote(*h.spec.Exact)
	case h.spec.Prefix != nil:
		want = "to begin with " + safetext.Quote(*h.spec.Prefix)
	case h.spec.Regex != nil:
		want = "to match " + safetext.Quote(*h.spec.Regex)
	}
	if h.spec.Invert {
		return "not " + want
	}
	return want
}

func oneOf(values []string) string {
	const most = 5
	var quoted []string
	for i, v := range values {
		if i == most {
			quoted = append(quoted, fmt.Sprintf("%d more", len(values)-most))
			break
		}
		quoted = append(quoted, safetext.Quote(v))
	}
	return strings.Join(quoted, " or ")
}
