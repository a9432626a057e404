package change

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/decode"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// partial is a document that lacks only required fields.
type partial struct {
	decode.Document
	missing []resource.Finding
}

// partialOf reads a document that decoding refused for nothing but missing
// fields: a manager may apply only the fields that it cares for, when others
// supply the rest. What the merge makes of it is decoded strictly again.
func partialOf(data []byte, findings []resource.Finding, lim resource.Limits) (partial, bool) {
	for _, f := range findings {
		if f.Severity == resource.Error && f.Code != fault.CodeRequired {
			return partial{}, false
		}
	}
	if len(data) > lim.ResourceBytes {
		return partial{}, false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil || dec.More() {
		return partial{}, false
	}
	meta, _ := doc["metadata"].(map[string]any)
	if meta == nil {
		return partial{}, false
	}
	if _, ok := meta["namespace"]; !ok {
		meta["namespace"] = resource.DefaultNamespace
	}
	for _, k := range []string{"generation", "resourceVersion"} {
		delete(meta, k)
	}
	content, err := jcs.Marshal(doc)
	if err != nil {
		return partial{}, false
	}
	k := resource.Key{Kind: text(doc["kind"]), Namespace: text(meta["namespace"]), Name: text(meta["name"])}
	if k.Kind == "" || k.Name == "" {
		return partial{}, false
	}
	r := &resource.Resource{APIVersion: text(doc["apiVersion"]), Kind: k.Kind, Metadata: resource.Metadata{Name: k.Name, Namespace: k.Namespace}}
	return partial{Document: decode.Document{Resource: r, Content: content}, missing: findings}, true
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// printable tells whether s has only characters that a terminal shows as they are.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
