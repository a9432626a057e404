package decode

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
	"go.yaml.in/yaml/v3"
)

// Value reads exactly one YAML or JSON document of any schema, like a
// configuration file, as strictly as Resources. It gives the value's canonical
// JSON; nothing when a finding is an error. An empty file is an empty mapping.
func Value(file string, data []byte, s *schema.Schema, lim resource.Limits) ([]byte, source.Positions, []resource.Finding) {
	c := resource.Collector{Limit: lim.Findings}
	start := resource.Position{File: file, Line: 1, Column: 1}
	if len(data) > lim.DocumentBytes {
		c.Add([]resource.Finding{{Code: fault.CodeTooLarge, Severity: resource.Error, Pos: start, Remedy: "check that it is the right file", Reason: fmt.Sprintf("the file has %d bytes, at most %d are permitted", len(data), lim.DocumentBytes)}})
		return nil, source.Positions{}, c.Result()
	}
	parts, bad := source.Open(file, data)
	if len(bad) > 0 {
		c.Add(bad)
		return nil, source.Positions{}, c.Result()
	}
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}
	w := &walker{part: parts[0], limits: lim, root: s}
	found := 0
	for _, p := range parts {
		if p.Blank() {
			continue
		}
		roots, err := p.Documents()
		for _, r := range roots {
			if found++; found == 1 {
				root, w.part = r, p
				continue
			}
			c.Add([]resource.Finding{{Code: fault.CodeTooMany, Severity: resource.Error, Pos: p.Position(r), Remedy: "remove it", Reason: "the file has a second document"}})
		}
		if err != nil {
			found++
			c.Add([]resource.Finding{p.SyntaxFinding(err, true)})
		}
	}
	if problem, ok := w.part.Check(root, lim); !ok {
		c.Add([]resource.Finding{problem})
	}
	if resource.HasErrors(c.Kept) {
		return nil, source.Positions{}, c.Result()
	}
	w.value(root, s, nil)
	c.Add(w.findings)
	if findings := c.Result(); resource.HasErrors(findings) {
		return nil, source.Positions{}, findings
	}
	return w.out, w.part.PositionsIn(root), c.Result()
}
