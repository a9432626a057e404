package activation

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

func (s *step) activated(why *Reason) {
	f := *s.flight
	s.flight = nil
	if why != nil {
		s.activationFailed(f, *why)
		return
	}
	s.landed(f)
	if f.purpose == forward {
		s.refusal, s.message = nil, ""
	}
	if f.purpose == restore && s.refusal == nil {
		s.message = ""
	}
}

// landed begins what follows an activation.
func (s *step) landed(f flight) {
	active := s.d.Generations[0]
	s.served = active.Point
	switch f.purpose {
	case forward:
		s.setActive(func(g *Generation) { g.ActivatedAt = s.now })
		s.beginWatch()
		if s.watch.on() {
			s.emit(Ack{f.target.Point, s.now, false})
		}
	case restore:
		s.restored()
	case back, command:
		s.setActive(func(g *Generation) { g.ActivatedAt = s.now })
		if f.purpose == back {
			s.emit(WentBack{s.refusedPoint(), active.Point, f.why})
		}
	}
	if f.answer {
		s.emit(Reply{Request: f.request, Generation: s.d.Generations[0]})
	}
}

// restored begins the probation of the generation that the agent started with.
func (s *step) restored() {
	if s.d.Generations[0].ActivatedAt.IsZero() {
		s.setActive(func(g *Generation) { g.ActivatedAt = s.now })
	}
	s.beginWatch()
	s.forwardStored()
}

func (s *step) refusedPoint() Point {
	if s.refusal == nil {
		return Point{}
	}
	return s.refusal.Point
}

// beginWatch starts the probation of the active generation.
func (s *step) beginWatch() {
	s.watch = watch{}
	if s.d.Pinned {
		s.settle()
		return
	}
	if s.cfg.Probation <= 0 {
		s.keep()
		return
	}
	s.watch.until = s.now.Add(s.cfg.Probation)
	if s.cfg.HealthInterval > 0 {
		s.watch.nextHealth = s.now.Add(s.cfg.HealthInterval)
	}
}

// keep ends the probation well.
func (s *step) keep() {
	s.setActive(func(g *Generation) {
		g.Status = Kept
		g.Reason = ""
	})
	s.settle()
	active := s.d.Generations[0]
	s.emit(Ack{active.Point, active.ActivatedAt, true})
}

// settle ends the count of crashes: this run is in order.
func (s *step) settle() {
	s.watch = watch{}
	s.d.Crashes, s.d.Running = 0, false
	s.remember()
}

// setActive changes the active generation's record.
func (s *step) setActive(change func(*Generation)) {
	s.d.Generations = slices.Clone(s.d.Generations)
	change(&s.d.Generations[0])
}

func (s *step) activationFailed(f flight, why Reason) {
	active := s.d.Generations[0]
	switch {
	case f.purpose == back, f.purpose == command:
		// Served all the same; the hook's failure is for people to see.
		s.landed(f)
		s.note(active.Point, why)
	case f.purpose == restore && s.regardless(f):
		s.note(active.Point, why)
		s.served = active.Point
		s.restored()
	default:
		s.goBack(active, why)
	}
}

// goBack leaves a generation that did harm for the newest one that did not.
func (s *step) goBack(bad Generation, why Reason) {
	s.watch = watch{}
	s.emit(Nack{bad.Point, why})
	s.note(bad.Point, why)
	next, found := s.d.withdraw(bad, why, s.now)
	if found {
		s.fly(flight{target: Candidate{Point: next.Generations[0].Point, Verified: true}, purpose: back, stage: persisting, next: next, why: why})
		return
	}
	s.d.Crashes, s.d.Running = 0, false
	if bad.ActivatedAt.IsZero() {
		// It never became active: nothing is.
		s.d.Generations, s.served = nil, Point{}
		s.d.Quarantine = quarantine(s.d.Quarantine, bad.Point, why, s.now)
	} else {
		s.setActive(func(g *Generation) { g.Reason = why.Message })
		s.message = why.Message + "; no earlier generation is stored, so it stays active"
	}
	s.remember()
}

// harm ends the probation badly. While something newer is on its way, that gets
// its chance first.
func (s *step) harm(why Reason) {
	if !s.watch.on() || s.flight != nil {
		return
	}
	s.goBack(s.d.Generations[0], why)
}

