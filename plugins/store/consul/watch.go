package consul

import (
	"context"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
)

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
