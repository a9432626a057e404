package policy

import (
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

const example = `apiVersion: meshkit.dev/v1
kind: Policy
metadata:
  name: checkout-guard
spec:
  targets:
    - kind: Route
      name: checkout
  authz:
    default: deny
    rules:
      - name: shop-frontends
        effect: allow
        when: source.spiffe.startsWith("spiffe://eu-west/node/shop-")
  retry:
    attempts: 2
    perTryTimeout: 250ms
    on: [connectFailure, unavailable]
  timeout:
    request: 1s
`

// Descriptor describes the kind.
func Descriptor() *schema.Descriptor {
	return &schema.Descriptor{
		Kind: Kind, Plural: "policies", Short: []string{"pol"}, Namespaced: true,
		Capability: "core/v1",
		Summary:    "A Policy holds rules for requests: authorization, retries, time limits, circuit breaking, rate limits and shadowing.",
		Example:    example,
		Schema:     schema.Of(Spec{}),
		New:        func() any { return new(Spec) },
		Validate: func(key resource.Key, spec any) []resource.Finding {
			return validate(key, spec.(*Spec))
		},
		Refs: func(key resource.Key, spec any) []resource.Ref { return refs(key, spec.(*Spec)) },
		Columns: []schema.Column{
			{Name: "PARTS", Value: column(func(s *Spec) string { return strings.Join(s.Parts(), ",") })},
			{Name: "TARGETS", Value: column(func(s *Spec) string { return strconv.Itoa(len(s.Targets)) })},
			{Name: "TARGET-NAMES", Wide: true, Value: column(targets)},
		},
	}
}

func column(value func(*Spec) string) func(*resource.Resource, any) string {
	return func(_ *resource.Resource, spec any) string { return value(spec.(*Spec)) }
}

// Parts lists the parts that are set, by their names in files.
func (s *Spec) Parts() []string {
	var out []string
	for _, p := range []struct {
		name string
		set  bool
	}{
		{"authz", s.Authz != nil}, {"retry", s.Retry != nil}, {"timeout", s.Timeout != nil},
		{"circuitBreaker", s.CircuitBreaker != nil}, {"rateLimit", s.RateLimit != nil}, {"shadow", s.Shadow != nil},
	} {
		if p.set {
			out = append(out, p.name)
		}
	}
	return out
}

func targets(s *Spec) string {
	names := make([]string, len(s.Targets))
	for i, t := range s.Targets {
		names[i] = strings.ToLower(t.Kind) + "/" + t.Name
	}
	return strings.Join(names, ",")
}

func refs(key resource.Key, s *Spec) []resource.Ref {
	var out []resource.Ref
	for i, t := range s.Targets {
		out = append(out, resource.Ref{Target: resource.ReferenceKey(t.Kind, key.Namespace, t.Name), Field: index("spec.targets", i) + ".name"})
	}
	if s.Shadow != nil {
		out = append(out, resource.Ref{Target: resource.ReferenceKey("Cluster", key.Namespace, s.Shadow.Cluster), Field: "spec.shadow.cluster"})
	}
	return out
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
