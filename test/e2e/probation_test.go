package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// agentSite is a site whose agent has settings of its own.
func agentSite(t *testing.T, settings string) *site {
	t.Helper()
	c := harness.New(t)
	s := &site{Cluster: c, hub: c.NewHub("eu-west")}
	s.agent = c.JoinAgent(s.hub, "node-1", "region=eu")
	s.agent.Configure(settings)
	s.agent.Start()
	return s
}

// putCluster applies one cluster with the address and waits for the agent.
func (s *site) putCluster(t *testing.T, address string) harness.Result {
	t.Helper()
	return s.Run("meshctl", "apply", "-f", s.write(t, "one.yaml", clusterYAML("payments", address)), "--wait")
}

// keep applies an address and waits until the agent keeps it.
func (s *site) keep(t *testing.T, address string) statusOf {
	t.Helper()
	if r := s.putCluster(t, address); r.Code != 0 {
		t.Fatalf("apply exited %d\n%s", r.Code, r.Stderr)
	}
	return awaitStatus(t, s.Cluster, s.agent, address+" kept", func(st statusOf) bool {
		return st.Phase == "active" && len(st.Generations) > 0 && st.Generations[0].State == "active" && strings.Contains(bundleOf(t, s.Cluster, s.agent), address)
	})
}

// wantSeen looks for what an operator must see of a refusal: in the list, in the
// description, and on the node.
func (s *site) wantSeen(t *testing.T, code fault.Code, words string) {
	t.Helper()
	err := harness.Poll(harness.Patience, func() (bool, error) {
		return strings.Contains(s.Ctl("get", "agents", "-o", "wide"), "Degraded"), nil
	})
	if err != nil {
		t.Errorf("get agents does not show the agent as degraded:\n%s", s.Ctl("get", "agents", "-o", "wide"))
	}
	wantContains(t, "describe agent", s.Ctl("describe", "agent", "node-1"), string(code), words)
	wantContains(t, "meshagent status", s.Must("meshagent", "status", "--config", s.agent.Config()), words)
}

// TestAVersionThatMakesTheDataPlaneUnhealthyIsTakenBack runs a health command that
// fails on a marker: the agent returns to the generation before, says why, does not
// try the same content again, and takes the correction.
func TestAVersionThatMakesTheDataPlaneUnhealthyIsTakenBack(t *testing.T) {
	s := agentSite(t, `
probation:
  period: 500ms
  interval: 50ms
  failures: 2
  health: [sh, -c, 'if grep -q 10.66.66.66 "$MESHKIT_BUNDLE"; then echo payments unreachable; exit 1; fi']
`)
	good := s.keep(t, "10.0.0.1:80")
	if r := s.putCluster(t, "10.66.66.66:80"); r.Code != 0 && r.Code != 9 {
		t.Errorf("apply exited %d\n%s", r.Code, r.Stderr)
	}
	back := awaitStatus(t, s.Cluster, s.agent, "return to the generation before", func(st statusOf) bool {
		return st.Phase == "degraded" && st.active().Digest == good.active().Digest
	})
	if back.Highest.Version <= good.Highest.Version {
		t.Errorf("highest went from %d to %d: what was tried must be remembered", good.Highest.Version, back.Highest.Version)
	}
	wantContains(t, "bundle after the return", bundleOf(t, s.Cluster, s.agent), "10.0.0.1:80")
	s.wantSeen(t, fault.CodeProbationFailed, "payments unreachable")

	s.agent.Kill() // also after a restart
	s.agent.Start()
	if st := status(t, s.Cluster, s.agent); st.active().Digest != good.active().Digest {
		t.Errorf("after a restart %+v is active", st.active())
	}
	s.keep(t, "10.0.0.2:80")
	r := s.putCluster(t, "10.66.66.66:80") // the same content under another version
	wantRefused(t, r, 9, fault.CodePartial, "node-1", string(fault.CodeQuarantined))
	s.keep(t, "10.0.0.3:80")
}

