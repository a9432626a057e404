package source

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"go.yaml.in/yaml/v3"
)

// measure is the size of a value with every alias replaced by what it stands
// for.
type measure struct {
	values, bytes, height int
}

// measurer computes measures without expanding: what an anchor marks is
// measured once. A chain of aliases that doubles at each step, a YAML bomb, is
// so refused at the cost of its text.
type measurer struct {
	limits resource.Limits
	// anchored holds finished measures; nil while one is being made.
	anchored map[*yaml.Node]*measure
	problem  *resource.Finding
}

// Check refuses a document of the part that is nested too deep, or too large once
// its aliases are expanded; ok when it is neither. It must come before anything
// that follows aliases.
func (p Part) Check(root *yaml.Node, lim resource.Limits) (problem resource.Finding, ok bool) {
	refusal, at := check(root, lim)
	if refusal == nil {
		return resource.Finding{}, true
	}
	refusal.Pos = p.Position(at)
	return *refusal, false
}

func check(root *yaml.Node, l resource.Limits) (problem *resource.Finding, at *yaml.Node) {
	m := &measurer{limits: l}
	at = root
	total := m.node(root, &at)
	switch {
	case m.problem != nil:
		return m.problem, at
	case total.height > l.Depth:
		return m.refuse(fault.CodeExpansion, "flatten the document", "nested %d deep, at most %d are permitted", total.height, l.Depth), root
	case total.values > l.Values:
		return m.refuse(fault.CodeExpansion, "split the document, or remove aliases", "the document has more than %d values once its aliases are expanded", l.Values), root
	case total.bytes > l.DocumentBytes:
		return m.refuse(fault.CodeExpansion, "split the document, or remove aliases", "the document has more than %d bytes of text once its aliases are expanded", l.DocumentBytes), root
	}
	return nil, nil
}

func (m *measurer) refuse(code fault.Code, remedy, format string, args ...any) *resource.Finding {
	return &resource.Finding{Code: code, Severity: resource.Error, Remedy: remedy, Reason: fmt.Sprintf(format, args...)}
}

func (m *measurer) node(n *yaml.Node, at **yaml.Node) measure {
	if n.Kind == yaml.AliasNode {
		return m.alias(n, at)
	}
	if n.Anchor != "" {
		if m.anchored == nil {
			m.anchored = make(map[*yaml.Node]*measure)
		}
		m.anchored[n] = nil
	}
	total := measure{values: 1, bytes: len(n.Value)}
	for _, c := range n.Content {
		child := m.node(c, at)
		total.values = m.add(total.values, child.values, m.limits.Values)
		total.bytes = m.add(total.bytes, child.bytes, m.limits.DocumentBytes)
		total.height = max(total.height, child.height)
	}
	if n.Kind != yaml.ScalarNode {
		total.height++
	}
	if n.Anchor != "" {
		m.anchored[n] = &total
	}
	return total
}

func (m *measurer) alias(n *yaml.Node, at **yaml.Node) measure {
	known, seen := m.anchored[n.Alias]
	if known != nil {
		return *known
	}
	if m.problem == nil {
		*at = n
		if seen {
			m.problem = m.refuse(fault.CodeExpansion, "remove the alias", "the value of anchor %s contains itself", safetext.Quote(n.Value))
		} else {
			m.problem = m.refuse(fault.CodeExpansion, "define the anchor before its use", "anchor %s is used before its value", safetext.Quote(n.Value))
		}
	}
	return measure{}
}

// add stops just above the limit, so that sums cannot overflow.
func (m *measurer) add(a, b, limit int) int { return min(a+b, limit+1) }
