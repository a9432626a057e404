package hub_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/state"
)

// hosting is a DomainHost that notes what it is asked for. The test's goroutine reads
// it after the calls.
type hosting struct {
	created []admin.NewDomain
	adopted []*adminv1.AdoptDomainRequest
	tokens  []string // the hubs that they are for
	err     error    // of Create
	made    bool
	served  []*adminv1.ServedDomain
	begun   bool // and was cut short
}

func (h *hosting) Create(_ context.Context, d admin.NewDomain) (*admin.CreatedDomain, error) {
	h.created = append(h.created, d)
	if h.err != nil {
		return nil, h.err
	}
	return &admin.CreatedDomain{CAPin: "sha256:1", Chain: [][]byte{{1}}, Token: func(_ context.Context, hub string) (string, error) {
		h.tokens = append(h.tokens, hub)
		return "for." + hub, nil
	}}, nil
}

func (h *hosting) Adopt(_ context.Context, in *adminv1.AdoptDomainRequest) error {
	if in.GetToken() == "" && len(h.adopted) == 0 {
		return fault.New(fault.CodeTokenInvalid, "it has to join")
	}
	h.adopted = append(h.adopted, in)
	return nil
}

func (h *hosting) Made(string) (made, done bool) { return h.made || h.begun, h.made }

func (h *hosting) List() []*adminv1.ServedDomain { return h.served }

func hosts(h *hosting) func(*hub.Options) { return func(o *hub.Options) { o.Host = h } }

// ringOfTwo starts two hubs, of which the first leads.
func ringOfTwo(t *testing.T, d *hubtest.Domain, second ...func(*hub.Options)) (hub1, hub2 *hubtest.Running) {
	t.Helper()
	hub1 = d.Start(t)
	comesAbout(t, "hub1 leads", hub1.Leads)
	return hub1, hub1.Follower(t, "hub2", second...)
}

// A hub that lost the log of a further domain answers with another one's certificate, like
// one that never joined: why is asked through the domain that both serve.
func TestAHubSaysToAnotherWhyItDoesNotServeAFurtherDomain(t *testing.T) {
	hub1 := hubtest.NewDomain(t).Start(t, hosts(&hosting{served: []*adminv1.ServedDomain{{Domain: "eu-north", Problem: "the log went back to nothing"}}}))
	comesAbout(t, "hub1 leads", hub1.Leads)
	hub2 := hub1.Follower(t, "hub2")
	comesAbout(t, "hub2 reaches hub1", func() bool { return seenBy(t, hub2, hubtest.HubName).GetSeq() > 0 })
	for _, c := range []struct{ hub, domain, want string }{
		{hubtest.HubName, "eu-north", "the log went back to nothing"},
		{hubtest.HubName, "eu-south", ""}, // it never joined that
		{"hub3", "eu-north", ""},
	} {
		if got := hub2.Elsewhere(t.Context(), c.hub, c.domain); got != c.want {
			t.Errorf("why %s does not serve %s: %q, want %q", c.hub, c.domain, got, c.want)
		}
	}
}

// A repetition brings another certificate request by the same key, for signatures are
// random: it is the same request. Another key is not.
func TestADomainIsMadeOnceForARequestAndItsKey(t *testing.T) {
	d := hubtest.NewDomain(t)
	host := &hosting{}
	h := d.Start(t, hosts(host))
	domains := adminv1.NewDomainServiceClient(h.Operator(t))
	key := hubtest.Key(t)
	create := func(csr []byte) error {
		_, err := domains.CreateDomain(t.Context(), &adminv1.CreateDomainRequest{Domain: "eu-north", Csr: csr, RequestId: "r1"})
		return err
	}
	first, second := hubtest.CSR(t, key, "admin"), hubtest.CSR(t, key, "admin")
	if slices.Equal(first, second) {
		t.Fatal("two requests by a key are equal: this tests nothing")
	}
	for _, csr := range [][]byte{first, second} {
		if err := create(csr); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, create(hubtest.CSR(t, hubtest.Key(t), "admin")), fault.CodeRequestIDReused)
	if n := len(logged(t, d, state.KindDomainHosted)); n != 1 {
		t.Errorf("the log says %d times that the domain was made", n)
	}
}

