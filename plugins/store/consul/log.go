package consul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

func kv(verb api.KVOp, key string) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: verb, Key: key}}
}

func put(key string, value []byte) *api.TxnOp {
	op := kv(api.KVSet, key)
	op.KV.Value = value
	return op
}

// casHead replaces the head that is at index.
func (d *Driver) casHead(h head, index uint64) *api.TxnOp {
	op := kv(api.KVCAS, d.headKey())
	op.KV.Value, op.KV.Index = h.encode(), index
	return op
}

// fence lets a transaction pass only while the session holds the lock.
func (d *Driver) fence(session string) *api.TxnOp {
	op := kv(api.KVCheckSession, d.leaderKey())
	op.KV.Session = session
	return op
}

// Append implements store.Driver.
func (d *Driver) Append(ctx context.Context, b store.Batch) error {
	const doing = "append to log"
	if d.ctx.Err() != nil {
		return fault.New(fault.CodeStoreClosed, "%s: the store is closed", doing)
	}
	over := fault.New(fault.CodeLeaseLost, "%s: the lease of term %d is over", doing, b.Term)
	if l, _ := d.holding(); l == nil || l.term != b.Term {
		return over // before anything large is sent
	}
	ops, start, err := d.entries(ctx, doing, b)
	if err != nil {
		return err
	}
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	l, at := d.holding()
	if l == nil || l.term != b.Term {
		return over
	}
	if at.Seq != b.After || at.Lease != b.Term {
		// What is known may be old, after a write whose answer was lost.
		if at, err = d.refresh(ctx, doing, b); err != nil {
			return err
		}
	}
	// Once more if the head was replaced by one that says the same.
	for range 3 {
		next := at.head
		if n := len(b.Records); n > 0 {
			next.Seq, next.Term, next.Start = b.Records[n-1].Seq, b.Records[n-1].Term, start
		}
		if b.Trim > next.Trimmed && b.Trim < next.Seq {
			next.Trimmed = b.Trim
		}
		before := at.Trimmed
		written, failed, err := d.txn(ctx, doing, append([]*api.TxnOp{d.fence(l.session), d.casHead(next, at.index)}, ops...))
		switch {
		case err != nil:
			return err
		case failed == nil:
			d.know(versioned{head: next, index: written})
			if next.Trimmed > before {
				d.sweep(l, next.Trimmed)
			}
			return nil
		case failed.OpIndex == 0:
			l.over()
			return fault.New(fault.CodeLeaseLost, "%s: the lease of term %d is over: %s", doing, b.Term, failed.What)
		case failed.OpIndex != 1:
			return fault.New(fault.CodeStoreUnavailable, "%s: Consul rolled the transaction back: %s", doing, failed.What)
		}
		if at, err = d.refresh(ctx, doing, b); err != nil {
			return err
		}
	}
	return fault.New(fault.CodeStoreUnavailable, "%s: the head changes while the lease of term %d is held; another program writes to %s", doing, b.Term, d.headKey())
}

// refresh reads the head and holds it against what b expects.
func (d *Driver) refresh(ctx context.Context, doing string, b store.Batch) (versioned, error) {
	p, at, err := d.state(ctx, doing)
	switch {
	case err != nil:
		return at, d.reading(ctx, doing, err) // nothing was written yet
	case at.Lease != b.Term, p == nil:
		return at, fault.New(fault.CodeLeaseLost, "%s: the lease of term %d is over, the newest is of term %d", doing, b.Term, at.Lease)
	case at.Seq != b.After:
		return at, fault.New(fault.CodeSeqTaken, "%s after entry %d: it ends at %d", doing, b.After, at.Seq)
	}
	return at, nil
}

