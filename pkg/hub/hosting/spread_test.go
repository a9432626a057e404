package hosting

import (
	"slices"
	"testing"
)

func TestOneWhoLeadsTooManyHandsOverToTheIdlest(t *testing.T) {
	for name, c := range map[string]struct {
		all  []led
		pick string
		to   []string
	}{
		"one each": {[]led{
			{domain: "a", leader: "me", others: []string{"hub2"}}, {domain: "b", leader: "hub2", others: []string{"me"}},
		}, "", nil},
		"one more is no reason": {[]led{
			{domain: "a", leader: "me", others: []string{"hub2"}}, {domain: "b", leader: "me", others: []string{"hub2"}}, {domain: "c", leader: "hub2"},
		}, "", nil},
		"two more is": {[]led{
			{domain: "a", leader: "me", others: []string{"hub2"}}, {domain: "b", leader: "me", others: []string{"hub2"}},
		}, "a", []string{"hub2"}},
		"the idlest first": {[]led{
			{domain: "a", leader: "me", others: []string{"hub2", "hub3"}}, {domain: "b", leader: "me"}, {domain: "c", leader: "me"}, {domain: "d", leader: "hub2"},
		}, "a", []string{"hub3", "hub2"}},
		"where another one may lead": {[]led{
			{domain: "a", leader: "me"}, {domain: "b", leader: "me", others: []string{"hub2"}},
		}, "b", []string{"hub2"}},
		"another one leads too many": {[]led{
			{domain: "a", leader: "hub2", others: []string{"me"}}, {domain: "b", leader: "hub2", others: []string{"me"}},
		}, "", nil},
		"not what an operator chose": {[]led{
			{domain: "a", leader: "me", chosen: true, others: []string{"hub2"}}, {domain: "b", leader: "me", others: []string{"hub2"}},
		}, "b", []string{"hub2"}},
		"an operator chose all": {[]led{
			{domain: "a", leader: "me", chosen: true, others: []string{"hub2"}}, {domain: "b", leader: "me", chosen: true, others: []string{"hub2"}},
		}, "", nil},
		"nobody leads": {[]led{{domain: "a", others: []string{"hub2"}}, {domain: "b", others: []string{"hub2"}}}, "", nil},
	} {
		pick, to, ok := overloaded("me", c.all)
		if ok != (c.pick != "") || pick.domain != c.pick || !slices.Equal(to, c.to) {
			t.Errorf("%s: %q to %v, want %q to %v", name, pick.domain, to, c.pick, c.to)
		}
	}
}
