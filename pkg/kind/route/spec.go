// Package route is the Route kind: which clusters answer the requests to a
// service. A route's rules are tried in order; the first that matches decides.
// Values are plain data: safe to share once no one writes to them.
package route

import "github.com/meshkit/meshkit/pkg/resource"

// Kind is the kind's name in files.
const Kind = "Route"

// Spec is a Route's spec.
type Spec struct {
	Service  string            `json:"service" required:"true" maxLen:"256" doc:"Service whose requests this route answers, as callers name it." example:"checkout"`
	Priority int               `json:"priority,omitempty" min:"-1000" max:"1000" default:"0" doc:"Among several routes for one service, the higher priority is tried first. At one priority the better match of the procedure goes first; two routes that match equally well are a conflict."`
	Rules    []Rule            `json:"rules" required:"true" minItems:"1" maxItems:"256" doc:"Rules, tried in order; the first whose match holds decides."`
	Timeout  resource.Duration `json:"timeout,omitempty" min:"1ms" max:"1h" default:"15s" doc:"Time for a whole request, retries included, for rules that set none." example:"2s"`
	Policies []string          `json:"policies,omitempty" format:"reference" maxItems:"32" unique:"true" ref:"Policy" doc:"Policies for every rule of the route: name, or namespace/name."`
}

// Rule says where the requests go that it matches.
type Rule struct {
	Name     string            `json:"name" required:"true" format:"name" doc:"Name, unique within the route; decisions and findings show it." example:"canary"`
	Match    *Match            `json:"match,omitempty" doc:"Which requests the rule takes. Without it the rule takes every request that reaches it."`
	Clusters []WeightedCluster `json:"clusters" required:"true" minItems:"1" maxItems:"64" doc:"Clusters that share the requests by weight."`
	Mirror   *Mirror           `json:"mirror,omitempty" cap:"mirror/v1" doc:"Copy a share of the requests to another cluster and drop its answers."`
	Timeout  resource.Duration `json:"timeout,omitempty" min:"1ms" max:"1h" doc:"Time for a whole request, retries included; overrides the route's." example:"500ms"`
	Policies []string          `json:"policies,omitempty" format:"reference" maxItems:"32" unique:"true" ref:"Policy" doc:"Policies for this rule only, after those of the route: name, or namespace/name."`
}

// Match holds conditions; a request must meet every one that is set, and meets
// a list when it meets one of its items (headers: all of them).
type Match struct {
	Procedures  []string      `json:"procedures,omitempty" minItems:"1" maxItems:"256" maxLen:"256" unique:"true" format:"procedure" doc:"Procedures, any of: an exact name, or a prefix that ends in '*'." example:"Checkout::*"`
	Headers     []HeaderMatch `json:"headers,omitempty" minItems:"1" maxItems:"32" doc:"Header conditions, all of which must hold."`
	Tenants     []string      `json:"tenants,omitempty" minItems:"1" maxItems:"1000" maxLen:"256" unique:"true" doc:"Tenants, any of, by exact name." example:"acme"`
	Shards      []string      `json:"shards,omitempty" minItems:"1" maxItems:"1000" maxLen:"256" unique:"true" doc:"Shard keys, any of, by exact value."`
	RoutingKeys []string      `json:"routingKeys,omitempty" minItems:"1" maxItems:"1000" maxLen:"256" unique:"true" doc:"Routing keys, any of, by exact value."`
}

// HeaderMatch is one condition on a request header: exactly one of Exact,
// Prefix, Regex and Present is set.
type HeaderMatch struct {
	Name    string  `json:"name" required:"true" format:"header" maxLen:"256" doc:"Header name; case does not matter." example:"x-beta"`
	Exact   *string `json:"exact,omitempty" maxLen:"1024" doc:"The value is exactly this."`
	Prefix  *string `json:"prefix,omitempty" minLen:"1" maxLen:"1024" doc:"The value begins with this."`
	Regex   *string `json:"regex,omitempty" minLen:"1" maxLen:"1024" format:"regex" doc:"The whole value matches this RE2 expression."`
	Present *bool   `json:"present,omitempty" doc:"True: the header is there; false: it is not."`
	Invert  bool    `json:"invert,omitempty" default:"false" doc:"Turn the condition round."`
}

// WeightedCluster is one target of a rule.
type WeightedCluster struct {
	Name   string   `json:"name" required:"true" format:"reference" ref:"Cluster" doc:"Cluster: name, or namespace/name." example:"checkout-v1"`
	Weight *float64 `json:"weight,omitempty" min:"0" max:"100" doc:"Percent of the rule's requests. The weights of a rule sum to 100; a rule's only cluster may leave it out." example:"90"`
}

// Mirror copies requests to another cluster.
type Mirror struct {
	Cluster string   `json:"cluster" required:"true" format:"reference" ref:"Cluster" doc:"Cluster that gets the copies: name, or namespace/name."`
	Percent *float64 `json:"percent,omitempty" min:"0" max:"100" default:"100" doc:"Percent of the requests that are copied."`
}

// Share is the percent of the rule's requests that its i-th cluster gets.
func (r *Rule) Share(i int) float64 {
	if w := r.Clusters[i].Weight; w != nil {
		return *w
	}
	if len(r.Clusters) == 1 {
		return 100
	}
	return 0
}

// Share is the percent of the requests that are copied.
func (m *Mirror) Share() float64 {
	if m.Percent == nil {
		return 100
	}
	return *m.Percent
}

// IsEmpty says whether the match holds no condition, so that it takes every
// request. It is nil-safe.
func (m *Match) IsEmpty() bool {
	return m == nil || len(m.Procedures)+len(m.Headers)+len(m.Tenants)+len(m.Shards)+len(m.RoutingKeys) == 0
}
