// Package jcs writes the JSON Canonicalization Scheme of RFC 8785: no white
// space, object keys in order of their UTF-16 code units, numbers as ECMAScript
// prints doubles. Two equal values have equal bytes, which is what digests and
// signatures are made over.
//
// Marshal and Canonicalize give whole texts; the Append functions let a decoder
// that knows the order of its keys write canonical JSON as it goes.
//
// Functions are pure and safe for concurrent use.
package jcs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// Marshal renders v, anything that encoding/json can marshal. A number that a
// double cannot hold, and text that is not UTF-8, is an error.
func Marshal(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshal for canonical JSON: %w", err)
	}
	return Canonicalize(raw)
}

// Canonicalize is Marshal of a JSON text. Duplicate object keys are an error, and
// so is text after the value.
func Canonicalize(raw []byte) ([]byte, error) {
	if !utf8.Valid(raw) {
		return nil, fault.New(fault.CodeEncoding, "canonical JSON: the text is not UTF-8")
	}
	if LoneSurrogate(raw) {
		return nil, fault.New(fault.CodeEncoding, "canonical JSON: a text has half a surrogate pair")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	c := canonicalizer{dec: dec, out: make([]byte, 0, len(raw))}
	if err := c.value(0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fault.New(fault.CodeSyntax, "canonical JSON: text after the value")
	}
	return c.out, nil
}

// MaxDepth bounds how deep a JSON text is nested.
const MaxDepth = 256

type canonicalizer struct {
	dec *json.Decoder
	out []byte
}

func (c *canonicalizer) value(depth int) error {
	if depth > MaxDepth {
		return fault.New(fault.CodeExpansion, "canonical JSON: nested more than %d deep", MaxDepth)
	}
	tok, err := c.dec.Token()
	if err != nil {
		return fault.New(fault.CodeSyntax, "canonical JSON: %w", err)
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			return c.array(depth)
		}
		return c.object(depth)
	case string:
		c.out = AppendString(c.out, t)
	case json.Number:
		f, err := strconv.ParseFloat(string(t), 64)
		if err != nil {
			return fault.New(fault.CodeRange, "canonical JSON: number %s does not fit a double", t)
		}
		c.out = AppendNumber(c.out, f)
	case bool:
		c.out = strconv.AppendBool(c.out, t)
	default:
		c.out = append(c.out, "null"...)
	}
	return nil
}

func (c *canonicalizer) array(depth int) error {
	c.out = append(c.out, '[')
	for first := true; c.dec.More(); first = false {
		if !first {
			c.out = append(c.out, ',')
		}
		if err := c.value(depth + 1); err != nil {
			return err
		}
	}
	c.out = append(c.out, ']')
	return c.closing()
}

// member is one rendered member of an object.
type member struct {
	key   string
	value []byte
}

func (c *canonicalizer) object(depth int) error {
	outer := c.out
	var members []member
	for c.dec.More() {
		tok, err := c.dec.Token()
		if err != nil {
			return fault.New(fault.CodeSyntax, "canonical JSON: %w", err)
		}
		key, ok := tok.(string)
		if !ok {
			return fault.New(fault.CodeSyntax, "canonical JSON: object key is not text")
		}
		c.out = nil
		if err := c.value(depth + 1); err != nil {
			return err
		}
		members = append(members, member{key, c.out})
	}
	slices.SortFunc(members, func(a, b member) int { return Compare(a.key, b.key) })
	for i := 1; i < len(members); i++ {
		if members[i].key == members[i-1].key {
			return fault.New(fault.CodeDuplicateKey, "canonical JSON: key %s is given twice", safetext.Quote(members[i].key))
		}
	}
	c.out = appendObject(outer, members)
	return c.closing()
}

func (c *canonicalizer) closing() error {
	if _, err := c.dec.Token(); err != nil {
		return fault.New(fault.CodeSyntax, "canonical JSON: %w", err)
	}
	return nil
}

// appendObject renders members, which are in order.
func appendObject(out []byte, members []member) []byte {
	out = append(out, '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = AppendString(out, m.key)
		out = append(out, ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

// Compare orders keys by UTF-16 code units (RFC 8785, section 3.2.3). It
// differs from byte order only where one side has a character above U+FFFF.
func Compare(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	for i > 0 && i < len(a) && !utf8.RuneStart(a[i]) {
		i--
	}
	a, b = a[i:], b[i:]
	if a == "" || b == "" {
		return len(a) - len(b)
	}
	ra, _ := utf8.DecodeRuneInString(a)
	rb, _ := utf8.DecodeRuneInString(b)
	return firstUnits(ra) - firstUnits(rb)
}

// firstUnits orders characters as their UTF-16 form does: a character above
// U+FFFF by its surrogates, below U+E000.
func firstUnits(r rune) int {
	if hi, lo := utf16.EncodeRune(r); r > 0xffff {
		return int(hi)<<16 | int(lo)
	}
	return int(r) << 16
}

const hexDigits = "0123456789abcdef"

// AppendString appends s in quotes. It escapes only what RFC 8785, section 3.2.2.2 says.
func AppendString(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[start:i]...)
		start = i + 1
		if j := strings.IndexByte("\"\\\b\f\n\r\t", c); j >= 0 {
			out = append(out, '\\', `"\bfnrt`[j])
		} else {
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	out = append(out, s[start:]...)
	return append(out, '"')
}

// AppendNumber prints a finite double as ECMAScript's Number::toString
// does: shortest digits, exponent form from 1e21 and below 1e-6.
func AppendNumber(out []byte, f float64) []byte {
	if f == 0 {
		return append(out, '0') // also for -0
	}
	abs := math.Abs(f)
	if abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	start := len(out)
	out = strconv.AppendFloat(out, f, 'e', -1, 64)
	// Go pads the exponent to two digits: 1e-07 becomes 1e-7.
	if n := len(out); n-start >= 4 && out[n-4] == 'e' && out[n-2] == '0' {
		out[n-2] = out[n-1]
		out = out[:n-1]
	}
	return out
}
