package schema

import (
	"fmt"
	"net/netip"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// Format is a rule for a string.
type Format struct {
	// Code is that of a finding about a value that breaks the rule.
	Code fault.Code
	// Like says what is wanted, with an example.
	Like string
	// Multiline: new lines and tabs are permitted.
	Multiline bool
	// Check gives "" or what is wrong with s, to follow the quoted value in a
	// sentence; nil where the Go type or a later step checks.
	Check   func(s string) string
	meaning string
}

var formats = map[string]Format{
	"name":       {fault.CodeFormat, "a name like checkout-v2", false, resource.NameProblem, "lower-case letters, digits, '-' and '.', at most 253 characters"},
	"namespace":  {fault.CodeFormat, "a namespace like default", false, resource.NamespaceProblem, "lower-case letters, digits and '-', at most 63 characters"},
	"reference":  {fault.CodeFormat, "name or namespace/name", false, referenceProblem, "name, or namespace/name"},
	"hostport":   {fault.CodeFormat, "host:port like 10.0.0.7:8080", false, hostPortProblem, "host:port; an IPv6 address in brackets"},
	"header":     {fault.CodeFormat, "a header name like x-tenant", false, headerProblem, "HTTP header name"},
	"httpPath":   {fault.CodeFormat, "a path like /healthz", false, pathProblem, "absolute path"},
	"labelValue": {fault.CodeLabel, "a value like eu-west", false, resource.LabelValueProblem, "label value: at most 63 letters, digits, '-', '_' and '.'"},
	"region":     {fault.CodeFormat, "a region like eu-west, or '*'", false, regionProblem, "region, or '*'"},
	"procedure":  {fault.CodeFormat, "a procedure like Checkout::pay, or a prefix like Checkout::*", false, procedureProblem, "exact name, or prefix that ends in '*'"},
	"regex":      {fault.CodeRegex, "an RE2 expression", false, regexProblem, "RE2 expression"},
	"cel":        {fault.CodeFormat, "a CEL expression", true, nil, "CEL expression of type bool"},
	"text":       {fault.CodeFormat, "text", true, nil, "text of several lines"},
	"duration":   {fault.CodeFormat, "a duration like 250ms", false, nil, "duration: number and unit (ns, us, ms, s, m, h), like 250ms or 1h30m"},
}

// labelMap holds the formats of maps whose keys are label keys.
var labelMap = map[string]bool{"labels": true, "annotations": true}

// LabelKeys says whether the schema is a map whose keys are label keys, of which
// there are at most resource.MaxLabels.
func (s *Schema) LabelKeys() bool { return labelMap[s.Format] }

// FormatOf finds the rule for strings of a format by its name, as in
// Schema.Format; the zero Format for none.
func FormatOf(name string) Format { return formats[name] }

// Formats gives the name of each format and what it permits.
func Formats() map[string]string {
	out := map[string]string{
		"labels":      "map of label keys to label values, at most 64",
		"annotations": "map of label keys to text, at most 64, together at most 64 KiB",
	}
	for name, f := range formats {
		out[name] = f.meaning
	}
	return out
}

func referenceProblem(s string) string {
	ns, name, ok := strings.Cut(s, "/")
	if !ok {
		return resource.NameProblem(s)
	}
	if why := resource.NamespaceProblem(ns); why != "" {
		return "namespace part " + why
	}
	if why := resource.NameProblem(name); why != "" {
		return "name part " + why
	}
	return ""
}

// hostPortProblem accepts host:port, where host is a DNS name, an IPv4 address
// or an IPv6 address in brackets, and port is 1 to 65535.
func hostPortProblem(s string) string {
	if strings.Contains(s, "://") {
		return "is a URL"
	}
	i := strings.LastIndexByte(s, ':')
	switch i {
	case -1:
		return "has no port"
	case 0:
		return "has no host"
	}
	host, port := s[:i], s[i+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' || port[0] == '+' {
		return fmt.Sprintf("has port %s, not a number from 1 to 65535", safetext.Quote(port))
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		v6, closed := strings.CutSuffix(v6, "]")
		if a, err := netip.ParseAddr(v6); !closed || err != nil || !a.Is6() {
			return "has no valid IPv6 address in its brackets"
		}
		return ""
	}
	if strings.ContainsRune(host, ':') {
		return "has an IPv6 address without brackets"
	}
	if strings.Trim(host, "0123456789.") == "" {
		if a, err := netip.ParseAddr(host); err != nil || !a.Is4() {
			return fmt.Sprintf("has host %s, not an IPv4 address", safetext.Quote(host))
		}
		return ""
	}
	if why := resource.NameProblem(strings.ToLower(host)); why != "" {
		return "has a host that " + why
	}
	return ""
}

func headerProblem(s string) string {
	if s == "" {
		return "is empty"
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return "has characters that a header name cannot have"
		}
	}
	return ""
}

func pathProblem(s string) string {
	if !strings.HasPrefix(s, "/") {
		return "does not begin with '/'"
	}
	if strings.ContainsAny(s, " #") {
		return "has a space or '#'"
	}
	return ""
}

func procedureProblem(s string) string {
	if s == "" {
		return "is empty"
	}
	if i := strings.IndexByte(s, '*'); i >= 0 && i < len(s)-1 {
		return "has a '*' before its end"
	}
	return ""
}

func regionProblem(s string) string {
	if s == "*" {
		return ""
	}
	return resource.LabelValueProblem(s)
}

// maxRegexSize bounds the size of a compiled expression, in instructions, as
// far as it can be told before compiling.
const maxRegexSize = 2000

func regexProblem(s string) string {
	re, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return "is not RE2: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	if regexSize(re) > maxRegexSize {
		return fmt.Sprintf("repeats too much: it compiles to more than %d instructions", maxRegexSize)
	}
	return ""
}

// regexSize is about the number of instructions of the compiled expression.
func regexSize(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)/2
	for _, sub := range re.Sub {
		size += regexSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min, re.Max, 1)
	}
	return size
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
