package admin

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/hub/views"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/view"
)

// Fleet implements adminv1.FleetServiceServer.
type Fleet struct {
	adminv1.UnimplementedFleetServiceServer
	*base
	shown *shown
}

// NewFleet makes the service alone, for the hub's own use.
func NewFleet(opt Options) *Fleet { return &Fleet{base: &base{Options: opt}, shown: newShown()} }

// GetDomain implements adminv1.FleetServiceServer.
func (s *Fleet) GetDomain(ctx context.Context, _ *adminv1.GetDomainRequest) (*adminv1.GetDomainResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	health := "ok"
	if err := s.Replica.Health(); err != nil {
		health = err.Error()
	}
	leader := ""
	lctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if h, _, err := s.Replica.Leader(lctx); err == nil {
		leader = h.Name
	}
	// Another hub asks which domains are served here, and is not to wait for a third.
	id, _ := mtls.PeerID(ctx)
	hubs, err := s.ListHubs(ctx, &adminv1.ListHubsRequest{Local: id.Kind == identity.Hub})
	if err != nil {
		return nil, err
	}
	var connected, well, head uint64
	for _, h := range hubs.GetHubs() {
		connected += h.GetStreams()
		head = max(head, h.GetSeq())
		if h.GetProblem() == "" {
			well++
		}
	}
	var lag uint64
	for _, h := range hubs.GetHubs() {
		if h.GetSeq() > 0 {
			lag = max(lag, head-h.GetSeq())
		}
	}
	root := cur.State.Trie().Root()
	var also []*adminv1.ServedDomain
	if s.Host != nil {
		also = s.Host.List()
	}
	return &adminv1.GetDomainResponse{
		AlsoServed: also,
		Term:       cur.State.Leader().GetLastTerm(), Hubs: uint64(len(hubs.GetHubs())), HubsWell: well, Lag: lag,
		Domain: s.Domain, Hub: s.Hub, Leader: leader, Epoch: cur.State.ConfigEpoch(), Seq: cur.State.Seq(), ConfigSeq: cur.State.ConfigSeq(),
		Resources: uint64(cur.State.Len()), Agents: uint64(cur.State.NodeCount()), AgentsConnected: connected,
		Views: uint64(s.Views.Count()), Store: s.Store, StoreHealth: health, Build: s.Build, Digest: root.String(),
	}, nil
}

