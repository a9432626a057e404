package decode

import (
	"strings"

	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/source"
	"go.yaml.in/yaml/v3"
)

// metadataOf reads metadata that was walked without error.
func metadataOf(n *yaml.Node) resource.Metadata {
	m := resource.Metadata{Namespace: resource.DefaultNamespace, Labels: stringMap(field(n, "labels")), Annotations: stringMap(field(n, "annotations"))}
	m.Name, _ = scalarField(n, "name")
	if namespace, at := scalarField(n, "namespace"); at != nil {
		m.Namespace = namespace
	}
	return m
}

// stringMap reads a mapping of texts; nil if there is none or it is empty.
func stringMap(n *yaml.Node) map[string]string {
	if n == nil {
		return nil
	}
	n = source.Target(n)
	if len(n.Content) == 0 {
		return nil
	}
	m := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		m[n.Content[i].Value] = source.Target(n.Content[i+1]).Value
	}
	return m
}

// field gives the value of a mapping's first entry of that name, or nil.
func field(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalarField gives the text of a field, "" if it is none, and its node.
func scalarField(n *yaml.Node, name string) (string, *yaml.Node) {
	v := field(n, name)
	if v == nil {
		return "", nil
	}
	t := source.Target(v)
	if t.Kind != yaml.ScalarNode {
		return "", v
	}
	return t.Value, v
}

// peekKey reads the key ahead of validation, so that every finding can name it.
// What is not a valid part of a key is left out.
func peekKey(root *yaml.Node, kind string) resource.Key {
	meta := field(root, "metadata")
	if meta == nil {
		return resource.Key{}
	}
	meta = source.Target(meta)
	name, _ := scalarField(meta, "name")
	namespace, n := scalarField(meta, "namespace")
	if n == nil {
		namespace = resource.DefaultNamespace
	}
	key := resource.Key{Kind: kind, Namespace: namespace, Name: name}
	if !key.Valid() {
		return resource.Key{}
	}
	return key
}

func isList(root *yaml.Node, kind string) bool {
	return kind == "List" || strings.HasSuffix(kind, "List") && field(root, "items") != nil
}
