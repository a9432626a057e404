package hub

import (
	"context"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/peers"
)

// The store fences hubs that share it. Hubs that were given different stores for one
// domain, as by a restore that not all of them follow, are fenced by nothing: only the
// other hubs can tell. Of two leaders, agents go with the higher term, so the one with
// the lower term is wrong to write.
//
// Terms of the store's lease are read after a peer said that it leads: were it the same
// store, the term would be there. One look that is wrong all the same (the store is being
// put back, say) is not enough.

const (
	// splitEvery is how often the other hubs are asked who leads, and splitAgain how soon
	// when an answer was suspicious.
	splitEvery = 2 * time.Second
	splitAgain = 500 * time.Millisecond
	// splitLooks is how many looks in a row must find the same.
	splitLooks = 2
	// splitStore bounds a look into the own store.
	splitStore = 2 * time.Second
)

// claim is a hub's word that it leads.
type claim struct {
	hub, address string
	term         uint64
}

// splitLook is what one look found.
type splitLook struct {
	// claims are those of the hubs that answered and lead.
	claims []claim
	// known says that the own store answered, whose newest term and holder these are.
	known  bool
	term   uint64
	holder string
	// listed tells whether the keyset lists a hub.
	listed func(hub string) bool
}

// splitWatch decides whether the ring is split. A hub that has been heard of counts also
// while it does not answer: agents have seen its term.
type splitWatch struct {
	claim claim // the highest that the store does not have; no hub: none
	looks int   // in a row that found one
}

func (w *splitWatch) step(l splitLook) (split bool) {
	if w.claim.hub != "" && !l.listed(w.claim.hub) {
		*w = splitWatch{}
	}
	if !l.known {
		return w.looks >= splitLooks
	}
	if w.claim.hub != "" && (w.claim.term <= l.term || w.claim.hub == l.holder) {
		*w = splitWatch{}
	}
	heard := false
	for _, c := range l.claims {
		if c.term <= l.term || c.hub == l.holder {
			continue
		}
		heard = true
		if c.term > w.claim.term {
			w.claim = c
		}
	}
	switch {
	case heard:
		w.looks++
	case w.looks < splitLooks: // it was nothing
		*w = splitWatch{}
	}
	return w.looks >= splitLooks
}

// followSplit asks the other hubs who leads, until ctx ends.
func (h *Hub) followSplit(ctx context.Context) error {
	select {
	case <-h.views.Ready(): // the keyset is known, by which hubs trust each other
	case <-ctx.Done():
		return nil
	}
	var w splitWatch
	for {
		split := w.step(h.lookForSplit(ctx, w.claim.hub != ""))
		var err error
		if split {
			err = fault.New(fault.CodeRingSplit, "the ring is split: hub %s at %s leads domain %s in term %d, which this hub's store does not have; this hub is read-only", w.claim.hub, w.claim.address, h.opt.Domain, w.claim.term)
		}
		h.replica.Split(err)
		pause := splitEvery
		if w.claim.hub != "" {
			pause = splitAgain
		}
		if backoff.Sleep(ctx, backoff.Jitter(pause, 0.2)) != nil {
			return nil
		}
	}
}

// lookForSplit asks the other hubs, and the own store if what they say calls for it.
func (h *Hub) lookForSplit(ctx context.Context, suspicious bool) splitLook {
	l := splitLook{listed: h.listed}
	seen := uint64(0)
	if s := h.state(); s != nil {
		seen = s.Term()
	}
	for _, a := range peers.Ask(ctx, h.peers, admin.AskHub) {
		if a.Err != nil || !a.Value.GetLeader() {
			continue
		}
		l.claims = append(l.claims, claim{hub: a.Peer.Hub, address: a.Peer.Address, term: a.Value.GetTerm()})
		suspicious = suspicious || a.Value.GetTerm() > seen
	}
	if !suspicious { // the log that this hub has read shows all that was claimed
		l.known, l.term = true, seen
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, splitStore)
	defer cancel()
	holder, term, err := h.replica.Leader(ctx)
	switch fault.CodeOf(err) {
	case "":
		l.known, l.term, l.holder = err == nil, term, holder.Name
	case fault.CodeNoLeader:
		l.known, l.term = true, term
	}
	return l
}
