package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/wire"
)

// What is not in the log, each hub knows of its own streams. Reads ask the other
// hubs at once and put the answers together; a hub that does not answer is named.

// fresher tells whether a says more of an agent than b does: where it is
// connected, it is known best.
func fresher(a, b *adminv1.Agent) bool {
	if a.GetConnected() != b.GetConnected() {
		return a.GetConnected()
	}
	return a.GetLastSeen().AsTime().After(b.GetLastSeen().AsTime())
}

// mergeAgents replaces agents by what other hubs know better, and names those
// that did not answer.
func mergeAgents(agents []*adminv1.Agent, answers []peers.Answer[[]*adminv1.Agent]) (silent []string) {
	at := make(map[string]int, len(agents))
	for i, a := range agents {
		at[a.GetNode()] = i
	}
	for _, answer := range answers {
		if answer.Err != nil {
			silent = append(silent, answer.Peer.Hub)
			continue
		}
		for _, theirs := range answer.Value {
			if i, ok := at[theirs.GetNode()]; ok && fresher(theirs, agents[i]) {
				theirs.TargetVersion = max(theirs.GetTargetVersion(), agents[i].GetTargetVersion())
				agents[i] = theirs
			}
		}
	}
	return silent
}

// elsewhere asks the other hubs for agents.
func (s *Fleet) elsewhere(ctx context.Context, in *adminv1.ListAgentsRequest) []peers.Answer[[]*adminv1.Agent] {
	return peers.Ask(ctx, s.Peers, func(ctx context.Context, conn *grpc.ClientConn) ([]*adminv1.Agent, error) {
		resp, err := adminv1.NewFleetServiceClient(conn).ListAgents(ctx, &adminv1.ListAgentsRequest{
			Selector: in.GetSelector(), PageSize: in.GetPageSize(), PageToken: in.GetPageToken(), Local: true,
		})
		return resp.GetAgents(), err
	})
}

// agentElsewhere asks the other hubs for one agent, and gives the answer that says
// most, or mine.
func (s *Fleet) agentElsewhere(ctx context.Context, mine *adminv1.GetAgentResponse) *adminv1.GetAgentResponse {
	best := mine
	for _, a := range peers.Ask(ctx, s.Peers, func(ctx context.Context, conn *grpc.ClientConn) (*adminv1.GetAgentResponse, error) {
		return adminv1.NewFleetServiceClient(conn).GetAgent(ctx, &adminv1.GetAgentRequest{Node: mine.GetAgent().GetNode(), Local: true})
	}) {
		if a.Err == nil && fresher(a.Value.GetAgent(), best.GetAgent()) {
			best = a.Value
		}
	}
	return best
}

// AskHub asks another hub about itself.
func AskHub(ctx context.Context, conn *grpc.ClientConn) (*adminv1.Hub, error) {
	resp, err := adminv1.NewFleetServiceClient(conn).ListHubs(ctx, &adminv1.ListHubsRequest{Local: true})
	if err != nil {
		return nil, err
	}
	if len(resp.GetHubs()) != 1 {
		return nil, fault.New(fault.CodeInternal, "it lists %d hubs as itself", len(resp.GetHubs()))
	}
	return resp.GetHubs()[0], nil
}

// hubsElsewhere asks the other hubs about themselves. One that does not answer is
// listed with what the log knows of it.
func (s *Fleet) hubsElsewhere(ctx context.Context) []*adminv1.Hub {
	var out []*adminv1.Hub
	for _, a := range peers.Ask(ctx, s.Peers, AskHub) {
		h := a.Value
		if a.Err != nil {
			h = &adminv1.Hub{Name: a.Peer.Hub, Address: a.Peer.Address, Problem: s.silence(ctx, a.Peer, a.Err)}
		}
		out = append(out, h)
	}
	return out
}

// silence says why another hub does not answer. Its name is taken here, by what it was
// before it lost the domain.
func (s *Fleet) silence(ctx context.Context, p peers.Peer, err error) string {
	if peers.NotServed(err) {
		if why := s.WhyNot(ctx, p.Hub); why != "" {
			return fmt.Sprintf("cannot serve domain %s: %s", s.Domain, why)
		}
		return fmt.Sprintf("does not serve domain %[1]s. Make it a token with `meshctl --context %[1]s token create --hub --node %[2]s`; on it, `meshhub join --hub %[3]s --token … --ca-pin … --data DIR/domains/%[1]s`, and restart it",
			s.Domain, p.Hub, s.Address())
	}
	return "does not answer: " + wire.DialReason(err.Error())
}