// entries gives the operations that write a batch's records, and the first entry in
// the last of their keys. Small ones share keys. It comes after writing the
// chunks of large ones: a chunk without its entry is never read. Each chunk has the
// time of one request, so that a large entry has as much as it needs.
func (d *Driver) entries(ctx context.Context, doing string, b store.Batch) (ops []*api.TxnOp, start uint64, err error) {
	var pack []store.Record // small ones that follow each other
	size := 0
	flush := func() {
		if len(pack) > 0 {
			start = pack[0].Seq
			ops = append(ops, put(d.entryKey(start), encodePack(pack)))
			pack, size = nil, 0
		}
	}
	for _, r := range b.Records {
		if len(r.Data) <= inlineBytes {
			if n := packHeader + len(r.Data); len(pack) == packEntries || len(pack) > 0 && size+n > inlineBytes {
				flush()
			}
			pack, size = append(pack, r), size+packHeader+len(r.Data)
			continue
		}
		flush()
		if len(r.Data) > recordBytes {
			return nil, 0, fault.New(fault.CodeEntryTooLarge, "%s: an entry of %d bytes, at most %d are taken", doing, len(r.Data), recordBytes)
		}
		sum := sha256.Sum256(r.Data)
		for n := 0; n*chunkBytes < len(r.Data); n++ {
			part := r.Data[n*chunkBytes : min((n+1)*chunkBytes, len(r.Data))]
			if err := d.putChunk(ctx, doing, d.chunkKey(r.Seq, sum, n), part); err != nil {
				return nil, 0, err
			}
		}
		start = r.Seq
		ops = append(ops, put(d.entryKey(r.Seq), encodePointer(r.Term, sum, len(r.Data))))
	}
	flush()
	return ops, start, nil
}

func (d *Driver) putChunk(ctx context.Context, doing, key string, part []byte) error {
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := d.client.KV().Put(&api.KVPair{Key: key, Value: part}, d.write(ctx)); err != nil {
		return d.failure(ctx, doing, false, err)
	}
	return nil
}

// txn runs a transaction that writes. It gives the index at which it was
// applied, or the first operation that had it rolled back.
func (d *Driver) txn(ctx context.Context, doing string, ops []*api.TxnOp) (uint64, *api.TxnError, error) {
	done, resp, _, err := d.client.Txn().Txn(ops, d.query(ctx, false))
	if err != nil {
		return 0, nil, d.failure(ctx, doing, true, err)
	}
	if !done {
		if len(resp.Errors) == 0 {
			return 0, nil, fmt.Errorf("%s: the outcome is not known: Consul refused without a reason", doing)
		}
		first := resp.Errors[0]
		for _, e := range resp.Errors[1:] {
			if e.OpIndex < first.OpIndex {
				first = e
			}
		}
		return 0, first, nil
	}
	for _, r := range resp.Results {
		if r.KV != nil && r.KV.Key == d.headKey() {
			return r.KV.ModifyIndex, nil, nil
		}
	}
	return 0, nil, nil
}

// state reads the lock and the head of one moment.
func (d *Driver) state(ctx context.Context, doing string) (leader *api.KVPair, at versioned, err error) {
	leader, at, _, err = d.readAt(ctx, nil)
	return leader, at, err
}

// readOps is how many keys each read has besides entries.
const readOps = 3

// readAt reads the lock, the head and some entries in one transaction. Entries
// that do not exist are nil. CodeRestoreUnfinished: the log is being filled.
func (d *Driver) readAt(ctx context.Context, seqs []uint64) (leader *api.KVPair, at versioned, entries []*api.KVPair, err error) {
	ops := []*api.TxnOp{kv(api.KVGetOrEmpty, d.leaderKey()), kv(api.KVGetOrEmpty, d.headKey()), kv(api.KVGetOrEmpty, d.fillingKey())}
	for _, seq := range seqs {
		ops = append(ops, kv(api.KVGetOrEmpty, d.entryKey(seq)))
	}
	done, resp, _, err := d.client.Txn().Txn(ops, d.query(ctx, true))
	if err != nil {
		return nil, at, nil, err
	}
	if done && len(resp.Results) < len(ops) {
		// Consul leaves out what the token may not read, and says nothing.
		return nil, at, nil, fault.New(fault.CodeStoreUnavailable, "Consul at %s refuses the ACL token: it may not read all keys under %s", d.cfg.Address, d.root).
			WithRemedy(tokenRemedy)
	}
	if !done || len(resp.Results) != len(ops) {
		return nil, at, nil, fmt.Errorf("a read-only transaction of %d operations gave %d results and %d errors", len(ops), len(resp.Results), len(resp.Errors))
	}
	present := func(r *api.TxnResult) *api.KVPair {
		if r.KV == nil || r.KV.CreateIndex == 0 {
			return nil
		}
		return r.KV
	}
	leader = present(resp.Results[0])
	if at, err = d.decodeHead(present(resp.Results[1])); err != nil {
		return nil, at, nil, err
	}
	if at.Seq == 0 && present(resp.Results[2]) != nil {
		return nil, at, nil, store.Unfinished("read log")
	}
	for _, r := range resp.Results[readOps:] {
		entries = append(entries, present(r))
	}
	return leader, at, entries, nil
}

