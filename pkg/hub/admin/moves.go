package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Ring implements adminv1.RingServiceServer: what moves work between hubs.
type Ring struct {
	adminv1.UnimplementedRingServiceServer
	*base
}

const (
	// holdBack is for how long the hubs that are not meant leave the lease alone in
	// a transfer, and maxHold the longest that one may be asked to.
	holdBack = 3 * time.Second
	maxHold  = 10 * time.Second
	// handOver is how long a transfer waits for the next term.
	handOver = 5 * time.Second
)

// NewRing makes the service alone, for the hub's own use.
func NewRing(opt Options) *Ring { return &Ring{base: &base{Options: opt}} }

// HoldBack implements adminv1.RingServiceServer.
func (s *Ring) HoldBack(_ context.Context, in *adminv1.HoldBackRequest) (*adminv1.HoldBackResponse, error) {
	d := in.GetFor().AsDuration()
	if d <= 0 || d > maxHold {
		return nil, fault.New(fault.CodeBadRequest, "for: %s is not above 0 and at most %s", d, maxHold)
	}
	s.Replica.Hold(d)
	return &adminv1.HoldBackResponse{}, nil
}

// maxAddress bounds the address of a hub, in bytes.
const maxAddress = 256

// SetAddress implements adminv1.RingServiceServer. Only the leader is called. Which hub
// has moved, its certificate says.
func (s *Ring) SetAddress(ctx context.Context, in *adminv1.SetAddressRequest) (*adminv1.SetAddressResponse, error) {
	c := access.CallerOf(ctx)
	if c.ID.Kind != identity.Hub {
		return nil, fault.New(fault.CodeNotPermitted, "%s is not a hub, and has no address", c.ID)
	}
	host, port, err := net.SplitHostPort(in.GetAddress())
	text := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }
	if err != nil || host == "" || port == "" || port == "0" || len(in.GetAddress()) > maxAddress || strings.ContainsFunc(in.GetAddress(), text) {
		return nil, fault.New(fault.CodeBadRequest, "address: want host:port, at most %d bytes", maxAddress)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return nil, fault.New(fault.CodeBadRequest, "address: %s is every address of a machine, not one that others reach", in.GetAddress())
	}
	_, err = s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		switch h, ok := cur.State.Hub(c.ID.Name); {
		case !ok:
			return replica.Proposal{}, fault.New(fault.CodeNoSuchHub, "hub %q is not in the domain", c.ID.Name)
		case h.GetAddress() == in.GetAddress():
			return replica.Proposal{}, errReplayed
		}
		return replica.Proposal{
			Kind: state.KindHubMoved, Author: c.Author, Origin: c.Origin, Traceparent: wire.Traceparent(ctx),
			Payload: &logv1.HubMoved{Hub: c.ID.Name, Address: in.GetAddress()},
		}, nil
	})
	if err != nil && !errors.Is(err, errReplayed) {
		return nil, err
	}
	return &adminv1.SetAddressResponse{}, nil
}

// SetDrained implements adminv1.RingServiceServer. Only the leader is called.
func (s *Ring) SetDrained(ctx context.Context, in *adminv1.SetDrainedRequest) (*adminv1.SetDrainedResponse, error) {
	content := proto.CloneOf(in)
	content.RequestId = ""
	req, err := requestOf(ctx, "set drained", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	if _, done, err := req.committed(cur); err != nil {
		return nil, err
	} else if h, _ := cur.State.Hub(in.GetHub()); !done && in.GetDrained() && !h.GetDrained() {
		if err := s.anotherAnswers(ctx, cur.State, in.GetHub()); err != nil {
			return nil, err
		}
	}
	var out adminv1.SetDrainedResponse
	e, err := s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if seq, done, err := req.committed(cur); err != nil || done {
			if err == nil {
				out.Seq, err = seq, errReplayed
			}
			return replica.Proposal{}, err
		}
		if err := cur.State.CheckDrain(in.GetHub(), in.GetDrained()); err != nil {
			return replica.Proposal{}, err
		}
		if h, _ := cur.State.Hub(in.GetHub()); h.GetDrained() == in.GetDrained() {
			out.Seq, out.Unchanged = cur.State.Seq(), true
			return replica.Proposal{}, errReplayed
		}
		return req.proposal(state.KindHubDrained, &logv1.HubDrained{Hub: in.GetHub(), Drained: in.GetDrained(), Fingerprint: req.fingerprint}), nil
	})
	if errors.Is(err, errReplayed) {
		return &out, nil
	}
	if err != nil {
		return nil, err
	}
	return &adminv1.SetDrainedResponse{Seq: e.Seq}, nil
}

// anotherAnswers refuses to drain a hub when no other one is in use that the keyset
// lists and that answers: its agents would have nowhere to go.
func (s *Ring) anotherAnswers(ctx context.Context, st *state.State, hub string) error {
	if err := st.CheckDrain(hub, true); err != nil {
		return err
	}
	inUse := func(name string) bool {
		h, ok := st.Hub(name)
		return ok && name != hub && !h.GetDrained()
	}
	if inUse(s.Hub) {
		return nil
	}
	answers := peers.Ask(ctx, s.Peers.Only(inUse), func(ctx context.Context, conn *grpc.ClientConn) (*adminv1.ListHubsResponse, error) {
		return adminv1.NewFleetServiceClient(conn).ListHubs(ctx, &adminv1.ListHubsRequest{Local: true})
	})
	var silent []string
	for _, a := range answers {
		if a.Err == nil {
			return nil
		}
		silent = append(silent, fmt.Sprintf("%s (%s)", a.Peer.Hub, wire.DialReason(a.Err.Error())))
	}
	if len(silent) == 0 {
		return fault.New(fault.CodeLastHub, "hub %q is the last one in use: the others are drained or were dropped", hub)
	}
	return fault.New(fault.CodeLastHub, "no other hub that is in use answers: %s", strings.Join(silent, ", ")).
		WithRemedy("Start one of them, take another into use with `meshctl hub undrain NAME`, or add one with `meshhub join`; `meshctl get hubs` shows them.")
}