// TestAnExternalCommandCanRefuseAVersion shows the nack: apply --wait exits 9, and
// the agent keeps what it had.
func TestAnExternalCommandCanRefuseAVersion(t *testing.T) {
	s := agentSite(t, `
validate:
  command: [sh, -c, 'if grep -q 10.66.66.66 "$0"; then echo no such network; exit 3; fi']
probation:
  period: 50ms
`)
	good := s.keep(t, "10.0.0.1:80")
	wantRefused(t, s.putCluster(t, "10.66.66.66:80"), 9, fault.CodePartial, "node-1", string(fault.CodeValidateCommand), "no such network")
	if st := status(t, s.Cluster, s.agent); st.active().Digest != good.active().Digest || st.Highest != good.Highest {
		t.Errorf("a refused version moved the agent from %+v to %+v", good, st)
	}
	s.wantSeen(t, fault.CodeValidateCommand, "no such network")
	s.keep(t, "10.0.0.2:80")
}

// TestAFailedHookRevertsTheVersion fails the hook that tells the data plane.
func TestAFailedHookRevertsTheVersion(t *testing.T) {
	c := harness.New(t)
	s := &site{Cluster: c, hub: c.NewHub("eu-west")}
	s.agent = c.JoinAgent(s.hub, "node-1", "region=eu")
	edit(t, s.agent.Config(), "  path: bundle.json\n", "  path: bundle.json\n  hook: [sh, -c, 'if grep -q 10.66.66.66 \"$MESHKIT_BUNDLE\"; then echo reload failed; exit 1; fi']\nprobation: {period: 50ms}\n")
	s.agent.Start()
	good := s.keep(t, "10.0.0.1:80")
	wantRefused(t, s.putCluster(t, "10.66.66.66:80"), 9, fault.CodePartial, string(fault.CodeActivationFailed), "reload failed")
	awaitStatus(t, s.Cluster, s.agent, "return to the generation before", func(st statusOf) bool {
		return st.active().Digest == good.active().Digest && strings.Contains(bundleOf(t, s.Cluster, s.agent), "10.0.0.1:80")
	})
	s.wantSeen(t, fault.CodeActivationFailed, "reload failed")
}

// TestACrashLoopStartsFromTheGenerationBefore kills the agent again and again within
// the probation of a version, as a version that crashes its host would.
func TestACrashLoopStartsFromTheGenerationBefore(t *testing.T) {
	const crashes = 3
	s := agentSite(t, fmt.Sprintf("\nprobation:\n  maxRestarts: %d\n  period: 100ms\n", crashes))
	good := s.keep(t, "10.0.0.1:80")
	if code := s.agent.Stop(); code != 0 {
		t.Fatalf("meshagent exited %d", code)
	}
	edit(t, s.agent.Config(), "period: 100ms", "period: 10m")
	s.agent.Start()
	awaitStatus(t, s.Cluster, s.agent, "connection", func(st statusOf) bool { return st.Connected })
	if r := s.putCluster(t, "10.66.66.66:80"); r.Code != 0 {
		t.Fatalf("apply exited %d\n%s", r.Code, r.Stderr)
	}
	for i := range crashes {
		if !strings.Contains(bundleOf(t, s.Cluster, s.agent), "10.66.66.66") {
			t.Fatalf("the agent went back after %d crashes, %d are permitted", i, crashes-1)
		}
		s.agent.Kill()
		s.agent.Start()
	}
	st := awaitStatus(t, s.Cluster, s.agent, "the generation before", func(st statusOf) bool { return st.Connected })
	if st.active().Digest != good.active().Digest || !strings.Contains(bundleOf(t, s.Cluster, s.agent), "10.0.0.1:80") {
		t.Errorf("after %d crashes %+v is active, want %+v", crashes, st.active(), good.active())
	}
	// The hub offered it again, which is refused for what it did.
	s.wantSeen(t, fault.CodeQuarantined, "ended 3 times without")
	wantContains(t, "the agent's log", s.Log("node-1"), string(fault.CodeCrashLoop))
}
