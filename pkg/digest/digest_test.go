package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/fault"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

func trieOf(m map[string]string) *Trie {
	var t *Trie
	for k, v := range m { // in any order
		t = t.Set(k, []byte(v))
	}
	return t
}

func contents(t *Trie) map[string]string {
	m := map[string]string{}
	for l := range t.All() {
		m[l.Key] = string(l.Content)
	}
	return m
}

var drawSet = rapid.MapOf(rapid.StringMatching(`[a-d]{1,3}`), rapid.StringMatching(`[xyz]{0,2}`))

// reference computes the root by the definition in the package comment.
func reference(m map[string]string) Hash {
	type entry struct{ path, leaf []byte }
	var all []entry
	for k, v := range m {
		path, content := sha256.Sum256([]byte(k)), sha256.Sum256([]byte(v))
		leaf := sha256.Sum256(slices.Concat([]byte{0}, path[:], content[:]))
		all = append(all, entry{path[:], leaf[:]})
	}
	bit := func(e entry, i int) byte { return e.path[i/8] >> (7 - i%8) & 1 }
	var root func([]entry, int) []byte
	root = func(s []entry, from int) []byte {
		if len(s) == 1 {
			return s[0].leaf
		}
		for b := from; ; b++ {
			var zero, one []entry
			for _, e := range s {
				if bit(e, b) == 0 {
					zero = append(zero, e)
				} else {
					one = append(one, e)
				}
			}
			if len(zero) > 0 && len(one) > 0 {
				h := sha256.Sum256(slices.Concat([]byte{1, byte(b >> 8), byte(b)}, root(zero, b+1), root(one, b+1)))
				return h[:]
			}
		}
	}
	if len(all) == 0 {
		return Hash{}
	}
	return Hash(root(all, 0))
}

func TestRootIsTheDocumentedFunctionOfTheContentAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawSet.Draw(t, "set")
		var trie *Trie
		// A history that ends in want: detours through other keys and contents.
		for range rapid.IntRange(0, 30).Draw(t, "detours") {
			k := rapid.StringMatching(`[a-d]{1,3}`).Draw(t, "key")
			if rapid.Bool().Draw(t, "delete") {
				trie = trie.Delete(k)
			} else {
				trie = trie.Set(k, []byte(rapid.StringMatching(`[xyz]{0,2}`).Draw(t, "content")))
			}
		}
		for k := range contents(trie) {
			if _, ok := want[k]; !ok {
				trie = trie.Delete(k)
			}
		}
		for _, k := range rapid.Permutation(slices.Sorted(maps.Keys(want))).Draw(t, "order") {
			trie = trie.Set(k, []byte(want[k]))
		}
		if trie.Root() != reference(want) {
			t.Fatalf("root %s; by the definition %s", trie.Root(), reference(want))
		}
		if diff := cmp.Diff(want, contents(trie)); diff != "" {
			t.Fatalf("contents (-want +got):\n%s", diff)
		}
		size := 0
		for k, v := range want {
			size += len(v)
			if l, ok := trie.Get(k); !ok || string(l.Content) != v {
				t.Fatalf("Get(%q) = %q, %v", k, l.Content, ok)
			}
		}
		if trie.Len() != len(want) || trie.Bytes() != int64(size) {
			t.Fatalf("Len %d, Bytes %d; want %d, %d", trie.Len(), trie.Bytes(), len(want), size)
		}
	})
}

func TestDeleteRestoresTheEarlierRootAndOldVersionsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := drawSet.Draw(t, "set")
		before := trieOf(set)
		root := before.Root()
		after := before.Set("new", []byte("content"))
		if after.Root() == root {
			t.Fatal("an added entry does not show in the root")
		}
		if got := after.Delete("new").Root(); got != root {
			t.Fatalf("after delete %s; before %s", got, root)
		}
		if before.Root() != root || before.Len() != len(set) {
			t.Fatal("Set changed the trie it was called on")
		}
	})
}

func TestDiffAppliedToFromGivesTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawSet.Draw(t, "from"), drawSet.Draw(t, "to")
		from, to := trieOf(a), trieOf(b)
		got := from
		seen := map[string]bool{}
		last := Hash{}
		for c := range Diff(from, to) {
			if path := pathOf(c.Key); len(seen) > 0 && strings.Compare(string(last[:]), string(path[:])) >= 0 {
				t.Fatalf("%q comes out of order", c.Key)
			} else {
				last = path
			}
			if seen[c.Key] {
				t.Fatalf("%q twice", c.Key)
			}
			seen[c.Key] = true
			if had, ok := a[c.Key]; ok != (c.Before != nil) || ok && string(c.Before.Content) != had {
				t.Fatalf("%q: before is %v", c.Key, c.Before)
			}
			if c.After == nil {
				got = got.Delete(c.Key)
			} else {
				got = got.Set(c.Key, c.After.Content)
			}
		}
		if got.Root() != to.Root() {
			t.Fatalf("applied: %v; want %v", contents(got), b)
		}
		for k := range a {
			if b[k] == a[k] && seen[k] {
				if _, ok := b[k]; ok {
					t.Fatalf("%q did not change", k)
				}
			}
		}
	})
}

func TestDiffStopsWhenAsked(t *testing.T) {
	n := 0
	for range Diff(nil, sample(100)) {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Fatalf("yielded %d", n)
	}
}

func sample(n int) *Trie {
	var t *Trie
	for i := range n {
		t = t.Set(fmt.Sprintf("Cluster/default/c-%05d", i), []byte(strings.Repeat("x", 1000)+fmt.Sprint(i)))
	}
	return t
}

func TestDiffCostFollowsTheChangesNotTheSize(t *testing.T) {
	const n = 10_000
	from := sample(n)
	for _, changes := range []int{0, 1, 10, 100} {
		to := sample(n) // shares nothing with from: equality shows in hashes alone
		for i := range changes {
			to = to.Set(fmt.Sprintf("Cluster/default/c-%05d", i*97), []byte("changed"))
		}
		found := 0
		d := differ{yield: func(Change) bool { found++; return true }}
		d.run(from, to)
		limit := 1 + changes*3*bits.Len(n)
		if found != changes || d.visited > limit {
			t.Errorf("%d changes: found %d, visited %d nodes; at most %d expected", changes, found, d.visited, limit)
		}
	}
}

func TestProofsHoldAndForgedOnesFail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := drawSet.Filter(func(m map[string]string) bool { return len(m) > 0 }).Draw(t, "set")
		trie := trieOf(set)
		key := rapid.SampledFrom(slices.Sorted(maps.Keys(set))).Draw(t, "key")
		content := []byte(set[key])
		p, ok := trie.Prove(key)
		if !ok {
			t.Fatalf("no proof for %q", key)
		}
		if err := p.Verify(trie.Root(), key, content); err != nil {
			t.Fatal(err)
		}
		refused := func(what string, p Proof, root Hash, key string, content []byte) {
			if err := p.Verify(root, key, content); fault.CodeOf(err) != fault.CodeProofInvalid {
				t.Fatalf("%s: %v", what, err)
			}
		}
		refused("other content", p, trie.Root(), key, append([]byte("z"), content...))
		refused("other key", p, trie.Root(), key+"'", content)
		refused("other root", p, trie.Set("e", nil).Root(), key, content)
		if _, ok := trie.Prove("absent"); ok {
			t.Fatal("proof for a key that is not there")
		}
		if len(p.Steps) == 0 {
			return
		}
		i := rapid.IntRange(0, len(p.Steps)-1).Draw(t, "step")
		forge := func(what string, edit func(Proof) Proof) {
			refused(what, edit(Proof{Steps: slices.Clone(p.Steps)}), trie.Root(), key, content)
		}
		forge("flipped bit in a sibling", func(q Proof) Proof { q.Steps[i].Sibling[rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1; return q })
		forge("other position", func(q Proof) Proof { q.Steps[i].Bit ^= 1; return q })
		forge("position beyond the path", func(q Proof) Proof { q.Steps[i].Bit = 256; return q })
		forge("step left out", func(q Proof) Proof { q.Steps = slices.Delete(q.Steps, i, i+1); return q })
		forge("step twice", func(q Proof) Proof { q.Steps = slices.Insert(q.Steps, i, q.Steps[i]); return q })
		forge("too long", func(q Proof) Proof { return Proof{Steps: slices.Repeat(q.Steps, 300)} })
	})
}

