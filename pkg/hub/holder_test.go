package hub_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"slices"
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
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
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

// A rotation that is asked for again was done once, also where another hub leads.
func TestOneRequestRotatesOnceWhoeverLeads(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t)
	o := operate(t, hub1)
	rotate := func(id string) *adminv1.RotateHubKeyResponse {
		t.Helper()
		got, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: id})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first, again := rotate("once"), rotate("once")
	if again.GetNewKeyId() != first.GetNewKeyId() || again.GetKeysetVersion() != first.GetKeysetVersion() {
		t.Errorf("the first answer is %v, the second %v", first, again)
	}
	if other := rotate("twice"); other.GetOldKeyId() != first.GetNewKeyId() {
		t.Errorf("another request: %v", other)
	}
	another := adminv1.NewTrustServiceClient(hub1.Dial(t, d.Source(t, identity.Operator, "another")))
	_, err := another.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: "once"})
	wantCode(t, err, fault.CodeRequestIDReused)
	if !hub2.Leads() {
		t.Error("hub2 does not lead any more")
	}
}

// A rotation is of the hub that is asked: another one does not say that its key is new.
func TestARotationIsRepeatedOnItsOwnHubOnly(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t)
	req := &adminv1.RotateHubKeyRequest{RequestId: "once"}
	if _, err := operate(t, hub1).trust.RotateHubKey(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "the leader knows where hub1 is", func() bool { return seenBy(t, hub2, hubtest.HubName).GetAddress() == hub1.Address })
	got, err := operate(t, hub2).trust.RotateHubKey(t.Context(), req)
	wantCode(t, err, fault.CodeRotatedElsewhere)
	if fix := fault.RemedyOf(err); !strings.Contains(err.Error(), "the key of hub hub1") || !strings.Contains(fix, "--hub "+hub1.Address) {
		t.Errorf("%v %v: %s", got, err, fix)
	}
	token := &adminv1.CreateTokenRequest{RequestId: "token"}
	if _, err := operate(t, hub2).fleet.CreateToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	_, err = operate(t, hub2).trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: "token"})
	wantCode(t, err, fault.CodeRequestIDReused)
}

// Metadata that is published again under its request id is there already.
func TestMetadataIsPublishedOncePerRequest(t *testing.T) {
	d := hubtest.NewDomain(t)
	o := operate(t, d.Start(t))
	m := editKeyset(t, d, o, trust.KeysetEdit{Expires: time.Now().Add(keyring.KeysetLifetime)})
	publish := func(req *adminv1.PublishTrustRequest) error {
		_, err := o.trust.PublishTrust(t.Context(), req)
		return err
	}
	for range 2 {
		if err := publish(&adminv1.PublishTrustRequest{Metadata: m, Reason: "test", RequestId: "once"}); err != nil {
			t.Error(err)
		}
	}
	if n := len(logged(t, d, state.KindTrustUpdated)); n != 1 {
		t.Errorf("it is %d times in the log", n)
	}
	wantCode(t, publish(&adminv1.PublishTrustRequest{Metadata: m, Reason: "another", RequestId: "once"}), fault.CodeRequestIDReused)
	wantCode(t, publish(&adminv1.PublishTrustRequest{Metadata: m, Reason: "test", RequestId: "x", Fingerprint: []byte("short")}), fault.CodeNotPermitted)
	// An operator cannot have the log say that what she publishes is another request.
	next := editKeyset(t, d, o, trust.KeysetEdit{Expires: time.Now().Add(keyring.KeysetLifetime)})
	wantCode(t, publish(&adminv1.PublishTrustRequest{Metadata: next, Reason: "test", RequestId: "y", Fingerprint: make([]byte, sha256.Size)}), fault.CodeNotPermitted)
	if n := len(logged(t, d, state.KindTrustUpdated)); n != 1 {
		t.Errorf("it is %d times in the log", n)
	}
}

// Nor through a hub that sends it on.
func TestNobodyPublishesForAnotherRequestThroughAFollower(t *testing.T) {
	d, _ := failedOver(t)
	o := operate(t, d.Start(t))
	m := editKeyset(t, d, o, trust.KeysetEdit{Expires: time.Now().Add(keyring.KeysetLifetime)})
	_, err := o.trust.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: m, Reason: "test", RequestId: "y", Fingerprint: make([]byte, sha256.Size)})
	wantCode(t, err, fault.CodeNotPermitted)
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

