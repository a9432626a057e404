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

// movedRetry paces how often a hub says where it is, and movedCalm is how long all is
// well until it begins anew.
var movedRetry = backoff.Policy{Base: 200 * time.Millisecond, Cap: time.Minute}

const movedCalm = 10 * time.Minute

// movedPace is when a hub may say where it is: seldom, if nobody writes it down, and also
// if somebody else says otherwise. Two that run from copies of one directory must not fill
// the log.
type movedPace struct {
	pause *backoff.Backoff
	next  time.Time // when it may be said again
}

// calm notes that the log has the address.
func (p *movedPace) calm(now time.Time) {
	if now.Sub(p.next) > movedCalm {
		p.pause.Reset()
	}
}

// said notes that the hub said it, and tells when it may again.
func (p *movedPace) said(now time.Time) time.Duration {
	wait := p.pause.Next()
	p.next = now.Add(wait)
	return wait
}

// followAddress makes the address of this hub known whenever the log has another.
func (h *Hub) followAddress(ctx context.Context) error {
	select {
	case <-h.views.Ready(): // the keyset is known, by which the others know this hub
	case <-ctx.Done():
		return nil
	}
	pace := movedPace{pause: backoff.New(movedRetry)}
	looked := false // whether upkeep was told since the log has the address
	for {
		cur, changed := h.replica.Watch()
		var again <-chan time.Time
		switch now := time.Now(); {
		case cur == nil:
		case !h.elsewhere(cur.State):
			pace.calm(now)
			if !looked && h.misnamed() {
				select {
				case h.renamed <- struct{}{}:
				default:
				}
			}
			looked = true
		case now.Before(pace.next):
			again = time.After(pace.next.Sub(now))
		default:
			h.tryTellAddress(ctx, cur.State)
			// Also when it is written down: this hub may have to read that yet.
			again, looked = time.After(pace.said(time.Now())), false
		}
		select {
		case <-again:
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *Hub) tryTellAddress(ctx context.Context, s *state.State) {
	before, _ := s.Hub(h.opt.Name)
	switch err := h.tellAddress(ctx); {
	case ctx.Err() != nil:
	case err != nil:
		h.log.Warn("the other hubs do not know the address of this one; trying again", "address", h.opt.Advertise, "known", before.GetAddress(), "err", err)
	default:
		h.log.Info("the address of this hub is made known", "address", h.opt.Advertise, "before", before.GetAddress())
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
