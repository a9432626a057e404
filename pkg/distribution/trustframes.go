package distribution

import (
	"sync"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/wire"
)

// maxTrustFrames bounds the cache: nodes name the versions that they hold, and a
// hostile one names any.
const maxTrustFrames = 32

// trustFrames holds encoded trust metadata by who needs it since when. The zero value
// is usable.
type trustFrames struct {
	mu   sync.Mutex // guards made
	made map[trustKey]*wire.Frame
}

type trustKey struct {
	trust        Trust // an immutable value, compared by identity
	root, keyset uint64
}

// frame gives the message that brings a node from these versions to t.
func (c *trustFrames) frame(t Trust, root, keyset uint64) (*wire.Frame, error) {
	key := trustKey{trust: t, root: root, keyset: keyset}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.made[key]; ok {
		return f, nil
	}
	f, err := wire.Encode(&controlv1.StreamResponse{Message: &controlv1.StreamResponse_Trust{Trust: t.Metadata(root, keyset)}})
	if err != nil {
		return nil, err
	}
	if c.made == nil || len(c.made) >= maxTrustFrames {
		c.made = make(map[trustKey]*wire.Frame)
	}
	c.made[key] = f
	return f, nil
}
