package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind/cluster"
	"github.com/meshkit/meshkit/pkg/resource"
)

// compiledCluster is what follows from one cluster alone.
type compiledCluster struct {
	key   resource.Key
	name  string
	spec  *cluster.Spec
	tiers []Tier
	// near: the tiers depend on the caller's locality.
	near  bool
	mu    sync.Mutex
	local map[string][]Tier // by locality, of those that endpoints have; guarded by mu
}

func clusterOf(g *graph.Graph, key resource.Key) *compiledCluster {
	memo := g.Memo(key)
	if memo == nil {
		return nil
	}
	c, _ := memo.Do(func() any {
		o, _ := g.Get(key)
		spec, ok := o.Spec.(*cluster.Spec)
		if !ok {
			return nil
		}
		c := &compiledCluster{key: key, name: key.String(), spec: spec}
		c.near = spec.Failover != nil && len(spec.Failover.Priorities) == 0
		c.tiers = tiers(spec, func(e *cluster.Endpoint) (int, string) { return tierOf(spec, e) })
		return c
	}).(*compiledCluster)
	return c
}

// tierOf gives an endpoint's tier without regard to the caller.
func tierOf(spec *cluster.Spec, e *cluster.Endpoint) (int, string) {
	if spec.Failover == nil || len(spec.Failover.Priorities) == 0 {
		return e.Priority, fmt.Sprintf("priority %d", e.Priority)
	}
	for i := range spec.Failover.Priorities {
		if p := &spec.Failover.Priorities[i]; p.Holds(e.Locality) {
			return i, localities(p)
		}
	}
	return len(spec.Failover.Priorities), "all other localities"
}

func localities(p *cluster.Priority) string {
	var parts []string
	if len(p.Regions) > 0 {
		parts = append(parts, "region "+strings.Join(p.Regions, ", "))
	}
	if len(p.Zones) > 0 {
		parts = append(parts, "zone "+strings.Join(p.Zones, ", "))
	}
	return strings.Join(parts, ", ")
}

func tiers(spec *cluster.Spec, of func(*cluster.Endpoint) (int, string)) []Tier {
	type numbered struct {
		number int
		tier   Tier
	}
	var all []numbered
	for i := range spec.Endpoints {
		e := &spec.Endpoints[i]
		if e.Share() == 0 {
			continue
		}
		number, why := of(e)
		at := slices.IndexFunc(all, func(n numbered) bool { return n.number == number })
		if at < 0 {
			all = append(all, numbered{number, Tier{Why: why}})
			at = len(all) - 1
		}
		out := Endpoint{Address: e.Address, Weight: e.Share()}
		if e.Locality != nil {
			out.Region, out.Zone = e.Locality.Region, e.Locality.Zone
		}
		all[at].tier.Endpoints = append(all[at].tier.Endpoints, out)
	}
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	out := make([]Tier, len(all))
	for i, n := range all {
		out[i] = n.tier
	}
	return out
}

// from gives the tiers for a caller at a locality.
func (c *compiledCluster) from(locality string) []Tier {
	if !c.near || locality == "" {
		return c.tiers
	}
	region, zone, _ := strings.Cut(locality, "/")
	inRegion, inZone := false, false
	for i := range c.spec.Endpoints {
		if l := c.spec.Endpoints[i].Locality; l != nil && l.Region == region {
			inRegion = true
			inZone = inZone || zone != "" && l.Zone == zone
		}
	}
	switch { // so that callers cannot make the cache grow
	case !inRegion:
		return c.tiers
	case !inZone:
		zone = ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := region + "/" + zone
	if known, ok := c.local[at]; ok {
		return known
	}
	made := tiers(c.spec, func(e *cluster.Endpoint) (int, string) {
		distance, why := 2, "elsewhere"
		if l := e.Locality; l != nil && l.Region == region {
			distance, why = 1, "region "+region
			if zone != "" && l.Zone == zone {
				distance, why = 0, "zone "+zone
			}
		}
		if e.Priority > 0 {
			why = fmt.Sprintf("priority %d, %s", e.Priority, why)
		}
		return e.Priority*3 + distance, why
	})
	if c.local == nil {
		c.local = map[string][]Tier{}
	}
	c.local[at] = made
	return made
}

// backupsOf lists the clusters that follow when one is lost: its own, then theirs,
// each once.
func backupsOf(g *graph.Graph, first *compiledCluster) []*compiledCluster {
	var out []*compiledCluster
	seen := map[resource.Key]bool{first.key: true}
	for queue := []*compiledCluster{first}; len(queue) > 0; queue = queue[1:] {
		c := queue[0]
		if c.spec.Failover == nil {
			continue
		}
		for _, name := range c.spec.Failover.Clusters {
			key := resource.ReferenceKey(cluster.Kind, c.key.Namespace, name)
			next := clusterOf(g, key)
			if next != nil && !seen[key] {
				seen[key] = true
				out = append(out, next)
				queue = append(queue, next)
			}
		}
	}
	return out
}
