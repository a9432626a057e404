package admin

import (
	"context"
	"encoding/json"
	"sync/atomic"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/hub/change"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/route"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/view"
)

const (
	defaultHistory = 20
	maxHistory     = 1000
)

// History implements adminv1.ResourceServiceServer.
func (s *Resources) History(_ context.Context, in *adminv1.HistoryRequest) (*adminv1.HistoryResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	limit := int(in.GetLimit())
	if limit == 0 {
		limit = defaultHistory
	}
	limit = min(limit, maxHistory)
	out := &adminv1.HistoryResponse{}
	if in.GetKey().GetName() == "" {
		for c := range cur.State.Changes() {
			if len(out.Entries) == limit {
				break
			}
			out.Entries = append(out.Entries, historyEntry(cur.State, c))
		}
		return out, nil
	}
	k := change.KeyOf(in.GetKey())
	k.Kind = kindName(k.Kind)
	revisions := cur.State.Revisions(k)
	if len(revisions) == 0 {
		return nil, fault.New(fault.CodeNoSuchResource, "%s does not exist, and nothing is known of its past", k)
	}
	for _, rev := range revisions[:min(len(revisions), limit)] {
		e := &adminv1.HistoryEntry{Seq: rev.Seq}
		if c, ok := cur.State.Change(rev.Seq); ok {
			e = historyEntry(cur.State, c)
		}
		e.Diff = revisionDiff(cur.State, rev)
		out.Entries = append(out.Entries, e)
	}
	return out, nil
}

func historyEntry(st *state.State, c *logv1.ChangeRecord) *adminv1.HistoryEntry {
	return &adminv1.HistoryEntry{
		Seq: c.GetSeq(), Epoch: c.GetTerm(), Time: c.GetTime(), Author: c.GetAuthor(), Origin: c.GetOrigin(), RequestId: c.GetRequestId(),
		Message: c.GetMessage(), Undoes: c.GetUndoes(), UndoneBy: st.UndoneBy(c.GetSeq()),
		Created: c.GetCreated(), Updated: c.GetUpdated(), Deleted: c.GetDeleted(), Keys: c.GetKeys(),
	}
}

// tables keeps the compiled table of the newest state: simulations come in rows.
type tables struct {
	last atomic.Pointer[compiled]
}

type compiled struct {
	of    *graph.Graph
	table *route.Table
}

func (t *tables) of(g *graph.Graph) *route.Table {
	if c := t.last.Load(); c != nil && c.of == g {
		return c.table
	}
	c := &compiled{of: g, table: route.Compile(g)}
	t.last.Store(c)
	return c.table
}

// Simulate implements adminv1.ResourceServiceServer.
func (s *Resources) Simulate(_ context.Context, in *adminv1.SimulateRequest) (*adminv1.SimulateResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	if in.GetService() == "" {
		return nil, fault.New(fault.CodeBadRequest, "service is required")
	}
	if in.GetDraw() < 0 || in.GetDraw() >= 1 {
		return nil, fault.New(fault.CodeBadRequest, "draw: a number from 0 to below 1")
	}
	table := s.tables.of(cur.Graph)
	if in.GetAgent() != "" {
		if table, err = s.agentTable(cur, in.GetAgent()); err != nil {
			return nil, err
		}
	}
	decision := table.Decide(route.Request{
		Service: in.GetService(), Procedure: in.GetProcedure(), Headers: in.GetHeaders(), Tenant: in.GetTenant(), ShardKey: in.GetShardKey(),
		RoutingKey: in.GetRoutingKey(), Caller: in.GetCaller(), Locality: in.GetLocality(), Draw: in.GetDraw(),
	})
	data, err := json.Marshal(decision)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "encode the decision: %w", err)
	}
	return &adminv1.SimulateResponse{Decision: data, Seq: cur.State.Seq()}, nil
}

// agentTable compiles what one agent is given.
func (s *Resources) agentTable(cur *replica.Current, node string) (*route.Table, error) {
	n, ok := cur.State.Node(node)
	if !ok {
		return nil, fault.New(fault.CodeNoSuchAgent, "no agent %q has joined", node)
	}
	v, _ := s.Views.Of(cur, view.ClassOf(cur.Graph, s.Fleet.Capabilities(node), n.GetLabels()))
	var changes []graph.Change
	for leaf := range v.Trie.All() {
		k, err := resource.ParseKey(leaf.Key)
		if err != nil {
			return nil, fault.New(fault.CodeInternal, "view of agent %s: %w", node, err)
		}
		changes = append(changes, graph.Change{Key: k, Content: leaf.Content})
	}
	g, _ := graph.New().Update(changes)
	return route.Compile(g), nil
}