// TransferLeadership implements adminv1.RingServiceServer. Only the leader is
// called. The others are asked to leave the lease alone for a moment, then it
// resigns; should the hub that is meant fail right then, another leads after that. Whom
// an operator chose, also the leader itself, hands over to nobody to spread leadership.
func (s *Ring) TransferLeadership(ctx context.Context, in *adminv1.TransferLeadershipRequest) (*adminv1.TransferLeadershipResponse, error) {
	content := proto.CloneOf(in)
	content.RequestId = ""
	req, err := requestOf(ctx, "transfer leadership", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	term, leading := s.Replica.Leading()
	if _, done, err := req.committed(cur); err != nil {
		return nil, err
	} else if done {
		return leads(cur.State), nil
	}
	chosen := req.ID.Kind == identity.Operator
	stays := leading && in.GetTo() == s.Hub
	if mine, _ := cur.State.Hub(s.Hub); stays && (!chosen || mine.GetChosen()) {
		return leads(cur.State), nil
	}
	if !stays {
		if err := s.canLead(ctx, cur.State, in.GetTo()); err != nil {
			return nil, err
		}
	}
	_, err = s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if _, done, err := req.committed(cur); err != nil || done {
			if err == nil {
				err = errReplayed
			}
			return replica.Proposal{}, err
		}
		// An operator may have chosen after the hub had looked.
		if h, _ := cur.State.Hub(s.Hub); !chosen && h.GetChosen() {
			return replica.Proposal{}, fault.New(fault.CodeNotTransferred, "an operator has hub %s lead", s.Hub)
		}
		return req.proposal(state.KindLeadershipTransferred, &logv1.LeadershipTransferred{From: s.Hub, To: in.GetTo(), Chosen: chosen, Fingerprint: req.fingerprint}), nil
	})
	if err != nil && !errors.Is(err, errReplayed) {
		return nil, err
	}
	if stays {
		return leads(s.Replica.Current().State), nil
	}
	// Whoever does not answer may win; the answer tells who did.
	others := s.Peers.Only(func(hub string) bool { return hub != in.GetTo() })
	peers.Ask(ctx, others, func(ctx context.Context, conn *grpc.ClientConn) (*adminv1.HoldBackResponse, error) {
		return adminv1.NewRingServiceClient(conn).HoldBack(ctx, &adminv1.HoldBackRequest{For: durationpb.New(holdBack)})
	})
	begin := time.Now()
	s.Replica.Hold(holdBack)
	next, err := s.nextTerm(ctx, term)
	if err != nil {
		return nil, err
	}
	s.Replica.Hold(0)
	if next.GetHub() != in.GetTo() {
		return nil, fault.New(fault.CodeNotTransferred, "hub %s took the lease, term %d, not %s", next.GetHub(), next.GetLastTerm(), in.GetTo())
	}
	return &adminv1.TransferLeadershipResponse{Leader: next.GetHub(), Term: next.GetLastTerm(), Took: durationpb.New(time.Since(begin))}, nil
}

func leads(st *state.State) *adminv1.TransferLeadershipResponse {
	leader := st.Leader()
	return &adminv1.TransferLeadershipResponse{Leader: leader.GetHub(), Term: leader.GetLastTerm()}
}

// canLead tells whether a hub is there, not drained, answers, and is well.
func (s *Ring) canLead(ctx context.Context, st *state.State, hub string) error {
	h, ok := st.Hub(hub)
	switch {
	case !ok:
		return fault.New(fault.CodeNoSuchHub, "hub %q is not in the domain", hub)
	case h.GetDrained():
		return fault.New(fault.CodeNotTransferred, "hub %s is drained", hub).
			WithRemedy("Take it into use with `meshctl hub undrain %s`, or name another.", hub)
	}
	ctx, cancel := context.WithTimeout(ctx, peers.Timeout)
	defer cancel()
	conn, err := s.Peers.Conn(peers.Peer{Hub: hub, Address: h.GetAddress()})
	if err != nil {
		return err
	}
	resp, err := adminv1.NewFleetServiceClient(conn).ListHubs(ctx, &adminv1.ListHubsRequest{Local: true})
	if err != nil {
		return fault.New(fault.CodeHubSilent, "hub %s does not answer: %w", hub, err)
	}
	for _, theirs := range resp.GetHubs() {
		if theirs.GetProblem() != "" {
			return fault.New(fault.CodeNotTransferred, "hub %s cannot lead: %s", hub, theirs.GetProblem())
		}
	}
	return nil
}

// nextTerm waits for a term after the given one.
func (s *Ring) nextTerm(ctx context.Context, term uint64) (*logv1.HubState, error) {
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for {
		cur, changed := s.Replica.Watch()
		if leader := cur.State.Leader(); leader.GetLastTerm() > term {
			return leader, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fault.New(fault.CodeNotTransferred, "no hub began a term within %s", handOver)
		}
	}
}