// A hub that has to join gets a token of its own, with which it may also take its own
// place; one that serves the domain costs none.
func TestOnlyAHubThatHasToJoinADomainCostsAToken(t *testing.T) {
	d := hubtest.NewDomain(t)
	host, other := &hosting{}, &hosting{}
	hub1, h := ringOfTwo(t, d, hosts(host))
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", h.Leads)
	d.Start(t, hosts(other), at(t, hub1.Address))
	domains := adminv1.NewDomainServiceClient(h.Operator(t))
	csr := hubtest.CSR(t, hubtest.Key(t), "admin")
	for range 2 {
		r, err := domains.CreateDomain(t.Context(), &adminv1.CreateDomainRequest{Domain: "eu-north", Csr: csr, RequestId: "r1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.GetHubs() {
			if x.GetProblem() != "" {
				t.Errorf("hub %s: %s", x.GetHub(), x.GetProblem())
			}
		}
	}
	if !slices.Equal(host.tokens, []string{hubtest.HubName}) || len(other.adopted) != 2 || other.adopted[0].GetToken() != "for."+hubtest.HubName || other.adopted[1].GetToken() != "" {
		t.Errorf("tokens for %v; adopted %v", host.tokens, other.adopted)
	}
}

// The hub that made a domain need not lead any more: the leader has it answer, as which
// hub ever is asked. What it made is in the log once.
func TestTheHubThatMadeADomainGoesOnWithItWhoeverLeads(t *testing.T) {
	d := hubtest.NewDomain(t)
	maker, other := &hosting{made: true}, &hosting{err: fault.New(fault.CodeDomainExists, "it exists")}
	hub1, h := ringOfTwo(t, d, hosts(other))
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", h.Leads)
	in := &adminv1.CreateDomainRequest{Domain: "eu-north", Csr: hubtest.CSR(t, hubtest.Key(t), "admin"), RequestId: "r1"}
	asks := func(h *hubtest.Running) (*adminv1.CreateDomainResponse, error) {
		return adminv1.NewDomainServiceClient(h.Operator(t)).CreateDomain(t.Context(), in)
	}
	_, err := asks(h)
	wantCode(t, err, fault.CodeMakerSilent)
	hub1 = d.Start(t, hosts(maker), at(t, hub1.Address))
	for _, asked := range []*hubtest.Running{h, hub1} {
		r, err := asks(asked)
		if err != nil {
			t.Fatal(err)
		}
		if r.GetHub() != hubtest.HubName || len(r.GetHubs()) != 2 {
			t.Errorf("made by %s; hubs %v", r.GetHub(), r.GetHubs())
		}
	}
	if n := len(maker.created); n != 2 || maker.created[0].Author != "spiffe://"+hubtest.Name+"/operator/admin" {
		t.Errorf("it went on %d times: %+v", n, maker.created)
	}
	if n := len(logged(t, d, state.KindDomainHosted)); n != 1 {
		t.Errorf("the log says %d times that the domain was made", n)
	}
	maker.err, in.RequestId = other.err, "r2"
	_, err = asks(h)
	wantCode(t, err, fault.CodeDomainExists)
}

// What one hub began before another made the domain answers nothing while that other one
// is silent: the operator's key may be for what that one made.
func TestALeftoverHidesNoSilentMaker(t *testing.T) {
	d := hubtest.NewDomain(t)
	exists := fault.New(fault.CodeDomainExists, "it exists")
	hub1, hub2 := ringOfTwo(t, d, hosts(&hosting{err: exists}))
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", hub2.Leads)
	hub3 := hub2.Follower(t, "hub3", hosts(&hosting{err: exists}))
	if err := hub2.Stop(); err != nil { // which made the domain
		t.Fatal(err)
	}
	comesAbout(t, "hub3 leads", hub3.Leads)
	d.Start(t, hosts(&hosting{begun: true, err: exists}), at(t, hub1.Address))
	in := &adminv1.CreateDomainRequest{Domain: "eu-north", Csr: hubtest.CSR(t, hubtest.Key(t), "admin"), RequestId: "r1"}
	_, err := adminv1.NewDomainServiceClient(hub3.Operator(t)).CreateDomain(t.Context(), in)
	wantCode(t, err, fault.CodeMakerSilent)
	if fix := fault.RemedyOf(err); !strings.Contains(fix, "start hub2 ("+hub2.Address+")") {
		t.Errorf("the remedy is %q", fix)
	}
}

// Of two hubs that began a domain, the one goes on whose domain it is, also if it is not
// the one that is asked first.
func TestOfHubsThatBeganADomainTheRightOneGoesOn(t *testing.T) {
	exists := fault.New(fault.CodeDomainExists, "it exists")
	for _, maker := range []string{hubtest.HubName, "hub2"} {
		t.Run(maker, func(t *testing.T) {
			d := hubtest.NewDomain(t)
			began := func(name string) func(*hub.Options) {
				if name == maker {
					return hosts(&hosting{begun: true})
				}
				return hosts(&hosting{begun: true, err: exists})
			}
			hub1, hub2 := ringOfTwo(t, d, began("hub2"))
			if err := hub1.Stop(); err != nil {
				t.Fatal(err)
			}
			comesAbout(t, "hub2 leads", hub2.Leads)
			d.Start(t, began(hubtest.HubName), at(t, hub1.Address))
			in := &adminv1.CreateDomainRequest{Domain: "eu-north", Csr: hubtest.CSR(t, hubtest.Key(t), "admin"), RequestId: "r1"}
			r, err := adminv1.NewDomainServiceClient(hub2.Operator(t)).CreateDomain(t.Context(), in)
			if err != nil || r.GetHub() != maker {
				t.Errorf("%s went on with it: %v", r.GetHub(), err)
			}
		})
	}
}

// An operator's transfer holds: the hub that leads then does not hand over to spread
// leadership, also one that led already.
func TestWhatAnOperatorTransferredIsNotHandedOver(t *testing.T) {
	d := hubtest.NewDomain(t)
	hub1, hub2 := ringOfTwo(t, d)
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", hub2.Leads)
	hub1 = d.Start(t, at(t, hub1.Address))
	comesAbout(t, "hub2 hands over what nobody transferred", func() bool { return hub2.HandOver(t.Context(), hubtest.HubName) == nil })
	comesAbout(t, "hub1 leads", hub1.Leads)
	for to, h := range map[string]*hubtest.Running{hubtest.HubName: hub1, "hub2": hub2} {
		other := map[string]string{hubtest.HubName: "hub2", "hub2": hubtest.HubName}[to]
		if _, err := adminv1.NewRingServiceClient(hub1.Operator(t)).TransferLeadership(t.Context(), &adminv1.TransferLeadershipRequest{To: to}); err != nil {
			t.Fatal(err)
		}
		comesAbout(t, to+" leads, and was chosen", func() bool { return h.Leads() && h.Chosen() })
		wantCode(t, h.HandOver(t.Context(), other), fault.CodeNotTransferred)
	}
}

func TestATokenNamesADomainThatIsServedBesideAnother(t *testing.T) {
	d := hubtest.NewDomain(t)
	for want, adjust := range map[string]func(*hub.Options){"": hosts(&hosting{}), hubtest.Name: func(*hub.Options) {}} {
		h := d.Start(t, adjust)
		r, err := operate(t, h).fleet.CreateToken(t.Context(), &adminv1.CreateTokenRequest{})
		if err != nil || r.GetGuestDomain() != want {
			t.Errorf("the token names %q, want %q (%v)", r.GetGuestDomain(), want, err)
		}
		if err := h.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
