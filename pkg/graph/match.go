package graph

import (
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/kind/route"
)

// ruleMatch is a rule's match, prepared for comparison with others.
type ruleMatch struct {
	exact, prefixes []string // procedures; a prefix without its '*'
	headers         []route.HeaderMatch
	lists           [3]valueList // tenants, shards, routing keys
}

// valueList is a set of values; the empty one holds every value.
type valueList struct {
	values []string
	index  map[string]struct{} // of a long list
}

// routeMasks tell quickly that two routes have no request in common: for tenants,
// shards and routing keys, a bit for each value that some rule lists (by hash), or
// all bits when some rule takes any value.
type routeMasks [3]uint64

func masksOf(rules []ruleMatch) routeMasks {
	var out routeMasks
	for i := range rules {
		for d := range out {
			if values := rules[i].lists[d].values; len(values) == 0 {
				out[d] = math.MaxUint64
			} else {
				for _, v := range values {
					out[d] |= 1 << (fnv(v) >> 58)
				}
			}
		}
	}
	return out
}

func (m *routeMasks) apart(other *routeMasks) bool {
	return m[0]&other[0] == 0 || m[1]&other[1] == 0 || m[2]&other[2] == 0
}

// fnv is FNV-1a, multiplied once more so that its upper bits depend on every byte.
func fnv(s string) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * prime
	}
	return h * 0x9e3779b97f4a7c15
}

func prepareMatch(m *route.Match) ruleMatch {
	var out ruleMatch
	if m == nil {
		return out
	}
	for _, p := range m.Procedures {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			out.prefixes = append(out.prefixes, prefix)
		} else {
			out.exact = append(out.exact, p)
		}
	}
	for _, h := range m.Headers {
		h.Name = strings.ToLower(h.Name)
		out.headers = append(out.headers, h)
	}
	for i, values := range [][]string{m.Tenants, m.Shards, m.RoutingKeys} {
		out.lists[i].values = values
		if len(values) > 8 {
			out.lists[i].index = make(map[string]struct{}, len(values))
			for _, v := range values {
				out.lists[i].index[v] = struct{}{}
			}
		}
	}
	return out
}

func (l *valueList) has(v string) bool {
	if l.index != nil {
		_, ok := l.index[v]
		return ok
	}
	return slices.Contains(l.values, v)
}

func (l *valueList) covers(other *valueList) bool {
	if len(l.values) == 0 {
		return true
	}
	if len(other.values) == 0 || len(other.values) > len(l.values) {
		return false
	}
	for _, v := range other.values {
		if !l.has(v) {
			return false
		}
	}
	return true
}

func (l *valueList) meets(other *valueList) bool {
	if len(l.values) == 0 || len(other.values) == 0 {
		return true
	}
	if len(l.values) < len(other.values) {
		l, other = other, l
	}
	return slices.ContainsFunc(other.values, l.has)
}

func (m *ruleMatch) anyProcedure() bool { return len(m.exact)+len(m.prefixes) == 0 }

// covers says whether m takes every request that other takes. It can say no where
// the answer is yes (regular expressions), never the reverse.
func (m *ruleMatch) covers(other *ruleMatch) bool {
	for i := range m.lists {
		if !m.lists[i].covers(&other.lists[i]) {
			return false
		}
	}
	if !m.anyProcedure() {
		if other.anyProcedure() {
			return false
		}
		for _, p := range other.exact {
			if !slices.Contains(m.exact, p) && !hasPrefixOf(m.prefixes, p) {
				return false
			}
		}
		for _, p := range other.prefixes {
			if !hasPrefixOf(m.prefixes, p) {
				return false
			}
		}
	}
	for i := range m.headers {
		if !slices.ContainsFunc(other.headers, func(h route.HeaderMatch) bool { return implies(&h, &m.headers[i]) }) {
			return false
		}
	}
	return true
}

