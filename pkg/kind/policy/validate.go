package policy

import (
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// validator collects the findings of one policy.
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
	if len(s.Parts()) == 0 {
		v.errorf(fault.CodeOneOf, "spec", "add one of authz, retry, timeout, circuitBreaker, rateLimit and shadow", "the policy says nothing")
	}
	v.targets(s.Targets)
	if s.Authz != nil {
		v.authz(s.Authz)
	}
	v.times(s)
	if c := s.CircuitBreaker; c != nil && *c == (CircuitBreaker{}) {
		v.errorf(fault.CodeOneOf, "spec.circuitBreaker", "add one of maxConnections, maxPendingRequests, maxRequests and outlier", "the circuit breaker limits nothing")
	}
	if s.RateLimit != nil {
		v.rateLimit(s.RateLimit)
	}
	if s.Shadow != nil && s.Shadow.Share() == 0 {
		v.warnf(fault.CodeNoEffect, "spec.shadow.percent", "remove shadow, or raise percent", "a shadow of 0 percent copies nothing")
	}
	return v.findings
}

func (v *validator) targets(targets []Target) {
	seen := make(map[resource.Key]int, len(targets))
	for i, t := range targets {
		target := resource.ReferenceKey(t.Kind, v.key.Namespace, t.Name)
		if first, dup := seen[target]; dup {
			v.errorf(fault.CodeDuplicateItem, index("spec.targets", i), "remove one of the two", "%s %q is already targets[%d]", t.Kind, t.Name, first)
			continue
		}
		seen[target] = i
	}
}

func (v *validator) authz(a *Authz) {
	seen := make(map[string]int, len(a.Rules))
	allows := a.Default == Allow
	for i, r := range a.Rules {
		if first, dup := seen[r.Name]; dup {
			v.errorf(fault.CodeDuplicateItem, index("spec.authz.rules", i)+".name", "give it a name of its own", "rule %q is already rules[%d]", r.Name, first)
		} else {
			seen[r.Name] = i
		}
		allows = allows || r.Effect == Allow
	}
	if !allows {
		v.warnf(fault.CodeInconsistent, "spec.authz", "add a rule with effect: allow, or set default: allow", "no rule allows and the default denies, so every request is refused")
	}
}

// Defaults that the rules on waits compare with; they equal the schema's.
const (
	defaultBase = resource.Duration(25 * time.Millisecond)
	defaultMax  = resource.Duration(250 * time.Millisecond)
)

func (v *validator) times(s *Spec) {
	if s.Timeout != nil && *s.Timeout == (Timeout{}) {
		v.errorf(fault.CodeOneOf, "spec.timeout", "add request or idle", "the timeout limits nothing")
	}
	if s.Retry == nil {
		return
	}
	try := s.Retry.PerTryTimeout
	if s.Timeout != nil && s.Timeout.Request > 0 && try > s.Timeout.Request {
		v.errorf(fault.CodeInconsistent, "spec.retry.perTryTimeout", "make perTryTimeout at most timeout.request", "one try may take %s, longer than the whole request with %s", try, s.Timeout.Request)
	}
	if b := s.Retry.Backoff; b != nil {
		first, longest := b.Base, b.Max
		if first == 0 {
			first = defaultBase
		}
		if longest == 0 {
			longest = defaultMax
		}
		if first > longest {
			v.errorf(fault.CodeInconsistent, "spec.retry.backoff", "make base at most max", "the first wait of %s is longer than the longest of %s", first, longest)
		}
	}
}

func (v *validator) rateLimit(r *RateLimit) {
	switch {
	case r.By == "header" && r.Header == "":
		v.errorf(fault.CodeOneOf, "spec.rateLimit.by", "add header with the header's name", "by: header needs the name of the header")
	case r.By != "header" && r.Header != "":
		v.errorf(fault.CodeNoEffect, "spec.rateLimit.header", "set by: header, or remove header", "header has effect with by: header only")
	}
}
