package local

import (
	"fmt"
	"time"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/omnirelay"
)

// An agent takes part in no election and asks no store: what it knows of the leader is
// what its hub says, for as long as it is connected to one and hears from it. A hub tells
// of another leader at once, and confirms the node's content every freshness interval:
// each confirmation is one of the leader too.

// confirmations that a token outlives.
const confirmations = 3

// Bounds of the freshness interval, which a hub names and does not sign, and what it
// counts as when it is not named.
const (
	minInterval     = time.Second
	defaultInterval = 10 * time.Second
	maxInterval     = time.Minute
)

// believed is how long what a hub said is good for without another word. f.mu is held.
func (f *Feeds) believed() time.Duration {
	interval := defaultInterval
	if said := f.accepted.GetFreshnessInterval(); said != nil {
		interval = min(max(said.AsDuration(), minInterval), maxInterval)
	}
	return confirmations * interval
}

// Confirmed says that the hub that is connected has just confirmed the present content:
// it is there, and tells of no other leader.
func (f *Feeds) Confirmed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hubKnown {
		f.renewLeader(fmt.Sprintf("hub %s is there, and tells of no other", f.leader.Via))
	}
}

// renewLeader tells that the leader is still the same. f.mu is held.
func (f *Feeds) renewLeader(reason string) {
	now := time.Now()
	f.leader.Until = now.Add(f.believed())
	f.leaders.Publish(omnirelay.Event{Kind: mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_RENEWED, Scope: f.cfg.Domain, At: now, Leader: f.leader, Reason: reason})
}

// heardLeader takes in what a hub says. f.mu is held.
func (f *Feeds) heardLeader(a *controlv1.Accepted) {
	said := a.GetLeader()
	if said.GetHub() == "" || said.GetTerm() < f.leader.Term {
		return // nothing, or a hub that has not heard of a newer term yet
	}
	if f.leader.Hub == said.GetHub() && f.leader.Term == said.GetTerm() && f.hubKnown {
		f.leader.Via = a.GetHub()
		f.renewLeader(fmt.Sprintf("hub %s says so again", a.GetHub()))
		return
	}
	now := time.Now()
	f.leader = omnirelay.Leader{Hub: said.GetHub(), Term: said.GetTerm(), Since: now, Until: now.Add(f.believed()), Via: a.GetHub()}
	f.hubKnown = true
	f.leaders.Publish(omnirelay.Event{
		Kind: mesh.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED, Scope: f.cfg.Domain, At: now, Leader: f.leader, Reason: fmt.Sprintf("hub %s says so", a.GetHub()),
	})
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
