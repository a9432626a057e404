package change

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// indexed rewrites the keys by which field managers own entries of lists, as in
// "spec.rules[name=pay].clusters", into indexes of content, which is what
// positions go by. What content does not hold ends the path.
func indexed(field string, content []byte) string {
	if !strings.Contains(field, "=") {
		return field
	}
	var at any
	if json.Unmarshal(content, &at) != nil {
		return field
	}
	var out strings.Builder
	for field != "" {
		switch field[0] {
		case '.':
			out.WriteByte('.')
			field = field[1:]
		case '[':
			var keys []string
			for strings.HasPrefix(field, "[") {
				key, rest, closed := strings.Cut(field[1:], "]")
				if !closed {
					return out.String()
				}
				keys, field = append(keys, key), rest
			}
			list, _ := at.([]any)
			i := slices.IndexFunc(list, func(entry any) bool { return hasKeys(entry, keys) })
			if n, err := strconv.Atoi(keys[0]); err == nil && n < len(list) {
				i = n
			}
			if i < 0 {
				return out.String()
			}
			fmt.Fprintf(&out, "[%d]", i)
			at = list[i]
		default:
			end := strings.IndexAny(field, ".[")
			if end < 0 {
				end = len(field)
			}
			object, _ := at.(map[string]any)
			out.WriteString(field[:end])
			at, field = object[field[:end]], field[end:]
		}
	}
	return out.String()
}

// hasKeys tells whether an entry of a list is the one that all of keys name:
// "name=pay", or "=pay" for an entry that is a plain value.
func hasKeys(entry any, keys []string) bool {
	for _, key := range keys {
		name, want, ok := strings.Cut(key, "=")
		value := entry
		if name != "" {
			object, _ := entry.(map[string]any)
			value = object[name]
		}
		if !ok || fmt.Sprint(value) != want {
			return false
		}
	}
	return true
}
