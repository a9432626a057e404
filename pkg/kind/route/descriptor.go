package route

import (
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
)

const example = `apiVersion: meshkit.dev/v1
kind: Route
metadata:
  name: checkout
spec:
  service: checkout
  timeout: 2s
  rules:
    - name: acme-canary
      match:
        procedures: ["Checkout::*"]
        headers:
          - name: x-beta
            exact: "true"
        tenants: [acme]
      clusters:
        - name: checkout-v1
          weight: 90
        - name: checkout-v2
          weight: 10
    - name: everything-else
      clusters:
        - name: checkout-v1
`

// Descriptor describes the kind.
func Descriptor() *schema.Descriptor {
	return &schema.Descriptor{
		Kind: Kind, Plural: "routes", Short: []string{"rt"}, Namespaced: true,
		Capability: "core/v1",
		Summary:    "A Route says which clusters answer the requests to a service.",
		Example:    example,
		Schema:     schema.Of(Spec{}),
		New:        func() any { return new(Spec) },
		Validate: func(key resource.Key, spec any) []resource.Finding {
			return validate(key, spec.(*Spec))
		},
		Refs: func(key resource.Key, spec any) []resource.Ref { return refs(key, spec.(*Spec)) },
		Columns: []schema.Column{
			{Name: "SERVICE", Value: column(func(s *Spec) string { return s.Service })},
			{Name: "RULES", Value: column(func(s *Spec) string { return strconv.Itoa(len(s.Rules)) })},
			{Name: "CLUSTERS", Value: column(clusters)},
			{Name: "PRIORITY", Wide: true, Value: column(func(s *Spec) string { return strconv.Itoa(s.Priority) })},
			{Name: "TIMEOUT", Wide: true, Value: column(timeout)},
			{Name: "POLICIES", Wide: true, Value: column(func(s *Spec) string { return strings.Join(s.Policies, ",") })},
		},
	}
}

func column(value func(*Spec) string) func(*resource.Resource, any) string {
	return func(_ *resource.Resource, spec any) string { return value(spec.(*Spec)) }
}

// clusters lists each cluster once, in order of appearance, with its share in
// the first rule that splits requests.
func clusters(s *Spec) string {
	var names []string
	seen := make(map[string]bool)
	for _, r := range s.Rules {
		for i, c := range r.Clusters {
			if seen[c.Name] {
				continue
			}
			seen[c.Name] = true
			name := c.Name
			if len(r.Clusters) > 1 {
				name += "=" + strconv.FormatFloat(r.Share(i), 'f', -1, 64) + "%"
			}
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func timeout(s *Spec) string {
	if s.Timeout == 0 {
		return ""
	}
	return s.Timeout.String()
}

func refs(key resource.Key, s *Spec) []resource.Ref {
	var out []resource.Ref
	add := func(kind, ref, field string) {
		out = append(out, resource.Ref{Target: resource.ReferenceKey(kind, key.Namespace, ref), Field: field})
	}
	for i, r := range s.Rules {
		rule := index("spec.rules", i)
		for j, c := range r.Clusters {
			add("Cluster", c.Name, index(rule+".clusters", j)+".name")
		}
		if r.Mirror != nil {
			add("Cluster", r.Mirror.Cluster, rule+".mirror.cluster")
		}
		for j, p := range r.Policies {
			add("Policy", p, index(rule+".policies", j))
		}
	}
	for i, p := range s.Policies {
		add("Policy", p, index("spec.policies", i))
	}
	return out
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
