package hub_test

import (
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
)

// A ring whose leader stays the same keeps its other hubs: each renews its own
// certificate, whether it leads or not, and also one that has expired meanwhile.
func TestAHubThatDoesNotLeadRenewsItsCertificate(t *testing.T) {
	for name, age := range map[string]time.Duration{"in time": 20 * time.Hour, "after it expired": 30 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			d := hubtest.NewDomain(t)
			leader := d.Start(t)
			comesAbout(t, "the first hub leads", leader.Leads)
			d.CASkew.Store(-int64(age))
			source := d.Source(t, identity.Hub, "hub2")
			d.CASkew.Store(0)
			saved := make(chan struct{}, 1)
			follower := leader.Follower(t, "hub2", func(opt *hub.Options) {
				opt.TLS = source
				opt.SaveTLS = func() error { saved <- struct{}{}; return nil }
			})
			select {
			case <-saved:
			case <-time.After(20 * time.Second):
				t.Fatal("the certificate was not renewed")
			}
			if left := time.Until(source.NotAfter()); left < 20*time.Hour {
				t.Errorf("the certificate expires in %s", left)
			}
			if follower.Leads() || !leader.Leads() {
				t.Error("another hub leads now")
			}
			operate(t, follower).apply(t, mesh()...) // what it hands on is taken
		})
	}
}
