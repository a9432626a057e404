package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// join runs `meshagent join` and gives its result and data directory.
func (s *site) join(node, token, pin string) (harness.Result, string) {
	data := s.Path("joining-" + node)
	return s.Run("meshagent", "join", "--hub", s.hub.Address, "--token", token, "--ca-pin", pin, "--node", node, "--data", data), data
}

// nodes lists the names that have joined.
func (s *site) nodes(t *testing.T) string {
	t.Helper()
	return s.Ctl("get", "agents", "-o", "name")
}

// TestOneUseOfATokenAdmitsOneNode lets several nodes use a token at the same instant.
func TestOneUseOfATokenAdmitsOneNode(t *testing.T) {
	s := sharedSite(t)
	token, pin := s.Token("--uses", "1")
	const contenders = 4 // few: the hub slows down hosts whose joins fail
	results := make([]harness.Result, contenders)
	var wg sync.WaitGroup
	for i := range contenders {
		wg.Go(func() { results[i], _ = s.join(fmt.Sprintf("contender-%d", i), token, pin) })
	}
	wg.Wait()
	admitted := 0
	for i, r := range results {
		if r.Code == 0 {
			admitted++
			s.Ctl("agent", "forget", fmt.Sprintf("contender-%d", i))
			continue
		}
		wantRefused(t, r, 4, fault.CodeTokenUsed)
		if _, err := os.Stat(s.Path(fmt.Sprintf("joining-contender-%d", i), "tls", "node.pem")); err == nil {
			t.Errorf("contender %d was refused and has a certificate", i)
		}
	}
	if admitted != 1 {
		t.Errorf("%d of %d joined with a token for one", admitted, contenders)
	}
}

// TestTokensThatAreNotGoodAdmitNobody covers expired, revoked, unknown, altered and
// bound tokens, a wrong pin, a taken name and names that are none.
func TestTokensThatAreNotGoodAdmitNobody(t *testing.T) {
	s := sharedSite(t)
	before := s.nodes(t)
	expired, pin := s.Token("--ttl", "1ms")
	revoked, _ := s.Token()
	s.Ctl("token", "revoke", strings.SplitN(revoked, ".", 2)[0])
	bound, _ := s.Token("--node", "somebody")
	good, _ := s.Token()
	wrongPin := "sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		node, token, pin string
		exit             int
		code             fault.Code
	}{
		"expired":          {"late", expired, pin, 4, fault.CodeTokenExpired},
		"revoked":          {"revoked", revoked, pin, 4, fault.CodeTokenRevoked},
		"unknown":          {"unknown", "abcdefgh.abcdefghijklmnopqrstuvwxyz", pin, 4, fault.CodeTokenInvalid},
		"altered":          {"altered", good[:len(good)-4] + "AAAA", pin, 4, fault.CodeTokenInvalid},
		"no token":         {"none", "\x1b[2J", pin, 65, fault.CodeJoinArguments},
		"another's":        {"nobody", bound, pin, 4, fault.CodeTokenBound},
		"wrong pin":        {"pin", good, wrongPin, 4, fault.CodePinMismatch},
		"pin that's none":  {"nopin", good, "sha256:12", 65, fault.CodePinInvalid},
		"taken name":       {"node-1", good, pin, 1, fault.CodeNodeExists},
		"name that's none": {"No_Name\x1b", good, pin, 65, fault.CodeJoinArguments},
	} {
		r, data := s.join(c.node, c.token, c.pin)
		wantRefused(t, r, c.exit, c.code)
		if _, err := os.Stat(filepath.Join(data, "tls", "node.pem")); err == nil {
			t.Errorf("%s: a certificate was stored", name)
		}
		if r := s.Run("meshagent", "run", "--config", filepath.Join(data, "meshagent.yaml")); r.Code == 0 {
			t.Errorf("%s: the agent runs", name)
		}
	}
	if after := s.nodes(t); after != before {
		t.Errorf("nodes are\n%s\nwere\n%s", after, before)
	}
	// Nothing of that spent the good token, and a mistyped pin can be mended in the
	// same directory.
	if r, _ := s.join("pin", good, pin); r.Code != 0 {
		t.Errorf("a good token after all that: exit %d\n%s", r.Code, r.Stderr)
	}
	s.Ctl("agent", "forget", "pin")
}

// TestAForgottenAgentIsRefusedAndKeepsServing forgets a running agent: its stream
// ends, a restart does not help, it says why, and what it has stays.
func TestAForgottenAgentIsRefusedAndKeepsServing(t *testing.T) {
	s := sharedSite(t)
	a := s.NewAgent(s.hub, "forgotten", "region=eu")
	awaitStatus(t, s.Cluster, a, "content", func(st statusOf) bool { return st.active().Version > 0 && st.Connected })
	before := bundleOf(t, s.Cluster, a)
	s.Ctl("agent", "forget", "forgotten", "--reason", "decommissioned")
	refused := func(st statusOf) bool { return !st.Connected && strings.Contains(st.Message, "forgotten") }
	awaitStatus(t, s.Cluster, a, "the end of its stream", refused)
	a.Kill()
	a.Start()
	awaitStatus(t, s.Cluster, a, "refusal after a restart", refused)
	if after := bundleOf(t, s.Cluster, a); after != before {
		t.Errorf("being forgotten changed what it serves:\n%s\nwas\n%s", after, before)
	}
	if out := s.nodes(t); strings.Contains(out, "forgotten") {
		t.Errorf("agents are\n%s", out)
	}
}
