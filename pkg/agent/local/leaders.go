package local

import (
	"fmt"
	"time"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/omnirelay"
)

// An agent takes part in no election and asks no store: what it knows of the leader is
// what its hub says, for as long as it is connected to one.

// heardLeader takes in what a hub says. f.mu is held.
func (f *Feeds) heardLeader(a *controlv1.Accepted) {
	said := a.GetLeader()
	if said.GetHub() == "" || said.GetTerm() < f.leader.Term {
		return // nothing, or a hub that has not heard of a newer term yet
	}
	now := time.Now()
	e := omnirelay.Event{Scope: f.cfg.Domain, At: now, Leader: omnirelay.Leader{Hub: said.GetHub(), Term: said.GetTerm(), Since: now, Via: a.GetHub()}}
	if f.leader.Hub == said.GetHub() && f.leader.Term == said.GetTerm() && f.hubKnown {
		e.Leader.Since = f.leader.Since
		e.Kind, e.Reason = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED, fmt.Sprintf("hub %s says so again", a.GetHub())
	} else {
		e.Kind, e.Reason = mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED, fmt.Sprintf("hub %s says so", a.GetHub())
	}
	f.leader, f.hubKnown = e.Leader, true
	f.leaders.Publish(e)
}

// Disconnected says that no hub is connected: what it said of the leader holds no
// longer.
func (f *Feeds) Disconnected() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hubKnown {
		return
	}
	f.hubKnown = false
	f.leaders.Publish(omnirelay.Event{
		Kind: mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED, Scope: f.cfg.Domain, Leader: f.leader, At: time.Now(),
		Reason: "this agent has no hub that would confirm it",
	})
}