// Read implements store.Driver.
func (d *Driver) Read(ctx context.Context, after uint64, limit int) (store.Page, error) {
	const doing = "read log"
	rctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return store.Page{}, err
	}
	defer cancel()
	var seqs []uint64
	for i := range uint64(d.expect(after, limit)) {
		if seq := after + 1 + i; seq > after {
			seqs = append(seqs, seq)
		}
	}
	leader, at, entries, err := d.readAt(rctx, seqs)
	if err != nil {
		return store.Page{}, d.reading(rctx, doing, err)
	}
	d.mu.Lock()
	d.found, d.ends, d.start = at, at.Seq, at.Start
	d.mu.Unlock()
	p := pageOf(leader, at)
	if after < at.Trimmed || len(seqs) == 0 || after >= at.Seq {
		return p, nil
	}
	if entries[0] == nil {
		// The entry lies in the key of an earlier one, if it is there.
		if seqs, leader, at, entries, err = d.readAround(rctx, after); err != nil {
			return store.Page{}, d.reading(rctx, doing, err)
		}
		if p = pageOf(leader, at); after < at.Trimmed {
			return p, nil
		}
	}
	return d.fill(ctx, p, after, limit, seqs, entries)
}

// readAround reads the key that the entry behind after lies in, as far as such a key
// can begin before it.
func (d *Driver) readAround(ctx context.Context, after uint64) (seqs []uint64, leader *api.KVPair, at versioned, entries []*api.KVPair, err error) {
	for seq := max(after, packEntries) - packEntries + 1; seq <= after+1; seq++ {
		seqs = append(seqs, seq)
	}
	if leader, at, entries, err = d.readAt(ctx, seqs); err != nil {
		return nil, nil, at, nil, err
	}
	for i := len(seqs) - 1; i >= 0; i-- {
		if entries[i] != nil {
			return seqs[i : i+1], leader, at, entries[i : i+1], nil
		}
	}
	return nil, leader, at, nil, nil
}

// fill adds to p the records after after, at most limit, that entries hold: the keys
// of seqs, nil where there is none.
func (d *Driver) fill(ctx context.Context, p store.Page, after uint64, limit int, seqs []uint64, entries []*api.KVPair) (store.Page, error) {
	size := 0
	for i, e := range entries {
		next := seqs[i]
		if n := len(p.Records); n > 0 {
			next = p.Records[n-1].Seq + 1
		}
		if e == nil || seqs[i] < next {
			continue // its entry lies in a key before; or there is none
		}
		if seqs[i] > next {
			break
		}
		records, chunks, err := decodeEntry(seqs[i], e)
		if err != nil {
			return store.Page{}, err
		}
		if chunks != nil {
			if size+chunks.size > pageBytes && len(p.Records) > 0 {
				break
			}
			switch records[0].Data, err = d.fetch(ctx, "read log", seqs[i], chunks); {
			case errors.Is(err, errChunkMissing):
				return d.trimmedSince(ctx, seqs[i], err)
			case err != nil:
				return store.Page{}, err
			}
		}
		for _, r := range records {
			if r.Seq <= after {
				continue
			}
			// What stands beyond the head is not an entry.
			if size += len(r.Data); r.Seq > p.Head.Seq || len(p.Records) == limit || size > pageBytes && len(p.Records) > 0 {
				return p, nil
			}
			p.Records = append(p.Records, r)
		}
	}
	return p, nil
}

// expect gives how many keys to ask for: each costs Consul and us the same whether it
// exists or not, so those that may, and one.
func (d *Driver) expect(after uint64, limit int) int {
	n := min(max(limit, 0), txnOps-readOps)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ends == 0: // nothing was read yet
		return n
	case d.ends <= after, d.start == after+1:
		return min(n, 1)
	}
	return int(min(uint64(n), d.ends-after))
}

// pageOf is a page without records.
func pageOf(leader *api.KVPair, at versioned) store.Page {
	return store.Page{
		Trimmed: at.Trimmed, Head: store.Position{Seq: at.Seq, Term: at.head.Term},
		Holder: store.Holder{Name: at.Holder, Address: at.Address}, Term: at.Lease,
		Held: leader != nil && leader.Session != "" && leader.Session == at.Session,
	}
}

