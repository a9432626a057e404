package cliutil

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ProtoJSON encodes an API message as the JSON that every `-o json` prints. It
// differs from protojson where scripts are better served, and is stable:
// numbers are numbers, also 64-bit ones (sequence numbers stay below 2^53);
// every field is present, absent messages as null; times are RFC 3339,
// durations like "1.5s"; enums are their last word in lower case ("active");
// digests and hashes are hex; bytes that hold JSON are that JSON; other bytes
// are base64. Field names are lowerCamelCase, in the schema's order.
func ProtoJSON(m proto.Message) json.RawMessage {
	var b bytes.Buffer
	writeMessage(&b, m.ProtoReflect())
	return b.Bytes()
}

func writeMessage(b *bytes.Buffer, m protoreflect.Message) {
	if !m.IsValid() {
		b.WriteString("null")
		return
	}
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		writeString(b, v.AsTime().UTC().Format(time.RFC3339Nano))
		return
	case *durationpb.Duration:
		writeString(b, v.AsDuration().String())
		return
	}
	b.WriteByte('{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if i > 0 {
			b.WriteByte(',')
		}
		f := fields.Get(i)
		writeString(b, f.JSONName())
		b.WriteByte(':')
		writeField(b, f, m.Get(f))
	}
	b.WriteByte('}')
}

func writeField(b *bytes.Buffer, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case f.IsMap():
		writeMap(b, f, v.Map())
	case f.IsList():
		b.WriteByte('[')
		for i := range v.List().Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			writeValue(b, f, v.List().Get(i))
		}
		b.WriteByte(']')
	default:
		writeValue(b, f, v)
	}
}

func writeMap(b *bytes.Buffer, f protoreflect.FieldDescriptor, m protoreflect.Map) {
	keys := make([]string, 0, m.Len())
	values := make(map[string]protoreflect.Value, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		keys = append(keys, k.String())
		values[k.String()] = v
		return true
	})
	slices.Sort(keys)
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		writeString(b, k)
		b.WriteByte(':')
		writeValue(b, f.MapValue(), values[k])
	}
	b.WriteByte('}')
}

func writeValue(b *bytes.Buffer, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		writeMessage(b, v.Message())
	case protoreflect.StringKind:
		writeString(b, v.String())
	case protoreflect.BytesKind:
		writeBytes(b, f, v.Bytes())
	case protoreflect.EnumKind:
		writeString(b, enumWord(f, v.Enum()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		data, err := json.Marshal(v.Float())
		if err != nil { // NaN or infinite
			data = []byte("null")
		}
		b.Write(data)
	default: // bool and the integers print as JSON does
		b.WriteString(v.String())
	}
}

func enumWord(f protoreflect.FieldDescriptor, n protoreflect.EnumNumber) string {
	d := f.Enum().Values().ByNumber(n)
	if d == nil {
		return strconv.Itoa(int(n))
	}
	name := string(d.Name())
	return strings.ToLower(name[strings.LastIndexByte(name, '_')+1:])
}

func writeBytes(b *bytes.Buffer, f protoreflect.FieldDescriptor, v []byte) {
	switch name := string(f.Name()); {
	case strings.HasSuffix(name, "digest") || strings.HasSuffix(name, "hash"):
		writeString(b, hex.EncodeToString(v))
	case name == "content" || name == "before" || name == "after" || name == "decision":
		if len(v) == 0 || !json.Valid(v) {
			b.WriteString("null")
			return
		}
		b.Write(v)
	default:
		writeString(b, base64.StdEncoding.EncodeToString(v))
	}
}

func writeString(b *bytes.Buffer, s string) {
	data, err := MarshalJSON(s)
	if err != nil { // strings always marshal; bad UTF-8 is replaced
		panic(err)
	}
	b.Write(data)
}

// MarshalJSON is json.Marshal without its escapes for HTML, which make the
// conditions of policies hard to read.
func MarshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// IndentJSON formats JSON with two spaces, and writes the characters that could
// confuse a terminal as \u escapes, which mean the same to a parser.
func IndentJSON(data []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return nil, fmt.Errorf("format JSON: %w", err)
	}
	return escapeJSON(b.Bytes()), nil
}

// escapeJSON is sound because such characters can only stand inside strings.
func escapeJSON(data []byte) []byte {
	text := string(data)
	if !strings.ContainsFunc(text, func(r rune) bool { return unsafeRune(r, true) }) {
		return data
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !unsafeRune(r, true):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		}
	}
	return []byte(b.String())
}
