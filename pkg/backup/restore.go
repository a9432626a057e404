package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// After a restore the domain goes on in a term that no agent has seen, so that what
// it publishes counts as newer everywhere, whatever was made after the backup and is
// lost: versions are ordered by term first.
//
// The default is the clock: the milliseconds since 1970. Terms begin at 1 and grow by
// one with each change of leader, so they stay below it, also after a restore before
// this one, and a second restore of the same backup gets a higher one than the first.
// Where the clock cannot be right, because it is behind the backup or the terms that
// are known, it is the highest known term and TermMargin.
const (
	// TermMargin is how many changes of leader after the backup a restore reckons
	// with when it cannot go by the clock.
	TermMargin = 1 << 20
	// ahead is how far the clock must be beyond the known terms, in milliseconds.
	ahead = 1024
)

// TermFloor gives the term of the first entry after a restore; seen is the highest
// term that is known, made when the backup was made.
func TermFloor(seen uint64, made, now time.Time) uint64 {
	if ms := now.UnixMilli(); !now.Before(made) && ms > ahead && uint64(ms)-ahead > seen {
		return uint64(ms)
	}
	return seen + TermMargin
}

// Plan is how a backup is restored.
type Plan struct {
	// Term is the floor: it is above every term that is known.
	Term uint64
	// LostSeq and LostTerm are the newest entry and the highest term that hubs are
	// known to have seen after the backup; 0 if there are none. The places of what is
	// lost are filled, so that no sequence number is used twice.
	LostSeq, LostTerm uint64
	// Author is the hub's identity, By who runs the restore, as text.
	Author, By string
	Now        time.Time
}

// Fill fills a log with a backup that Verify passed, read again from in, and makes it
// the log. The entry that ends it, LogRestored, tells of the restore and begins the
// new term: it comes with the rest, so that there is no moment at which the log of
// the backup could go on under its old terms. After an error the store holds no log.
func Fill(ctx context.Context, r *store.Restoration, in io.Reader, v Verified, p Plan) error {
	if p.Term <= v.Head.Term || p.Term <= p.LostTerm {
		return fault.New(fault.CodeTermFloor, "the term %d is not above %d, which is known", p.Term, max(v.Head.Term, p.LostTerm))
	}
	from, err := NewReader(in)
	if err != nil {
		return err
	}
	if err := r.Begin(ctx); err != nil {
		return err
	}
	for {
		e, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = r.Add(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	if err := r.SaveSnapshot(ctx, from.Snapshot()); err != nil {
		return err
	}
	end, err := from.Seal()
	if err != nil {
		return err
	}
	if end.Sum != v.Sum || end.Bytes != v.Bytes {
		return fault.New(fault.CodeBackupDamaged, "the backup changed while it was read")
	}
	if err := writeEnd(ctx, r, v, p); err != nil {
		return err
	}
	return r.Commit(ctx)
}

// writeEnd appends what a restore adds to the log.
func writeEnd(ctx context.Context, r *store.Restoration, v Verified, p Plan) error {
	at := p.Now
	if at.Before(v.State.Time()) {
		at = v.State.Time() // times in the log never go back
	}
	write := func(kind string, m proto.Message) error {
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return fault.New(fault.CodeInternal, "encode a %s: %w", kind, err)
		}
		_, err = r.Write(ctx, p.Term, store.Draft{Kind: kind, Author: p.Author, Origin: "meshhub restore", Time: at, Payload: payload})
		return err
	}
	filler := &logv1.LossAccepted{LostSeq: p.LostSeq, LostTerm: p.LostTerm, KeptSeq: v.Head.Seq, Reason: "restore by " + p.By}
	for seq := v.Head.Seq + 1; seq <= p.LostSeq; seq++ {
		if err := write(state.KindLossAccepted, filler); err != nil {
			return fmt.Errorf("fill the place of entry %d: %w", seq, err)
		}
	}
	return write(state.KindLogRestored, &logv1.LogRestored{
		KeptSeq: v.Head.Seq, KeptTerm: v.Head.Term, BackupTime: v.Backup.GetCreatedAt(), BackupHub: v.SignedBy.Hub, BackupSha256: v.Sum[:],
		RestoredBy: p.By, LostSeq: p.LostSeq, LostTerm: p.LostTerm,
	})
}
