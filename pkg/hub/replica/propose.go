package replica

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// leaderWait is how long a write waits for this hub to win the lease, as right
// after its start; with a store that is known to be in trouble, troubleWait.
const (
	leaderWait  = 6 * time.Second
	troubleWait = 500 * time.Millisecond
)

// Proposal is one entry to append.
type Proposal struct {
	// Kind is the payload's message name, one of state.Kind….
	Kind    string
	Payload proto.Message
	// Author is the SPIFFE ID of who asked for it; empty: the hub itself.
	Author      string
	RequestID   string
	Origin      string
	Traceparent string
	// Graph is the graph after the entry, when the proposer computed it already.
	Graph *graph.Graph
}

// speculation is the state that a proposal will leave if it is committed.
type speculation struct {
	entry *logv1.Entry
	Current
	effect state.Effect
}

// Propose appends one entry and returns once it is durable and current. f runs
// in the writer's goroutine with the state that the entry will follow and the
// entry's time; it must be quick and must not call the replica. Its error is
// returned as it is and nothing is appended. An error of kind fault.Unknown, or
// ctx's, means that the entry may have been committed: retry with the same
// request id.
func (r *Replica) Propose(ctx context.Context, f func(cur *Current, now time.Time) (Proposal, error)) (store.Entry, error) {
	tenure, err := r.awaitTenure(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	var rejected atomic.Bool // the writer may still run when ctx has ended
	entry, err := tenure.Submit(ctx, func(next store.Position) (store.Draft, error) {
		draft, err := r.speculate(next, f)
		rejected.Store(err != nil)
		return draft, err
	})
	if err != nil && !rejected.Load() {
		r.noteTrouble(err)
	}
	return entry, err
}

// speculate evaluates one proposal on the pending state. It runs in the writer's
// goroutine.
func (r *Replica) speculate(next store.Position, f func(*Current, time.Time) (Proposal, error)) (store.Draft, error) {
	cur := r.pendingCurrent()
	if cur.State.Seq()+1 != next.Seq {
		return store.Draft{}, fault.New(fault.CodeNotLeader, "the log is at entry %d and this hub at %d", next.Seq-1, cur.State.Seq())
	}
	now := r.opt.Now()
	if now.Before(cur.State.Time()) {
		now = cur.State.Time()
	}
	p, err := f(cur, now)
	if err != nil {
		return store.Draft{}, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(p.Payload)
	if err != nil {
		return store.Draft{}, fault.New(fault.CodeInternal, "encode a %s: %w", p.Kind, err)
	}
	if p.Author == "" {
		p.Author = r.opt.Author
	}
	e := &logv1.Entry{
		Seq: next.Seq, Term: next.Term, Time: timestamppb.New(now), Author: p.Author, RequestId: p.RequestID,
		Kind: p.Kind, Payload: payload, Traceparent: p.Traceparent, Origin: p.Origin,
	}
	after, effect, err := cur.State.Propose(e)
	if err != nil {
		return store.Draft{}, fault.New(fault.CodeInternal, "a proposal contradicts the state: %w", err)
	}
	g := p.Graph
	if g == nil {
		g = cur.Graph
		if len(effect.Changed) > 0 {
			g, _ = g.Update(changesOf(after, effect.Changed))
		}
	}
	r.mu.Lock()
	r.pending = append(r.pending, speculation{entry: e, Current: Current{State: after, Graph: g}, effect: effect})
	r.mu.Unlock()
	return store.Draft{
		Kind: e.Kind, Author: e.Author, RequestID: e.RequestId, Traceparent: e.Traceparent, Origin: e.Origin, Time: now, Payload: payload,
	}, nil
}

func (r *Replica) pendingCurrent() *Current {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.pending); n > 0 {
		return &r.pending[n-1].Current
	}
	return r.current.Load()
}

// committed makes entries current that this hub appended.
func (r *Replica) committed(entries []store.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = nil
	for _, e := range entries {
		if err := r.advance(e); err != nil {
			r.freeze(err)
			return
		}
	}
}

// aborted drops what proposals built upon a batch that was not committed.
func (r *Replica) aborted() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = nil
}

