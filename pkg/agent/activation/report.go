package activation

import (
	"fmt"
	"time"
)

// Phase is where the agent stands, in one word.
type Phase string

// The phases; each is explained in control.proto.
const (
	Connecting Phase = "connecting"
	Staging    Phase = "staging"
	Active     Phase = "active"
	Degraded   Phase = "degraded"
	Stale      Phase = "stale"
)

// Phases lists every phase.
func Phases() []Phase { return []Phase{Connecting, Staging, Active, Degraded, Stale} }

// Report is what the machine shows of itself. It shares nothing with it.
type Report struct {
	Phase   Phase
	Message string
	// Active is what the data plane was given; zero while there is none. The first
	// generation of Durable is ahead of it while its activation is in progress.
	Active  Point
	Durable Durable
	// Held waits for the pin to be taken off.
	Held      *Candidate
	Refusal   *Refusal
	Hub       string
	Connected bool
	FreshAt   time.Time
	// InProbation tells that the active generation is being watched.
	InProbation bool
}

// Report describes the machine at now.
func (m Machine) Report(now time.Time) Report {
	r := Report{
		Phase: m.phase(now), Message: m.message, Active: m.served, Durable: m.d, Held: m.held, Refusal: m.refusal,
		Hub: m.hub, Connected: m.connected, FreshAt: m.freshAt, InProbation: m.watch.on(),
	}
	if r.Message == "" && m.d.Pinned {
		r.Message = pinMessage(m.d.PinReason)
	}
	if r.Message == "" {
		r.Message = m.severed
	}
	return r
}

// Active gives the active generation.
func (m Machine) Active() (Generation, bool) { return m.d.Active() }

func (m Machine) phase(now time.Time) Phase {
	active, ok := m.d.Active()
	switch {
	case m.flight != nil && m.flight.purpose != restore:
		return Staging
	case !ok:
		return Connecting
	case m.flight != nil, m.watch.on() && active.Status == Probation:
		return Staging
	case m.cfg.StaleAfter > 0 && !m.freshAt.Add(m.cfg.StaleAfter).After(now):
		return Stale
	case m.d.Pinned, m.refusal != nil, active.Compare(m.d.Highest) < 0:
		return Degraded
	}
	return Active
}

// Deadline is when the machine wants its next Tick, and when a report changes
// with time alone. The zero time: not before another event.
func (m Machine) Deadline() time.Time {
	var next time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if !m.started || m.stopping {
		return next
	}
	if m.flight == nil {
		if m.watch.on() && !m.watch.checking {
			consider(m.watch.nextHealth)
			if m.watch.bad == 0 {
				consider(m.watch.until)
			}
		}
		if m.retry != nil {
			consider(m.retryAt)
		}
	}
	if m.unsaved {
		consider(m.retryAt)
	}
	if m.watch.bad == 0 && m.flight == nil {
		for i, g := range m.d.Generations {
			if i > 0 && g.Status == Probation && g.Compare(m.d.Generations[0].Point) < 0 {
				consider(g.ActivatedAt.Add(m.cfg.Probation))
			}
		}
	}
	return next
}

// StaleAt is when the phase becomes Stale unless a hub confirms before; zero
// when it never does.
func (m Machine) StaleAt() time.Time {
	if m.cfg.StaleAfter <= 0 || !m.started {
		return time.Time{}
	}
	return m.freshAt.Add(m.cfg.StaleAfter)
}

// References lists the points whose content the machine may still name.
func (m Machine) References() []Point {
	var out []Point
	for _, g := range m.d.Generations {
		out = append(out, g.Point)
	}
	for _, c := range []*Candidate{m.pending, m.held, m.retry} {
		if c != nil {
			out = append(out, c.Point)
		}
	}
	if m.flight != nil {
		out = append(out, m.flight.target.Point)
		for _, g := range m.flight.next.Generations {
			out = append(out, g.Point)
		}
	}
	return out
}

// InFlight tells whether an activation is in progress.
func (m Machine) InFlight() bool { return m.flight != nil }

func crashMessage(n int, p Point) string {
	return fmt.Sprintf("the agent ended %d times without version %d surviving its probation", n, p.Version)
}

func pinMessage(reason string) string {
	if reason == "" {
		return "pinned by an operator"
	}
	return "pinned by an operator: " + reason
}

func olderMessage(p, highest Point) string {
	return fmt.Sprintf("epoch %d version %d is older than epoch %d version %d, which this agent accepted before", p.Epoch, p.Version, highest.Epoch, highest.Version)
}

func equivocationMessage(p, known Point, signer string) string {
	return fmt.Sprintf("view %s version %d was signed with digest %s before, and with digest %s by %s", p.View, p.Version, known.Digest, p.Digest, signer)
}

func quarantineMessage(q Quarantined) string {
	return fmt.Sprintf("this content was reverted here at %s, as version %d: %s", q.Since.UTC().Format(time.RFC3339), q.Version, q.Message)
}
