package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/hub/change"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

// prepare computes a change on a state; it is called again when the state moved.
type prepare func(*state.State, *graph.Graph) (*change.Prepared, error)

// Plan implements adminv1.ResourceServiceServer.
func (s *Resources) Plan(ctx context.Context, in *adminv1.PlanRequest) (*adminv1.PlanResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	prep, err := s.decode(in.GetChange())
	if err != nil {
		return nil, err
	}
	p, err := prep(cur.State, cur.Graph)
	if err != nil {
		return nil, err
	}
	return p.Describe(s.roster(cur)), nil
}

func (s *Resources) decode(c *adminv1.Change) (prepare, error) {
	if c == nil {
		return nil, fault.New(fault.CodeBadRequest, "the request holds no change")
	}
	set, err := change.Decode(c, s.Limits)
	if err != nil {
		return nil, err
	}
	return set.Prepare, nil
}

// Apply implements adminv1.ResourceServiceServer.
func (s *Resources) Apply(ctx context.Context, in *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	ctx, span := tracer.Start(ctx, "apply")
	defer span.End()
	req, err := requestOf(ctx, "apply", in.GetRequestId(), in.GetChange())
	if err != nil {
		return nil, err
	}
	if resp, err := s.replayed(req); resp != nil || err != nil {
		return resp, err
	}
	prep, err := s.decode(in.GetChange())
	if err != nil {
		return nil, err
	}
	var resp *adminv1.ApplyResponse
	if small(in.GetChange()) && !in.GetDryRun() {
		var cur *replica.Current
		if cur, err = s.current(); err == nil {
			resp, err = s.append(ctx, req, prep, cur, nil, nil, true)
		}
	} else {
		resp, err = s.commit(ctx, req, prep, in.GetDryRun())
	}
	span.SetAttributes(attribute.Int64("meshkit.seq", int64(resp.GetSeq())), attribute.Int("meshkit.resources", len(in.GetChange().GetResources())))
	return resp, err
}

// Undo implements adminv1.ResourceServiceServer.
func (s *Resources) Undo(ctx context.Context, in *adminv1.UndoRequest) (*adminv1.UndoResponse, error) {
	ctx, span := tracer.Start(ctx, "undo")
	defer span.End()
	content := proto.CloneOf(in)
	content.RequestId = ""
	req, err := requestOf(ctx, "undo", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	if resp, err := s.replayed(req); err != nil {
		return nil, err
	} else if resp != nil {
		return s.undone(resp), nil
	}
	seq := in.GetSeq()
	if seq == 0 {
		if seq, err = change.UndoTarget(cur.State); err != nil {
			return nil, err
		}
	}
	resp, err := s.commit(ctx, req, func(st *state.State, g *graph.Graph) (*change.Prepared, error) {
		return change.Undo(st, g, seq, in.GetMessage(), in.GetAllowLargeChange())
	}, in.GetDryRun())
	if err != nil {
		return nil, err
	}
	if resp.GetReplayed() { // the same request, which came first, may have meant another change
		return s.undone(resp), nil
	}
	return &adminv1.UndoResponse{Result: resp, Undid: seq}, nil
}

// undone is the answer to an undo that was committed before.
func (s *Resources) undone(resp *adminv1.ApplyResponse) *adminv1.UndoResponse {
	c, _ := s.Replica.Current().State.Change(resp.GetSeq())
	return &adminv1.UndoResponse{Result: resp, Undid: c.GetUndoes()}
}

var errReplayed = errors.New("request was committed before")

// What the log's writer prepares itself.
const (
	smallResources = 16
	smallBytes     = 64 << 10
)

// small tells whether a change is prepared in the log's writer at once: that takes
// less than preparing it ahead, and again for each change that came first, when
// many write. A refusal costs the writer no more than a change does.
func small(c *adminv1.Change) bool {
	bytes := 0
	for _, r := range c.GetResources() {
		bytes += len(r)
	}
	return !c.GetPrune() && len(c.GetResources())+len(c.GetDeletes()) <= smallResources && bytes <= smallBytes
}

// tries is how often a change is prepared outside the log's writer before it is
// prepared in it.
const tries = 4

// commit prepares a change outside the log's writer, so that large ones hold up
// nobody, and appends it. When another change came first, it is prepared again;
// in the end in the writer, where nothing can come in between.
func (s *Resources) commit(ctx context.Context, req request, prep prepare, dryRun bool) (*adminv1.ApplyResponse, error) {
	for try := 1; ; try++ {
		cur, err := s.current()
		if err != nil {
			return nil, err
		}
		p, err := prep(cur.State, cur.Graph)
		if err != nil {
			return nil, err
		}
		if dryRun {
			return &adminv1.ApplyResponse{Plan: p.Describe(s.roster(cur))}, nil
		}
		if err := refusal(p); err != nil {
			return nil, err
		}
		// The answer is written before the change is committed: afterwards every agent
		// is told at once, and what a large plan takes to write would have to wait for
		// its share of the processors.
		plan := p.Describe(s.roster(cur))
		if p.Empty() {
			return &adminv1.ApplyResponse{Plan: plan, Epoch: cur.State.ConfigEpoch()}, nil
		}
		if err := s.viewsFit(cur, p); err != nil {
			return nil, err
		}
		resp, err := s.append(ctx, req, prep, cur, p, plan, try == tries)
		if !errors.Is(err, errMoved) {
			return resp, err
		}
	}
}

// append commits a change that was prepared on cur. When p is nil, or another change
// came first, it is prepared in the writer if it is the last try; or else the error
// is errMoved.
func (s *Resources) append(ctx context.Context, req request, prep prepare, cur *replica.Current, p *change.Prepared, plan *adminv1.PlanResponse, last bool) (*adminv1.ApplyResponse, error) {
	actx, span := tracer.Start(ctx, "append")
	entry, err := s.Replica.Propose(actx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if _, done, err := req.committed(cur); err != nil || done {
			return replica.Proposal{}, cmp.Or(err, errReplayed)
		}
		if p == nil || !cur.State.SameResources(p.Base()) {
			if !last {
				return replica.Proposal{}, errMoved
			}
			again, err := prep(cur.State, cur.Graph)
			if err != nil {
				return replica.Proposal{}, err
			}
			plan = nil
			if p = again; p.Refused() || p.Empty() {
				return replica.Proposal{}, errNothing
			}
			if err := s.viewsFit(cur, p); err != nil {
				return replica.Proposal{}, err
			}
		}
		out := req.proposal(state.KindChangeSet, p.Payload(req.fingerprint))
		out.Graph = p.After()
		return out, nil
	})
	span.End()
	switch {
	case errors.Is(err, errReplayed):
		return s.replayed(req)
	case errors.Is(err, errNothing):
		if err := refusal(p); err != nil {
			return nil, err
		}
		return &adminv1.ApplyResponse{Plan: p.Describe(s.roster(cur)), Epoch: p.Base().ConfigEpoch()}, nil
	case err != nil:
		return nil, err
	}
	if plan == nil { // another change came first, and the plan is another
		plan = p.Describe(s.roster(cur))
	}
	return &adminv1.ApplyResponse{Plan: plan, Seq: entry.GetSeq(), Epoch: entry.GetTerm()}, nil
}