// errChunkMissing is what fetch finds when a trim came in between, or on damage.
var errChunkMissing = errors.New("a chunk is missing")

// trimmedSince tells what a missing chunk of an entry means: the page of a log that
// was trimmed beyond the entry since it was read, or the error of a damaged one.
func (d *Driver) trimmedSince(ctx context.Context, seq uint64, missing error) (store.Page, error) {
	const doing = "read log"
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return store.Page{}, err
	}
	defer cancel()
	leader, at, err := d.state(ctx, doing)
	switch {
	case err != nil:
		return store.Page{}, d.reading(ctx, doing, err)
	case seq > at.Trimmed:
		return store.Page{}, fault.New(fault.CodeCorrupt, "entry %d of the log is damaged: %w", seq, missing)
	}
	return pageOf(leader, at), nil
}

// reading classifies an error of a read.
func (d *Driver) reading(ctx context.Context, doing string, err error) error {
	if code := fault.CodeOf(err); code == fault.CodeCorrupt || code == fault.CodeStoreUnavailable || code == fault.CodeRestoreUnfinished {
		return err
	}
	return d.failure(ctx, doing, false, err)
}

// fetch puts the chunks of an entry together, each in the time of one request;
// errChunkMissing if one is not there.
func (d *Driver) fetch(ctx context.Context, doing string, seq uint64, p *pointer) ([]byte, error) {
	data := make([]byte, 0, p.size)
	for n := 0; n*chunkBytes < p.size; n++ {
		key := d.chunkKey(seq, p.sum, n)
		part, err := d.chunk(ctx, doing, key)
		if err != nil {
			return nil, err
		}
		if part == nil {
			return nil, fmt.Errorf("%w: Consul key %s", errChunkMissing, key)
		}
		if data = append(data, part.Value...); len(data) > p.size {
			break // of another size than it should have
		}
	}
	if len(data) != p.size || sha256.Sum256(data) != p.sum {
		return nil, fault.New(fault.CodeCorrupt, "entry %d of the log is damaged: its chunks do not have the hash that it names", seq)
	}
	return data, nil
}

func (d *Driver) chunk(ctx context.Context, doing, key string) (*api.KVPair, error) {
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	part, _, err := d.client.KV().Get(key, d.query(ctx, true))
	if err != nil {
		return nil, d.reading(ctx, doing, err)
	}
	return part, nil
}

// waitTime is how long Consul holds a blocking query; it may add a sixteenth. An
// agent that hangs shows when the answer is late, so it is short.
const waitTime = 10 * time.Second

// follow watches one key with blocking queries until seen is content with it,
// or ctx ends. With an index of 0 the first answer is of the moment, else it comes
// once the key has changed since; failed is asked whether to go on after an error.
//
// When a snapshot is restored, Consul ends blocking queries with what the key held
// before, and a query from that index on would wait for long: after an answer
// without news the key is read anew.
func (d *Driver) follow(ctx context.Context, key string, index uint64, seen func(*api.KVPair) (bool, error), failed func(error) error) error {
	for {
		pair, last, err := d.look(ctx, key, index)
		if err != nil {
			if err := failed(err); err != nil {
				return err
			}
			index = 0
			continue
		}
		if done, err := seen(pair); done || err != nil {
			return err
		}
		if index > 0 && last <= index {
			index = 0
			continue
		}
		index = max(last, 1)
	}
}

// look reads a key: at once and consistently for index 0, otherwise once it has
// changed since index.
func (d *Driver) look(ctx context.Context, key string, index uint64) (*api.KVPair, uint64, error) {
	limit := d.cfg.Timeout
	if index > 0 {
		limit += waitTime + waitTime/16
	}
	ctx, cancel, err := d.call(ctx, "watch "+key, limit)
	if err != nil {
		return nil, 0, err
	}
	defer cancel()
	q := d.query(ctx, index == 0)
	q.WaitIndex, q.WaitTime = index, waitTime
	pair, meta, err := d.client.KV().Get(key, q)
	if err != nil {
		switch cause := context.Cause(ctx); {
		case index > 0 && fault.CodeOf(cause) == fault.CodeStoreUnavailable:
			err = fault.New(fault.CodeStoreUnavailable, "Consul at %s left a watch unanswered that it answers every %s at the latest", d.cfg.Address, waitTime)
		case cause != nil:
			err = cause
		}
		return nil, 0, err
	}
	return pair, meta.LastIndex, nil
}

