// Package policy is the Policy kind: rules for requests that routes and
// clusters share. A policy applies to the routes and clusters that list it, and
// to its own targets. Values are plain data: safe to share once no one writes
// to them.
package policy

import "github.com/meshkit/meshkit/pkg/resource"

// Kind is the kind's name in files.
const Kind = "Policy"

// Effects of an authorization rule.
const (
	Allow = "allow"
	Deny  = "deny"
)

// MaxExpression is the longest CEL expression, in bytes.
const MaxExpression = 4096

// Spec is a Policy's spec; at least one part is set.
type Spec struct {
	Targets        []Target        `json:"targets,omitempty" minItems:"1" maxItems:"256" doc:"Routes and clusters that this policy applies to, besides those that list it."`
	Authz          *Authz          `json:"authz,omitempty" cap:"authz-cel/v1" doc:"Who may call. A node that cannot enforce it is not given the routes it protects."`
	Retry          *Retry          `json:"retry,omitempty" cap:"policy/v1" doc:"When and how often a failed request is tried again."`
	Timeout        *Timeout        `json:"timeout,omitempty" cap:"policy/v1" doc:"Time limits."`
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty" cap:"policy/v1" doc:"Limits towards a cluster, and ejection of failing endpoints."`
	RateLimit      *RateLimit      `json:"rateLimit,omitempty" cap:"ratelimit/v1" doc:"How many requests are let through."`
	Shadow         *Shadow         `json:"shadow,omitempty" cap:"mirror/v1" doc:"Copy a share of the requests to another cluster and drop its answers."`
}

// Target names a route or a cluster.
type Target struct {
	Kind string `json:"kind" required:"true" enum:"Route,Cluster" doc:"Kind of the target."`
	Name string `json:"name" required:"true" format:"reference" ref:"Route,Cluster" doc:"Target: name, or namespace/name."`
}

// Authz is a set of rules: deny rules go before allow rules, whatever their order.
type Authz struct {
	Rules   []AuthzRule `json:"rules" required:"true" minItems:"1" maxItems:"64" doc:"Rules. A deny rule whose condition holds denies, whatever the order; else an allow rule whose condition holds allows. A condition that fails to evaluate denies."`
	Default string      `json:"default,omitempty" enum:"allow,deny" default:"deny" doc:"Verdict when no rule decides."`
}

// AuthzRule is one rule.
type AuthzRule struct {
	Name   string `json:"name" required:"true" format:"name" doc:"Name, unique within the policy; decisions show it."`
	Effect string `json:"effect" required:"true" enum:"allow,deny" doc:"Verdict when the condition holds."`
	When   string `json:"when" required:"true" format:"cel" minLen:"1" maxLen:"4096" doc:"Condition, a CEL expression of type bool over request (service, procedure, headers, caller, tenant, shard, routingKey) and source (spiffe)." example:"request.tenant == 'acme'"`
}

// Retry says when and how often a failed request is tried again.
type Retry struct {
	Attempts      int               `json:"attempts" required:"true" min:"1" max:"10" doc:"Tries after the first."`
	PerTryTimeout resource.Duration `json:"perTryTimeout,omitempty" min:"1ms" max:"1h" doc:"Time for one try; without it a try may take the whole request timeout." example:"250ms"`
	On            []string          `json:"on,omitempty" enum:"connectFailure,reset,unavailable,timeout,resourceExhausted,internal" minItems:"1" maxItems:"6" unique:"true" default:"[connectFailure, unavailable]" doc:"Failures that are tried again."`
	Backoff       *Backoff          `json:"backoff,omitempty" doc:"Waits between tries; jittered."`
	BudgetPercent *float64          `json:"budgetPercent,omitempty" min:"0" max:"100" default:"20" doc:"Retries in flight, at most this percent of the requests in flight."`
}

// Backoff bounds the waits between tries.
type Backoff struct {
	Base resource.Duration `json:"base,omitempty" min:"1ms" max:"1m" default:"25ms" doc:"First wait."`
	Max  resource.Duration `json:"max,omitempty" min:"1ms" max:"5m" default:"250ms" doc:"Longest wait; at least the first."`
}

// Timeout limits time; at least one is set.
type Timeout struct {
	Request resource.Duration `json:"request,omitempty" min:"1ms" max:"1h" doc:"Time for a whole request, retries included. A route's or rule's own timeout goes first." example:"2s"`
	Idle    resource.Duration `json:"idle,omitempty" min:"1ms" max:"24h" doc:"Time without any byte after which a stream is ended." example:"5m"`
}

// CircuitBreaker limits what goes to a cluster; at least one field is set.
type CircuitBreaker struct {
	MaxConnections     int               `json:"maxConnections,omitempty" min:"1" max:"1000000" doc:"Connections to the cluster." example:"1024"`
	MaxPendingRequests int               `json:"maxPendingRequests,omitempty" min:"1" max:"1000000" doc:"Requests that wait for a connection." example:"1024"`
	MaxRequests        int               `json:"maxRequests,omitempty" min:"1" max:"1000000" doc:"Requests in flight." example:"1024"`
	Outlier            *OutlierDetection `json:"outlier,omitempty" doc:"Ejection of endpoints that fail."`
}

// OutlierDetection ejects endpoints that fail.
type OutlierDetection struct {
	ConsecutiveErrors  int               `json:"consecutiveErrors,omitempty" min:"1" max:"1000" default:"5" doc:"Errors in a row that eject an endpoint."`
	Interval           resource.Duration `json:"interval,omitempty" min:"100ms" max:"10m" default:"10s" doc:"Time between two looks at the endpoints."`
	EjectionTime       resource.Duration `json:"ejectionTime,omitempty" min:"1s" max:"1h" default:"30s" doc:"Time of the first ejection; it grows with each further one."`
	MaxEjectionPercent *float64          `json:"maxEjectionPercent,omitempty" min:"0" max:"100" default:"50" doc:"At most this percent of the endpoints is ejected at once."`
}

// RateLimit is a token bucket.
type RateLimit struct {
	RequestsPerSecond float64 `json:"requestsPerSecond" required:"true" min:"0.001" max:"10000000" doc:"Requests per second, on average, let through by one node." example:"100"`
	Burst             int     `json:"burst,omitempty" min:"1" max:"10000000" doc:"Requests let through at once; without it, one second's worth." example:"200"`
	By                string  `json:"by,omitempty" enum:"service,tenant,caller,header" default:"service" doc:"What gets a bucket of its own."`
	Header            string  `json:"header,omitempty" format:"header" maxLen:"256" doc:"Header whose value gets a bucket of its own; with by: header only."`
}

// Shadow copies requests to another cluster.
type Shadow struct {
	Cluster string   `json:"cluster" required:"true" format:"reference" ref:"Cluster" doc:"Cluster that gets the copies: name, or namespace/name."`
	Percent *float64 `json:"percent,omitempty" min:"0" max:"100" default:"100" doc:"Percent of the requests that are copied."`
}

// Share is the percent of the requests that are copied.
func (s *Shadow) Share() float64 {
	if s.Percent == nil {
		return 100
	}
	return *s.Percent
}
