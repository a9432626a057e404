package route

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// validator collects the findings of one route.
type validator struct {
	key      resource.Key
	findings []resource.Finding
}

func (v *validator) errorf(code fault.Code, field, remedy, format string, args ...any) {
	v.findings = append(v.findings, resource.Errorf(code, v.key, field, remedy, format, args...))
}

func (v *validator) warnf(code fault.Code, field, remedy, format string, args ...any) {
	v.findings = append(v.findings, resource.Warningf(code, v.key, field, remedy, format, args...))
}

func validate(key resource.Key, s *Spec) []resource.Finding {
	v := &validator{key: key}
	names := make(map[string]int, len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		path := index("spec.rules", i)
		if first, dup := names[r.Name]; dup {
			v.errorf(fault.CodeDuplicateItem, path+".name", "give it a name of its own", "rule %q is already rules[%d]", r.Name, first)
		} else {
			names[r.Name] = i
		}
		v.rule(path, r)
	}
	return v.findings
}

func (v *validator) rule(path string, r *Rule) {
	if r.Match != nil {
		if r.Match.IsEmpty() {
			v.errorf(fault.CodeEmptyMatch, path+".match", "add a condition, or remove match to take every request", "match holds no condition")
		}
		for i := range r.Match.Headers {
			v.header(index(path+".match.headers", i), &r.Match.Headers[i])
		}
	}
	v.weights(path, r)
	if r.Mirror == nil {
		return
	}
	if r.Mirror.Share() == 0 {
		v.warnf(fault.CodeNoEffect, path+".mirror.percent", "remove the mirror, or raise percent", "a mirror of 0 percent copies nothing")
	}
	target := resource.ReferenceKey("Cluster", v.key.Namespace, r.Mirror.Cluster)
	for _, c := range r.Clusters {
		if resource.ReferenceKey("Cluster", v.key.Namespace, c.Name) == target {
			v.warnf(fault.CodeSelfReference, path+".mirror.cluster", "mirror to a cluster that does not answer the rule's requests", "cluster %q answers the rule's requests and would get copies of them too", r.Mirror.Cluster)
			return
		}
	}
}

// sumTolerance forgives the rounding of decimal fractions.
const sumTolerance = 1e-6

func (v *validator) weights(path string, r *Rule) {
	seen := make(map[resource.Key]int, len(r.Clusters))
	sum, missing := 0.0, 0
	for i, c := range r.Clusters {
		target := resource.ReferenceKey("Cluster", v.key.Namespace, c.Name)
		if first, dup := seen[target]; dup {
			v.errorf(fault.CodeDuplicateItem, index(path+".clusters", i)+".name", "merge the two into one with the sum of their weights", "cluster %q is already clusters[%d]", c.Name, first)
		} else {
			seen[target] = i
		}
		if c.Weight == nil && len(r.Clusters) > 1 {
			missing++
			v.errorf(fault.CodeRuleWeights, index(path+".clusters", i), "give each cluster of the rule a weight, so that they sum to 100", "cluster %q shares the rule with %s and has no weight", c.Name, others(len(r.Clusters)-1))
		}
		sum += r.Share(i)
	}
	if missing == 0 && len(r.Clusters) > 0 && math.Abs(sum-100) > sumTolerance {
		v.errorf(fault.CodeRuleWeights, path+".clusters", difference(sum), "weights sum to %s, not 100", number(sum))
	}
}

func others(n int) string {
	if n == 1 {
		return "1 other"
	}
	return strconv.Itoa(n) + " others"
}

func difference(sum float64) string {
	if sum < 100 {
		return fmt.Sprintf("add %s in total", number(100-sum))
	}
	return fmt.Sprintf("take away %s in total", number(sum-100))
}

// number prints at most six decimals, without zeros at the end.
func number(f float64) string {
	return strconv.FormatFloat(math.Round(f*1e6)/1e6, 'f', -1, 64)
}

func (v *validator) header(path string, h *HeaderMatch) {
	var set []string
	for _, f := range []struct {
		name string
		set  bool
	}{{"exact", h.Exact != nil}, {"prefix", h.Prefix != nil}, {"regex", h.Regex != nil}, {"present", h.Present != nil}} {
		if f.set {
			set = append(set, f.name)
		}
	}
	switch {
	case len(set) == 0:
		v.errorf(fault.CodeOneOf, path, "add one of exact, prefix, regex and present", "the condition on header %q compares with nothing", h.Name)
	case len(set) > 1:
		v.errorf(fault.CodeExclusive, path+"."+set[1], "keep one; for several conditions repeat the header as another item", "%s exclude each other", strings.Join(set, " and "))
	}
}
