package e2e

import (
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestBreakGlassNeedsNoHub pins, reverts and unpins with the hub killed, across a
// crash of the agent; and with the hub back a pin still holds.
func TestBreakGlassNeedsNoHub(t *testing.T) {
	s := agentSite(t, "\nprobation:\n  period: 50ms\n")
	s.keep(t, "10.0.0.1:80")
	s.keep(t, "10.0.0.2:80")
	s.hub.Kill()
	agent := func(args ...string) string {
		t.Helper()
		return s.Must("meshagent", append(args, "--config", s.agent.Config())...)
	}
	serves := func(address string) {
		t.Helper()
		wantContains(t, "the bundle", bundleOf(t, s.Cluster, s.agent), address)
	}
	awaitStatus(t, s.Cluster, s.agent, "the loss of the hub", func(st statusOf) bool { return !st.Connected })

	agent("revert", "--reason", "checkout fails")
	serves("10.0.0.1:80")
	wantContains(t, "meshagent status", agent("status"), "Pinned       yes", "reverted from version")
	highest := status(t, s.Cluster, s.agent).Highest

	s.agent.Kill()
	s.agent.Start()
	serves("10.0.0.1:80")
	if st := status(t, s.Cluster, s.agent); !st.Pinned || st.Highest != highest {
		t.Errorf("a crash took the pin away, or the memory of what was tried: %+v, want highest %+v", st, highest)
	}
	wantRefused(t, s.Run("meshagent", "pin", "--config", s.agent.Config(), "--version", "99999"), 5, fault.CodeGenerationNotFound, "99999")

	s.hub.Start()
	awaitStatus(t, s.Cluster, s.agent, "the hub's return", func(st statusOf) bool { return st.Connected })
	wantRefused(t, s.putCluster(t, "10.0.0.3:80"), 9, fault.CodePartial, string(fault.CodePinned), "checkout fails")
	serves("10.0.0.1:80")
	agent("unpin")
	awaitStatus(t, s.Cluster, s.agent, "the newest version", func(st statusOf) bool {
		return !st.Pinned && strings.Contains(bundleOf(t, s.Cluster, s.agent), "10.0.0.3:80")
	})
	s.agent.Kill()
	wantRefused(t, s.Run("meshagent", "status", "--config", s.agent.Config()), 1, fault.CodeAgentUnreachable)
	wantRefused(t, s.Run("meshagent", "status", "--config", s.Path("nowhere.yaml")), 5, fault.CodeNotJoined)
	wantRefused(t, s.Run("meshagent", "status", "--config", s.write(t, "bad.yaml", "domian: eu-west\n")), 65, fault.CodeConfig, "bad.yaml:1:1", "domain?")
}