// Wait implements store.Driver.
func (d *Driver) Wait(ctx context.Context, after uint64) error {
	const doing = "wait for log"
	ctx, cancel, err := d.call(ctx, doing, 0)
	if err != nil {
		return err
	}
	defer cancel()
	// What Read found last need not be read again.
	var index uint64
	d.mu.Lock()
	if d.found.Seq == after {
		index = d.found.index
	}
	d.mu.Unlock()
	return d.follow(ctx, d.headKey(), index, func(pair *api.KVPair) (bool, error) {
		at, err := d.decodeHead(pair)
		if err == nil && at.Seq < after {
			// A server that has just lost Consul's leadership may answer with what it
			// had: only a consistent read is believed.
			if _, at, err = d.state(ctx, doing); err == nil && at.Seq < after {
				err = fault.New(fault.CodeLogWentBack, "%s: it ends at entry %d, before entry %d", doing, at.Seq, after)
			}
		}
		if err == nil {
			d.mu.Lock()
			if at.Seq > d.ends {
				d.ends, d.start = at.Seq, at.Start
			}
			d.mu.Unlock()
		}
		return err == nil && at.Seq > after, err
	}, func(err error) error { return d.failure(ctx, doing, false, err) })
}

// sweep deletes what lies behind the mark, beside the writer: thousands of entries
// take seconds. The mark was moved already, so nobody reads them, and what an error
// or the end of the lease leaves there goes with the next trim.
func (d *Driver) sweep(l *lease, upTo uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.toSweep = &behind{l, upTo}
	if d.sweeping || d.ctx.Err() != nil {
		return
	}
	d.sweeping = true
	d.wg.Go(func() {
		for b := d.nextSweep(); b != nil; b = d.nextSweep() {
			_ = d.dropEntries(b.lease, b.upTo)
		}
	})
}

func (d *Driver) nextSweep() *behind {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.toSweep
	d.toSweep, d.sweeping = nil, b != nil
	return b
}

// behind is what a trim under a lease leaves to be deleted.
type behind struct {
	lease *lease
	upTo  uint64
}

// dropEntries deletes the entries up to and with upTo, and their chunks, while the
// lease is held: a log that was put back has other marks.
func (d *Driver) dropEntries(l *lease, upTo uint64) error {
	const doing = "trim log"
	var old []string
	for tree, before := range map[string]string{"log/": d.entryKey(upTo + 1), "chunk/": d.chunkPrefix(upTo + 1)} {
		keys, err := d.keys(doing, d.root+tree)
		if err != nil {
			return err
		}
		n, behind := slices.BinarySearch(keys, before) // Consul sorts them
		if tree == "log/" && !behind && n > 0 {
			n-- // the last one holds entries beyond the mark, too
		}
		old = append(old, keys[:n]...)
	}
	for part := range slices.Chunk(old, txnOps-1) {
		ctx, cancel, err := d.call(d.ctx, doing, d.cfg.Timeout)
		if err != nil {
			return err
		}
		err = d.deleteAll(ctx, doing, part, d.fence(l.session))
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) keys(doing, prefix string) ([]string, error) {
	ctx, cancel, err := d.call(d.ctx, doing, d.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	keys, _, err := d.client.KV().Keys(prefix, "", d.query(ctx, false))
	return keys, err
}

// deleteAll deletes keys, in as many transactions as it takes, each with the guards.
func (d *Driver) deleteAll(ctx context.Context, doing string, keys []string, guards ...*api.TxnOp) error {
	for part := range slices.Chunk(keys, txnOps-len(guards)) {
		ops := slices.Clone(guards)
		for _, k := range part {
			ops = append(ops, kv(api.KVDelete, k))
		}
		_, failed, err := d.txn(ctx, doing, ops)
		if err != nil {
			return err
		}
		if failed != nil {
			return fault.New(fault.CodeStoreUnavailable, "%s: Consul: %s", doing, failed.What)
		}
	}
	return nil
}

// holding gives the lease that is held, if any, and the newest known head.
func (d *Driver) holding() (*lease, versioned) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lease, d.head
}

func (d *Driver) know(h versioned) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.index > d.head.index {
		d.head = h
	}
}

// retryIn paces what is tried again while Consul is away.
func retryIn() *backoff.Backoff {
	return backoff.New(backoff.Policy{Base: 50 * time.Millisecond, Cap: time.Second})
}
