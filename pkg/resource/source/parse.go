package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"go.yaml.in/yaml/v3"
)

// syntaxError is a place within a part, from line and column 1.
type syntaxError struct {
	line, column int
	reason       string
	remedy       string
}

func (e *syntaxError) Error() string { return e.reason }

// SyntaxFinding places an error that Documents gave. pinpoint allows the search
// for the exact line, which parses the text several times.
func (p Part) SyntaxFinding(err error, pinpoint bool) resource.Finding {
	e := p.explain(err, pinpoint)
	return resource.Finding{
		Code: fault.CodeSyntax, Severity: resource.Error, Reason: e.reason, Remedy: e.remedy,
		Pos: resource.Position{File: p.file, Line: p.before + e.line, Column: e.column},
	}
}

// Documents reads the documents of the part: one, none, or several when the part is a
// row of JSON values or uses "..." between documents. A document that is empty
// is left out.
func (p Part) Documents() ([]*yaml.Node, error) {
	body := bytes.TrimLeft(p.text, " \t\r\n")
	if len(body) == 0 || body[0] != '{' && body[0] != '[' {
		return parseYAML(p.text)
	}
	docs, jsonErr := parseJSON(p.text)
	if jsonErr == nil {
		return docs, nil
	}
	// Flow-style YAML begins like JSON.
	docs, err := parseYAML(p.text)
	if err != nil && looksLikeJSON(body) {
		return docs, jsonErr
	}
	return docs, err
}

// looksLikeJSON: the first thing within the brackets is what JSON has there.
func looksLikeJSON(body []byte) bool {
	inner := bytes.TrimLeft(body[1:], " \t\r\n")
	return len(inner) > 0 && strings.IndexByte(`"{}[]`, inner[0]) >= 0
}

func parseYAML(text []byte) (docs []*yaml.Node, err error) {
	// The parser is a third party's and sees hostile input; a defect in it must
	// cost one finding, not the process.
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, errors.New("the YAML parser gave up")
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, err
		}
		if len(doc.Content) == 1 && !absent(doc.Content[0]) {
			docs = append(docs, doc.Content[0])
		}
	}
}

// absent says whether a node is a null that is not even written.
func absent(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "" && n.Style == 0
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// maxPinpoint bounds the text in which the line of a mistake is searched for.
const maxPinpoint = 64 << 10

// explain turns a parser's error into a place and a sentence.
func (p Part) explain(err error, pinpoint bool) *syntaxError {
	if se, ok := errors.AsType[*syntaxError](err); ok {
		return se
	}
	lines := bytes.SplitAfter(p.text, []byte{'\n'})
	if n := len(lines); n > 1 && len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	message := err.Error()
	m := yamlErrorLine.FindStringSubmatch(message)
	reason := strings.TrimPrefix(message, m[0])
	line, _ := strconv.Atoi(m[1])
	if pinpoint && len(p.text) <= maxPinpoint {
		line = failingLine(p.text, lines, reason)
	}
	line = min(max(line, 1), len(lines))
	text := bytes.TrimRight(lines[line-1], "\r\n")
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	se := &syntaxError{line: line, column: 1 + len(indent), reason: "not valid YAML: " + reason}
	switch tab := bytes.IndexByte(indent, '\t'); {
	case tab >= 0:
		se.column, se.reason, se.remedy = tab+1, "not valid YAML: a tab indents the line", "indent with spaces"
	case strings.HasPrefix(reason, "mapping values are not allowed"):
		if i := bytes.LastIndex(text, []byte(": ")); i >= 0 {
			se.column = 1 + utf8.RuneCount(text[:i])
		}
		se.remedy = "put text that holds ': ' in quotes, or correct the indentation"
	case strings.HasPrefix(reason, "unknown anchor"):
		if i := bytes.IndexByte(text, '*'); i >= 0 {
			se.column = 1 + utf8.RuneCount(text[:i])
		}
		se.remedy = "define the anchor before its use, or put text that begins with '*' in quotes"
	case strings.HasPrefix(reason, "found unexpected end of stream"):
		if i := bytes.LastIndexAny(text, "\"'"); i >= 0 {
			se.column = 1 + utf8.RuneCount(text[:i])
		}
		se.reason, se.remedy = "not valid YAML: a quote is not closed", "close the quote"
	case strings.HasPrefix(reason, "found ") && pinpoint && len(p.text) <= maxPinpoint:
		se.column = failingColumn(bytes.Join(lines[:line-1], nil), text, reason)
	case bytes.HasPrefix(text, []byte("%")):
		se.reason, se.remedy = "not valid YAML: a directive other than %YAML", "remove the line"
	case strings.HasPrefix(reason, "did not find expected key"):
		se.remedy = "correct the indentation: the line fits no mapping above it"
	}
	if r, bad := safetext.FindUnsafe(se.reason, false); bad || len(se.reason) > 200 {
		se.reason = fmt.Sprintf("not valid YAML (near character %s)", safetext.Escape(r))
	}
	return se
}

// failingLine finds the line at which a parse fails: the last of the shortest
// run of leading lines that fails in the same way. (The parser itself names the
// line where the construct begins that it could not finish.) Once a run fails,
// every longer one does, so that it can be searched for by halves.
func failingLine(text []byte, lines [][]byte, reason string) int {
	ends := make([]int, len(lines))
	at := 0
	for i, l := range lines {
		at += len(l)
		ends[i] = at
	}
	lo, hi := 0, len(lines)-1
	for lo < hi {
		mid := (lo + hi) / 2
		if failsWith(text[:ends[mid]], reason) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo + 1
}

// failingColumn does the same within the line, for mistakes of single
// characters, which the parser meets as soon as it reads them.
func failingColumn(before, line []byte, reason string) int {
	runes := []rune(string(line))
	lo, hi := 1, max(1, len(runes))
	for lo < hi {
		mid := (lo + hi) / 2
		if failsWith(append(bytes.Clone(before), string(runes[:mid])...), reason) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

func failsWith(text []byte, reason string) bool {
	_, err := parseYAML(text)
	return err != nil && strings.TrimPrefix(err.Error(), yamlErrorLine.FindString(err.Error())) == reason
}
