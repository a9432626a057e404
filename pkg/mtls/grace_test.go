package mtls

import (
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// TestGraceIsForNodesAlone: operators and hubs do not renew by themselves after an
// outage, so a longer life of their certificates would help thieves only.
func TestGraceIsForNodesAlone(t *testing.T) {
	a := newAuthority(t)
	issued := time.Now()
	for uri, code := range map[string]fault.Code{nodeURI: "", operatorURI: fault.CodePeerExpired, hubURI: fault.CodePeerExpired} {
		hub, err := NewSource(a.leaf(hubURI, issued), a.bundle())
		if err != nil {
			t.Fatal(err)
		}
		client, err := NewSource(a.leaf(uri, issued), a.bundle())
		if err != nil {
			t.Fatal(err)
		}
		hub.now = func() time.Time { return issued.Add(30 * time.Hour) }
		r := connect(t, ServerConfig(hub, ServerOptions{Grace: 72 * time.Hour}), ClientConfig(client, nil))
		if fault.CodeOf(r.server) != code {
			t.Errorf("%s, six hours after its expiry: %v, want code %q", uri, r.server, code)
		}
	}
}

// TestACertificateThatNoCAOfTheBundleIssuedIsNotTaken: a hub that answers a renewal
// with garbage must not cost the node the certificate that works.
func TestACertificateThatNoCAOfTheBundleIssuedIsNotTaken(t *testing.T) {
	a := newAuthority(t)
	s := a.source(nodeURI)
	before := s.NotAfter()
	if err := s.SetCertificate(newAuthority(t).leaf(nodeURI, time.Now().Add(time.Hour))); fault.CodeOf(err) != fault.CodeCertificateInvalid {
		t.Errorf("certificate of another CA: %v, want %s", err, fault.CodeCertificateInvalid)
	}
	if !s.NotAfter().Equal(before) {
		t.Error("the certificate was replaced")
	}
	// A CA whose clock is wrong issues certificates that work for its own hubs.
	if err := s.SetCertificate(a.leaf(nodeURI, time.Now().Add(-48*time.Hour))); err != nil {
		t.Errorf("certificate issued by a clock that is behind: %v", err)
	}
}
