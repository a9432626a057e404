package replica

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// Loss is what hubs have seen and a log does not hold.
type Loss struct {
	// Kept is the state that the log folds into now.
	Kept *state.State
	// Seq and Term are the highest entry and term that were seen.
	Seq, Term uint64
	// Seen tells which hub has seen what; empty if nothing is lost.
	Seen []store.Mark
}

// FindLoss holds a log against what this hub has seen, if that is known, and
// against the alarms of others. CodeLogWentBack: nothing at all is left of the log, so
// there is no loss that could be accepted.
func FindLoss(ctx context.Context, l *store.Log, own *store.Mark) (Loss, error) {
	marks, err := l.Alarms(ctx)
	if err != nil {
		return Loss{}, err
	}
	// A running hub's alarm says at least as much as its position file.
	if own != nil && !slices.ContainsFunc(marks, func(m store.Mark) bool { return m.Hub == own.Hub && m.Seq >= own.Seq }) {
		marks = append(marks, *own)
	}
	out := Loss{}
	if out.Kept, err = Fold(ctx, l); err != nil {
		return Loss{}, err
	}
	if out.Kept.Seq() == 0 && len(marks) == 0 {
		return Loss{}, fault.New(fault.CodeInitIncomplete, "the log is empty, and nothing tells that it ever was not")
	}
	for _, m := range marks {
		switch err := lost(ctx, l, out.Kept, m); {
		case wentBack(err) && out.Kept.Seq() == 0:
			return Loss{}, err // nothing is kept to go on from
		case wentBack(err):
			out.Seen = append(out.Seen, m)
			out.Seq, out.Term = max(out.Seq, m.Seq), max(out.Term, m.Term)
		case err != nil:
			return Loss{}, err
		}
	}
	return out, nil
}

// fillers is how many of them share an append at most.
const fillers = 64

// errFilled ends the filling.
var errFilled = errors.New("all places are filled")

// Accept gives a loss up: with a term above every one that was seen it fills the
// places of the entries that are lost, and one more. What is committed from then on
// has a version and a term that no agent has seen, and the hubs that saw the loss
// follow the log again. Done in part, it can be done again.
func Accept(ctx context.Context, l *store.Log, holder store.Holder, author, reason string, loss Loss, now time.Time) error {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&logv1.LossAccepted{
		LostSeq: loss.Seq, LostTerm: loss.Term, KeptSeq: loss.Kept.Seq(), Reason: reason,
	})
	if err != nil {
		return fault.New(fault.CodeInternal, "encode a %s: %w", state.KindLossAccepted, err)
	}
	if loss.Kept.Seq() == 0 {
		return fault.New(fault.CodeLogWentBack, "accept the loss: the log is empty, and nothing is left to go on from")
	}
	if now.Before(loss.Kept.Time()) {
		now = loss.Kept.Time()
	}
	holder.Above = max(loss.Term, loss.Kept.Term())
	tenure, err := l.Campaign(ctx, holder)
	if err != nil {
		return err
	}
	upTo := max(loss.Seq, loss.Kept.Seq()) + 1
	fill := func(next store.Position) (store.Draft, error) {
		if next.Seq > upTo {
			return store.Draft{}, errFilled
		}
		if next.Seq <= loss.Kept.Seq() {
			return store.Draft{}, fault.New(fault.CodeLossNotAsStated, "accept the loss: the log is at entry %d now, and was at entry %d", next.Seq-1, loss.Kept.Seq())
		}
		return store.Draft{Kind: state.KindLossAccepted, Author: author, Origin: "meshhub store accept", Time: now, Payload: payload}, nil
	}
	var wg sync.WaitGroup
	ended := make([]error, fillers)
	for i := range ended {
		wg.Go(func() {
			for ended[i] == nil {
				_, ended[i] = tenure.Submit(ctx, fill)
			}
		})
	}
	wg.Wait()
	err = tenure.Resign(ctx)
	for _, e := range ended {
		if !errors.Is(e, errFilled) {
			return e
		}
	}
	if err != nil {
		return err
	}
	switch s, err := Fold(ctx, l); {
	case err != nil:
		return err
	case !s.GaveUp(loss.Seq, loss.Term):
		return fault.New(fault.CodeLossNotAsStated, "accept the loss: another hub wrote to the log meanwhile; it ends at entry %d now", s.Seq())
	}
	for _, m := range loss.Seen {
		if err := l.ClearAlarm(ctx, m.Hub); err != nil {
			return err
		}
	}
	return nil
}
