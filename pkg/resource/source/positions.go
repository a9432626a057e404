package source

import (
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
)

// Positions finds the place of a field in the file that a document came from.
// It keeps the document's text, not its parsed form, which is made again when
// the first position is asked for. The zero Positions knows no place.
type Positions struct {
	document *document
}

// document is one document's text.
type document struct {
	part  Part
	index int // of the document within the part

	once sync.Once // guards root
	root *yaml.Node
}

// At gives the position of the field at path ("spec.rules[0].name"), or of the
// nearest enclosing one that the document has: of the value for a scalar, of
// the key for a list or mapping.
func (p Positions) At(path string) resource.Position {
	if p.document == nil {
		return resource.Position{}
	}
	s := p.document
	s.once.Do(func() {
		if s.root != nil {
			return
		}
		if docs, _ := s.part.Documents(); s.index < len(docs) {
			s.root = docs[s.index]
		}
	})
	if s.root == nil {
		return resource.Position{File: s.part.file}
	}
	return s.part.PositionAt(s.root, path)
}

// Positions knows the places of the fields of the part's document of that index
// among what Documents gives.
func (p Part) Positions(index int) Positions {
	return Positions{&document{part: p, index: index}}
}

// PositionsIn knows the places of the fields of a document of the part that is
// kept in its parsed form.
func (p Part) PositionsIn(root *yaml.Node) Positions {
	return Positions{&document{part: p, root: root}}
}

// PositionAt is Positions.At for a document of the part that is at hand.
func (p Part) PositionAt(root *yaml.Node, path string) resource.Position {
	return p.Position(locate(root, path))
}

// locate finds the node whose place stands for the field at path. Aliases count
// as what they stand for; documents are measured before, so that none is a loop.
func locate(root *yaml.Node, path string) *yaml.Node {
	place, n := root, root
	for _, st := range fieldpath.Parse(path) {
		n = Target(n)
		found := false
		switch {
		case st.Index >= 0 && n.Kind == yaml.SequenceNode && st.Index < len(n.Content):
			n, found = n.Content[st.Index], true
			place = n
		case st.Index < 0 && n.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if k, v := n.Content[i], n.Content[i+1]; k.Value == st.Name {
					n, place, found = v, placeOf(k, v), true
					break
				}
			}
		}
		if !found {
			return place
		}
	}
	return place
}

// placeOf is the value for a scalar that is written out, else the key.
func placeOf(key, value *yaml.Node) *yaml.Node {
	if value.Kind == yaml.ScalarNode && value.Value != "" || value.Kind == yaml.ScalarNode && value.Style != 0 {
		return value
	}
	return key
}

// Target follows an alias.
func Target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}