// An inner node must not pass as the content of a leaf: the first byte of what is
// hashed keeps them apart.
func TestLeavesAndInnerNodesAreKeptApart(t *testing.T) {
	trie := trieOf(map[string]string{"a": "1", "b": "2"})
	n := trie.root.(*inner)
	left, right := *n.child[0].sum(), *n.child[1].sum()
	asContent := slices.Concat([]byte{1, byte(n.bit >> 8), byte(n.bit)}, left[:], right[:])
	for _, key := range []string{"a", "b", ""} {
		if err := (Proof{}).Verify(trie.Root(), key, asContent); err == nil {
			t.Fatalf("an inner node passes as the content of %q", key)
		}
	}
}

type vector struct {
	Name    string            `json:"name"`
	Entries map[string]string `json:"entries"` // key → content
	Root    Hash              `json:"root"`
	Key     string            `json:"key,omitempty"`
	Proof   *Proof            `json:"proof,omitempty"`
}

func TestGoldenVectors(t *testing.T) {
	many := map[string]string{}
	for i := range 100 {
		many[fmt.Sprintf("Cluster/default/c%d", i)] = fmt.Sprintf(`{"n":%d}`, i)
	}
	vectors := []vector{
		{Name: "empty", Entries: map[string]string{}},
		{Name: "one entry", Entries: map[string]string{"Route/default/checkout": `{"kind":"Route"}`}, Key: "Route/default/checkout"},
		{Name: "empty content", Entries: map[string]string{"a": "", "b": ""}, Key: "a"},
		{Name: "text beyond ASCII", Entries: map[string]string{"Köln": "größer", "a": "b", "c": "d"}, Key: "Köln"},
		{Name: "one hundred entries", Entries: many, Key: "Cluster/default/c42"},
	}
	for i := range vectors {
		v := &vectors[i]
		trie := trieOf(v.Entries)
		v.Root = trie.Root()
		if p, ok := trie.Prove(v.Key); ok {
			v.Proof = &p
		}
	}
	got, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/vectors.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Fatalf("digests have changed, which no released version may do (-want +got):\n%s", diff)
	}
	for _, v := range vectors {
		if v.Proof != nil {
			if err := v.Proof.Verify(v.Root, v.Key, []byte(v.Entries[v.Key])); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestHashesAreReadStrictly(t *testing.T) {
	h := sample(1).Root()
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err := HashOf(h.Bytes()); err != nil || got != h {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 64), hex.EncodeToString(make([]byte, 33))} {
		if _, err := ParseHash(bad); fault.CodeOf(err) != fault.CodeHashFormat {
			t.Errorf("ParseHash(%q): %v", bad, err)
		}
	}
	if _, err := HashOf(make([]byte, 31)); fault.CodeOf(err) != fault.CodeHashFormat {
		t.Errorf("HashOf: %v", err)
	}
}

func TestMemoryOverheadPerEntry(t *testing.T) {
	const n = 10_000
	keys, content := make([]string, n), make([]byte, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("Cluster/default/c-%05d", i)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var trie *Trie
	for _, k := range keys {
		trie = trie.Set(k, content)
	}
	each := int(heap()-before) / n
	runtime.KeepAlive(trie)
	runtime.KeepAlive(keys)
	t.Logf("%d bytes an entry beside key and content", each)
	if each > 200 {
		t.Errorf("%d bytes an entry; at most 200", each)
	}
}

func benchmarkSet(b *testing.B, n int) {
	trie := sample(n)
	contents := [][]byte{[]byte(strings.Repeat("a", 1024)), []byte(strings.Repeat("b", 1024))}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		trie = trie.Set(fmt.Sprintf("Cluster/default/c-%05d", i%n), contents[i/n%2])
		i++
	}
}

func BenchmarkSetOneOf1000(b *testing.B)  { benchmarkSet(b, 1000) }
func BenchmarkSetOneOf10000(b *testing.B) { benchmarkSet(b, 10_000) }

func BenchmarkDiffOneOf10000(b *testing.B) {
	from := sample(10_000)
	to := from.Set("Cluster/default/c-00777", []byte("changed"))
	for b.Loop() {
		for range Diff(from, to) {
		}
	}
}