// ListAgents implements adminv1.FleetServiceServer.
func (s *Fleet) ListAgents(ctx context.Context, in *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	sel, err := parseSelector(in.GetSelector())
	if err != nil {
		return nil, err
	}
	from, err := fromPageToken(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListAgentsResponse{}
	size := pageSize(in.GetPageSize())
	for n := range cur.State.Nodes(from) {
		if !sel.matches(n.GetLabels()) {
			continue
		}
		if len(out.Agents) == size {
			out.NextPageToken = pageToken(n.GetNode())
			break
		}
		out.Agents = append(out.Agents, s.agent(cur, n))
	}
	if !in.GetLocal() {
		out.SilentHubs = mergeAgents(out.Agents, s.elsewhere(ctx, in))
	}
	return out, nil
}

// agent joins what the log knows of a node with the live facts.
func (s *Fleet) agent(cur *replica.Current, n *logv1.NodeState) *adminv1.Agent {
	live, known := s.base.Fleet.Get(n.GetNode())
	class := view.ClassOf(cur.Graph, s.Fleet.Capabilities(n.GetNode()), n.GetLabels())
	a := &adminv1.Agent{
		Node: n.GetNode(), Labels: n.GetLabels(), JoinedAt: n.GetJoinedAt(), View: class.ID(),
		CertificateNotAfter: n.GetCertificate().GetNotAfter(), TargetVersion: cur.State.ConfigSeq(),
	}
	if p, ok := s.Views.Target(class); ok {
		a.TargetVersion = p.Version
	}
	if !known {
		return a
	}
	a.Connected, a.Phase, a.Active, a.Capabilities, a.Build = live.Connected, live.Phase, live.Active, live.Capabilities, live.Build
	a.Message, a.Pinned, a.Address, a.LastSeen = live.Message, live.Pinned, live.Address, timestamppb.New(live.LastSeen)
	if live.Connected {
		a.Hub = s.Hub
	}
	if !live.NotAfter.IsZero() {
		a.CertificateNotAfter = timestamppb.New(live.NotAfter)
	}
	if live.Nack != nil && live.Active.GetVersion() < live.Nack.GetVersion() {
		a.Nack = live.Nack
	}
	return a
}

// GetAgent implements adminv1.FleetServiceServer.
func (s *Fleet) GetAgent(ctx context.Context, in *adminv1.GetAgentRequest) (*adminv1.GetAgentResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	n, ok := cur.State.Node(in.GetNode())
	if !ok {
		return nil, fault.New(fault.CodeNoSuchAgent, "no agent %q has joined domain %s", in.GetNode(), s.Domain)
	}
	v, _ := s.Views.Of(cur, view.ClassOf(cur.Graph, s.Fleet.Capabilities(n.GetNode()), n.GetLabels()))
	live, _ := s.base.Fleet.Get(n.GetNode())
	out := &adminv1.GetAgentResponse{
		Agent: s.agent(cur, n), Downlevels: views.Downlevels(v, 0), TokenId: n.GetTokenId(), SpiffeId: n.GetCertificate().GetIdentity(),
		CertificateSerial: n.GetCertificate().GetSerial(), Resources: uint64(v.Trie.Len()), Bytes: uint64(v.Trie.Bytes()), ReportedLabels: live.Reported,
	}
	if in.GetLocal() || out.GetAgent().GetConnected() {
		return out, nil
	}
	return s.agentElsewhere(ctx, out), nil
}

// ForgetAgent implements adminv1.FleetServiceServer.
func (s *Fleet) ForgetAgent(ctx context.Context, in *adminv1.ForgetAgentRequest) (*adminv1.ForgetAgentResponse, error) {
	if err := text("reason", in.GetReason()); err != nil {
		return nil, err
	}
	req, err := requestOf(ctx, "forget agent", "", in)
	if err != nil {
		return nil, err
	}
	entry, err := s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if _, ok := cur.State.Node(in.GetNode()); !ok {
			return replica.Proposal{}, fault.New(fault.CodeNoSuchAgent, "no agent %q has joined domain %s", in.GetNode(), s.Domain)
		}
		return req.proposal(state.KindNodeForgotten, &logv1.NodeForgotten{Node: in.GetNode(), Reason: in.GetReason()}), nil
	})
	if err != nil {
		return nil, err
	}
	s.base.Fleet.Forget(in.GetNode())
	return &adminv1.ForgetAgentResponse{Seq: entry.GetSeq()}, nil
}

// progressPace is how often one watcher is told at most.
const progressPace = 50 * time.Millisecond

// WatchPropagation implements adminv1.FleetServiceServer.
func (s *Fleet) WatchPropagation(in *adminv1.WatchPropagationRequest, stream grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error {
	cur, err := s.reach(stream.Context(), in.GetVersion())
	if err != nil {
		return err
	}
	if in.GetVersion() > cur.State.Seq() {
		return fault.New(fault.CodeBadRequest, "version %d is not committed; the log is at %d", in.GetVersion(), cur.State.Seq())
	}
	version := min(in.GetVersion(), cur.State.ConfigSeq())
	if version == 0 {
		version = cur.State.ConfigSeq()
	}
	return s.follow(stream, version, in.GetLocal())
}

// reachTime is how long a hub that is behind gets to read what a caller saw on
// another one.
const reachTime = 2 * time.Second

// reach gives the newest state, after waiting a little for it to reach seq.
func (s *Fleet) reach(ctx context.Context, seq uint64) (*replica.Current, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	for {
		_, changed := s.Replica.Watch()
		cur, err := s.current()
		if err != nil || cur.State.Seq() >= seq {
			return cur, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cur, nil
		}
	}
}

// follow sends how far a version has got until it is everywhere. Unless local, that
// is on all hubs.
func (s *Fleet) follow(stream grpc.ServerStreamingServer[adminv1.WatchPropagationResponse], version uint64, local bool) error {
	ctx, cancel := context.WithCancel(stream.Context())
	var others []peers.Peer
	if !local {
		others = s.Peers.Others()
	}
	ring := newRingProgress(len(others))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, p := range others {
		wg.Go(func() { s.watchElsewhere(ctx, p, version, ring.seen) })
	}
	var last *adminv1.WatchPropagationResponse
	for {
		changed := s.base.Fleet.Changed()
		now, again := s.progress(version)
		switch {
		case len(others) > 0:
			now = ring.merge(version, s.Replica.Current().State.NodeCount(), now, others)
		case !local:
			now.Histogram, now.Answered = nil, false // for hubs only
		}
		if !proto.Equal(now, last) {
			if err := stream.Send(now); err != nil {
				return err
			}
			last = now
		}
		if now.GetDone() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.Stopping:
			return s.stopping()
		case <-changed:
		case <-ring.changed:
		case <-again:
		}
		if err := backoff.Sleep(ctx, progressPace); err != nil {
			return err
		}
	}
}

