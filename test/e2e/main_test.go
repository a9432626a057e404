// Package e2e runs the real programs as their users do, and as those who wish
// them ill.
package e2e

import (
	"os"
	"testing"

	"github.com/meshkit/meshkit/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(withShared{m})) }

// withShared ends what the tests shared when they are all done.
type withShared struct{ m *testing.M }

// Run implements what harness.Main runs.
func (w withShared) Run() int {
	defer shared.tb.end()
	return w.m.Run()
}
