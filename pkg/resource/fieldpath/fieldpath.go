// Package fieldpath writes and reads the path of a field within a resource, like
// spec.rules[0].name, as findings show it and people give it.
//
// A Path is made on the way down a value and rendered only where one is needed;
// Parse takes a rendered one apart. Values are immutable; functions are pure and
// safe for concurrent use.
package fieldpath

import (
	"strconv"
	"strings"
)

// Path is the way from a document's root to a value; nil is the root.
type Path struct {
	Parent *Path
	Step
}

// Step is one part of a path.
type Step struct {
	Name  string // of a field or map key; unused for an element
	Index int    // of an element, or -1
}

// Field is the way to a field or map key of the value at p.
func (p *Path) Field(name string) *Path { return &Path{p, Step{name, -1}} }

// Element is the way to an element of the list at p.
func (p *Path) Element(index int) *Path { return &Path{p, Step{Index: index}} }

// maxPathKey bounds what a path shows of a map's key.
const maxPathKey = 128

// String renders spec.rules[0].name; a key with other characters than letters,
// digits, '_' and '-' stands in brackets and quotes: metadata.labels["a.b/c"].
func (p *Path) String() string {
	if p == nil {
		return ""
	}
	before := p.Parent.String()
	switch {
	case p.Index >= 0:
		return before + "[" + strconv.Itoa(p.Index) + "]"
	case !plainKey(p.Name):
		return before + "[" + strconv.QuoteToASCII(p.Name[:min(len(p.Name), maxPathKey)]) + "]"
	case before == "":
		return p.Name
	}
	return before + "." + p.Name
}

func plainKey(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxPathKey
}

// Parse reads what Path.String wrote, up to the first part that it cannot
// read.
func Parse(s string) []Step {
	var steps []Step
	for s != "" {
		switch {
		case s[0] == '.':
			s = s[1:]
		case strings.HasPrefix(s, `["`):
			quoted, err := strconv.QuotedPrefix(s[1:])
			if err != nil || !strings.HasPrefix(s[1+len(quoted):], "]") {
				return steps
			}
			name, _ := strconv.Unquote(quoted)
			steps = append(steps, Step{name, -1})
			s = s[len(quoted)+2:]
		case s[0] == '[':
			inner, rest, ok := strings.Cut(s[1:], "]")
			i, err := strconv.Atoi(inner)
			if !ok || err != nil || i < 0 {
				return steps
			}
			steps = append(steps, Step{"", i})
			s = rest
		default:
			end := strings.IndexAny(s, ".[")
			if end < 0 {
				end = len(s)
			}
			steps = append(steps, Step{s[:end], -1})
			s = s[end:]
		}
	}
	return steps
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
