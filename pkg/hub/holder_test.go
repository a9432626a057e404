package hub_test

import (
	"strings"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// failedOver starts a ring in which hub2 leads, and hub1, which is to be started
// again, has the keyset key.
func failedOver(t *testing.T) (d *hubtest.Domain, hub2 *hubtest.Running) {
	t.Helper()
	d = hubtest.NewDomain(t)
	hub1 := d.Start(t)
	comesAbout(t, "hub1 leads", hub1.Leads)
	hub2 = hub1.Follower(t, "hub2")
	list(t, hub1, "hub3")
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", hub2.Leads)
	trusted := operate(t, hub2).trust
	comesAbout(t, "hub2 has the newest keyset", func() bool {
		shown, err := trusted.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
		return err == nil && len(shown.GetHubKeys()) == 3
	})
	return d, hub2
}

func TestTheHubWithTheKeysetKeyChangesTheKeysetWhoeverLeads(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t)
	o := operate(t, hub1)
	if _, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: "rotate"}); err != nil {
		t.Errorf("rotate: %v", err)
	}
	if _, err := o.trust.DropHubKey(t.Context(), &adminv1.DropHubKeyRequest{Hub: "hub3", Reason: "gone"}); err != nil {
		t.Errorf("drop: %v", err)
	}
	shown, err := operate(t, hub2).trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var hubs []string
	for _, k := range shown.GetHubKeys() {
		hubs = append(hubs, k.GetHub())
	}
	if strings.Join(hubs, " ") != "hub1 hub2" {
		t.Errorf("keys of %v are listed", hubs)
	}
	o.apply(t, mesh()...)
	if hub1.Leads() || !hub2.Leads() {
		t.Error("hub1 leads now")
	}
}

func TestAKeysetIsExtendedByTheHubWithItsKeyWhoeverLeads(t *testing.T) {
	d, hub2 := failedOver(t)
	hub2.Publish(t, trust.KeysetEdit{Expires: time.Now().Add(10 * 24 * time.Hour)})
	ending := func() bool {
		for _, p := range hub2.Problems(t.Context()) {
			if p.Code == fault.CodeKeysetEnding {
				return true
			}
		}
		return false
	}
	if !ending() {
		t.Errorf("a keyset that nobody extends is no problem: %v", hub2.Problems(t.Context()))
	}
	d.Start(t)
	comesAbout(t, "the keyset is extended", func() bool { return !ending() })
	if !hub2.Leads() {
		t.Error("hub2 does not lead any more")
	}
}

// A hub that is dropped while it leads lets another lead: the others would hand it no
// writes.
func TestADroppedHubLeadsNoMore(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t)
	o := operate(t, hub1)
	if _, err := o.trust.DropHubKey(t.Context(), &adminv1.DropHubKeyRequest{Hub: "hub2", Reason: "gone"}); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "another hub leads", func() bool { return hub1.Leads() && !hub2.Leads() })
	o.apply(t, mesh()...)
}

// A hub is admitted by one that has the keys and leads. Who asks another is told what
// to do, before the token is spent.
func TestWhoCannotAdmitAHubSaysWhoCan(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t, func(opt *hub.Options) { opt.HubCA, opt.HubCAChain = d.HubCA(t) })
	token := hub2.Token(t, &adminv1.CreateTokenRequest{Role: "hub"})
	id, _, _ := strings.Cut(token, ".")
	config, err := sign.Create(t.Context(), hubtest.NewKeys(), "config", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	public, err := config.Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	proof, err := config.Sign(t.Context(), join.HubProof(d.Authority.Pin(), "hub4", id))
	if err != nil {
		t.Fatal(err)
	}
	csr := func() []byte {
		out, err := ca.NewCSR(hubtest.Key(t), identity.ID{Domain: hubtest.Name, Kind: identity.Hub, Name: "hub4"})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	req := &identityv1.JoinHubRequest{
		Token: token, Hub: "hub4", Address: "10.0.0.4:8443", Csr: csr(), IssuerCsr: csr(), ConfigKey: public, ConfigProof: proof, RequestId: "join",
	}
	for name, h := range map[string]*hubtest.Running{"hub1": hub1, "hub2": hub2} {
		_, err := identityv1.NewIdentityServiceClient(h.Dial(t, nil)).JoinHub(t.Context(), req)
		wantCode(t, err, fault.CodeNoHubCA)
		if want := "meshctl domain transfer " + hubtest.Name + " --to hub1"; !strings.Contains(fault.RemedyOf(err), want) {
			t.Errorf("%s advises %q", name, fault.RemedyOf(err))
		}
	}
	if err := hub2.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub1 leads", hub1.Leads)
	if _, err := identityv1.NewIdentityServiceClient(hub1.Dial(t, nil)).JoinHub(t.Context(), req); err != nil {
		t.Errorf("once hub1 leads: %v", err)
	}
}
