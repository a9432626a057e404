package replica

import "github.com/meshkit/meshkit/pkg/store"

// Tenure gives the leadership that this hub holds, nil for none, and a channel that is
// closed when it begins to use another or lets go of it.
func (r *Replica) Tenure() (*store.Tenure, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tenure, r.tenureMove
}
