package admin

import (
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// selector is a parsed label selector: every term must hold.
type selector []term

type term struct {
	key, value string
	op         string // "=", "!=", "has", "not"
}

const maxSelector = 1024

// parseSelector reads "a=b,c!=d,e,!f". Empty selects everything.
func parseSelector(text string) (selector, error) {
	if len(text) > maxSelector {
		return nil, fault.New(fault.CodeBadRequest, "selector: more than %d characters", maxSelector)
	}
	var s selector
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			if strings.TrimSpace(text) == "" {
				return nil, nil
			}
			return nil, fault.New(fault.CodeBadRequest, "selector %q has an empty term", text)
		}
		t := term{op: "has", key: part}
		if k, v, ok := strings.Cut(part, "!="); ok {
			t = term{op: "!=", key: k, value: v}
		} else if k, v, ok := strings.Cut(part, "="); ok {
			t = term{op: "=", key: k, value: strings.TrimPrefix(v, "=")}
		} else if k, ok := strings.CutPrefix(part, "!"); ok {
			t = term{op: "not", key: k}
		}
		t.key, t.value = strings.TrimSpace(t.key), strings.TrimSpace(t.value)
		if t.key == "" || strings.ContainsAny(t.key+t.value, "!= ") {
			return nil, fault.New(fault.CodeBadRequest, "selector term %q is none of key=value, key!=value, key, !key", part)
		}
		s = append(s, t)
	}
	return s, nil
}

func (s selector) matches(labels map[string]string) bool {
	for _, t := range s {
		v, has := labels[t.key]
		ok := false
		switch t.op {
		case "=":
			ok = has && v == t.value
		case "!=":
			ok = !has || v != t.value
		case "has":
			ok = has
		case "not":
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}
