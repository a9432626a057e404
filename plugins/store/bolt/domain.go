package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// pageBytes ends a page of Read.
const pageBytes = 4 << 20

// state is what a domain's bucket says of its log.
type state struct {
	Head     uint64 `json:"head"`
	HeadTerm uint64 `json:"headTerm"`
	Trimmed  uint64 `json:"trimmed"`
	// Term is that of the newest lease, Holder and Address say whose it was.
	Term    uint64 `json:"term"`
	Holder  string `json:"holder"`
	Address string `json:"address"`
	// Filling is the number of the restore that is under way, or did not get to its
	// end; 0 if there is none. Then the entries are not a log.
	Filling uint64 `json:"filling,omitempty"`
}

func (s state) put(b *bbolt.Bucket) error {
	v, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return b.Put(stateKey, checked(v))
}

// domainIn gives a domain's bucket and state, and its bucket of entries.
func (f *File) domainIn(tx *bbolt.Tx, bucket []byte) (b, entries *bbolt.Bucket, s state, err error) {
	if b = tx.Bucket(bucket); b == nil {
		return nil, nil, s, f.damaged("%q is missing", bucket)
	}
	v, ok := unchecked(b.Get(stateKey))
	if !ok || json.Unmarshal(v, &s) != nil {
		return nil, nil, s, f.damaged("the state of %q is not readable", bucket)
	}
	if entries = b.Bucket(logBucket); entries == nil || b.Bucket(blobsBucket) == nil {
		return nil, nil, s, f.damaged("a part of %q is missing", bucket)
	}
	return b, entries, s, nil
}