func (s *step) health(ev Health) {
	active, ok := s.d.Active()
	if !ok || !s.watch.on() || ev.Point != active.Point {
		return
	}
	s.watch.checking = false
	if ev.Reason == nil {
		s.watch.bad = 0
		s.endProbation()
		return
	}
	s.watch.bad++
	if s.watch.bad >= s.cfg.HealthFailures {
		s.harm(*ev.Reason)
	}
}

func (s *step) dataPlaneNack(ev DataPlaneNack) {
	active, ok := s.d.Active()
	if !ok || active.Epoch != ev.Epoch || active.Version != ev.Version {
		return
	}
	why := Reason{Code: fault.CodeDataPlaneRefused, Message: "a local data plane refused the content: " + ev.Message}
	switch {
	case s.flight != nil && (s.watch.on() || s.flight.stage == activating):
		// It may have been served a moment ago, before its probation has begun here; or a
		// newer version is on its way, which may not get there.
		s.objection = &objection{active.Point, why}
	case !s.watch.on():
		s.message = why.Message
	default:
		s.harm(why)
	}
}

// object acts on an objection once no flight is under way, if it is still of the
// active version.
func (s *step) object() {
	if s.objection == nil || s.flight != nil {
		return
	}
	o := *s.objection
	s.objection = nil
	if active, ok := s.d.Active(); ok && active.Point == o.point {
		s.harm(o.why)
	}
}

func (s *step) dataPlaneLost() {
	if !s.watch.on() || s.cfg.MaxLost <= 0 {
		return
	}
	s.watch.lost++
	if s.watch.lost >= s.cfg.MaxLost {
		s.harm(Reason{Code: fault.CodeDataPlaneRefused, Message: fmt.Sprintf("data planes lost their stream %d times within the probation", s.watch.lost)})
	}
}

func (s *step) fresh(ev Fresh) {
	p := ev.Point
	active, ok := s.d.Active()
	if !ok {
		return
	}
	for _, known := range s.known() {
		if known.sameVersion(p) && known.Digest != p.Digest {
			s.refuse(p, Reason{Code: fault.CodeEquivocation, Message: equivocationMessage(p, known, ev.Signer)})
			return
		}
	}
	if p.Compare(s.d.Highest) < 0 {
		return // a hub that is behind vouches for nothing
	}
	if !s.met(p.Digest) {
		return // there is newer content, and the hub does not hand it over
	}
	s.freshAt = s.now
	if s.flight != nil {
		return
	}
	if active.View == p.View && active.Digest == p.Digest && p.Compare(s.d.Highest) > 0 && !s.d.Pinned {
		// The same content is the newest at a later version: what lies between
		// must not be accepted any more.
		s.setActive(func(g *Generation) { g.Point = p })
		s.d.Highest, s.served = p, p
		active = s.d.Generations[0]
		s.remember()
		s.emit(Ack{p, active.ActivatedAt, active.Status == Kept})
	}
	if active.Point == p {
		s.refusal, s.message = nil, ""
	}
}

// met tells whether this content was offered: it is stored, on its way, held, or was
// refused for a reason that the status gives.
func (s *step) met(h digest.Hash) bool {
	if _, bad := s.d.quarantined(h); bad || s.refusal != nil && s.refusal.Point.Digest == h {
		return true
	}
	held := s.known()[1:] // the first is Highest, whose content may have been lost
	return slices.ContainsFunc(held, func(p Point) bool { return p.Digest == h })
}

func (s *step) tick() {
	if !s.started {
		return
	}
	s.endProbation()
	s.ripen()
	if s.watch.on() && !s.watch.nextHealth.IsZero() && !s.watch.checking && !s.watch.nextHealth.After(s.now) && s.flight == nil {
		s.watch.checking = true
		s.watch.nextHealth = s.now.Add(s.cfg.HealthInterval)
		s.emit(CheckHealth{s.d.Generations[0].Point})
	}
	if s.unsaved && !s.retryAt.After(s.now) {
		s.remember()
	}
	if s.retry != nil && s.flight == nil && !s.retryAt.After(s.now) {
		c := *s.retry
		s.retry = nil
		s.consider(c)
	}
}

// endProbation keeps the active generation when its time has come and its last
// check was good.
func (s *step) endProbation() {
	if s.watch.on() && !s.watch.until.After(s.now) && !s.watch.checking && s.watch.bad == 0 && s.flight == nil {
		s.keep()
	}
}