// advance folds the next entry into the current state. r.mu is held.
func (r *Replica) advance(e store.Entry) error {
	cur := r.current.Load()
	if e.GetSeq() <= cur.State.Seq() {
		return nil
	}
	next, effect, ok := r.speculated(cur, e)
	if !ok {
		s, eff, err := cur.State.Apply(e.Entry, e.Hash)
		if err != nil {
			return err
		}
		next, effect = &Current{State: s, Graph: cur.Graph}, eff
		if len(eff.Changed) > 0 {
			next.Graph, _ = cur.Graph.Update(changesOf(s, eff.Changed))
		}
	}
	r.noteTerm(store.Head{Position: store.Position{Seq: e.GetSeq(), Term: e.GetTerm()}, Hash: e.Hash})
	if effect.Skipped {
		r.log.Warn("log entry of an unknown kind skipped", "seq", e.GetSeq(), "kind", e.GetKind())
	}
	r.current.Store(next)
	r.backlog.entries++
	r.backlog.bytes += int64(len(e.Raw))
	if effect.Config {
		r.keepCommit(Commit{Seq: e.GetSeq(), Term: e.GetTerm(), At: time.Now(), Traceparent: e.GetTraceparent()})
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// keepCommit adds to the ring of commits. r.mu is held.
func (r *Replica) keepCommit(c Commit) {
	if len(r.commits) >= commitsKept {
		r.commits = slices.Delete(r.commits, 0, len(r.commits)-commitsKept+1)
	}
	r.commits = append(r.commits, c)
}

// speculated takes the pending state of e, if e is what was proposed. r.mu is held.
func (r *Replica) speculated(cur *Current, e store.Entry) (*Current, state.Effect, bool) {
	if len(r.pending) == 0 {
		return nil, state.Effect{}, false
	}
	p := r.pending[0]
	hash := cur.State.Position().Hash
	same := p.entry.GetSeq() == e.GetSeq() && p.entry.GetTerm() == e.GetTerm() && p.entry.GetKind() == e.GetKind() &&
		p.entry.GetRequestId() == e.GetRequestId() && p.entry.GetTime().AsTime().Equal(e.GetTime().AsTime()) &&
		bytes.Equal(p.entry.GetPayload(), e.GetPayload()) && bytes.Equal(e.GetPreviousHash(), hash[:])
	if !same {
		r.pending = nil
		return nil, state.Effect{}, false
	}
	r.pending = r.pending[1:]
	return &Current{State: p.State.WithHash(e.Hash), Graph: p.Graph}, p.effect, true
}

// awaitTenure gives the lease that this hub holds, waiting a little for it.
func (r *Replica) awaitTenure(ctx context.Context) (*store.Tenure, error) {
	r.mu.Lock()
	wait := leaderWait
	if r.trouble != nil {
		wait = troubleWait
	}
	r.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	before := r.leads()
	for {
		r.mu.Lock()
		tenure, moved, changed, frozen, split, trouble := r.tenure, r.tenureMove, r.changed, r.frozen, r.split, r.trouble
		r.mu.Unlock()
		if frozen != nil {
			return nil, r.frozenError(frozen)
		}
		if split != nil {
			return nil, split
		}
		if tenure != nil {
			return tenure, nil
		}
		if now := r.leads(); now != before && now != r.opt.Holder.Name {
			return nil, r.notLeader(ctx) // another took the lease while we waited
		}
		select {
		case <-moved:
		case <-changed:
		case <-timer.C:
			if trouble != nil {
				return nil, r.cannotWrite(trouble)
			}
			return nil, r.notLeader(ctx)
		case <-ctx.Done():
			return nil, fault.New(fault.CodeTimeout, "wait for the lease: %w", context.Cause(ctx))
		}
	}
}

// leads names the hub that began the newest term that this hub has read of.
func (r *Replica) leads() string {
	if cur := r.Current(); cur != nil {
		return cur.State.Leader().GetHub()
	}
	return ""
}

func (r *Replica) notLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if h, _, err := r.Leader(ctx); err == nil && h.Name != "" && h.Name != r.opt.Holder.Name {
		return fault.New(fault.CodeNotLeader, "hub %s is not the leader; %s at %s is", r.opt.Holder.Name, h.Name, h.Address)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.campaignFailed != nil {
		return cannotLead(r.campaignFailed)
	}
	return fault.New(fault.CodeNotLeader, "hub %s does not hold the lease at the moment", r.opt.Holder.Name)
}

// noteCampaign remembers why this hub cannot stand for the lease; nil: it does.
func (r *Replica) noteCampaign(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.campaignFailed == nil {
		r.log.Error("this hub cannot stand for the lease; trying again", "err", err)
	}
	if err == nil && r.campaignFailed != nil {
		r.log.Info("this hub stands for the lease again")
	}
	r.campaignFailed = err
}

// noteTrouble remembers that the store cannot be used.
func (r *Replica) noteTrouble(err error) {
	switch fault.CodeOf(err) {
	case fault.CodeStoreFull, fault.CodeStoreUnavailable, fault.CodeStoreFailed, fault.CodeIO, fault.CodeCorrupt, fault.CodeConfig:
	default:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trouble == nil {
		r.log.Error("the store cannot be used; the hub is read-only", "err", err)
	}
	r.trouble = err
}

// freeze stops all progress: what is current stays. r.mu is held.
func (r *Replica) freeze(err error) {
	if r.frozen == nil {
		r.frozen = err
		r.log.Error("log cannot be followed; serving the last good state read-only", "err", err)
	}
}
