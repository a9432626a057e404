package resource

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Severity says whether a finding stops a change.
type Severity string

const (
	// Error findings refuse the change.
	Error Severity = "error"
	// Warning findings are shown; the change goes on.
	Warning Severity = "warning"
)

// Position is a place in an input file. Lines and columns count from 1; columns
// count characters, not bytes. The zero Position is "not known".
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String renders "file:line:column", leaving out what is not known.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

// Finding is one result of validation. Reason and Remedy are single lines that
// hold no control characters, whatever the input held.
type Finding struct {
	Code     fault.Code `json:"code"`
	Severity Severity   `json:"severity"`
	Key      Key        `json:"resource,omitzero"`
	// Field is the path within the resource, like "spec.rules[0].name"; empty
	// when the finding concerns the whole.
	Field string `json:"field,omitempty"`
	// Pos is zero when the resource did not come from a file.
	Pos    Position `json:"position,omitzero"`
	Reason string   `json:"reason"`
	Remedy string   `json:"remedy,omitempty"`
}

// Errorf makes an error finding of a key and field; the position is added by
// whoever knows the file.
func Errorf(code fault.Code, key Key, field, remedy, format string, args ...any) Finding {
	return Finding{Code: code, Severity: Error, Key: key, Field: field, Remedy: remedy, Reason: fmt.Sprintf(format, args...)}
}

// Warningf is Errorf for a warning.
func Warningf(code fault.Code, key Key, field, remedy, format string, args ...any) Finding {
	f := Errorf(code, key, field, remedy, format, args...)
	f.Severity = Warning
	return f
}

// String renders one line:
//
//	file:line:column: severity MKxxxx: Kind/namespace/name field: reason (remedy)
//
// leaving out what is not known.
func (f Finding) String() string {
	var b strings.Builder
	if p := f.Pos.String(); p != "" {
		b.WriteString(p + ": ")
	}
	b.WriteString(string(f.Severity) + " " + string(f.Code) + ": ")
	subject := f.Field
	if !f.Key.IsZero() {
		subject = strings.TrimSuffix(f.Key.String()+" "+f.Field, " ")
	}
	if subject != "" {
		b.WriteString(subject + ": ")
	}
	b.WriteString(f.Reason)
	if f.Remedy != "" {
		b.WriteString(" (" + f.Remedy + ")")
	}
	return b.String()
}

// HasErrors says whether any finding stops the change.
func HasErrors(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Error })
}

// SortFindings orders findings by file, line and column, then by resource,
// field, code and reason, so that equal input gives equal output.
func SortFindings(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column),
			CompareKeys(a.Key, b.Key), strings.Compare(a.Field, b.Field), strings.Compare(string(a.Code), string(b.Code)), strings.Compare(a.Reason, b.Reason))
	})
}

// Collector keeps the first findings and counts the rest, so that a hostile file
// costs no more memory than an honest one. Set Limit, 0 for none. It belongs to
// one goroutine.
type Collector struct {
	Limit int
	// Kept are the findings so far, at most Limit.
	Kept       []Finding
	more       int
	moreErrors bool
}

// Add takes the findings of one document; documents come in order.
func (c *Collector) Add(findings []Finding) {
	SortFindings(findings)
	for _, f := range findings {
		if c.Limit > 0 && len(c.Kept) >= c.Limit {
			c.more++
			c.moreErrors = c.moreErrors || f.Severity == Error
			continue
		}
		c.Kept = append(c.Kept, f)
	}
}

// Result gives the findings in order, with one more that counts those not kept.
func (c *Collector) Result() []Finding {
	SortFindings(c.Kept)
	if c.more == 0 {
		return c.Kept
	}
	return overflow(c.Kept, c.more, c.moreErrors)
}

func overflow(shown []Finding, more int, errors bool) []Finding {
	f := Finding{Code: fault.CodeMoreFindings, Severity: Warning, Reason: fmt.Sprintf("and %d more", more), Remedy: "mend the findings above, then run it again"}
	if errors {
		f.Severity = Error
	}
	if len(shown) > 0 {
		f.Pos = shown[len(shown)-1].Pos
	}
	return append(shown, f)
}
