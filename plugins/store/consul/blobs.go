package consul

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Put implements store.Blobs.
func (d *Driver) Put(ctx context.Context, key string, data []byte) error {
	doing := "put " + key
	if len(data) > store.MaxBlob {
		return fault.New(fault.CodeEntryTooLarge, "%s: it has %d bytes, at most %d are taken", doing, len(data), store.MaxBlob)
	}
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := d.client.KV().Put(&api.KVPair{Key: d.blobKey(key), Value: data}, d.write(ctx)); err != nil {
		return d.failure(ctx, doing, true, err)
	}
	return nil
}

// Get implements store.Blobs.
func (d *Driver) Get(ctx context.Context, key string) ([]byte, error) {
	doing := "get " + key
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	pair, _, err := d.client.KV().Get(d.blobKey(key), d.query(ctx, true))
	if err != nil {
		return nil, d.failure(ctx, doing, false, err)
	}
	if pair == nil {
		return nil, fault.New(fault.CodeBlobMissing, "%s: it is not in the store", doing)
	}
	return pair.Value, nil
}

// List implements store.Blobs.
func (d *Driver) List(ctx context.Context, prefix string) ([]string, error) {
	doing := "list " + prefix
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	keys, _, err := d.client.KV().Keys(d.blobKey(prefix), "", d.query(ctx, true))
	if err != nil {
		return nil, d.failure(ctx, doing, false, err)
	}
	for i, k := range keys {
		keys[i] = strings.TrimPrefix(k, d.blobKey(""))
	}
	return keys, nil
}

// Delete implements store.Blobs.
func (d *Driver) Delete(ctx context.Context, keys ...string) error {
	const doing = "delete"
	ctx, cancel, err := d.call(ctx, doing, d.cfg.Timeout)
	if err != nil {
		return err
	}
	defer cancel()
	full := make([]string, len(keys))
	for i, k := range keys {
		full[i] = d.blobKey(k)
	}
	if err := d.deleteAll(ctx, doing, full); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
