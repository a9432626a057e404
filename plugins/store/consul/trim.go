package consul

import (
	"context"
	"slices"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
)

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
