package hub

import (
	"context"
	"crypto/x509"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/forward"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/state"
)

// What a process needs of its hubs that serves several domains.

// Status tells how the domain is, as this hub knows.
func (h *Hub) Status() *adminv1.ServedDomain {
	out := &adminv1.ServedDomain{Domain: h.opt.Domain, Store: h.opt.StoreName, Streams: uint64(h.fleet.Online())}
	if _, _, err := h.keys.Signer(); err != nil && h.keys.Current() != nil {
		out.Problem = err.Error()
	}
	if err := h.replica.Health(); err != nil {
		out.Problem = err.Error()
	}
	if s := h.state(); s != nil {
		leader := s.Leader()
		out.Term, out.Seq = leader.GetLastTerm(), s.Seq()
		if h.replica.Away() == nil { // else who led last need not lead now
			out.Leader = leader.GetHub()
		}
	}
	return out
}

// Leads tells whether this hub leads the domain.
func (h *Hub) Leads() bool {
	_, ok := h.replica.Leading()
	return ok
}

// Chosen tells whether an operator had this hub lead the domain, and it has since.
func (h *Hub) Chosen() bool {
	s := h.state()
	if s == nil {
		return false
	}
	me, _ := s.Hub(h.opt.Name)
	return me.GetChosen()
}

// Others names the domain's other hubs that are in use.
func (h *Hub) Others() []string {
	var out []string
	if s := h.state(); s != nil {
		for x := range s.Hubs() {
			if x.GetHub() != h.opt.Name && !x.GetDrained() && h.listed(x.GetHub()) {
				out = append(out, x.GetHub())
			}
		}
	}
	return out
}

// HandOver has another hub lead the domain, in this hub's own name. It fails, and
// changes nothing, when the other is not able to.
func (h *Hub) HandOver(ctx context.Context, to string) error {
	if !h.Leads() {
		return fault.New(fault.CodeNotLeader, "hub %s does not lead domain %s", h.opt.Name, h.opt.Domain)
	}
	_, err := admin.NewRing(h.adminOptions()).TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{To: to})
	return err
}

// HubToken makes a token with which a hub of that name can join within ttl, also in its
// own place. The leader makes it, for the operator whose certificate this is.
func (h *Hub) HubToken(ctx context.Context, operator []*x509.Certificate, hub string, ttl time.Duration) (string, error) {
	info := &grpc.UnaryServerInfo{FullMethod: adminv1.FleetService_CreateToken_FullMethodName}
	in := &adminv1.CreateTokenRequest{Role: state.RoleHub, Node: hub, Uses: 1, Ttl: durationpb.New(ttl)}
	r, err := h.forward.Send(forward.AsOwn(ctx, operator), in, info, func(ctx context.Context, req any) (any, error) {
		return admin.NewFleet(h.adminOptions()).CreateToken(ctx, req.(*adminv1.CreateTokenRequest))
	})
	if err != nil {
		return "", err
	}
	return r.(*adminv1.CreateTokenResponse).GetToken(), nil
}

// Problems are the hub's failing checks, as /readyz shows them.
func (h *Hub) Problems(ctx context.Context) []observe.Problem { return h.health.Problems(ctx) }

// Health is what /readyz shows: for checks beside the hub's own.
func (h *Hub) Health() *observe.Health { return h.health }

// Elsewhere asks another hub of this domain why it does not serve a further one; "": it
// does not say, and may never have joined it.
func (h *Hub) Elsewhere(ctx context.Context, hub, domain string) string {
	it := h.peers.Only(func(name string) bool { return name == hub })
	for _, a := range peers.Ask(ctx, it, func(ctx context.Context, conn *grpc.ClientConn) (*adminv1.GetDomainResponse, error) {
		return adminv1.NewFleetServiceClient(conn).GetDomain(ctx, &adminv1.GetDomainRequest{})
	}) {
		for _, d := range a.Value.GetAlsoServed() {
			if d.GetDomain() == domain {
				return d.GetProblem()
			}
		}
	}
	return ""
}

// whyNot asks through the domain that this hub serves first: a hub that cannot serve
// this one answers in that, as a rule.
func (h *Hub) whyNot(ctx context.Context, hub string) string {
	first := h.opt.Port.firstHub()
	if first == nil || first == h {
		return ""
	}
	return first.Elsewhere(ctx, hub, h.opt.Domain)
}
