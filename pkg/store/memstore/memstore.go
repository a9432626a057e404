// Package memstore is a log store in memory: for programs that need no
// durability, and for tests of what stands on a store. It is a complete driver,
// held to the same suite as the others; only a restart of the process empties it.
//
// A Server is the storage engine; each hub gets a Driver of its own, and they
// compete for the lease as they would elsewhere. All of it is safe for
// concurrent use, has no goroutines, and works in testing/synctest bubbles.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// pageBytes ends a page of Read.
const pageBytes = 4 << 20

// Options of a Server.
type Options struct {
	// LeaseTTL is how long a lease lasts after it was renewed; 0 means until it
	// is released.
	LeaseTTL time.Duration
}

// Server is one log in memory, shared by the drivers of several hubs.
type Server struct {
	ttl time.Duration

	mu sync.Mutex // guards all below
	// records follow trimmed without a gap.
	records []store.Record
	trimmed uint64
	head    store.Position
	blobs   map[string][]byte
	holder  store.Holder
	term    uint64
	lease   *lease // nil when released
	// filling is the restore that is under way; nil when there is none.
	filling *filling
	until   time.Time // the lease's end, if it has a TTL
	// changed is closed and replaced when any of the above changes.
	changed chan struct{}
}

// New makes an empty log.
func New(opts Options) *Server {
	return &Server{ttl: opts.LeaseTTL, blobs: make(map[string][]byte), changed: make(chan struct{})}
}

// Driver gives one hub's access to the log.
func (s *Server) Driver() store.Driver {
	return &driver{s: s, closed: make(chan struct{})}
}

// Expire ends the lease that is held, as if its holder had been silent for too
// long.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

// Copy is what a Server held at one moment.
type Copy struct {
	records []store.Record
	trimmed uint64
	head    store.Position
	blobs   map[string][]byte
	term    uint64
}

// Copy takes a backup of the log.
func (s *Server) Copy() Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Copy{records: slices.Clone(s.records), trimmed: s.trimmed, head: s.head, blobs: maps.Clone(s.blobs), term: s.term}
}

// Restore puts the log back to a backup, as an operator may do with a store that
// hubs are using. The lease that is held ends.
func (s *Server) Restore(c Copy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records, s.trimmed, s.head, s.term = slices.Clone(c.records), c.trimmed, c.head, c.term
	s.blobs = maps.Clone(c.blobs)
	s.drop()
	s.announce()
}

// drop ends the present lease. The caller holds mu.
func (s *Server) drop() {
	if s.lease == nil {
		return
	}
	close(s.lease.lost)
	s.lease = nil
	s.announce()
}

// announce wakes who waits. The caller holds mu.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// settle ends a lease whose time has passed. The caller holds mu.
func (s *Server) settle() {
	if s.lease != nil && s.ttl > 0 && !time.Now().Before(s.until) {
		s.drop()
	}
}

type driver struct {
	s         *Server
	closed    chan struct{}
	closeOnce sync.Once
}

