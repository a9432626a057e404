package memstore

import (
	"bytes"
	"context"

	"github.com/meshkit/meshkit/pkg/store"
)

// filling implements store.Filling: the records are the server's from Commit on.
type filling struct {
	d       *driver
	records []store.Record
}

// BeginRestore implements store.Restorer.
func (d *driver) BeginRestore(ctx context.Context) (store.Filling, error) {
	if err := d.check(ctx, "restore log"); err != nil {
		return nil, err
	}
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head.Seq > 0 {
		return nil, store.NotEmpty(s.head)
	}
	s.drop()
	s.filling = &filling{d: d}
	s.announce()
	return s.filling, nil
}

// Put implements store.Filling.
func (f *filling) Put(ctx context.Context, records []store.Record) error {
	if err := f.d.check(ctx, "restore log"); err != nil {
		return err
	}
	f.d.s.mu.Lock()
	defer f.d.s.mu.Unlock()
	if f.d.s.filling != f {
		return store.Unfinished("restore log: another restore was begun")
	}
	for _, r := range records {
		r.Data = bytes.Clone(r.Data)
		f.records = append(f.records, r)
	}
	return nil
}

// Commit implements store.Filling.
func (f *filling) Commit(ctx context.Context, trimmed uint64, head store.Position) error {
	if err := f.d.check(ctx, "restore log"); err != nil {
		return err
	}
	s := f.d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filling != f {
		return store.Unfinished("restore log: another restore was begun")
	}
	s.records, s.trimmed, s.head, s.filling = f.records, trimmed, head, nil
	s.announce()
	return nil
}
