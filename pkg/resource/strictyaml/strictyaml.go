// Package strictyaml reads configuration files with the same strictness as
// resources: unknown and duplicate keys, wrong types and bad values are errors
// that name file, line and column, and the nearest known name.
//
// The struct's fields carry the tags that schema.Of documents; a
// time.Duration is written as text, like "250ms". Fields that the file leaves
// out keep the value that they had before, so that defaults are set first:
//
//	cfg := DefaultConfig()
//	positions, err := strictyaml.Decode(path, data, &cfg)
//
// Functions are safe for concurrent use on different structs.
package strictyaml

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/decode"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
)

// Unmarshal reads one YAML or JSON document into a struct. An error has code
// MK9005 and names every mistake, one to a line; into is then unchanged. An
// empty file leaves into as it is, unless a field is required.
func Unmarshal(file string, data []byte, into any) error {
	_, err := Decode(file, data, into)
	return err
}

// Decode is Unmarshal that also gives the places of fields, for Errorf.
func Decode(file string, data []byte, into any) (source.Positions, error) {
	content, positions, findings := decode.Value(file, data, schema.Of(into), resource.DefaultLimits())
	if resource.HasErrors(findings) {
		lines := make([]string, len(findings))
		for i, f := range findings {
			lines[i] = line(f)
		}
		err := fault.New(fault.CodeConfig, "%s", strings.Join(lines, "\n"))
		if len(findings) == 1 && findings[0].Remedy != "" {
			err = err.WithRemedy("%s", findings[0].Remedy)
		}
		return source.Positions{}, err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return source.Positions{}, fault.New(fault.CodeConfig, "%s: %w", file, err)
	}
	return positions, nil
}

// Errorf is a mistake in a field that only the program can judge, in the form of
// those that Decode finds.
func Errorf(positions source.Positions, field, remedy, format string, args ...any) error {
	f := resource.Finding{Pos: positions.At(field), Field: field, Reason: fmt.Sprintf(format, args...), Remedy: remedy}
	return fault.New(fault.CodeConfig, "%s", line(f)).WithRemedy("%s", remedy)
}

// line renders "file:line:column: field: reason (remedy)".
func line(f resource.Finding) string {
	var b strings.Builder
	if p := f.Pos.String(); p != "" {
		b.WriteString(p + ": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Reason)
	if f.Remedy != "" {
		b.WriteString(" (" + f.Remedy + ")")
	}
	return b.String()
}