func (d *driver) check(ctx context.Context, doing string) error {
	select {
	case <-d.closed:
		return fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Append implements store.Driver.
func (d *driver) Append(ctx context.Context, b store.Batch) error {
	if err := d.check(ctx, "append"); err != nil {
		return err
	}
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.filling != nil {
		return store.Unfinished("append")
	}
	if s.lease == nil || s.lease.d != d || s.term != b.Term {
		return fault.New(fault.CodeLeaseLost, "append: the lease of term %d is over", b.Term)
	}
	if s.head.Seq != b.After {
		return fault.New(fault.CodeSeqTaken, "append after entry %d: the log ends at %d", b.After, s.head.Seq)
	}
	for _, r := range b.Records {
		r.Data = bytes.Clone(r.Data)
		s.records = append(s.records, r)
		s.head = r.Position
	}
	if b.Trim > s.trimmed && b.Trim < s.head.Seq {
		s.records = slices.Clone(s.records[b.Trim-s.trimmed:])
		s.trimmed = b.Trim
	}
	s.announce()
	return nil
}

// Read implements store.Driver.
func (d *driver) Read(ctx context.Context, after uint64, limit int) (store.Page, error) {
	if err := d.check(ctx, "read log"); err != nil {
		return store.Page{}, err
	}
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.filling != nil {
		return store.Page{}, store.Unfinished("read log")
	}
	p := store.Page{Trimmed: s.trimmed, Head: s.head, Holder: s.holder, Term: s.term, Held: s.lease != nil}
	if limit <= 0 || after < s.trimmed || after >= s.head.Seq {
		return p, nil
	}
	size := 0
	for _, r := range s.records[after-s.trimmed:] {
		size += len(r.Data)
		if len(p.Records) == limit || (len(p.Records) > 0 && size > pageBytes) {
			break
		}
		r.Data = bytes.Clone(r.Data)
		p.Records = append(p.Records, r)
	}
	return p, nil
}

// Wait implements store.Driver.
func (d *driver) Wait(ctx context.Context, after uint64) error {
	for {
		if err := d.check(ctx, "wait for log"); err != nil {
			return err
		}
		d.s.mu.Lock()
		head, changed, filling := d.s.head.Seq, d.s.changed, d.s.filling
		d.s.mu.Unlock()
		switch {
		case filling != nil:
			return store.Unfinished("wait for log")
		case head > after:
			return nil
		case head < after:
			return fault.New(fault.CodeLogWentBack, "wait for log: it ends at entry %d, before entry %d", head, after)
		}
		if err := d.block(ctx, "wait for log", changed, 0); err != nil {
			return err
		}
	}
}

// block waits for a change, or for a time if that is not 0.
func (d *driver) block(ctx context.Context, doing string, changed <-chan struct{}, limit time.Duration) error {
	var expiry <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		expiry = t.C
	}
	select {
	case <-changed:
	case <-expiry:
	case <-d.closed:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return nil
}

// Campaign implements store.Driver.
func (d *driver) Campaign(ctx context.Context, holder store.Holder) (store.Lease, error) {
	for {
		if err := d.check(ctx, "campaign"); err != nil {
			return nil, err
		}
		l, changed, wait := d.try(holder)
		if l != nil {
			return l, nil
		}
		if changed == nil {
			return nil, store.Unfinished("campaign")
		}
		if err := d.block(ctx, "campaign", changed, wait); err != nil {
			return nil, err
		}
	}
}

// try takes the lease, or gives what to wait for; nothing of both during a restore.
func (d *driver) try(holder store.Holder) (*lease, <-chan struct{}, time.Duration) {
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.filling != nil {
		return nil, nil, 0
	}
	if s.lease != nil {
		return nil, s.changed, max(time.Until(s.until), 0)
	}
	s.term = max(s.term, s.head.Term, holder.Above) + 1
	s.holder = store.Holder{Name: holder.Name, Address: holder.Address}
	s.lease = &lease{d: d, term: s.term, lost: make(chan struct{})}
	s.until = time.Now().Add(s.ttl)
	s.announce()
	return s.lease, nil, 0
}

// Close implements store.Driver.
func (d *driver) Close() error {
	d.closeOnce.Do(func() {
		close(d.closed)
		d.s.mu.Lock()
		defer d.s.mu.Unlock()
		if d.s.lease != nil && d.s.lease.d == d {
			d.s.drop()
		}
	})
	return nil
}

// lease implements store.Lease and store.Watched.
type lease struct {
	d    *driver
	term uint64
	lost chan struct{}
}

func (l *lease) Term() uint64          { return l.term }
func (l *lease) Lost() <-chan struct{} { return l.lost }

func (l *lease) Renew(ctx context.Context) (time.Duration, error) {
	if err := l.d.check(ctx, "renew lease"); err != nil {
		return 0, err
	}
	s := l.d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.lease != l {
		return 0, fault.New(fault.CodeLeaseLost, "renew lease: term %d is over", l.term)
	}
	s.until = time.Now().Add(s.ttl)
	return s.ttl, nil
}

func (l *lease) Release(context.Context) error {
	s := l.d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == l {
		s.drop()
	}
	return nil
}

// Put implements store.Blobs.
func (d *driver) Put(ctx context.Context, key string, data []byte) error {
	if err := d.check(ctx, "put "+key); err != nil {
		return err
	}
	if len(data) > store.MaxBlob {
		return fault.New(fault.CodeEntryTooLarge, "put %s: it has %d bytes, at most %d are taken", key, len(data), store.MaxBlob)
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.blobs[key] = bytes.Clone(data)
	return nil
}

// Get implements store.Blobs.
func (d *driver) Get(ctx context.Context, key string) ([]byte, error) {
	if err := d.check(ctx, "get "+key); err != nil {
		return nil, err
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	data, ok := d.s.blobs[key]
	if !ok {
		return nil, fault.New(fault.CodeBlobMissing, "get %s: it is not in the store", key)
	}
	return bytes.Clone(data), nil
}

// List implements store.Blobs.
func (d *driver) List(ctx context.Context, prefix string) ([]string, error) {
	if err := d.check(ctx, "list "+prefix); err != nil {
		return nil, err
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	var keys []string
	for k := range d.s.blobs {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// Delete implements store.Blobs.
func (d *driver) Delete(ctx context.Context, keys ...string) error {
	if err := d.check(ctx, "delete"); err != nil {
		return err
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	for _, k := range keys {
		delete(d.s.blobs, k)
	}
	return nil
}
