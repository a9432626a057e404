package bolt

import (
	"bytes"
	"context"

	"go.etcd.io/bbolt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// blobsIn gives a domain's bucket of blobs.
func (d *domain) blobsIn(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	b, _, _, err := d.file.domainIn(tx, d.bucket)
	if err != nil {
		return nil, err
	}
	return b.Bucket(blobsBucket), nil
}

// Put implements store.Blobs.
func (r *driver) Put(ctx context.Context, key string, data []byte) error {
	doing := "put " + key
	if err := r.check(ctx, doing); err != nil {
		return err
	}
	if len(data) > store.MaxBlob {
		return fault.New(fault.CodeEntryTooLarge, "%s: it has %d bytes, at most %d are taken", doing, len(data), store.MaxBlob)
	}
	return r.d.file.update(doing, func(tx *bbolt.Tx) error {
		b, err := r.d.blobsIn(tx)
		if err != nil {
			return err
		}
		return b.Put([]byte(key), data)
	})
}

// Get implements store.Blobs.
func (r *driver) Get(ctx context.Context, key string) ([]byte, error) {
	doing := "get " + key
	if err := r.check(ctx, doing); err != nil {
		return nil, err
	}
	var data []byte
	err := r.d.file.view(doing, func(tx *bbolt.Tx) error {
		b, err := r.d.blobsIn(tx)
		if err != nil {
			return err
		}
		v := b.Get([]byte(key))
		if v == nil {
			return fault.New(fault.CodeBlobMissing, "%s: it is not in the store", doing)
		}
		data = bytes.Clone(v)
		return nil
	})
	return data, err
}

// List implements store.Blobs.
func (r *driver) List(ctx context.Context, prefix string) ([]string, error) {
	doing := "list " + prefix
	if err := r.check(ctx, doing); err != nil {
		return nil, err
	}
	var keys []string
	err := r.d.file.view(doing, func(tx *bbolt.Tx) error {
		b, err := r.d.blobsIn(tx)
		if err != nil {
			return err
		}
		c := b.Cursor()
		for k, _ := c.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)) && k != nil; k, _ = c.Next() {
			keys = append(keys, string(k))
		}
		return nil
	})
	return keys, err
}

// Delete implements store.Blobs.
func (r *driver) Delete(ctx context.Context, keys ...string) error {
	if err := r.check(ctx, "delete"); err != nil {
		return err
	}
	return r.d.file.update("delete", func(tx *bbolt.Tx) error {
		b, err := r.d.blobsIn(tx)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := b.Delete([]byte(k)); err != nil {
				return err
			}
		}
		return nil
	})
}
