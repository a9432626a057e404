package cliutil

import (
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// CheckSelector finds what is wrong with a label selector before anything is
// sent: terms a=b, a!=b, a and !a, separated by commas.
func CheckSelector(selector string) error {
	if selector == "" {
		return nil
	}
	for _, term := range strings.Split(selector, ",") {
		key, value := strings.TrimSpace(term), ""
		if k, v, ok := strings.Cut(key, "!="); ok {
			key, value = k, v
		} else if k, v, ok := strings.Cut(key, "="); ok {
			key, value = k, v
			if strings.HasPrefix(v, "=") {
				return fault.New(fault.CodeSelector, "selector term %q: write a=b, with one =", term)
			}
		} else {
			key = strings.TrimPrefix(key, "!")
		}
		if key == "" || strings.ContainsAny(key, "!= \t") {
			return fault.New(fault.CodeSelector, "selector term %q has no label name", term)
		}
		if why := resource.LabelKeyProblem(key); why != "" {
			return fault.New(fault.CodeSelector, "selector term %q: label name %q %s", term, key, why)
		}
		if why := resource.LabelValueProblem(value); why != "" {
			return fault.New(fault.CodeSelector, "selector term %q: value %q %s", term, value, why)
		}
	}
	return nil
}

// ParseLabels reads the values of repeated --label k=v flags.
func ParseLabels(pairs []string) (map[string]string, error) {
	labels := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, Usagef("label %q is not KEY=VALUE", p)
		}
		if before, dup := labels[k]; dup && before != v {
			return nil, Usagef("label %q is given twice, as %q and %q", k, before, v)
		}
		labels[k] = v
	}
	return labels, nil
}
