package replica

import (
	"context"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Barrier waits until this hub has read all that the store had committed when it
// was called: a read of Current after it sees every write that was acknowledged
// before, by whichever hub. It asks the store once, and fails at once when that
// cannot be read (fault.CodeReadOnly), when the replica is frozen, or with ctx.
func (r *Replica) Barrier(ctx context.Context) error {
	r.mu.Lock()
	l, frozen, split := r.logOpen, r.frozen, r.split
	r.mu.Unlock()
	if split != nil && frozen == nil {
		return split // what the store had is not what the domain has
	}
	if frozen != nil || l == nil {
		if err := r.Health(); err != nil {
			return err
		}
		return fault.New(fault.CodeReadOnly, "the log is not open")
	}
	end, err := l.End(ctx)
	if err != nil {
		return readOnly("the store cannot be asked for the newest state", err)
	}
	for {
		cur, changed := r.Watch()
		if cur != nil && cur.State.Seq() >= end {
			return nil
		}
		if err := r.frozenBy(); err != nil {
			return r.Health()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fault.New(fault.CodeReadOnly, "the log has entry %d and this hub has not read it: %w", end, context.Cause(ctx))
		}
	}
}

// Log gives the open log, for reading; CodeReadOnly while there is none.
func (r *Replica) Log() (*store.Log, error) {
	r.mu.Lock()
	l := r.logOpen
	r.mu.Unlock()
	if l != nil {
		return l, nil
	}
	if err := r.Health(); err != nil {
		return nil, err
	}
	return nil, fault.New(fault.CodeReadOnly, "the log is not open")
}
