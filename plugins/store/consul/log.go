package consul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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
// applied, or the first operation that had it rolled back. A token that may not do one of
// them is an error.
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
		for _, e := range resp.Errors {
			// The ACL is asked before anything is tried: that operation says nothing of
			// its key.
			if err := d.refused(doing, errors.New(e.What)); err != nil {
				return 0, nil, err
			}
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
