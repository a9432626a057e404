// Package run starts the long-lived parts of a program and waits for all of
// them: when one ends, with an error or not, the context of the others ends,
// and Wait returns once every part has returned. No goroutine is left behind.
package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group owns a set of goroutines. Use New; the zero value is not usable.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu   sync.Mutex // guards errs
	errs []error
}

// New makes a group whose context ends with ctx, or when a part ends.
func New(ctx context.Context) *Group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Context is the context that the parts run under.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts a part. Its return ends the group; an error names the part. The
// cause of the group's context, returned as it is, does not count as an error.
func (g *Group) Go(name string, f func(ctx context.Context) error) {
	g.wg.Go(func() {
		err := f(g.ctx)
		if err != nil && (g.ctx.Err() == nil || !endedBy(g.ctx, err)) {
			err = fmt.Errorf("%s: %w", name, err)
			g.mu.Lock()
			g.errs = append(g.errs, err)
			g.mu.Unlock()
		}
		g.cancel(err)
	})
}

// Stop ends the group's context.
func (g *Group) Stop() { g.cancel(nil) }

// Wait returns when every part has returned, with all of their errors.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(nil)
	return errors.Join(g.errs...)
}

func endedBy(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))
}
