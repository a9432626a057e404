package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/resource/jcs"
)

// cut removes members and list elements, given by their paths, from canonical JSON.
// A list that becomes empty goes as well. Everything else stays, known or not.
func cut(content []byte, paths [][]any) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		return nil, fmt.Errorf("tailor content: %w", err)
	}
	for _, p := range paths {
		tree = mark(tree, p)
	}
	out, err := jcs.Marshal(sweep(tree))
	if err != nil {
		return nil, fmt.Errorf("tailor content: %w", err)
	}
	return out, nil
}

// cutMark stands for a value that goes. Marking first keeps list indices valid.
type cutMark struct{}

func mark(value any, path []any) any {
	if len(path) == 0 {
		return cutMark{}
	}
	switch v := value.(type) {
	case map[string]any:
		if name, ok := path[0].(string); ok {
			if member, there := v[name]; there {
				v[name] = mark(member, path[1:])
			}
		}
	case []any:
		if i, ok := path[0].(int); ok && i < len(v) {
			v[i] = mark(v[i], path[1:])
		}
	}
	return value
}

func sweep(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if rest := sweep(member); rest == (cutMark{}) {
				delete(v, name)
			} else {
				v[name] = rest
			}
		}
	case []any:
		kept := make([]any, 0, len(v))
		for _, element := range v {
			if rest := sweep(element); rest != (cutMark{}) {
				kept = append(kept, rest)
			}
		}
		if len(kept) == 0 && len(v) > 0 {
			return cutMark{}
		}
		return kept
	}
	return value
}

// parsePath takes apart a field path like "spec.rules[0].policies[1]".
func parsePath(field string) []any {
	var out []any
	for _, step := range strings.Split(field, ".") {
		name, indices, _ := strings.Cut(step, "[")
		out = append(out, name)
		for _, index := range strings.Split(strings.TrimSuffix(indices, "]"), "][") {
			if i, err := strconv.Atoi(index); err == nil {
				out = append(out, i)
			}
		}
	}
	return out
}
