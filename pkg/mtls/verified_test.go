package mtls

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// A chain that was found good once is not good for ever, for other roots, or for
// what was only appended to it.
func TestAChainThatIsRememberedIsStillJudged(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	hub := a.source(hubURI)
	now := time.Now()
	hub.now = func() time.Time { return now }
	node := a.source(nodeURI)
	judge := func(chain []*x509.Certificate) fault.Code {
		return fault.CodeOf(VerifyClient(hub, chain, 0))
	}
	for range 2 {
		if code := judge(node.Chain()); code != "" {
			t.Fatalf("a good chain: %s", code)
		}
	}
	if n := hub.cur.Load().verified.chains.Len(); n != 1 {
		t.Errorf("%d chains are remembered, want 1", n)
	}
	forged := append([]*x509.Certificate{other.source(nodeURI).Chain()[0]}, node.Chain()[1:]...)
	if code := judge(forged); code != fault.CodePeerUnverified {
		t.Errorf("another leaf before the same intermediate: %q", code)
	}
	now = node.NotAfter().Add(time.Second)
	if code := judge(node.Chain()); code != fault.CodePeerExpired {
		t.Errorf("after its time: %q", code)
	}
	now = time.Now()
	if err := hub.SetBundle(append(other.bundle(), '\n')); err != nil {
		t.Fatal(err)
	}
	if code := judge(node.Chain()); code != fault.CodePeerUnverified {
		t.Errorf("with other roots: %q", code)
	}
}
