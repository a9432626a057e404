package pmap

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMapBehavesLikeABuiltInMapAndKeepsItsPast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			m    Map[int, int]
			want map[int]int
		}
		now := version{New[int, int](cmp.Compare[int]), map[int]int{}}
		past := []version{now}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			k := rapid.IntRange(0, 60).Draw(t, "key")
			want := maps.Clone(now.want)
			if rapid.Bool().Draw(t, "delete") {
				delete(want, k)
				now = version{now.m.Delete(k), want}
			} else {
				want[k] = rapid.Int().Draw(t, "value")
				now = version{now.m.Set(k, want[k]), want}
			}
			past = append(past, now)
		}
		for _, v := range past {
			check(t, v.m, v.want)
		}
	})
}

func check(t *rapid.T, m Map[int, int], want map[int]int) {
	var keys []int
	for k, v := range m.All() {
		if got, ok := m.Get(k); !ok || got != v || want[k] != v {
			t.Fatalf("Get(%d) = %d, %v; iteration says %d; want %d", k, got, ok, v, want[k])
		}
		keys = append(keys, k)
	}
	if order := slices.Sorted(maps.Keys(want)); !slices.Equal(keys, order) {
		t.Fatalf("keys %v; want %v", keys, order)
	}
	if m.Len() != len(want) {
		t.Fatalf("Len = %d; want %d", m.Len(), len(want))
	}
	balanced(t, m.root)
	for k := range m.From(30) {
		if k < 30 {
			t.Fatalf("From(30) yields %d", k)
		}
		delete(want, k)
	}
	for k := range want {
		if k >= 30 {
			t.Fatalf("From(30) left out %d", k)
		}
	}
}

func balanced(t *rapid.T, n *node[int, int]) {
	if n == nil {
		return
	}
	l, r := n.left.len()+1, n.right.len()+1
	if l > delta*r || r > delta*l {
		t.Fatalf("sides weigh %d and %d", l, r)
	}
	balanced(t, n.left)
	balanced(t, n.right)
}

func TestIterationStopsWhenAsked(t *testing.T) {
	m := New[int, int](cmp.Compare[int])
	for i := range 100 {
		m = m.Set(i, i)
	}
	seen := 0
	for range m.From(10) {
		if seen++; seen == 3 {
			break
		}
	}
	for range m.All() {
		if seen++; seen == 6 {
			break
		}
	}
	if seen != 6 {
		t.Fatalf("saw %d entries", seen)
	}
}
