package bolt

import (
	"context"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// A restore fills the bucket of entries in bounded transactions while the state says
// Filling, and the transaction that sets the head takes that away.

// filling implements store.Filling.
type filling struct {
	r *driver
	// number is that of this restore.
	number uint64
}

// BeginRestore implements store.Restorer.
func (r *driver) BeginRestore(ctx context.Context) (store.Filling, error) {
	f := &filling{r: r}
	err := f.update(ctx, func(tx *bbolt.Tx, b *bbolt.Bucket, _ *bbolt.Bucket, s *state) error {
		if s.Head > 0 {
			return store.NotEmpty(store.Position{Seq: s.Head, Term: s.HeadTerm})
		}
		if err := b.DeleteBucket(logBucket); err != nil {
			return err
		}
		if _, err := b.CreateBucket(logBucket); err != nil {
			return err
		}
		s.Filling = uint64(tx.ID())
		f.number = s.Filling
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// update runs fn in a transaction and stores the state as fn leaves it.
func (f *filling) update(ctx context.Context, fn func(tx *bbolt.Tx, b, entries *bbolt.Bucket, s *state) error) error {
	const doing = "restore log"
	if err := f.r.check(ctx, doing); err != nil {
		return err
	}
	d := f.r.d
	var id int
	var after state
	err := d.file.update(doing, func(tx *bbolt.Tx) error {
		b, entries, s, err := d.file.domainIn(tx, d.bucket)
		if err != nil {
			return err
		}
		if f.number > 0 && s.Filling != f.number {
			return fault.New(fault.CodeRestoreUnfinished, "%s: another restore was begun", doing)
		}
		if err := fn(tx, b, entries, &s); err != nil {
			return err
		}
		id, after = tx.ID(), s
		return s.put(b)
	})
	if err != nil {
		return err
	}
	d.publish(id, after, nil)
	return nil
}

// Put implements store.Filling.
func (f *filling) Put(ctx context.Context, records []store.Record) error {
	return f.update(ctx, func(_ *bbolt.Tx, _, entries *bbolt.Bucket, _ *state) error {
		entries.FillPercent = 0.95 // keys only grow
		for _, rec := range records {
			v := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(rec.Data)), rec.Term)
			if err := entries.Put(seqKey(rec.Seq), append(v, rec.Data...)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Commit implements store.Filling.
func (f *filling) Commit(ctx context.Context, trimmed uint64, head store.Position) error {
	return f.update(ctx, func(_ *bbolt.Tx, _, _ *bbolt.Bucket, s *state) error {
		s.Head, s.HeadTerm, s.Trimmed, s.Filling = head.Seq, head.Term, trimmed, 0
		return nil
	})
}
