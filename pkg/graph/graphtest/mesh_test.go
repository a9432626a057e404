package graphtest

import (
	"bytes"
	"testing"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
)

func TestMeshIsValidDeterministicAndOfTheStatedSize(t *testing.T) {
	for _, n := range []int{0, 1, 7, 10, 11, 1234} {
		changes := Mesh(n, 42)
		if len(changes) != n {
			t.Fatalf("Mesh(%d) has %d resources", n, len(changes))
		}
		again := Mesh(n, 42)
		total := 0
		for i := range changes {
			if !bytes.Equal(changes[i].Content, again[i].Content) {
				t.Fatalf("resource %d differs between two calls", i)
			}
			total += len(changes[i].Content)
		}
		if n > 0 && (total/n < 900 || total/n > 1200) {
			t.Errorf("Mesh(%d): %d bytes a resource", n, total/n)
		}
		g, findings := graph.New().Update(changes)
		if len(findings) > 0 || g.Len() != n {
			t.Fatalf("Mesh(%d): %d resources, findings %v", n, g.Len(), findings)
		}
	}
}

func TestMeshPassesStrictDecoding(t *testing.T) {
	for _, c := range Mesh(60, 7) {
		docs, findings := kind.Decode("mesh.json", c.Content, resource.DefaultLimits())
		if len(findings) > 0 || len(docs) != 1 || !bytes.Equal(docs[0].Content, c.Content) {
			t.Fatalf("%s: %d documents, findings %v", c.Key, len(docs), findings)
		}
	}
}

func TestEditChangesContentAndNothingElse(t *testing.T) {
	c := Mesh(10, 1)[3]
	a, b := Edit(c, 1), Edit(c, 2)
	if a.Key != c.Key || bytes.Equal(a.Content, b.Content) || bytes.Equal(a.Content, c.Content) {
		t.Fatalf("edits: %s %s", a.Content, b.Content)
	}
}
