package lkg

import (
	"slices"
	"syscall"
	"testing"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/durable/durabletest"
)

// TestASaveThatFailedButWasAppliedCostsNoContentLater lets a version that drops the
// oldest generation fail although it reached the disk, and then goes back to exactly
// that generation: its content must be there after a restart.
func TestASaveThatFailedButWasAppliedCostsNoContentLater(t *testing.T) {
	for n := 1; n <= 9; n++ {
		disk := durabletest.New()
		s, _ := open(t, onDisk(disk))
		h := newHistory(4, 60)
		for v := 1; v <= 3; v++ {
			h.step(v, 60)
			save(t, s, h)
		}
		back := h.state
		g := back.Generations
		back.Generations = []activation.Generation{g[2], g[0], g[1]}
		h.step(4, 60)
		disk.FailOp(n, syscall.EIO, true)
		failed := s.Save(h.state, h.contents) != nil
		if !failed {
			back.Highest = h.state.Highest
		}
		if err := s.Save(back, h.contents); err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again, f := open(t, onDisk(disk.PowerLoss(uint64(n))))
		if got := versions(f.State); !slices.Equal(got, []uint64{1, 3, 2}) {
			t.Errorf("operation %d failed (%v): found %v, lost %q", n, failed, got, f.Lost)
		}
		again.Close()
	}
}
