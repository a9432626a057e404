package source

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/meshkit/meshkit/pkg/resource/jcs"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// parseJSON reads a row of JSON values into the nodes that the YAML parser
// would give, with the line and column of each. It is several times as fast,
// and knows JSON's surrogate pairs, which YAML does not.
func parseJSON(text []byte) ([]*yaml.Node, error) {
	s := &jsonScanner{text: text, line: 1}
	var docs []*yaml.Node
	for s.space(); s.at < len(s.text); s.space() {
		n, err := s.value(0)
		if err != nil {
			return docs, err
		}
		docs = append(docs, n)
	}
	return docs, nil
}

type jsonScanner struct {
	text []byte
	at   int
	line int
	// lineStart is the offset of the line's first byte; wide the number of
	// continuation bytes seen since, which are no columns.
	lineStart, wide int
}

func (s *jsonScanner) column() int { return 1 + s.at - s.lineStart - s.wide }

func (s *jsonScanner) fail(format string, args ...any) error {
	return &syntaxError{line: s.line, column: s.column(), reason: "not valid JSON: " + fmt.Sprintf(format, args...)}
}

func (s *jsonScanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '\n':
			s.line++
			s.at++
			s.lineStart, s.wide = s.at, 0
		case ' ', '\t', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek gives the next byte after white space, 0 at the end.
func (s *jsonScanner) peek() byte {
	s.space()
	if s.at == len(s.text) {
		return 0
	}
	return s.text[s.at]
}

func (s *jsonScanner) found() string {
	if s.at == len(s.text) {
		return "the end"
	}
	r, _ := utf8.DecodeRune(s.text[s.at:])
	return safetext.Quote(string(r))
}

func (s *jsonScanner) value(depth int) (*yaml.Node, error) {
	if depth > jcs.MaxDepth {
		return nil, s.fail("nested more than %d deep", jcs.MaxDepth)
	}
	c := s.peek()
	n := &yaml.Node{Line: s.line, Column: s.column()}
	switch {
	case c == '{':
		return n, s.object(n, depth)
	case c == '[':
		return n, s.array(n, depth)
	case c == '"':
		v, err := s.str()
		n.Kind, n.Tag, n.Style, n.Value = yaml.ScalarNode, "!!str", yaml.DoubleQuotedStyle, v
		return n, err
	}
	start := s.at
	for s.at < len(s.text) && (alphanumeric(s.text[s.at]) || s.text[s.at] == '-' || s.text[s.at] == '+' || s.text[s.at] == '.') {
		s.at++
	}
	n.Kind, n.Value = yaml.ScalarNode, string(s.text[start:s.at])
	switch {
	case n.Value == "true" || n.Value == "false":
		n.Tag = "!!bool"
	case n.Value == "null":
		n.Tag = "!!null"
	case jcs.IsInteger(n.Value):
		n.Tag = "!!int"
	case jcs.IsNumber(n.Value):
		n.Tag = "!!float"
	default:
		s.at = start
		return nil, s.fail("expected a value, found %s", s.found())
	}
	return n, nil
}

func (s *jsonScanner) array(n *yaml.Node, depth int) error {
	n.Kind, n.Tag, n.Style = yaml.SequenceNode, "!!seq", yaml.FlowStyle
	s.at++
	if s.peek() == ']' {
		s.at++
		return nil
	}
	for {
		v, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		n.Content = append(n.Content, v)
		switch s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return nil
		default:
			return s.fail("expected ',' or ']', found %s", s.found())
		}
	}
}

func (s *jsonScanner) object(n *yaml.Node, depth int) error {
	n.Kind, n.Tag, n.Style = yaml.MappingNode, "!!map", yaml.FlowStyle
	s.at++
	if s.peek() == '}' {
		s.at++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.fail("expected a key in quotes, found %s", s.found())
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Line: s.line, Column: s.column()}
		var err error
		if key.Value, err = s.str(); err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.fail("expected ':', found %s", s.found())
		}
		s.at++
		v, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		n.Content = append(n.Content, key, v)
		switch s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			return nil
		default:
			return s.fail("expected ',' or '}', found %s", s.found())
		}
	}
}

// str reads a text in quotes.
func (s *jsonScanner) str() (string, error) {
	start, plain := s.at, true
	wide := 0
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			raw := s.text[start : i+1]
			if plain {
				s.at, s.wide = i+1, s.wide+wide
				return string(raw[1 : len(raw)-1]), nil
			}
			var v string
			if err := json.Unmarshal(raw, &v); err != nil {
				return "", s.fail("the text has an escape that JSON does not know")
			}
			if jcs.LoneSurrogate(raw) {
				return "", s.fail("the text has half a surrogate pair")
			}
			s.at, s.wide = i+1, s.wide+wide
			return v, nil
		case c == '\\':
			plain = false
			i++
		case c < 0x20:
			return "", s.fail("the text is not closed on its line")
		case !utf8.RuneStart(c):
			wide++
		}
	}
	return "", s.fail("the text is not closed")
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
