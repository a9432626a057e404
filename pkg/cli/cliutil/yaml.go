package cliutil

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// YAML writes JSON as block-style YAML, in the order of the JSON. Strings that
// any YAML reader would take for something else, or that a terminal should not
// see, are quoted as in JSON, which YAML reads alike.
func YAML(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	root, err := readNode(dec)
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	var b strings.Builder
	writeYAML(&b, root, 0, false)
	return []byte(b.String()), nil
}

// node is one JSON value with the order of its members kept.
type node struct {
	scalar string // as YAML, when not a container
	object bool
	keys   []string
	items  []node
	list   bool
}

func readNode(dec *json.Decoder) (node, error) {
	tok, err := dec.Token()
	if err != nil {
		return node{}, err
	}
	switch t := tok.(type) {
	case json.Delim:
		return readContainer(dec, t)
	case string:
		return node{scalar: yamlString(t)}, nil
	case json.Number:
		return node{scalar: t.String()}, nil
	case bool:
		return node{scalar: fmt.Sprint(t)}, nil
	}
	return node{scalar: "null"}, nil
}

func readContainer(dec *json.Decoder, open json.Delim) (node, error) {
	n := node{object: open == '{', list: open == '['}
	for dec.More() {
		if n.object {
			key, err := dec.Token()
			if err != nil {
				return node{}, err
			}
			n.keys = append(n.keys, yamlString(key.(string)))
		}
		item, err := readNode(dec)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := dec.Token()
	return n, err
}

func writeYAML(b *strings.Builder, n node, depth int, inline bool) {
	pad := strings.Repeat("  ", depth)
	switch {
	case n.object && len(n.items) == 0:
		b.WriteString("{}\n")
	case n.list && len(n.items) == 0:
		b.WriteString("[]\n")
	case n.object:
		for i, item := range n.items {
			if i > 0 || !inline {
				b.WriteString(pad)
			}
			b.WriteString(n.keys[i] + ":")
			writeYAMLValue(b, item, depth+1)
		}
	case n.list:
		for i, item := range n.items {
			if i > 0 || !inline {
				b.WriteString(pad)
			}
			b.WriteString("- ")
			writeYAML(b, item, depth+1, true)
		}
	default:
		b.WriteString(n.scalar + "\n")
	}
}

func writeYAMLValue(b *strings.Builder, n node, depth int) {
	if len(n.items) == 0 {
		b.WriteByte(' ')
		writeYAML(b, n, depth, true)
		return
	}
	b.WriteByte('\n')
	if n.list {
		depth-- // sequences stand at their key's column
	}
	writeYAML(b, n, depth, false)
}

// plainYAML are strings that no YAML schema takes for a number, a boolean, null
// or a date: they begin with a letter and hold no indicator.
var plainYAML = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./*-]*( [A-Za-z0-9_./*()-]+)*$`)

func yamlString(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf":
		return `"` + s + `"`
	}
	if plainYAML.MatchString(s) {
		return s
	}
	data, err := MarshalJSON(s)
	if err != nil { // strings always marshal
		panic(err)
	}
	return escapeYAML(string(data))
}

// escapeYAML is escapeJSON for YAML, which knows no surrogate pairs.
func escapeYAML(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return unsafeRune(r, true) }) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !unsafeRune(r, true):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}