// progress tells how far a version has got, and when to look again at the latest.
func (s *Fleet) progress(version uint64) (*adminv1.WatchPropagationResponse, <-chan time.Time) {
	joined := func(yield func(fleet.Joined) bool) {
		for n := range s.Replica.Current().State.Nodes("") {
			if !yield(fleet.Joined{Name: n.GetNode(), Until: n.GetCertificate().GetNotAfter().AsTime().Add(s.CertificateGrace)}) {
				return
			}
		}
	}
	p := s.base.Fleet.Progress(version, joined)
	if p.Again == 0 {
		return progressOf(p), nil
	}
	return progressOf(p), time.After(p.Again)
}

func progressOf(p fleet.Progress) *adminv1.WatchPropagationResponse {
	out := &adminv1.WatchPropagationResponse{
		Version: p.Version, Concerned: p.Concerned, Acked: p.Acked, Nacked: p.Nacked, Disconnected: p.Disconnected,
		Connected: p.Connected, Histogram: p.Histogram,
		P50: durationpb.New(p.P50), P99: durationpb.New(p.P99), Last: durationpb.New(p.Last), Done: p.Done, Answered: p.Answered,
	}
	names := make([]string, 0, len(p.Nacks))
	for name := range p.Nacks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out.Nacks = append(out.Nacks, &adminv1.AgentNack{Node: name, Nack: p.Nacks[name]})
	}
	return out
}

// ListHubs implements adminv1.FleetServiceServer.
func (s *Fleet) ListHubs(ctx context.Context, in *adminv1.ListHubsRequest) (*adminv1.ListHubsResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	term, leading := s.Replica.Leading()
	me := &adminv1.Hub{
		Name: s.Hub, Address: s.Address(), Leader: leading, Term: term, Seq: cur.State.Seq(), Streams: uint64(s.base.Fleet.Online()),
		Build: s.Build, StartedAt: timestamppb.New(s.Started), AdmitsHubs: s.AdmitsHubs,
	}
	if f := s.Keys.Current(); f != nil && f.Signer != nil {
		me.KeyId = f.Signer.KeyID()
	}
	if _, _, err := s.Keys.Signer(); err != nil && s.Keys.Current() != nil {
		me.Problem = err.Error()
	}
	if err := s.Replica.Health(); err != nil {
		me.Problem = err.Error()
	}
	out := &adminv1.ListHubsResponse{Hubs: []*adminv1.Hub{me}}
	if in.GetLocal() {
		return out, nil
	}
	out.Hubs = append(out.Hubs, s.hubsElsewhere(ctx)...)
	for _, h := range out.Hubs {
		for known := range cur.State.Hubs() {
			if known.GetHub() != h.GetName() {
				continue
			}
			h.Drained = known.GetDrained()
			if h.GetTerm() == 0 {
				h.Term = known.GetLastTerm() // the last one that it led
			}
		}
	}
	slices.SortFunc(out.Hubs, func(a, b *adminv1.Hub) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}
