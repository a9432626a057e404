package activation

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/fault"
)

// command carries out an operator's word, or lets it wait for the flight to end.
func (s *step) command(ev Event) {
	request := requestOf(ev)
	switch {
	case !s.started:
		s.reject(request, fault.CodeAgentStopping, "the agent is not running")
		return
	case s.flight != nil && len(s.waiting) >= maxWaiting:
		s.reject(request, fault.CodeAgentNotReady, fmt.Sprintf("%d commands wait for an activation to end already", maxWaiting))
		return
	case s.flight != nil:
		s.waiting = append(s.waiting[:len(s.waiting):len(s.waiting)], ev)
		return
	}
	switch ev := ev.(type) {
	case Pin:
		s.pin(ev)
	case Revert:
		s.revert(ev)
	case Unpin:
		s.unpin(ev)
	}
}

func requestOf(ev Event) uint64 {
	switch ev := ev.(type) {
	case Pin:
		return ev.Request
	case Unpin:
		return ev.Request
	case Revert:
		return ev.Request
	}
	return 0
}

func (s *step) reject(request uint64, code fault.Code, message string) {
	s.emit(Reply{Request: request, Reason: &Reason{Code: code, Message: message}})
}

func (s *step) pin(ev Pin) {
	active, ok := s.d.Active()
	if !ok {
		s.reject(ev.Request, fault.CodeAgentNotReady, "no content is active that could be pinned")
		return
	}
	if ev.Version == 0 || ev.Version == active.Version {
		s.d.Pinned, s.d.PinReason = true, ev.Reason
		s.settle()
		s.emit(Reply{Request: ev.Request, Generation: s.d.Generations[0]})
		return
	}
	for _, g := range s.d.Generations {
		if g.Version == ev.Version {
			s.goTo(g, ev.Request, ev.Reason, "pinned by an operator")
			return
		}
	}
	s.reject(ev.Request, fault.CodeGenerationNotFound, fmt.Sprintf("version %d is not stored on this node", ev.Version))
}

func (s *step) revert(ev Revert) {
	active, ok := s.d.Active()
	if !ok {
		s.reject(ev.Request, fault.CodeAgentNotReady, "no content is active that could be reverted")
		return
	}
	var to *Generation
	for i, g := range s.d.Generations {
		if g.Compare(active.Point) < 0 && (to == nil || g.Compare(to.Point) > 0) {
			to = &s.d.Generations[i]
		}
	}
	if to == nil {
		s.reject(ev.Request, fault.CodeNoFallback, fmt.Sprintf("no generation before version %d is stored", active.Version))
		return
	}
	s.goTo(*to, ev.Request, ev.Reason, fmt.Sprintf("reverted from version %d by an operator", active.Version))
}

// goTo makes a stored generation active and pins it.
func (s *step) goTo(g Generation, request uint64, reason, how string) {
	if reason != "" {
		how += ": " + reason
	}
	next := s.d.choose(g.Point, how)
	next.Pinned, next.PinReason = true, reason
	s.fly(flight{
		target: Candidate{Point: g.Point, Verified: true}, purpose: command, stage: persisting,
		next: next, request: request, answer: true,
	})
}

// unpin takes the pin off, empties the quarantine, and moves on to the newest
// content there is.
func (s *step) unpin(ev Unpin) {
	s.d.Pinned, s.d.PinReason = false, ""
	s.d.Quarantine = nil
	s.refusal, s.message = nil, ""
	s.remember()
	active, ok := s.d.Active()
	s.emit(Reply{Request: ev.Request, Generation: active})
	s.emit(Resume{})
	if s.held != nil {
		c := *s.held
		s.held = nil
		s.consider(c)
		if s.flight != nil {
			return
		}
	}
	if s.forwardStored() {
		return
	}
	if ok && active.Status == Probation {
		s.d.Running = true
		s.beginWatch()
	}
}

// forwardStored starts towards the newest stored generation, if that is not the
// active one: an operator held the agent back, and does no more.
func (s *step) forwardStored() bool {
	active, ok := s.d.Active()
	if !ok || s.d.Pinned {
		return false
	}
	newest := active
	for _, g := range s.d.Generations[1:] {
		if _, bad := s.d.quarantined(g.Digest); !bad && g.Compare(newest.Point) > 0 {
			newest = g
		}
	}
	if newest.Point == active.Point {
		return false
	}
	s.fly(flight{target: Candidate{Point: newest.Point, Verified: true}, purpose: forward, stage: validating})
	return true
}