func hasPrefixOf(prefixes []string, s string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// implies says whether a holding means that b holds, as far as their forms tell.
func implies(a, b *route.HeaderMatch) bool {
	if a.Name != b.Name {
		return false
	}
	if sameCondition(a, b) {
		return a.Invert == b.Invert
	}
	if value, ok := exactly(a); ok {
		return holdsFor(b, value)
	}
	if mustBeAbsent(a) {
		return holdsAbsent(b)
	}
	if mustBePresent(a) && mustBePresent(b) && b.Present != nil {
		return true
	}
	return a.Prefix != nil && !a.Invert && b.Prefix != nil && !b.Invert && strings.HasPrefix(*a.Prefix, *b.Prefix)
}

// overlap of two conditions or matches.
type overlap int

const (
	apart    overlap = iota // no request meets both
	possible                // only a request can tell
	together                // some request meets both
)

// meets says whether some request meets both matches with the same quality of
// procedure match, so that neither is preferred.
func (m *ruleMatch) meets(other *ruleMatch) overlap {
	if !m.sameProcedure(other) {
		return apart
	}
	for i := range m.lists {
		if !m.lists[i].meets(&other.lists[i]) {
			return apart
		}
	}
	result := together
	for i := range m.headers {
		for j := range other.headers {
			result = min(result, headersMeet(&m.headers[i], &other.headers[j]))
		}
	}
	return result
}

func (m *ruleMatch) sameProcedure(other *ruleMatch) bool {
	if m.anyProcedure() || other.anyProcedure() {
		return m.anyProcedure() && other.anyProcedure()
	}
	return slices.ContainsFunc(m.exact, func(p string) bool { return slices.Contains(other.exact, p) }) ||
		slices.ContainsFunc(m.prefixes, func(p string) bool { return slices.Contains(other.prefixes, p) })
}

func headersMeet(a, b *route.HeaderMatch) overlap {
	if a.Name != b.Name {
		return together
	}
	if sameCondition(a, b) {
		if a.Invert == b.Invert {
			return together
		}
		return apart
	}
	for _, pair := range [][2]*route.HeaderMatch{{a, b}, {b, a}} {
		if value, ok := exactly(pair[0]); ok {
			return decided(holdsFor(pair[1], value))
		}
		if mustBeAbsent(pair[0]) {
			return decided(holdsAbsent(pair[1]))
		}
	}
	if a.Prefix != nil && b.Prefix != nil && !a.Invert && !b.Invert {
		return decided(strings.HasPrefix(*a.Prefix, *b.Prefix) || strings.HasPrefix(*b.Prefix, *a.Prefix))
	}
	if mustBePresent(a) && a.Present != nil || mustBePresent(b) && b.Present != nil {
		return together
	}
	return possible
}

func decided(meet bool) overlap {
	if meet {
		return together
	}
	return apart
}

// exactly gives the only value that the condition takes.
func exactly(h *route.HeaderMatch) (string, bool) {
	if h.Exact == nil || h.Invert {
		return "", false
	}
	return *h.Exact, true
}

func mustBeAbsent(h *route.HeaderMatch) bool { return h.Present != nil && *h.Present == h.Invert }

func mustBePresent(h *route.HeaderMatch) bool {
	if h.Present != nil {
		return *h.Present != h.Invert
	}
	return !h.Invert
}

func sameCondition(a, b *route.HeaderMatch) bool {
	return equal(a.Exact, b.Exact) && equal(a.Prefix, b.Prefix) && equal(a.Regex, b.Regex) && equal(a.Present, b.Present)
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// holdsFor says whether a condition holds for a header with this value.
func holdsFor(h *route.HeaderMatch, value string) bool {
	holds := false
	switch {
	case h.Exact != nil:
		holds = *h.Exact == value
	case h.Prefix != nil:
		holds = strings.HasPrefix(value, *h.Prefix)
	case h.Regex != nil:
		re, err := regexp.Compile("^(?:" + *h.Regex + ")$")
		holds = err == nil && re.MatchString(value)
	case h.Present != nil:
		holds = *h.Present
	}
	return holds != h.Invert
}

// holdsAbsent says whether a condition holds when the header is not there.
func holdsAbsent(h *route.HeaderMatch) bool {
	return (h.Present != nil && !*h.Present) != h.Invert
}