// ripen keeps generations that were superseded within their probation and whose
// successors have done no harm since.
func (s *step) ripen() {
	if s.watch.bad > 0 || s.flight != nil {
		return
	}
	changed := false
	for i := range s.d.Generations {
		if !s.ripe(i, s.now) {
			continue
		}
		if !changed {
			s.d.Generations = slices.Clone(s.d.Generations)
			changed = true
		}
		s.d.Generations[i].Status = Kept
	}
	if changed {
		s.d.Generations = retain(s.d.Generations[0], s.d.Generations[1:])
		s.remember()
	}
}

func (s *step) ripe(i int, now time.Time) bool {
	g := s.d.Generations[i]
	return i > 0 && g.Status == Probation && g.Compare(s.d.Generations[0].Point) < 0 && !g.ActivatedAt.Add(s.cfg.Probation).After(now)
}

// fallback gives the generation to go back to from the active one.
func (d Durable) fallback() (Generation, bool) {
	best := -1
	for i, g := range d.Generations {
		if _, bad := d.quarantined(g.Digest); i == 0 || bad || g.Digest == d.Generations[0].Digest {
			continue
		}
		if g.Status == Kept {
			return g, true
		}
		if best < 0 {
			best = i
		}
	}
	if best < 0 {
		return Generation{}, false
	}
	return d.Generations[best], true
}

// withdraw is d after the active generation did harm; false when there is
// nothing to go back to.
func (d Durable) withdraw(bad Generation, why Reason, now time.Time) (Durable, bool) {
	to, ok := d.fallback()
	if !ok {
		return d, false
	}
	to.Reason = fmt.Sprintf("back from version %d: %s", bad.Version, why.Message)
	to.Status = Kept
	var rest []Generation
	for _, g := range d.Generations[1:] {
		if g.Point != to.Point {
			rest = append(rest, g)
		}
	}
	d.Generations = retain(to, rest)
	d.Quarantine = quarantine(d.Quarantine, bad.Point, why, now)
	d.Crashes, d.Running = 0, false
	return d, true
}

func quarantine(list []Quarantined, p Point, why Reason, now time.Time) []Quarantined {
	out := slices.DeleteFunc(slices.Clone(list), func(q Quarantined) bool { return q.Digest == p.Digest })
	out = append(out, Quarantined{Point: p, Code: why.Code, Message: why.Message, Since: now})
	return out[max(0, len(out)-MaxQuarantine):]
}

// accept is d with p activated on top.
func (d Durable) accept(p Point, now time.Time) Durable {
	g := Generation{Point: p, Status: Probation}
	if i := d.find(p); i >= 0 {
		g = d.Generations[i]
		g.Reason = ""
	}
	d.Generations = retain(g, d.Generations)
	if p.Compare(d.Highest) >= 0 {
		d.Highest = p
	}
	d.Crashes, d.Running = 0, true
	return d
}

// choose is d with a stored generation made active by an operator.
func (d Durable) choose(p Point, why string) Durable {
	g := d.Generations[d.find(p)]
	g.Reason = why
	d.Generations = retain(g, d.Generations)
	d.Crashes, d.Running = 0, false
	return d
}

// retain picks the generations to store beside the active one, in the order in
// which the agent falls back: the newest that was kept; the oldest that is still
// to prove itself (the first that will have, when changes come faster than
// probations end); then whatever else there is room for, newest first.
func retain(active Generation, rest []Generation) []Generation {
	var kept, unripe []Generation
	for _, g := range rest {
		switch {
		case g.Point == active.Point:
		case g.Status == Kept:
			kept = append(kept, g)
		default:
			unripe = append(unripe, g)
		}
	}
	slices.SortFunc(kept, func(a, b Generation) int { return b.Compare(a.Point) })
	slices.SortFunc(unripe, func(a, b Generation) int { return a.Compare(b.Point) })
	var picked []Generation
	take := func(list *[]Generation) {
		if len(*list) > 0 && len(picked) < MaxGenerations-1 {
			picked = append(picked, (*list)[0])
			*list = (*list)[1:]
		}
	}
	take(&kept)
	take(&unripe)
	for len(picked) < MaxGenerations-1 && len(kept)+len(unripe) > 0 {
		take(&kept)
		take(&unripe)
	}
	slices.SortStableFunc(picked, func(a, b Generation) int {
		rank := func(g Generation) int {
			if g.Status == Kept {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.Compare(a.Point))
	})
	return append([]Generation{active}, picked...)
}
