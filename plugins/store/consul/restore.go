package consul

import (
	"context"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// restoreTimeout is for one request of a restore that has Consul delete many keys.
const restoreTimeout = time.Minute

// filling implements store.Filling. Each transaction checks that the filling key is
// still as BeginRestore wrote it: of two restores the later one goes on.
type filling struct {
	d *Driver
	// mark is the index of the filling key.
	mark uint64
	// before is the head as it was, without entries; its index is 0 if there is none.
	before versioned
}

// BeginRestore implements store.Restorer.
func (d *Driver) BeginRestore(ctx context.Context) (store.Filling, error) {
	const doing = "restore log"
	ctx, cancel, err := d.call(ctx, doing, restoreTimeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	pair, _, err := d.client.KV().Get(d.headKey(), d.query(ctx, true))
	if err != nil {
		return nil, d.failure(ctx, doing, false, err)
	}
	at, err := d.decodeHead(pair)
	if err != nil {
		return nil, err
	}
	if at.Seq > 0 {
		return nil, store.NotEmpty(store.Position{Seq: at.Seq, Term: at.head.Term})
	}
	begun := put(d.fillingKey(), []byte(time.Now().UTC().Format(time.RFC3339Nano)))
	done, resp, _, err := d.client.Txn().Txn([]*api.TxnOp{d.headStands(at.index), begun}, d.query(ctx, false))
	switch {
	case err != nil:
		return nil, d.failure(ctx, doing, true, err)
	case !done || len(resp.Results) == 0:
		return nil, fault.New(fault.CodeStoreUnavailable, "%s: another program writes to %s", doing, d.headKey())
	}
	f := &filling{d: d, before: at, mark: resp.Results[len(resp.Results)-1].KV.ModifyIndex}
	for _, tree := range []string{"log/", "chunk/"} {
		if _, err := d.client.KV().DeleteTree(d.root+tree, d.write(ctx)); err != nil {
			return nil, d.failure(ctx, doing, true, err)
		}
	}
	return f, nil
}

// headStands lets a transaction pass only while the head is at index; 0: while there
// is none.
func (d *Driver) headStands(index uint64) *api.TxnOp {
	if index == 0 {
		return kv(api.KVCheckNotExists, d.headKey())
	}
	op := kv(api.KVCheckIndex, d.headKey())
	op.KV.Index = index
	return op
}

// marked lets a transaction pass only while this restore is the newest.
func (f *filling) marked() *api.TxnOp {
	op := kv(api.KVCheckIndex, f.d.fillingKey())
	op.KV.Index = f.mark
	return op
}

func (f *filling) run(ctx context.Context, doing string, ops []*api.TxnOp) error {
	_, failed, err := f.d.txn(ctx, doing, append([]*api.TxnOp{f.marked()}, ops...))
	switch {
	case err != nil:
		return err
	case failed == nil:
		return nil
	case failed.OpIndex == 0:
		return fault.New(fault.CodeRestoreUnfinished, "%s: another restore was begun", doing)
	}
	return fault.New(fault.CodeStoreUnavailable, "%s: Consul rolled the transaction back: %s", doing, failed.What)
}

// Put implements store.Filling.
func (f *filling) Put(ctx context.Context, records []store.Record) error {
	const doing = "restore log"
	ctx, cancel, err := f.d.call(ctx, doing, restoreTimeout)
	if err != nil {
		return err
	}
	defer cancel()
	ops, _, err := f.d.entries(ctx, doing, store.Batch{Records: records})
	if err != nil {
		return err
	}
	return f.run(ctx, doing, ops)
}

// Commit implements store.Filling.
func (f *filling) Commit(ctx context.Context, trimmed uint64, to store.Position) error {
	const doing = "restore log"
	ctx, cancel, err := f.d.call(ctx, doing, restoreTimeout)
	if err != nil {
		return err
	}
	defer cancel()
	next := f.before.head
	next.Seq, next.Term, next.Start, next.Trimmed, next.Lease = to.Seq, to.Term, 0, trimmed, max(next.Lease, to.Term)
	return f.run(ctx, doing, []*api.TxnOp{f.d.casHead(next, f.before.index), kv(api.KVDelete, f.d.fillingKey())})
}
