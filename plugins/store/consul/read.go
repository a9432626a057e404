package consul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

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
