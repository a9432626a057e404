package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
)

// NameProblem says what is wrong with a resource's name, or "".
func NameProblem(s string) string { return dnsProblem(s, 253, true) }

// NamespaceProblem says what is wrong with a namespace, or "".
func NamespaceProblem(s string) string { return dnsProblem(s, 63, false) }

// dnsProblem is written by hand, without a regular expression: it runs for each
// name of each resource.
func dnsProblem(s string, limit int, dots bool) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > limit:
		return fmt.Sprintf("has %d characters, at most %d are permitted", len(s), limit)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			continue
		}
		if c == '-' || c == '.' && dots {
			if i == 0 || i == len(s)-1 {
				return "begins or ends with '" + string(c) + "'; begin and end with a lower-case letter or a digit"
			}
			continue
		}
		if c >= 'A' && c <= 'Z' {
			return "has upper-case letters; use lower case"
		}
		if !dots {
			return "has characters other than lower-case letters, digits and '-'"
		}
		return "has characters other than lower-case letters, digits, '-' and '.'"
	}
	return ""
}

// LabelValueProblem says what is wrong with a label's value, or "". The empty
// value is permitted.
func LabelValueProblem(s string) string {
	if s == "" {
		return ""
	}
	return labelNameProblem(s)
}

// LabelKeyProblem says what is wrong with a label's or annotation's key, or "".
func LabelKeyProblem(s string) string {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		if why := dnsProblem(prefix, 253, true); why != "" {
			return "has a prefix that " + why
		}
		s = name
	}
	if s == "" {
		return "has no name"
	}
	return labelNameProblem(s)
}

func labelNameProblem(s string) string {
	if len(s) > 63 {
		return fmt.Sprintf("has %d characters, at most 63 are permitted", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if alphanumeric(c) {
			continue
		}
		if c != '-' && c != '_' && c != '.' {
			return "has characters other than letters, digits, '-', '_' and '.'"
		}
		if i == 0 || i == len(s)-1 {
			return "begins or ends with '" + string(c) + "'"
		}
	}
	return ""
}

// Limits of labels and annotations.
const (
	MaxLabels          = 64
	MaxAnnotationBytes = 64 << 10
)

// ValidLabels checks labels from elsewhere than a file, like those of a join
// token. The error names the first bad pair.
func ValidLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fault.New(fault.CodeLabel, "%d labels, at most %d are permitted", len(labels), MaxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if why := LabelKeyProblem(k); why != "" {
			return fault.New(fault.CodeLabel, "label key %s %s", safetext.Quote(k), why)
		}
		if why := LabelValueProblem(labels[k]); why != "" {
			return fault.New(fault.CodeLabel, "value %s of label %s %s", safetext.Quote(labels[k]), k, why)
		}
	}
	return nil
}
