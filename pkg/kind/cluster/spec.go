// Package cluster is the Cluster kind: a set of endpoints that serve the same
// thing, and how requests are spread over them. Values are plain data: safe to
// share once no one writes to them.
package cluster

import "github.com/meshkit/meshkit/pkg/resource"

// Kind is the kind's name in files.
const Kind = "Cluster"

// Ways to choose an endpoint.
const (
	RoundRobin   = "roundRobin"
	LeastRequest = "leastRequest"
	RingHash     = "ringHash"
	Random       = "random"
)

// Spec is a Cluster's spec.
type Spec struct {
	Endpoints      []Endpoint        `json:"endpoints" required:"true" minItems:"1" maxItems:"2000" doc:"Endpoints that serve the cluster's requests."`
	LoadBalancing  string            `json:"loadBalancing,omitempty" enum:"roundRobin,leastRequest,ringHash,random" default:"roundRobin" doc:"How an endpoint is chosen among the healthy ones of the best priority."`
	HashKey        string            `json:"hashKey,omitempty" enum:"shardKey,routingKey,tenant,caller" default:"shardKey" doc:"What ringHash hashes; only with loadBalancing: ringHash."`
	ConnectTimeout resource.Duration `json:"connectTimeout,omitempty" min:"1ms" max:"5m" default:"5s" doc:"Time to establish a connection." example:"250ms"`
	HealthCheck    *HealthCheck      `json:"healthCheck,omitempty" doc:"Active checks of each endpoint."`
	Failover       *Failover         `json:"failover,omitempty" cap:"failover/v1" doc:"Where requests go when endpoints are lost."`
	Policies       []string          `json:"policies,omitempty" format:"reference" maxItems:"32" unique:"true" ref:"Policy" doc:"Policies for every request to the cluster: name, or namespace/name."`
}

// Endpoint is one address.
type Endpoint struct {
	Address  string    `json:"address" required:"true" format:"hostport" maxLen:"261" doc:"Host and port; an IPv6 address stands in brackets." example:"10.0.0.7:8080"`
	Locality *Locality `json:"locality,omitempty" doc:"Where the endpoint runs."`
	Weight   *int      `json:"weight,omitempty" min:"0" max:"1000" default:"1" doc:"Share relative to the other endpoints of the same priority; 0 drains it."`
	Priority int       `json:"priority,omitempty" min:"0" max:"15" default:"0" doc:"0 is used first; a higher number only when the ones below are lost. Not together with failover.priorities."`
}

// Locality is a place.
type Locality struct {
	Region string `json:"region" required:"true" format:"labelValue" doc:"Region." example:"eu-west"`
	Zone   string `json:"zone,omitempty" format:"labelValue" doc:"Zone within the region." example:"eu-west-1a"`
}

// Failover says where requests go when endpoints are lost.
type Failover struct {
	Priorities        []Priority `json:"priorities,omitempty" minItems:"1" maxItems:"16" doc:"Tiers of localities, best first. Endpoints of a locality that no tier names come last."`
	Clusters          []string   `json:"clusters,omitempty" minItems:"1" maxItems:"16" format:"reference" unique:"true" ref:"Cluster" doc:"Clusters to try, in order, once every endpoint of this one is lost: name, or namespace/name."`
	MinHealthyPercent *float64   `json:"minHealthyPercent,omitempty" min:"0" max:"100" default:"50" doc:"A tier counts as lost once less than this percent of its endpoints is healthy."`
}

// Priority is one tier of localities.
type Priority struct {
	Regions []string `json:"regions,omitempty" minItems:"1" maxItems:"64" format:"labelValue" unique:"true" doc:"Regions of this tier." example:"eu-west"`
	Zones   []string `json:"zones,omitempty" minItems:"1" maxItems:"64" format:"labelValue" unique:"true" doc:"Zones of this tier; with regions set as well, only zones of those regions."`
}

// HealthCheck probes each endpoint.
type HealthCheck struct {
	Type               string            `json:"type" required:"true" enum:"tcp,http,grpc" doc:"Probe: a TCP connection, an HTTP GET that answers 2xx, or grpc.health.v1."`
	Path               string            `json:"path,omitempty" format:"httpPath" maxLen:"1024" default:"/healthz" doc:"Path of the http probe."`
	Service            string            `json:"service,omitempty" maxLen:"256" doc:"Service name of the grpc probe; empty asks for the whole server."`
	Interval           resource.Duration `json:"interval,omitempty" min:"100ms" max:"10m" default:"5s" doc:"Time between two probes."`
	Timeout            resource.Duration `json:"timeout,omitempty" min:"10ms" max:"1m" default:"1s" doc:"Time for one probe; at most the interval."`
	HealthyThreshold   int               `json:"healthyThreshold,omitempty" min:"1" max:"20" default:"2" doc:"Good probes in a row that make an endpoint healthy."`
	UnhealthyThreshold int               `json:"unhealthyThreshold,omitempty" min:"1" max:"20" default:"3" doc:"Bad probes in a row that make an endpoint unhealthy."`
}

// Share is the endpoint's weight, 1 if none is set.
func (e *Endpoint) Share() int {
	if e.Weight == nil {
		return 1
	}
	return *e.Weight
}

// Holds says whether the tier names the locality. A nil locality is in no tier.
func (p *Priority) Holds(l *Locality) bool {
	if l == nil || len(p.Regions)+len(p.Zones) == 0 {
		return false
	}
	return anyOf(p.Regions, l.Region) && anyOf(p.Zones, l.Zone)
}

// MinHealthy is the percent of healthy endpoints below which a tier is lost.
func (f *Failover) MinHealthy() float64 {
	if f.MinHealthyPercent == nil {
		return 50
	}
	return *f.MinHealthyPercent
}

// anyOf says whether s is in set; an empty set holds everything.
func anyOf(set []string, s string) bool {
	for _, v := range set {
		if v == s {
			return true
		}
	}
	return len(set) == 0
}
