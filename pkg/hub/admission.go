package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/forward"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Admitting a hub takes keys that one hub has as a rule, and the lease that any may
// hold. A hub that is asked and lacks the keys hands the join on to the one that has
// them; that one prepares it, and has the leader commit it.

// admit has the leader commit a join that this hub has prepared: in this hub's name, and
// from the address of the caller of ctx.
func (h *Hub) admit(ctx context.Context, in *identityv1.AdmitHubRequest) error {
	info := &grpc.UnaryServerInfo{FullMethod: identityv1.IdentityService_AdmitHub_FullMethodName}
	_, err := h.forward.Send(forward.AsOwn(ctx, h.opt.TLS.Chain()), in, info, func(ctx context.Context, req any) (any, error) {
		return h.joinService().AdmitHub(ctx, req.(*identityv1.AdmitHubRequest))
	})
	return err
}

// keysPatience is how long a hub with the keys is looked for while some do not answer:
// it may be starting again.
const keysPatience = 3 * time.Second

// handOn has a hub that has the keys answer a join, because this one has not, as why
// says. Which one that is, the hubs say of themselves.
func (h *Hub) handOn(ctx context.Context, in *identityv1.JoinHubRequest, why error) (*identityv1.JoinHubResponse, error) {
	if forward.Forwarded(ctx) {
		return nil, why // who handed it on asks the next
	}
	pause := backoff.New(backoff.Policy{Base: 50 * time.Millisecond, Cap: 500 * time.Millisecond})
	for started := time.Now(); ; {
		hubs := peers.Ask(ctx, h.peers, admin.AskHub)
		if resp, done, err := h.handTo(ctx, hubs, in); done {
			return resp, err
		}
		silent := slices.ContainsFunc(hubs, func(p peers.Answer[*adminv1.Hub]) bool { return p.Err != nil })
		if !silent || time.Since(started) > keysPatience || pause.Wait(ctx) != nil {
			return nil, h.noKeys(hubs, why)
		}
	}
}

// handTo hands a join to the hubs that say that they have the keys, one by one, until
// one of them has got it. Who cannot be reached is marked so.
func (h *Hub) handTo(ctx context.Context, hubs []peers.Answer[*adminv1.Hub], in *identityv1.JoinHubRequest) (resp *identityv1.JoinHubResponse, done bool, err error) {
	for i, p := range hubs {
		if p.Err != nil || !p.Value.GetAdmitsHubs() {
			continue
		}
		resp := &identityv1.JoinHubResponse{}
		begun, err := h.forward.Hand(ctx, p.Peer, identityv1.IdentityService_JoinHub_FullMethodName, in, resp)
		switch code := fault.CodeOf(err); {
		case err == nil:
			return resp, true, nil
		case code == fault.CodeNoHubCA, code == fault.CodeKeysetKeyMissing:
		case !begun:
			hubs[i].Err = err
		default:
			return nil, true, err
		}
	}
	return nil, false, nil
}

// noKeys says what to do when no hub that answered has the keys.
func (h *Hub) noKeys(hubs []peers.Answer[*adminv1.Hub], why error) error {
	var silent, reasons []string
	maker := ""
	for _, p := range hubs {
		if p.Err == nil {
			continue
		}
		name := fmt.Sprintf("%s (%s)", p.Peer.Hub, p.Peer.Address)
		silent = append(silent, name)
		reasons = append(reasons, name+": "+wire.DialReason(p.Err.Error()))
		// The hub that made the domain did not join it.
		if known, ok := h.state().Hub(p.Peer.Hub); ok && known.GetJoinedSeq() == 0 && maker == "" {
			maker = name
		}
	}
	const keys = "keys/keyset.key, ca/hubs.key and ca/hubs.pem"
	if len(silent) == 0 {
		return fault.New(fault.CodeNoHubCA, "no hub of domain %s holds the keys that admit hubs: %w", h.opt.Domain, why).
			WithRemedy("Put %s from your safe into the directory of a hub, restart it, and run the same join again; the token is still good.", keys)
	}
	err := fault.New(fault.CodeNoHubCA, "no hub of domain %s that answers holds the keys that admit hubs: %w; no answer from %s", h.opt.Domain, why, strings.Join(reasons, "; "))
	if maker == "" {
		return err.WithRemedy("Start the hub with the keys, one of %s, and run the same join again; the token is still good. Or give another hub %s, and restart that one.", strings.Join(silent, ", "), keys)
	}
	return err.WithRemedy("Start hub %s, which made the domain and holds the keys unless they were moved, and run the same join again; the token is still good. Or give another hub its %s, and restart that one.", maker, keys)
}
