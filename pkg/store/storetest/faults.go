package storetest

import (
	"context"
	"sync/atomic"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Faults wraps a driver, which must implement store.Blobs as well, so that calls
// can fail. A hook decides what becomes of a call: it may call next or not, and
// answers as it likes. Hooks are set before the driver is used and may be called
// from several goroutines; nil hooks pass everything on.
type Faults struct {
	store.Driver
	OnAppend   func(ctx context.Context, b store.Batch, next func() error) error
	OnRead     func(ctx context.Context, after uint64, limit int, next func() (store.Page, error)) (store.Page, error)
	OnWait     func(ctx context.Context, after uint64, next func() error) error
	OnCampaign func(store.Lease) store.Lease
	OnPut      func(key string, next func() error) error
	OnGet      func(key string, next func() ([]byte, error)) ([]byte, error)
	// MaxLimits are what Limits gives.
	MaxLimits store.Limits
}

// Append implements store.Driver.
func (f *Faults) Append(ctx context.Context, b store.Batch) error {
	next := func() error { return f.Driver.Append(ctx, b) }
	if f.OnAppend == nil {
		return next()
	}
	return f.OnAppend(ctx, b, next)
}

// Read implements store.Driver.
func (f *Faults) Read(ctx context.Context, after uint64, limit int) (store.Page, error) {
	next := func() (store.Page, error) { return f.Driver.Read(ctx, after, limit) }
	if f.OnRead == nil {
		return next()
	}
	return f.OnRead(ctx, after, limit, next)
}

// Wait implements store.Driver.
func (f *Faults) Wait(ctx context.Context, after uint64) error {
	next := func() error { return f.Driver.Wait(ctx, after) }
	if f.OnWait == nil {
		return next()
	}
	return f.OnWait(ctx, after, next)
}

// Campaign implements store.Driver.
func (f *Faults) Campaign(ctx context.Context, h store.Holder) (store.Lease, error) {
	l, err := f.Driver.Campaign(ctx, h)
	if err == nil && f.OnCampaign != nil {
		l = f.OnCampaign(l)
	}
	return l, err
}

// Limits implements store.Limited.
func (f *Faults) Limits() store.Limits { return f.MaxLimits }

func (f *Faults) blobs() store.Blobs { return f.Driver.(store.Blobs) }

// Put implements store.Blobs.
func (f *Faults) Put(ctx context.Context, key string, data []byte) error {
	next := func() error { return f.blobs().Put(ctx, key, data) }
	if f.OnPut == nil {
		return next()
	}
	return f.OnPut(key, next)
}

// Get implements store.Blobs.
func (f *Faults) Get(ctx context.Context, key string) ([]byte, error) {
	next := func() ([]byte, error) { return f.blobs().Get(ctx, key) }
	if f.OnGet == nil {
		return next()
	}
	return f.OnGet(key, next)
}

// List implements store.Blobs.
func (f *Faults) List(ctx context.Context, prefix string) ([]string, error) {
	return f.blobs().List(ctx, prefix)
}

// Delete implements store.Blobs.
func (f *Faults) Delete(ctx context.Context, keys ...string) error {
	return f.blobs().Delete(ctx, keys...)
}

// AppendHook is the type of Faults.OnAppend.
type AppendHook = func(ctx context.Context, b store.Batch, next func() error) error

// NotApplied lets the n-th append (from 1) fail without doing it; the answer
// does not tell that it was not done.
func NotApplied(n int64) AppendHook {
	var calls atomic.Int64
	return func(_ context.Context, _ store.Batch, next func() error) error {
		if calls.Add(1) == n {
			return errLink
		}
		return next()
	}
}

// AppliedButFailed does the n-th append (from 1) and then says that it failed.
func AppliedButFailed(n int64) AppendHook {
	var calls atomic.Int64
	return func(_ context.Context, _ store.Batch, next func() error) error {
		err := next()
		if calls.Add(1) == n && err == nil {
			return errLink
		}
		return err
	}
}

// Refused lets the n-th append (from 1) be refused with a code.
func Refused(n int64, code fault.Code) AppendHook {
	var calls atomic.Int64
	return func(_ context.Context, _ store.Batch, next func() error) error {
		if calls.Add(1) == n {
			return fault.New(code, "refused by the test")
		}
		return next()
	}
}
