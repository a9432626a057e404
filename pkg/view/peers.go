package view

import (
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind/route"
	"github.com/meshkit/meshkit/pkg/resource"
)

// withholdPeers keeps requests of a withheld route from falling through to another
// route of its service: those of the same or a lower priority are withheld as well,
// on account of the withheld one of the highest priority, the first by key among
// equals: their lead. Nothing but the targets of policies refers to routes, so this
// goes no further.
func (w *work) withholdPeers() {
	if len(w.level) == 0 && w.old.Len() == 0 {
		return
	}
	moved := map[string]bool{}    // services in which some route's own fate may differ
	services := map[string]bool{} // and those with routes in the region
	for key := range w.region {
		if key.Kind != route.Kind {
			continue
		}
		now, hasNow := specOf(w.after, key)
		if hasNow {
			services[now.Service] = true
		}
		if _, withheld := w.level[key]; withheld && hasNow {
			moved[now.Service] = true
		}
		if w.before != nil && w.ownBefore(key) {
			if old, ok := specOf(w.before, key); ok {
				moved[old.Service], services[old.Service] = true, true
			}
		}
	}
	for name := range moved {
		w.includeService(name)
	}
	for name := range services {
		w.leadService(name)
	}
}

// includeService adds the routes of a service, and the policies that target them,
// to the region.
func (w *work) includeService(name string) {
	s, ok := w.after.Service(name)
	if !ok {
		return
	}
	for o := range s.Routes() {
		w.keep(o.Key())
		w.keepProtectors(o.Key())
	}
}

// keep adds a key to the region with what was known of its own fate, unless it is
// there.
func (w *work) keep(key resource.Key) {
	if _, ok := w.region[key]; ok {
		return
	}
	w.region[key], w.seeds[key] = false, w.seed(w.after, key)
	if it, ok := w.old.Get(key); ok && it.level >= 0 && !it.peer {
		w.level[key] = it.level
	}
}

// keepProtectors keeps the policies that target a route: their targets name it only
// while it is sent.
func (w *work) keepProtectors(route resource.Key) {
	for _, p := range protectors(w.after, route) {
		w.keep(p)
	}
}

// leadService finds the leads of a service's routes in the region.
func (w *work) leadService(name string) {
	s, ok := w.after.Service(name)
	if !ok {
		return
	}
	var lead resource.Key
	highest, found := 0, false
	for o := range s.Routes() { // by key
		if p := o.Spec.(*route.Spec).Priority; (!found || p > highest) && w.own(o.Key()) {
			lead, highest, found = o.Key(), p, true
		}
	}
	if !found {
		return
	}
	level := w.levelOf(lead) + 1
	for o := range s.Routes() {
		key := o.Key()
		if _, here := w.region[key]; here && !w.own(key) && !w.seeds[key].absent && o.Spec.(*route.Spec).Priority <= highest {
			w.lead[key], w.level[key] = lead, level
			w.keepProtectors(key) // a route that came to the service was not looked at with it
		}
	}
}

// own says whether a route is withheld for a cause of its own.
func (w *work) own(key resource.Key) bool {
	if _, here := w.region[key]; here {
		_, withheld := w.level[key]
		_, led := w.lead[key]
		return withheld && !led
	}
	return w.ownBefore(key)
}

func (w *work) ownBefore(key resource.Key) bool {
	it, ok := w.old.Get(key)
	return ok && it.out && it.level >= 0 && !it.peer
}

func specOf(g *graph.Graph, key resource.Key) (*route.Spec, bool) {
	o, _ := g.Get(key)
	spec, ok := o.Spec.(*route.Spec)
	return spec, ok
}
