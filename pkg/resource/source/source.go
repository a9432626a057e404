// Package source reads the text of YAML and JSON files: it cuts a file into parts
// at its document markers, parses each by itself into nodes that know their line
// and column, and turns a parser's complaints into findings at the right place.
// It knows nothing of what the documents should hold; pkg/resource/decode does.
//
//	parts, findings := source.Open(file, data)
//	for each part: roots, err := part.Documents()
//
// The input may be hostile: see Part.Check for documents that expand.
//
// The package is pure; all functions are safe for concurrent use.
package source

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"go.yaml.in/yaml/v3"
)

// Part is a piece of a file between two document markers. It shares the file's
// bytes: do not change them.
type Part struct {
	file string
	text []byte
	// before is the number of lines of the file ahead of text.
	before int
}

// Position is the place of a node of the part.
func (p Part) Position(n *yaml.Node) resource.Position {
	return resource.Position{File: p.file, Line: p.before + n.Line, Column: n.Column}
}

// Start is the place where the part begins.
func (p Part) Start() resource.Position {
	return resource.Position{File: p.file, Line: p.before + 1, Column: 1}
}

// Size is the length of the part's text in bytes.
func (p Part) Size() int { return len(p.text) }

// Open cuts a file into parts, of which there is at least one. A file that holds
// what no document may hold anywhere, bytes that are not UTF-8 or control
// characters, is refused with findings.
func Open(file string, data []byte) ([]Part, []resource.Finding) {
	data = bytes.TrimPrefix(data, byteOrderMark)
	if bad := checkText(file, data); len(bad) > 0 {
		return nil, bad
	}
	return split(file, data), nil
}

// split cuts a file at its document markers. YAML reserves "---" at the start
// of a line for them, within text and brackets too, so that looking at line
// starts is exact; and it lets a mistake in one document leave the others
// readable. The marker line opens the part that it starts.
func split(file string, data []byte) []Part {
	var parts []Part
	start, startLine, line := 0, 0, 0
	for at := 0; at < len(data); {
		if at > start && marker(data[at:]) {
			parts = append(parts, rows(Part{file, data[start:at], startLine})...)
			start, startLine = at, line
		}
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			break
		}
		at += end + 1
		line++
	}
	return append(parts, rows(Part{file, data[start:], startLine})...)
}

// rows cuts a part that is a row of JSON values, as tools write them, wherever
// one begins on a line of its own after the end of the one before.
func rows(p Part) []Part {
	body := bytes.TrimLeft(p.text, " \t\r\n")
	if len(body) == 0 || body[0] != '{' {
		return []Part{p}
	}
	var parts []Part
	start, startLine, line, depth := 0, p.before, p.before, 0
	quoted, ended := false, false
	for i := 0; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '\n':
			line++
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if ended && depth == 0 && c == '{' && p.text[i-1] == '\n' {
				parts = append(parts, Part{p.file, p.text[start:i], startLine})
				start, startLine = i, line
			}
			depth++
		case c == '}' || c == ']':
			depth--
			ended = true
		}
	}
	return append(parts, Part{p.file, p.text[start:], startLine})
}

func marker(b []byte) bool {
	return bytes.HasPrefix(b, []byte("---")) && (len(b) == 3 || b[3] == ' ' || b[3] == '\t' || b[3] == '\n' || b[3] == '\r')
}

// Blank says whether a part holds nothing but space, comments, a marker and a
// %YAML directive.
func (p Part) Blank() bool {
	for line := range bytes.Lines(p.text) {
		if marker(line) {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.HasPrefix(line, []byte("%YAML ")) && !bytes.Equal(line, []byte("...")) {
			return false
		}
	}
	return true
}

// positionAt gives the place of a byte of a file.
func positionAt(file string, data []byte, offset int) resource.Position {
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return resource.Position{File: file, Line: 1 + bytes.Count(before, []byte{'\n'}), Column: 1 + utf8.RuneCount(before[start:])}
}

var byteOrderMark = []byte("\ufeff")

// checkText refuses what no document may hold anywhere: bytes that are not
// UTF-8, and control characters. It reports the first of each.
func checkText(file string, data []byte) []resource.Finding {
	finding := func(code fault.Code, at int, remedy, format string, args ...any) resource.Finding {
		return resource.Finding{Code: code, Severity: resource.Error, Pos: positionAt(file, data, at), Remedy: remedy, Reason: fmt.Sprintf(format, args...)}
	}
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return []resource.Finding{finding(fault.CodeEncoding, 0, "save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`", "the file is UTF-16")}
	}
	var found []resource.Finding
	badUTF8, control := false, false
	for i := 0; i < len(data) && !(badUTF8 && control); {
		c := data[i]
		if c >= 0x20 && c < 0x7f || c == '\n' {
			i++
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			if !badUTF8 {
				badUTF8 = true
				found = append(found, finding(fault.CodeEncoding, i, "save the file as UTF-8", "byte 0x%02x is not UTF-8", c))
			}
		case r == '\t' || r == '\r' && i+1 < len(data) && data[i+1] == '\n':
		case r < 0x20 || r >= 0x7f && r <= 0x9f:
			if !control {
				control = true
				found = append(found, finding(fault.CodeControlCharacter, i, "delete it", "control character %s", safetext.Escape(r)))
			}
		}
		i += size
	}
	return found
}
