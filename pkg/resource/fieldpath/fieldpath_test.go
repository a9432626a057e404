package fieldpath

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPathsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var path *Path
		var want []Step
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			if i := rapid.IntRange(-1, 12).Draw(t, "index"); i >= 0 {
				path, want = path.Element(i), append(want, Step{Index: i})
				continue
			}
			name := rapid.OneOf(rapid.SampledFrom([]string{"spec", "a.b/c", "", "[0]", "\"]"}), rapid.StringN(0, 20, maxPathKey)).Draw(t, "name")
			path, want = path.Field(name), append(want, Step{Name: name, Index: -1})
		}
		if got := Parse(path.String()); !slices.Equal(got, want) {
			t.Fatalf("%s reads as %v, want %v", path, got, want)
		}
	})
}

func TestPathsShowOddKeysInQuotes(t *testing.T) {
	path := (*Path)(nil).Field("metadata").Field("labels").Field("a.b/c").Element(2).Field("x")
	if got, want := path.String(), `metadata.labels["a.b/c"][2].x`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
