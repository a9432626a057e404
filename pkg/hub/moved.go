package hub

import (
	"context"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/state"
)

// A hub that leads says in its term's first entry where it is reached. One that follows
// and was given another address since has the leader write that down: the others reach
// it by what the log says, and by nothing else.

// movedRetry paces how often a hub that has moved says so until somebody writes it down.
var movedRetry = backoff.Policy{Base: 200 * time.Millisecond, Cap: time.Minute}

// followAddress makes the address of this hub known whenever the log has another.
func (h *Hub) followAddress(ctx context.Context) error {
	select {
	case <-h.views.Ready(): // the keyset is known, by which the others know this hub
	case <-ctx.Done():
		return nil
	}
	pause := backoff.New(movedRetry)
	looked := false // whether upkeep was told since the log has the address
	for {
		cur, changed := h.replica.Watch()
		var again <-chan time.Time
		if cur != nil && h.elsewhere(cur.State) {
			before, _ := cur.State.Hub(h.opt.Name)
			switch err := h.tellAddress(ctx); {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				h.log.Warn("the other hubs do not know the address of this one; trying again", "address", h.opt.Advertise, "known", before.GetAddress(), "err", err)
			default:
				h.log.Info("the address of this hub is made known", "address", h.opt.Advertise, "before", before.GetAddress())
			}
			// Also when it is written down: this hub may have to read that yet.
			again, looked = time.After(pause.Next()), false
		} else if pause.Reset(); !looked && h.misnamed() {
			looked = true
			select {
			case h.renamed <- struct{}{}:
			default:
			}
		}
		select {
		case <-again:
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// elsewhere tells whether the log has another address of this hub than that at which it
// is reached. A hub that the others know nothing of, or want nothing of, says nothing; nor
// does one that was not told at which of its addresses it is reached.
func (h *Hub) elsewhere(s *state.State) bool {
	known, ok := s.Hub(h.opt.Name)
	if !ok || known.GetAddress() == h.opt.Advertise || !h.listed(h.opt.Name) {
		return false
	}
	host, _, err := net.SplitHostPort(h.opt.Advertise)
	if ip, ipErr := netip.ParseAddr(host); ipErr == nil && ip.IsUnspecified() {
		return false
	}
	return err == nil && host != ""
}

// tellAddress has the leader write the address of this hub down.
func (h *Hub) tellAddress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	info := &grpc.UnaryServerInfo{FullMethod: adminv1.RingService_SetAddress_FullMethodName}
	_, err := h.forward.Send(h.asItself(ctx), &adminv1.SetAddressRequest{Address: h.opt.Advertise}, info, func(ctx context.Context, req any) (any, error) {
		return admin.NewRing(h.adminOptions()).SetAddress(ctx, req.(*adminv1.SetAddressRequest))
	})
	return err
}

// misnamed tells whether the certificate does not name the host at which the log says
// that this hub is reached.
func (h *Hub) misnamed() bool {
	s := h.state()
	if s == nil {
		return false
	}
	known, ok := s.Hub(h.opt.Name)
	return ok && known.GetAddress() == h.opt.Advertise && !join.Names(h.opt.TLS.Chain()[0], h.opt.Advertise)
}
