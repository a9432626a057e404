package hosting

import (
	"context"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/hub"
)

// spreadEvery is how often a process looks whether it leads more domains than
// others, and spreadTime bounds one hand-over.
const (
	spreadEvery = 10 * time.Second
	spreadTime  = 8 * time.Second
)

// led is one domain as the balance sees it.
type led struct {
	domain, leader string
	chosen         bool     // an operator had this hub lead it
	others         []string // hubs of the domain that may lead, without this one
	hub            *hub.Hub
}

// overloaded chooses a domain that the hub me leads and others that should rather
// lead it, the idlest first: those that lead at least two fewer. What an operator had it
// lead stays. Only who leads too many acts, so no two hubs move the same domain. ok is
// false when leadership is spread well enough.
func overloaded(me string, all []led) (pick led, to []string, ok bool) {
	leads := make(map[string]int)
	for _, d := range all {
		leads[d.leader]++
	}
	for _, d := range all {
		if d.leader != me || d.chosen {
			continue
		}
		var idler []string
		for _, other := range d.others {
			if leads[me]-leads[other] >= 2 {
				idler = append(idler, other)
			}
		}
		if len(idler) > 0 {
			slices.SortStableFunc(idler, func(a, b string) int { return leads[a] - leads[b] })
			return d, idler, true
		}
	}
	return led{}, nil, false
}

// spread hands domains over while this process leads more of them than others do.
func (x *Host) spread(ctx context.Context, own *hub.Hub) {
	for backoff.Sleep(ctx, backoff.Jitter(spreadEvery, 0.3)) == nil {
		pick, to, ok := overloaded(x.opt.Name, x.leading(own))
		if !ok {
			continue
		}
		for _, other := range to {
			hctx, cancel := context.WithTimeout(ctx, spreadTime)
			err := pick.hub.HandOver(hctx, other)
			cancel()
			if err == nil {
				x.log.Info("handed over, to spread leadership", "guest", pick.domain, "to", other)
				break
			}
			x.log.Debug("not handed over", "guest", pick.domain, "to", other, "err", err)
		}
	}
}

// leading lists the domains that are served, the hub's own last: it moves least
// readily.
func (x *Host) leading(own *hub.Hub) []led {
	var out []led
	x.mu.Lock()
	for _, g := range x.guests {
		if h, _ := g.get(); h != nil {
			out = append(out, x.ledBy(g.domain.Name, h))
		}
	}
	x.mu.Unlock()
	slices.SortFunc(out, func(a, b led) int {
		if a.domain < b.domain {
			return -1
		}
		return 1
	})
	return append(out, x.ledBy(x.opt.Domain, own))
}

func (x *Host) ledBy(domain string, h *hub.Hub) led {
	d := led{domain: domain, hub: h, others: h.Others(), leader: h.Status().GetLeader(), chosen: h.Chosen()}
	if d.leader == x.opt.Name && !h.Leads() {
		d.leader = "" // lost, and nobody began a term yet
	}
	return d
}
