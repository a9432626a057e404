package route

import (
	"time"

	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/resource"
)

const (
	// DefaultTimeout applies when neither rule nor route nor policy sets one.
	DefaultTimeout = 15 * time.Second
	// DefaultConnectTimeout applies when the cluster sets none.
	DefaultConnectTimeout = 5 * time.Second
)

// Request describes one RPC call. Only Service is needed.
type Request struct {
	Service, Procedure string
	// Headers are the request's metadata; one value each.
	Headers map[string]string
	Tenant  string
	// ShardKey and RoutingKey keep requests of one key together.
	ShardKey, RoutingKey string
	// Caller is the calling service; CallerID its SPIFFE ID, as authenticated.
	Caller, CallerID string
	// Locality of the calling node, "region" or "region/zone".
	Locality string
	// Draw in [0,1) stands for the random draw among weighted clusters.
	Draw float64
	// NodeLabels, when not nil, are the calling node's labels: resources whose scope
	// does not hold it are passed over. A table made of one node's view needs none.
	NodeLabels map[string]string
}

// Outcome of a decision.
type Outcome string

// Outcomes.
const (
	// Routed: the request goes to Cluster.
	Routed Outcome = "routed"
	// Denied: an authorization policy refuses the request; see Authz.
	Denied Outcome = "denied"
	// NoRoute: no rule matches.
	NoRoute Outcome = "noRoute"
	// NoCluster: the rule names no cluster that exists and has weight.
	NoCluster Outcome = "noCluster"
)

// Decision is what becomes of a request. Names of resources are keys, like
// "Cluster/default/payments". Its slices are shared: do not modify them.
type Decision struct {
	Outcome Outcome `json:"outcome"`
	Service string  `json:"service"`
	Route   string  `json:"route,omitempty"`
	Rule    string  `json:"rule,omitempty"`
	Cluster string  `json:"cluster,omitempty"`
	// Weight is the cluster's percentage; ChosenBy is "only", "shardKey",
	// "routingKey" or "draw".
	Weight        float64 `json:"weight,omitempty"`
	ChosenBy      string  `json:"chosenBy,omitempty"`
	LoadBalancing string  `json:"loadBalancing,omitempty"`
	// HashKey names what ringHash hashes, and HashValue is its value.
	HashKey        string            `json:"hashKey,omitempty"`
	HashValue      string            `json:"hashValue,omitempty"`
	ConnectTimeout resource.Duration `json:"connectTimeout,omitempty"`
	Endpoints      []Tier            `json:"endpoints,omitempty"`
	// MinHealthyPercent below which a tier is lost.
	MinHealthyPercent float64  `json:"minHealthyPercent,omitempty"`
	Failover          []Backup `json:"failover,omitempty"`
	Mirrors           []Mirror `json:"mirrors,omitempty"`

	Timeout        Timeout         `json:"timeout,omitzero"`
	IdleTimeout    Timeout         `json:"idleTimeout,omitzero"`
	Retry          *Retry          `json:"retry,omitempty"`
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
	RateLimits     []RateLimit     `json:"rateLimits,omitempty"`
	Policies       []Applied       `json:"policies,omitempty"`
	Authz          Verdict         `json:"authz,omitzero"`
	// Steps explain the decision, in order; only Decide gives them.
	Steps []Step `json:"steps,omitempty"`
}

// Tier is a set of endpoints that are used together.
type Tier struct {
	// Why these belong together, like "region eu-west".
	Why       string     `json:"why,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one address of a cluster.
type Endpoint struct {
	Address string `json:"address"`
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Weight  int    `json:"weight"`
}

// Backup is a cluster to use when all tiers before it are lost.
type Backup struct {
	Cluster   string `json:"cluster"`
	Endpoints []Tier `json:"endpoints"`
}

// Mirror gets copies of a percentage of the requests. The data plane draws for it.
type Mirror struct {
	Cluster string  `json:"cluster"`
	Percent float64 `json:"percent"`
	From    string  `json:"from"`
}

// Timeout and where it comes from: "rule", "route", a policy's key or "default".
type Timeout struct {
	Value resource.Duration `json:"value"`
	From  string            `json:"from"`
}

// Retry is a policy's retry part with defaults filled in.
type Retry struct {
	policy.Retry
	From string `json:"from"`
}

// CircuitBreaker is a policy's circuit breaker.
type CircuitBreaker struct {
	policy.CircuitBreaker
	From string `json:"from"`
}

// RateLimit is a policy's rate limit.
type RateLimit struct {
	policy.RateLimit
	From string `json:"from"`
}

// Applied is a policy that concerns the request, and by way of what.
type Applied struct {
	Policy string `json:"policy"`
	// Via is "rule", "route" or "cluster" for a policy that is listed there, and
	// "targets route" or "targets cluster" for one that targets it.
	Via   string   `json:"via"`
	Parts []string `json:"parts"`
}

// Verdict of the authorization policies; Effect is empty when there is none.
type Verdict struct {
	// Effect is "allow" or "deny".
	Effect string `json:"effect,omitempty"`
	// Policy and Rule that decided; Rule is empty when a default did.
	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Why    string `json:"why,omitempty"`
}

// Step is one thing that was considered.
type Step struct {
	Resource string `json:"resource"`
	Field    string `json:"field,omitempty"`
	// Outcome is "matched", "passed over", "not reached", "chosen", "applies",
	// "overridden", "allowed" or "denied".
	Outcome string `json:"outcome"`
	Why     string `json:"why"`
}