// consistent checks that the entries begin and end where the state says.
func (f *File) consistent(tx *bbolt.Tx, bucket []byte) (state, error) {
	_, entries, s, err := f.domainIn(tx, bucket)
	if err != nil {
		return s, err
	}
	c := entries.Cursor()
	first, _ := c.First()
	last, _ := c.Last()
	if s.Head == 0 && (first == nil || s.Filling > 0) {
		return s, nil
	}
	if !bytes.Equal(first, seqKey(s.Trimmed+1)) || !bytes.Equal(last, seqKey(s.Head)) {
		return s, f.damaged("the log in %q should have the entries %d to %d, it has %x to %x", bucket, s.Trimmed+1, s.Head, first, last)
	}
	return s, nil
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// domain is one log, shared by its drivers.
type domain struct {
	file   *File
	name   string
	bucket []byte

	mu sync.Mutex // guards all below
	// state is what is durable: a transaction shows in the memory map before its
	// last fsync, so readers see no further than this.
	state state
	// tx is the transaction that state is of.
	tx int
	// lease is the one that is held; one without a term is being made.
	lease *lease
	// changed is closed and replaced when any of the above changes.
	changed chan struct{}
}

// publish makes the state after a transaction, now durable, visible. One that
// was made later may be first to get here: it holds this one. l, if not nil, is
// the lease that the transaction began.
func (d *domain) publish(tx int, s state, l *lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l != nil {
		l.term = s.Term
	}
	if tx > d.tx {
		d.tx, d.state = tx, s
		d.announce()
	}
}

// announce wakes who waits. The caller holds mu.
func (d *domain) announce() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// drop ends a lease if it is the present one.
func (d *domain) drop(l *lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease == l && l != nil {
		close(l.lost)
		d.lease = nil
		d.announce()
	}
}

// driver implements store.Driver and store.Blobs.
type driver struct {
	d         *domain
	closed    chan struct{}
	closeOnce sync.Once
}

func (r *driver) check(ctx context.Context, doing string) error {
	select {
	case <-r.closed:
		return fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	case <-r.d.file.closed:
		return fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Append implements store.Driver.
func (r *driver) Append(ctx context.Context, b store.Batch) error {
	if err := r.check(ctx, "append to log"); err != nil {
		return err
	}
	d := r.d
	var id int
	var after state
	err := d.file.update("append to log", func(tx *bbolt.Tx) error {
		bucket, entries, s, err := d.file.domainIn(tx, d.bucket)
		if err != nil {
			return err
		}
		if s.Filling > 0 {
			return store.Unfinished("append to log")
		}
		// The term in the file and the lease in memory change only in and after a
		// transaction of their own, so both hold until this one is committed.
		if s.Term != b.Term || !r.holds(b.Term) {
			return fault.New(fault.CodeLeaseLost, "append to log: the lease of term %d is over", b.Term)
		}
		if s.Head != b.After {
			return fault.New(fault.CodeSeqTaken, "append to log after entry %d: it ends at %d", b.After, s.Head)
		}
		entries.FillPercent = 0.95 // keys only grow
		for _, rec := range b.Records {
			v := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(rec.Data)), rec.Term)
			if err := entries.Put(seqKey(rec.Seq), append(v, rec.Data...)); err != nil {
				return err
			}
			s.Head, s.HeadTerm = rec.Seq, rec.Term
		}
		if b.Trim > s.Trimmed && b.Trim < s.Head {
			if err := trim(entries, b.Trim); err != nil {
				return err
			}
			s.Trimmed = b.Trim
		}
		id, after = tx.ID(), s
		return s.put(bucket)
	})
	if err != nil {
		return err
	}
	d.publish(id, after, nil)
	return nil
}

// trim collects the keys in one walk and deletes them afterwards: a cursor that
// begins anew after each deletion walks all the pages emptied so far.
func trim(entries *bbolt.Bucket, upTo uint64) error {
	var keys [][]byte
	c := entries.Cursor()
	for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) <= upTo; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := entries.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func (r *driver) holds(term uint64) bool {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	l := r.d.lease
	return l != nil && l.r == r && l.term == term
}

// Read implements store.Driver.
func (r *driver) Read(ctx context.Context, after uint64, limit int) (store.Page, error) {
	if err := r.check(ctx, "read log"); err != nil {
		return store.Page{}, err
	}
	d := r.d
	d.mu.Lock()
	s, held := d.state, d.lease != nil && d.lease.term > 0
	d.mu.Unlock()
	if s.Filling > 0 {
		return store.Page{}, store.Unfinished("read log")
	}
	p := store.Page{
		Trimmed: s.Trimmed, Head: store.Position{Seq: s.Head, Term: s.HeadTerm},
		Holder: store.Holder{Name: s.Holder, Address: s.Address}, Term: s.Term, Held: held,
	}
	if limit <= 0 || after < s.Trimmed || after >= s.Head {
		return p, nil
	}
	err := d.file.view("read log", func(tx *bbolt.Tx) error {
		_, entries, now, err := d.file.domainIn(tx, d.bucket)
		if err != nil {
			return err
		}
		// Trimmed since: the mark of this transaction goes with its entries.
		if p.Trimmed = now.Trimmed; after < p.Trimmed {
			return nil
		}
		p.Records, err = d.collect(entries, after, min(after+uint64(limit), s.Head))
		return err
	})
	return p, err
}

// collect gives the entries after one and up to last, as far as a page goes.
func (d *domain) collect(entries *bbolt.Bucket, after, last uint64) ([]store.Record, error) {
	var out []store.Record
	size := 0
	c := entries.Cursor()
	for k, v := c.Seek(seqKey(after + 1)); k != nil; k, v = c.Next() {
		if len(k) != 8 || len(v) < 8 {
			return nil, d.file.damaged("an entry of %q is not readable", d.bucket)
		}
		seq := binary.BigEndian.Uint64(k)
		size += len(v)
		if seq > last || (len(out) > 0 && size > pageBytes) {
			break
		}
		out = append(out, store.Record{
			Position: store.Position{Seq: seq, Term: binary.BigEndian.Uint64(v)}, Data: bytes.Clone(v[8:]),
		})
	}
	return out, nil
}

// Wait implements store.Driver.
func (r *driver) Wait(ctx context.Context, after uint64) error {
	for {
		if err := r.check(ctx, "wait for log"); err != nil {
			return err
		}
		r.d.mu.Lock()
		head, filling, changed := r.d.state.Head, r.d.state.Filling, r.d.changed
		r.d.mu.Unlock()
		switch {
		case filling > 0:
			return store.Unfinished("wait for log")
		case head > after:
			return nil
		case head < after:
			return fault.New(fault.CodeLogWentBack, "wait for log: it ends at entry %d, before entry %d", head, after)
		}
		if err := r.block(ctx, "wait for log", changed); err != nil {
			return err
		}
	}
}

func (r *driver) block(ctx context.Context, doing string, changed <-chan struct{}) error {
	select {
	case <-changed:
	case <-r.closed:
	case <-r.d.file.closed:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return nil
}

// Campaign implements store.Driver.
func (r *driver) Campaign(ctx context.Context, holder store.Holder) (store.Lease, error) {
	for {
		if err := r.check(ctx, "campaign"); err != nil {
			return nil, err
		}
		l, changed := r.claim()
		if l == nil {
			if err := r.block(ctx, "campaign", changed); err != nil {
				return nil, err
			}
			continue
		}
		if err := r.begin(l, holder); err != nil {
			r.d.drop(l)
			return nil, err
		}
		return l, nil
	}
}

// claim takes the place of the holder if it is free.
func (r *driver) claim() (*lease, <-chan struct{}) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if r.d.lease != nil {
		return nil, r.d.changed
	}
	r.d.lease = &lease{r: r, lost: make(chan struct{})}
	return r.d.lease, nil
}

// begin makes the new term durable: from then on no append of an older one
// passes, also if this process ends now and another opens the file.
func (r *driver) begin(l *lease, holder store.Holder) error {
	d := r.d
	var id int
	var after state
	err := d.file.update("campaign", func(tx *bbolt.Tx) error {
		bucket, _, s, err := d.file.domainIn(tx, d.bucket)
		if err != nil {
			return err
		}
		if s.Filling > 0 {
			return store.Unfinished("campaign")
		}
		s.Term = max(s.Term, s.HeadTerm, holder.Above) + 1
		s.Holder, s.Address = holder.Name, holder.Address
		id, after = tx.ID(), s
		return s.put(bucket)
	})
	if err != nil {
		return err
	}
	d.publish(id, after, l)
	return nil
}

// Close implements store.Driver.
func (r *driver) Close() error {
	r.closeOnce.Do(func() {
		close(r.closed)
		r.d.mu.Lock()
		l := r.d.lease
		r.d.mu.Unlock()
		if l != nil && l.r == r {
			r.d.drop(l)
		}
	})
	return nil
}

// lease implements store.Lease and store.Watched.
type lease struct {
	r    *driver
	lost chan struct{}
	term uint64 // written once, under the domain's mu, before Campaign returns it
}

func (l *lease) Term() uint64          { return l.term }
func (l *lease) Lost() <-chan struct{} { return l.lost }

// Renew implements store.Lease: the file's lock does not expire.
func (l *lease) Renew(ctx context.Context) (time.Duration, error) {
	if err := l.r.check(ctx, "renew lease"); err != nil {
		return 0, err
	}
	if !l.r.holds(l.term) {
		return 0, fault.New(fault.CodeLeaseLost, "renew lease: term %d is over", l.term)
	}
	return 0, nil
}

func (l *lease) Release(context.Context) error {
	l.r.d.drop(l)
	return nil
}