// So does one whose place another has: its own key is not the one that is listed.
func TestAHubWhosePlaceAnotherHasLeadsNoMore(t *testing.T) {
	d, hub2 := failedOver(t)
	hub1 := d.Start(t)
	shown, err := operate(t, hub2).trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.Create(t.Context(), hubtest.NewKeys(), "config", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	edit := trust.KeysetEdit{Add: map[string][]sign.PublicKey{"hub2": {key.Public()}}}
	for _, k := range shown.GetHubKeys() {
		if k.GetHub() == "hub2" {
			edit.DropKeys = append(edit.DropKeys, k.GetKeyId())
		}
	}
	hub2.Publish(t, edit)
	comesAbout(t, "another hub leads", func() bool { return hub1.Leads() && !hub2.Leads() })
	operate(t, hub1).apply(t, mesh()...)
}

// newcomer is a hub that asks to join, and its keys.
type newcomer struct {
	*identityv1.JoinHubRequest
	key, issuer crypto.Signer // of its certificate and its issuing CA
}

func joining(t *testing.T, d *hubtest.Domain, token, hub string) newcomer {
	t.Helper()
	id, _, _ := strings.Cut(token, ".")
	config, err := sign.Create(t.Context(), hubtest.NewKeys(), "config", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	public, err := config.Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	proof, err := config.Sign(t.Context(), join.HubProof(d.Authority.Pin(), hub, id))
	if err != nil {
		t.Fatal(err)
	}
	n := newcomer{key: hubtest.Key(t), issuer: hubtest.Key(t)}
	csr := func(key crypto.Signer) []byte {
		out, err := ca.NewCSR(key, identity.ID{Domain: hubtest.Name, Kind: identity.Hub, Name: hub})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	n.JoinHubRequest = &identityv1.JoinHubRequest{
		Token: token, Hub: hub, Address: "127.0.0.1:1", Csr: csr(n.key), IssuerCsr: csr(n.issuer), ConfigKey: public, ConfigProof: proof, RequestId: rand.Text(),
	}
	return n
}

// admit has a hub admit another.
func admit(t *testing.T, h *hubtest.Running, n newcomer) (*identityv1.JoinHubResponse, error) {
	t.Helper()
	return identityv1.NewIdentityServiceClient(h.Dial(t, nil)).JoinHub(t.Context(), n.JoinHubRequest)
}

// admits gives a hub what it takes to admit others.
func admits(t *testing.T, d *hubtest.Domain) func(*hub.Options) {
	return func(opt *hub.Options) {
		opt.HubCA, opt.HubCAChain = d.HubCA(t)
		opt.StoreURL = "consul://127.0.0.1:8500/meshkit"
	}
}

// at has a hub serve at an address, as after a restart.
func at(t *testing.T, address string) func(*hub.Options) {
	return func(opt *hub.Options) {
		_ = opt.Listener.Close()
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		opt.Listener = l
	}
}

// A hub whose agents would have nowhere to go is not drained: a hub that was dropped
// takes none, nor does one that does not answer.
func TestAHubIsNotDrainedWhenNoOtherOneIsLeft(t *testing.T) {
	d := hubtest.NewDomain(t)
	hub1 := d.Start(t)
	hub2 := hub1.Follower(t, "hub2")
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", hub2.Leads)
	drain := func(by *hubtest.Running, name string, drained bool) error {
		_, err := adminv1.NewRingServiceClient(by.Operator(t)).SetDrained(t.Context(), &adminv1.SetDrainedRequest{Hub: name, Drained: drained})
		return err
	}
	err := drain(hub2, "hub2", true)
	wantCode(t, err, fault.CodeLastHub)
	if !strings.Contains(err.Error(), "answers: hub1 (") {
		t.Errorf("who is silent is not named: %v", err)
	}
	hub1 = d.Start(t, at(t, hub1.Address))
	comesAbout(t, "hub2 is drained", func() bool { return drain(hub2, "hub2", true) == nil })
	comesAbout(t, "hub1 leads", hub1.Leads)
	wantCode(t, drain(hub1, "hub1", true), fault.CodeLastHub)
	if err := drain(hub1, "hub2", false); err != nil {
		t.Fatal(err)
	}
	token := hub1.Token(t, &adminv1.CreateTokenRequest{Uses: 2})
	if _, got := hub1.Join(t, token, "node-a"); !slices.Equal(got.GetHubs(), []string{hub1.Address, hub2.Address}) {
		t.Errorf("a node is told of %v", got.GetHubs())
	}
	hub1.Publish(t, trust.KeysetEdit{DropHubs: []string{"hub2"}})
	if _, got := hub1.Join(t, token, "node-b"); !slices.Equal(got.GetHubs(), []string{hub1.Address}) {
		t.Errorf("after hub2 was dropped, a node is told of %v", got.GetHubs())
	}
	wantCode(t, drain(hub1, "hub1", true), fault.CodeLastHub)
}

// A hub whose log no other can reach admits none, and takes no use of the token for it.
func TestAHubWithAStoreOfItsOwnAdmitsNone(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t, admits(t, d), func(opt *hub.Options) { opt.StoreURL = "" })
	n := joining(t, d, h.Token(t, &adminv1.CreateTokenRequest{Role: "hub"}), "hub2")
	_, err := admit(t, h, n)
	if wantCode(t, err, fault.CodeStoreNotShared); !strings.Contains(fault.RemedyOf(err), "meshhub restore") {
		t.Errorf("the remedy is %q", fault.RemedyOf(err))
	}
	tokens, err := operate(t, h).fleet.ListTokens(t.Context(), &adminv1.ListTokensRequest{})
	if err != nil || len(tokens.GetTokens()) != 1 || tokens.GetTokens()[0].GetUsed() != 0 {
		t.Errorf("tokens afterwards: %v (%v)", tokens, err)
	}
	hubs, err := operate(t, h).fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{})
	if err != nil || len(hubs.GetHubs()) != 1 {
		t.Errorf("hubs afterwards: %v (%v)", hubs, err)
	}
}

// The name of a hub that was dropped is taken, and whoever wants it is told so.
func TestTheNameOfADroppedHubIsTakenOnPurposeOnly(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t, admits(t, d))
	token := h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Uses: 2})
	if _, err := admit(t, h, joining(t, d, token, "hub4")); err != nil {
		t.Fatal(err)
	}
	_, err := admit(t, h, joining(t, d, token, "hub4"))
	if wantCode(t, err, fault.CodeHubExists); strings.Contains(err.Error(), "dropped") {
		t.Errorf("a hub that is there: %v", err)
	}
	h.Publish(t, trust.KeysetEdit{DropHubs: []string{"hub4"}})
	_, err = admit(t, h, joining(t, d, token, "hub4"))
	if wantCode(t, err, fault.CodeHubExists); !strings.Contains(err.Error(), "was dropped") {
		t.Errorf("a hub that was dropped: %v", err)
	}
	bound := h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Node: "hub4"})
	if _, err := admit(t, h, joining(t, d, bound, "hub4")); err != nil {
		t.Errorf("with a token for the name: %v", err)
	}
}
