// Package graphtest makes sample meshes for tests, benchmarks and demonstrations.
// The same arguments always give the same bytes.
package graphtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/kind/policy"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
)

// Size is about how long each content is, in bytes.
const Size = 1024

var regions = []string{"eu-west", "eu-north", "us-east"}

// Mesh makes n valid resources of about 1 KiB each, without errors or warnings: the
// DomainSettings, then services of ten resources each (six clusters, three routes of
// different priorities, one policy that they use), then clusters to make up n.
func Mesh(n int, seed uint64) []graph.Change {
	m := maker{rng: rand.New(rand.NewPCG(seed, 1))}
	if n > 0 {
		m.add(domainsettings.Kind, domainsettings.Name, domainsettings.Spec{SLO: []domainsettings.SLO{{Region: "*", P99: seconds(2)}}})
	}
	for len(m.changes)+10 <= n {
		m.service(len(m.changes) / 10)
	}
	for len(m.changes) < n {
		m.cluster(fmt.Sprintf("spare-%d", n-len(m.changes)), nil)
	}
	return m.changes
}

// Build makes the graph of Mesh(n, seed).
func Build(n int, seed uint64) *graph.Graph {
	g, findings := graph.New().Update(Mesh(n, seed))
	if len(findings) > 0 {
		panic("graphtest: sample mesh is not valid: " + findings[0].String())
	}
	return g
}

// Edit returns a change of the same resource to a content that differs for each
// revision: the annotation "revision".
func Edit(c graph.Change, revision int) graph.Change {
	r, err := resource.ParseCanonical(c.Content)
	if err != nil {
		panic(err)
	}
	annotations := map[string]string{}
	for k, v := range r.Metadata.Annotations {
		annotations[k] = v
	}
	annotations["revision"] = strconv.Itoa(revision)
	r.Metadata.Annotations = annotations
	return Change(*r)
}

// Change makes the change that writes a resource.
func Change(r resource.Resource) graph.Change {
	content, err := r.Canonical()
	if err != nil {
		panic(err)
	}
	return graph.Change{Key: r.Key(), Content: content}
}

// New makes the change that writes a resource of the default namespace with a spec,
// and with a scope when pairs (label, value, …) are given.
func New(kind, name string, spec any, scope ...string) graph.Change {
	raw, err := json.Marshal(spec)
	if err != nil {
		panic(err)
	}
	r := resource.Resource{APIVersion: resource.APIVersion, Kind: kind, Metadata: resource.Metadata{Name: name, Namespace: resource.DefaultNamespace}, Spec: raw}
	for i := 0; i+1 < len(scope); i += 2 {
		if r.Scope == nil {
			r.Scope = &resource.Scope{NodeLabels: map[string]string{}}
		}
		r.Scope.NodeLabels[scope[i]] = scope[i+1]
	}
	return Change(r)
}

// maker collects the resources of one mesh.
type maker struct {
	rng     *rand.Rand
	changes []graph.Change
}

func (m *maker) add(kind, name string, spec any) {
	raw, err := json.Marshal(spec)
	if err != nil {
		panic(err)
	}
	r := resource.Resource{APIVersion: resource.APIVersion, Kind: kind, Spec: raw}
	r.Metadata = resource.Metadata{Name: name, Namespace: resource.DefaultNamespace, Labels: map[string]string{"team": fmt.Sprintf("team-%d", m.rng.IntN(20))}}
	c := Change(r)
	const envelope = 31 // of the annotation
	if missing := Size - len(c.Content) - envelope; missing > 0 {
		r.Metadata.Annotations = map[string]string{"notes": m.words(missing)}
		c = Change(r)
	}
	m.changes = append(m.changes, c)
}

// words makes text that compresses about as well as people's notes do.
func (m *maker) words(n int) string {
	vocabulary := []string{"owned", "by", "the", "team", "that", "runs", "checkout", "and", "payments", "see", "runbook", "before", "changing", "weights", "or", "timeouts", "here"}
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(vocabulary[m.rng.IntN(len(vocabulary))])
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String()[:n])
}

func (m *maker) service(i int) {
	name := fmt.Sprintf("svc-%05d", i)
	guard := name + "-guard"
	spec := policy.Spec{
		Retry:     &policy.Retry{Attempts: 1 + m.rng.IntN(3), On: []string{"connectFailure", "unavailable"}},
		Timeout:   &policy.Timeout{Request: seconds(1 + m.rng.IntN(5))},
		RateLimit: &policy.RateLimit{RequestsPerSecond: float64(100 * (1 + m.rng.IntN(50)))},
	}
	if i%10 == 0 {
		spec.Authz = &policy.Authz{Default: policy.Deny, Rules: []policy.AuthzRule{{Name: "mesh", Effect: policy.Allow, When: fmt.Sprintf("source.spiffe.contains('/node/') && request.service == '%s'", name)}}}
	}
	m.add(policy.Kind, guard, spec)
	for c := range 6 {
		var backup []string
		if c == 0 {
			backup = []string{name + "-c5"}
		}
		m.cluster(fmt.Sprintf("%s-c%d", name, c), backup)
	}
	weight := float64(5 * (1 + m.rng.IntN(10)))
	canary, stable := weight, 100-weight
	tenant := fmt.Sprintf("tenant-%d", m.rng.IntN(50))
	m.route(name+"-tenant", name, 10, route.Rule{Name: "tenant", Match: &route.Match{Tenants: []string{tenant}}, Clusters: []route.WeightedCluster{{Name: name + "-c4"}}})
	beta := "true"
	m.route(name+"-beta", name, 5, route.Rule{Name: "beta", Match: &route.Match{Procedures: []string{name + "::*"}, Headers: []route.HeaderMatch{{Name: "x-beta", Exact: &beta}}},
		Clusters: []route.WeightedCluster{{Name: name + "-c3"}}, Mirror: &route.Mirror{Cluster: name + "-c5"}})
	m.route(name, name, 0,
		route.Rule{Name: "pay", Match: &route.Match{Procedures: []string{name + "::pay"}}, Clusters: []route.WeightedCluster{{Name: name + "-c0", Weight: &stable}, {Name: name + "-c1", Weight: &canary}}, Policies: []string{guard}},
		route.Rule{Name: "rest", Clusters: []route.WeightedCluster{{Name: name + "-c2"}}})
}

func (m *maker) route(name, service string, priority int, rules ...route.Rule) {
	m.add(route.Kind, name, route.Spec{Service: service, Priority: priority, Rules: rules, Timeout: seconds(1 + m.rng.IntN(9))})
}

func (m *maker) cluster(name string, backup []string) {
	spec := cluster.Spec{LoadBalancing: cluster.LeastRequest, ConnectTimeout: resource.Duration(250 * time.Millisecond)}
	for range 4 + m.rng.IntN(4) {
		region := len(spec.Endpoints) % len(regions)
		spec.Endpoints = append(spec.Endpoints, cluster.Endpoint{
			Address:  fmt.Sprintf("10.%d.%d.%d:8080", m.rng.IntN(256), m.rng.IntN(256), len(spec.Endpoints)+1),
			Locality: &cluster.Locality{Region: regions[region], Zone: regions[region] + string(rune('a'+m.rng.IntN(3)))},
		})
	}
	spec.Failover = &cluster.Failover{Priorities: []cluster.Priority{{Regions: regions[:1]}, {Regions: regions[1:2]}}, Clusters: backup}
	m.add(cluster.Kind, name, spec)
}

func seconds(n int) resource.Duration { return resource.Duration(time.Duration(n) * time.Second) }