// peerRetry paces how often a hub that does not answer is asked again.
const peerRetry = time.Second

// watchElsewhere follows a version on another hub until ctx ends or it is done
// there, and hands each answer to seen; nil while that hub does not answer.
func (s *Fleet) watchElsewhere(ctx context.Context, p peers.Peer, version uint64, seen func(peers.Peer, *adminv1.WatchPropagationResponse)) {
	for ctx.Err() == nil {
		err := s.watchPeer(ctx, p, version, func(r *adminv1.WatchPropagationResponse) { seen(p, r) })
		if err == nil {
			return
		}
		seen(p, nil)
		_ = backoff.Sleep(ctx, backoff.Jitter(peerRetry, 0.3))
	}
}

func (s *Fleet) watchPeer(ctx context.Context, p peers.Peer, version uint64, seen func(*adminv1.WatchPropagationResponse)) error {
	conn, err := s.Peers.Conn(p)
	if err != nil {
		return err
	}
	stream, err := adminv1.NewFleetServiceClient(conn).WatchPropagation(ctx, &adminv1.WatchPropagationRequest{Version: version, Local: true})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		seen(r)
		if r.GetDone() {
			return nil
		}
	}
}

// ringProgress collects what the other hubs say of one version.
type ringProgress struct {
	// changed has a value when an answer came in.
	changed chan struct{}

	mu     sync.Mutex // guards latest
	latest map[string]*adminv1.WatchPropagationResponse
}

func newRingProgress(n int) *ringProgress {
	return &ringProgress{changed: make(chan struct{}, 1), latest: make(map[string]*adminv1.WatchPropagationResponse, n)}
}

// seen takes one answer; nil means that the hub does not answer now.
func (r *ringProgress) seen(p peers.Peer, answer *adminv1.WatchPropagationResponse) {
	r.mu.Lock()
	r.latest[p.Hub] = answer
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// merge puts mine and the others' together. A hub that has not answered yet keeps
// the version from being done; one that does not answer is named instead.
func (r *ringProgress) merge(version uint64, joined int, mine *adminv1.WatchPropagationResponse, others []peers.Peer) *adminv1.WatchPropagationResponse {
	all, waiting := []*adminv1.WatchPropagationResponse{mine}, false
	var silent []string
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range others {
		switch answer, heard := r.latest[p.Hub]; {
		case !heard:
			waiting = true
		case answer == nil:
			silent = append(silent, p.Hub)
		default:
			all = append(all, answer)
		}
	}
	out := mergeProgress(version, joined, all, silent)
	out.Done = out.GetDone() && !waiting
	return out
}

// mergeProgress puts together what the hubs of a ring say of one version. joined is
// the number of nodes in the log; silent are hubs that do not answer.
func mergeProgress(version uint64, joined int, all []*adminv1.WatchPropagationResponse, silent []string) *adminv1.WatchPropagationResponse {
	out := &adminv1.WatchPropagationResponse{Version: version, Done: true, SilentHubs: silent}
	answered := true
	var last time.Duration
	var counts []uint32
	for _, r := range all {
		out.Concerned += r.GetConcerned()
		out.Acked += r.GetAcked()
		out.Nacked += r.GetNacked()
		out.Connected += r.GetConnected()
		out.Done = out.Done && r.GetDone()
		answered = answered && r.GetAnswered()
		out.Nacks = append(out.Nacks, r.GetNacks()...)
		last = max(last, r.GetLast().AsDuration())
		for i, n := range r.GetHistogram() {
			if i == len(counts) {
				counts = append(counts, 0)
			}
			counts[i] += n
		}
	}
	slices.SortFunc(out.Nacks, func(a, b *adminv1.AgentNack) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	out.Nacks = out.Nacks[:min(len(out.Nacks), 10)]
	// Whom one hub awaits, another may have.
	out.Done = out.GetDone() || answered && out.GetConnected() >= uint64(joined)
	out.Disconnected = uint64(max(0, joined-int(out.GetConnected())))
	out.Last = durationpb.New(last)
	out.P50 = durationpb.New(min(last, fleet.Quantile(counts, 0.50)))
	out.P99 = durationpb.New(min(last, fleet.Quantile(counts, 0.99)))
	return out
}