// viewsFit refuses a change after which the nodes would need more views than the
// domain allows: some would be left without any. Only a scope with a key of its
// own, or a lower limit, can bring that about.
func (s *Resources) viewsFit(cur *replica.Current, p *change.Prepared) error {
	before, after := cur.Graph.Settings(), p.After().Settings()
	limit := after.Limits.MaxViews
	if slices.Equal(cur.Graph.ScopeKeys(), p.After().ScopeKeys()) && limit >= before.Limits.MaxViews {
		return nil
	}
	classes := make(map[string]bool)
	for n := range s.nodes(cur) {
		classes[view.ClassOf(p.After(), n.Capabilities, n.Labels).ID()] = true
	}
	if len(classes) <= limit {
		return nil
	}
	return fault.New(fault.CodeViewLimit, "nothing was changed: the nodes would need %d views, and the domain allows %d; its scopes use the node labels %s",
		len(classes), limit, strings.Join(p.After().ScopeKeys(), ", "))
}

// Why a change that was prepared is not committed.
var (
	errMoved   = errors.New("another change came first")
	errNothing = errors.New("on the state as it is now there is nothing to commit")
)

// refusal is the error of a change that validation refuses, with its findings as
// violations.
func refusal(p *change.Prepared) error {
	err := p.Err()
	if err == nil {
		return nil
	}
	var v []wire.Violation
	for _, f := range p.Findings() {
		where := change.Where(f)
		if f.GetIndex() >= 0 && !change.KeyOf(f.GetResource()).IsZero() {
			where = fmt.Sprintf("resources[%d] %s", f.GetIndex(), where)
		}
		text := f.GetSeverity() + " " + f.GetCode() + ": " + f.GetReason()
		if f.GetRemedy() != "" {
			text += " (" + f.GetRemedy() + ")"
		}
		v = append(v, wire.Violation{Field: where, Description: text})
	}
	return wire.WithViolations(err, v...)
}

// replayed gives the first answer to a request that was committed before, from
// what the log kept of it; nil when it was not.
func (s *Resources) replayed(req request) (*adminv1.ApplyResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	seq, done, err := req.committed(cur)
	if err != nil || !done {
		return nil, err
	}
	out := &adminv1.ApplyResponse{Seq: seq, Replayed: true, Plan: &adminv1.PlanResponse{}}
	c, ok := cur.State.Change(seq)
	if !ok {
		return out, nil
	}
	out.Epoch = c.GetTerm()
	out.Plan.Created, out.Plan.Updated, out.Plan.Deleted = c.GetCreated(), c.GetUpdated(), c.GetDeleted()
	for _, rev := range cur.State.WrittenBy(seq) {
		out.Plan.Diffs = append(out.Plan.Diffs, revisionDiff(cur.State, rev))
	}
	return out, nil
}

// revisionDiff compares what an entry wrote with what was there before.
func revisionDiff(st *state.State, rev state.Revision) *adminv1.ResourceDiff {
	var before *state.Revision
	if rev.PreviousSeq != 0 {
		if b, ok := st.RevisionAt(rev.Key, rev.PreviousSeq); ok {
			before = &b
		}
	}
	d := &adminv1.ResourceDiff{Key: change.KeyTo(rev.Key)}
	d.Action, d.Before, d.After = change.Revision(rev.Key, before, &rev)
	change.Complete(d)
	return d
}
