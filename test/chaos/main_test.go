//go:build chaos

// Package chaos breaks real programs at random while they work, and holds what
// they did against what was promised. The seed is printed; -seed repeats the
// schedule of faults (not the machine's timing).
//
//	go test -tags chaos ./test/chaos -run Kills -for 2m -seed 42
//	go test -tags chaos ./test/chaos -run Ring -v -faults 500 -writes 5000 -timeout 60m
//	go test -tags chaos ./test/chaos -run Return -v -agents 2000
//
// Package check, below, says what is held against what.
package chaos

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/meshkit/meshkit/test/harness"
)

var (
	seed     = flag.Uint64("seed", 0, "seed of the fault schedule; 0 takes one from the clock")
	duration = flag.Duration("for", 20*time.Second, "how long a single hub and its agents are killed")
	faults   = flag.Int("faults", 25, "how many faults a ring suffers, at least")
	writes   = flag.Int("writes", 250, "how many writes a ring acknowledges under faults, at least")
	agents   = flag.Int("agents", 150, "how many agents return to a hub that was restarted")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	os.Exit(harness.Main(m))
}

// pause waits, for the schedule of faults; it is not a wait for an event.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
