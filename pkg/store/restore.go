package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Restorer is what a Driver implements whose engine can be filled with the log of a
// backup, from another engine as well.
type Restorer interface {
	// BeginRestore makes an empty log ready to be filled, and drops what an earlier
	// restore left that did not get to its end. From then on until Commit, Read,
	// Append, Wait and Campaign of every Driver are CodeRestoreUnfinished, also after
	// a crash: what lies there is not taken for a log. CodeRestoreNotEmpty: the log
	// has an entry, and nothing was changed. The Driver's Blobs work meanwhile.
	BeginRestore(ctx context.Context) (Filling, error)
}

// Filling is a restore under way, as a driver gives it. It is for one goroutine. Of
// two at the same time on one log at most one gets to its end.
type Filling interface {
	// Put stores records that follow each other, within the driver's limits of one
	// Append. After an error they may or may not be stored; the restore is over.
	Put(ctx context.Context, records []Record) error
	// Commit makes what was put the log, in one atomic step: its entries are those
	// after trimmed, up to head. It is durable when Commit returns nil. The term of
	// the next lease is above that of head.
	Commit(ctx context.Context, trimmed uint64, head Position) error
}

// Restoration fills an empty log with the entries of a backup. Nothing of it is a log
// before Commit; one that is not committed can be begun again. It is for one
// goroutine.
type Restoration struct {
	log     *Log
	engine  Restorer
	filling Filling // nil before Begin
	pending []Record
	bytes   int
	head    Head
	// trimmed is the last entry that the backup does not have; begun says that the
	// first one came and told.
	trimmed uint64
	begun   bool
}

// Follows checks that e continues the chain after prev; CodeChainBroken if not.
func (e Entry) Follows(prev Head) error { return e.follows(prev) }

// Head is where the log ends after e.
func (e Entry) Head() Head { return e.head() }

// First gives the sequence number of the oldest entry that the log holds, or of the
// next one if it holds none.
func (l *Log) First(ctx context.Context) (uint64, error) {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	return p.Trimmed + 1, err
}

// NewRestoration prepares to fill the log that d stores; nothing is written before
// Begin. The Restoration owns d and closes it; after an error d is still the
// caller's. CodeConfig if the driver cannot be filled.
func NewRestoration(d Driver, opts Options) (*Restoration, error) {
	l := &Log{driver: d, blobs: opts.Blobs, opts: opts.withDefaults(), limits: DefaultLimits()}
	if l.blobs == nil {
		l.blobs, _ = d.(Blobs)
	}
	engine, ok := d.(Restorer)
	if !ok || l.blobs == nil {
		return nil, fault.New(fault.CodeConfig, "restore log: the store's driver cannot be filled from a backup")
	}
	if m, ok := d.(Limited); ok {
		l.limits = narrower(l.limits, m.Limits())
	}
	return &Restoration{log: l, engine: engine}, nil
}

// Begin begins to fill the log. See Restorer for the codes.
func (r *Restoration) Begin(ctx context.Context) error {
	var err error
	if r.filling, err = r.engine.BeginRestore(ctx); err != nil {
		return err
	}
	all, err := r.log.snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range all { // of a restore before, or of a log that is gone
		if err := r.log.drop(ctx, s.seq, s.chunks); err != nil {
			return err
		}
	}
	return nil
}

// Alarms lists what hubs have seen of a log that was in this store before, and that
// it did not hold any more. They stay.
func (r *Restoration) Alarms(ctx context.Context) ([]Mark, error) { return r.log.Alarms(ctx) }

// Leader tells who holds the lease of the log that is in the store, as Log's does.
func (r *Restoration) Leader(ctx context.Context) (Holder, uint64, error) { return r.log.Leader(ctx) }

// Add appends an entry of the backup. The first one may have any sequence number:
// those before it count as trimmed. CodeChainBroken if a later one does not continue
// the chain.
func (r *Restoration) Add(ctx context.Context, e Entry) error {
	if !r.begun {
		r.trimmed, r.begun = e.Seq-1, true
		r.head = Head{Position: Position{Seq: r.trimmed}, Hash: [32]byte(e.PreviousHash)}
	}
	if err := e.follows(r.head); err != nil {
		return err
	}
	rec := recordOf(e)
	if len(rec.Data) > r.log.limits.RecordBytes {
		return fault.New(fault.CodeEntryTooLarge, "restore log: entry %d has %d bytes, the store takes %d", e.Seq, len(rec.Data), r.log.limits.RecordBytes)
	}
	r.head = e.head()
	r.pending, r.bytes = append(r.pending, rec), r.bytes+len(rec.Data)
	if len(r.pending) < r.log.limits.BatchRecords && r.bytes < r.log.limits.BatchBytes {
		return nil
	}
	return r.flush(ctx)
}

// Write appends an entry of its own, under a term that is not below that of the entry
// before.
func (r *Restoration) Write(ctx context.Context, term uint64, d Draft) (Entry, error) {
	e, _, err := encodeEntry(r.head, Position{Seq: r.head.Seq + 1, Term: term}, d)
	if err != nil {
		return Entry{}, err
	}
	return e, r.Add(ctx, e)
}

func (r *Restoration) flush(ctx context.Context) error {
	if len(r.pending) == 0 {
		return nil
	}
	if err := r.filling.Put(ctx, r.pending); err != nil {
		return fmt.Errorf("restore entries %d to %d: %w", r.pending[0].Seq, r.pending[len(r.pending)-1].Seq, err)
	}
	r.pending, r.bytes = nil, 0
	return nil
}

// SaveSnapshot stores the state after the entry that was added last, as from gives it.
func (r *Restoration) SaveSnapshot(ctx context.Context, from io.Reader) error {
	m := manifest{Format: 1, Seq: r.head.Seq, Hash: hex.EncodeToString(r.head.Hash[:]), ChunkSize: r.log.opts.ChunkSize}
	if err := r.log.putSnapshot(ctx, &m, from); err != nil {
		return fmt.Errorf("restore snapshot of entry %d: %w", m.Seq, err)
	}
	return nil
}

// Commit makes what was added the log. An error without CodeRestoreUnfinished or
// CodeStoreUnavailable leaves it open whether that was done; it is read back where the
// store answers.
func (r *Restoration) Commit(ctx context.Context) error {
	if err := r.flush(ctx); err != nil {
		return err
	}
	if r.head.Seq == r.trimmed {
		return fault.New(fault.CodeBackupDamaged, "restore log: the backup holds no entry")
	}
	err := r.filling.Commit(ctx, r.trimmed, r.head.Position)
	if err == nil {
		return nil
	}
	if p, rerr := r.log.driver.Read(ctx, math.MaxUint64, 0); rerr == nil && p.Head == r.head.Position && p.Trimmed == r.trimmed {
		return nil // the answer was lost
	}
	return fmt.Errorf("restore log: %w", err)
}

// Close closes the driver. What was not committed stays, is not a log, and goes when
// a restore is begun again.
func (r *Restoration) Close() error { return r.log.driver.Close() }

// Unfinished is what a driver answers whose log is being filled, or was left so.
func Unfinished(doing string) error {
	return fault.New(fault.CodeRestoreUnfinished, "%s: the store holds a part of a backup, from a restore that is under way or did not get to its end", doing)
}

// NotEmpty is what a driver answers that is to be filled and has a log.
func NotEmpty(head Position) error {
	return fault.New(fault.CodeRestoreNotEmpty, "the store holds a log already, which ends at entry %d of term %d", head.Seq, head.Term)
}
