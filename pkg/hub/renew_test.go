package hub_test

import (
	"testing"
	"time"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
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

// A listed hub can make a certificate in the name of any other. What the log has of that
// one it cannot get with it: that would count when it has been dropped.
func TestAHubGetsNoCertificateInTheNameOfAnother(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	evil, err := sign.Create(t.Context(), hubtest.NewKeys(), keyring.ConfigKey, sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	h.Publish(t, trust.KeysetEdit{Add: map[string][]sign.PublicKey{"hub3": {evil.Public()}}})
	config, err := sign.Open(t.Context(), d.Keys, keyring.ConfigKey)
	if err != nil {
		t.Fatal(err)
	}
	forged := d.SourceOf(t, d.AuthorityOf(t, "hub3"), identity.Hub, hubtest.HubName)
	client, pin := identityv1.NewIdentityServiceClient(h.Dial(t, forged)), d.Authority.Pin()
	csr, err := ca.NewCSR(hubtest.Key(t), forged.ID())
	if err != nil {
		t.Fatal(err)
	}
	renew := func(signer *sign.Signer, hub string, signed []byte) error {
		proof, err := signer.Sign(t.Context(), join.RenewProof(pin, hub, signed))
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Renew(t.Context(), &identityv1.RenewRequest{Csr: csr, ConfigProof: proof})
		return err
	}
	if _, err := client.Renew(t.Context(), &identityv1.RenewRequest{Csr: csr}); fault.CodeOf(err) != fault.CodeRenewalUnproven {
		t.Errorf("without a proof: %v", err)
	}
	for name, err := range map[string]error{
		"with its own key":                  renew(evil, hubtest.HubName, csr),
		"with its own key and in its name":  renew(evil, "hub3", csr),
		"with the proof of another request": renew(config, hubtest.HubName, hubtest.CSR(t, hubtest.Key(t), "a")),
		"with the proof of another hub's":   renew(config, "hub2", csr),
	} {
		if fault.CodeOf(err) != fault.CodeRenewalUnproven {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(logged(t, d, state.KindCertificateIssued)); n != 0 {
		t.Errorf("the log has %d certificates", n)
	}
	if err := renew(config, hubtest.HubName, csr); err != nil {
		t.Errorf("with the key that the keyset lists for it: %v", err)
	}
}
