package cliutil

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theory/jsonpath"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Format is how data is printed.
type Format struct {
	Name string // "table", "wide", "json", "yaml", "name" or "jsonpath"
	path *jsonpath.Path
}

// Formats are the values of -o, for help and completion.
var Formats = []string{"table", "wide", "json", "yaml", "name", "jsonpath="}

// DocumentFormats are those of commands that print one document.
var DocumentFormats = []string{"table", "json", "yaml", "jsonpath="}

// ParseFormat reads the value of -o; allowed limits the names, all when empty.
// The expression of jsonpath= is RFC 9535; kubectl's {.items[*].name} is taken
// as $.items[*].name.
func ParseFormat(value string, allowed ...string) (Format, error) {
	name, expr, hasExpr := strings.Cut(value, "=")
	if name == "" {
		name = "table"
	}
	if len(allowed) == 0 {
		allowed = []string{"table", "wide", "json", "yaml", "name", "jsonpath"}
	}
	if !slices.Contains(allowed, name) || (name == "jsonpath") != hasExpr {
		return Format{}, fault.New(fault.CodeOutputFormat, "output format %q is not one of %s", value, strings.Join(allowed, ", "))
	}
	f := Format{Name: name}
	if !hasExpr {
		return f, nil
	}
	expr = strings.TrimSpace(expr)
	if strings.HasPrefix(expr, "{") && strings.HasSuffix(expr, "}") {
		expr = strings.TrimSpace(expr[1 : len(expr)-1])
	}
	if strings.HasPrefix(expr, ".") || strings.HasPrefix(expr, "[") {
		expr = "$" + expr
	}
	p, err := jsonpath.Parse(expr)
	if err != nil {
		return Format{}, fault.New(fault.CodeOutputFormat, "jsonpath expression %q: %v", expr, err)
	}
	f.path = p
	return f, nil
}

// Structured tells whether the format prints data for programs.
func (f Format) Structured() bool { return f.Name != "table" && f.Name != "wide" }

// Listing is what a read prints: the same values as a table and as JSON.
type Listing struct {
	Table *Table
	// Items are the JSON objects; Names are how -o name writes each.
	Items []json.RawMessage
	Names []string
	// Single: one object was asked for; it is printed without {"items": …}.
	Single bool
	// Documents: -o yaml prints each item as a document of its own, as files hold
	// resources.
	Documents bool
	// Empty is what people are told when there is nothing.
	Empty string
}

// Document is the JSON of a listing: the object, or {"items":[…]}.
func (l *Listing) Document() []byte {
	if l.Single && len(l.Items) == 1 {
		return l.Items[0]
	}
	return fmt.Appendf(nil, `{"items":%s}`, l.Array())
}

// Array is the items as a JSON array.
func (l *Listing) Array() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, it := range l.Items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(it)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// Print writes a listing to stdout in format f.
func (s *IO) Print(f Format, l *Listing) error {
	switch f.Name {
	case "name":
		for _, n := range l.Names {
			s.Outf("%s", Clean(n))
		}
		return nil
	case "table", "wide":
		if len(l.Items) == 0 && l.Empty != "" {
			s.Notef("%s", l.Empty)
			return nil
		}
		l.Table.Columns = s.Width
		return l.Table.Write(s.Out, true, func(h string) string { return s.PaintOut(Bold, h) })
	}
	if f.Name == "yaml" && l.Documents && !l.Single {
		for i, item := range l.Items {
			if i > 0 {
				fmt.Fprintln(s.Out, "---")
			}
			if err := s.PrintDocument(f, item); err != nil {
				return err
			}
		}
		return nil
	}
	return s.PrintDocument(f, l.Document())
}

// PrintDocument writes one JSON document as json, yaml or through jsonpath.
func (s *IO) PrintDocument(f Format, doc []byte) error {
	var out []byte
	var err error
	switch f.Name {
	case "yaml":
		out, err = YAML(doc)
	case "jsonpath":
		if out, err = f.selectPath(doc); err == nil && len(out) == 0 {
			s.Notef("jsonpath %s selects nothing", f.path)
		}
	default:
		out, err = IndentJSON(doc)
		out = append(out, '\n')
	}
	if err != nil {
		return err
	}
	_, err = s.Out.Write(out)
	return err
}

// selectPath prints each node that the expression selects on a line: strings as
// they are (cleaned), everything else as JSON.
func (f Format) selectPath(doc []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	var b bytes.Buffer
	for _, n := range f.path.Select(v) {
		if text, ok := n.(string); ok {
			b.WriteString(Clean(text) + "\n")
			continue
		}
		data, err := MarshalJSON(n)
		if err != nil {
			return nil, fmt.Errorf("write JSON: %w", err)
		}
		b.Write(append(escapeJSON(data), '\n'))
	}
	return b.Bytes(), nil
}

// PrintLine writes one event of a watch: a line of JSON, a YAML document, a
// name, or what the expression selects.
func (s *IO) PrintLine(ctx context.Context, f Format, doc []byte, name string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	switch f.Name {
	case "json":
		_, err := s.Out.Write(append(escapeJSON(doc), '\n'))
		return err
	case "yaml":
		if _, err := s.Out.Write([]byte("---\n")); err != nil {
			return err
		}
		return s.PrintDocument(f, doc)
	case "name":
		s.Outf("%s", Clean(name))
		return nil
	case "jsonpath":
		out, err := f.selectPath(doc)
		if err != nil {
			return err
		}
		_, err = s.Out.Write(out)
		return err
	}
	return s.PrintDocument(f, doc)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
