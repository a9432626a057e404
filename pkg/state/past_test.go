package state

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/resource"
)

// contents lists what all resources hold.
func contents(s *State) map[resource.Key]string {
	out := make(map[resource.Key]string)
	for r := range s.Resources("", "") {
		out[r.Key] = string(r.Content)
	}
	return out
}

func TestThePresentAndThePastGiveEveryOlderVersion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		at := map[uint64]map[resource.Key]string{m.s.Seq(): contents(m.s)}
		for range rapid.IntRange(1, MaxRevisions/2).Draw(t, "changes") {
			c := &logv1.ChangeSet{}
			for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3, rapid.ID[string]).Draw(t, "names") {
				content := rapid.SampledFrom([]string{"", "x", "yy"}).Draw(t, "content")
				if _, there := m.s.Get(key(n)); there || content != "" {
					c.Writes = append(c.Writes, write(n, content))
				}
			}
			if len(c.Writes) == 0 {
				continue
			}
			if _, err := m.apply(KindChangeSet, c, ""); err != nil {
				t.Fatal(err)
			}
			at[m.s.Seq()] = contents(m.s)
		}
		for version, want := range at {
			past, ok := m.s.Past(version)
			if !ok {
				t.Fatalf("version %d is not known", version)
			}
			got := contents(m.s)
			for k, content := range past {
				if delete(got, k); content != nil {
					got[k] = string(content)
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("version %d held %v, and is given as %v", version, want, got)
			}
		}
	})
}

func TestThePastEndsWhereRevisionsAreNoLongerKept(t *testing.T) {
	m := newMachine()
	for i := range MaxRevisions + 3 {
		if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{write("a", fmt.Sprint("v", i))}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := m.s.Past(m.s.Seq() - MaxRevisions); !ok {
		t.Error("the oldest version that is kept is not known")
	}
	if past, ok := m.s.Past(m.s.Seq() - MaxRevisions - 1); ok {
		t.Errorf("a version that is no longer kept is given as %q", past[key("a")])
	}
}
