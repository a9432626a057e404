package hub_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
)

// returned has hub1 come back, after hub2 took the lead, where the options say: on
// another port if they say nothing.
func returned(t *testing.T, adjust ...func(*hub.Options)) (back, leader *hubtest.Running) {
	t.Helper()
	d := hubtest.NewDomain(t)
	first := d.Start(t)
	comesAbout(t, "the first hub leads", first.Leads)
	second := first.Follower(t, "hub2")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "the second hub leads", second.Leads)
	return d.Start(t, adjust...), second
}

// seenBy is what a hub knows of another one.
func seenBy(t *testing.T, h *hubtest.Running, name string) *adminv1.Hub {
	t.Helper()
	resp, err := operate(t, h).fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(resp.GetHubs(), func(x *adminv1.Hub) bool { return x.GetName() == name })
	if i < 0 {
		return nil
	}
	return resp.GetHubs()[i]
}

// seqOf is the newest entry of the log that a hub has.
func seqOf(t *testing.T, h *hubtest.Running) uint64 {
	t.Helper()
	d, err := operate(t, h).fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return d.GetSeq()
}

func TestAHubThatFollowsAndHasMovedMakesItsAddressKnown(t *testing.T) {
	back, leader := returned(t)
	comesAbout(t, "the leader reaches the other hub where it is now", func() bool {
		h := seenBy(t, leader, hubtest.HubName)
		return h.GetAddress() == back.Address && h.GetProblem() == ""
	})
	if back.Leads() || !leader.Leads() {
		t.Error("another hub leads now")
	}
	// It is handed what is meant for it, and says the same once.
	_, err := adminv1.NewRingServiceClient(leader.Operator(t)).TransferLeadership(t.Context(), &adminv1.TransferLeadershipRequest{To: hubtest.HubName})
	if err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "the hub that moved leads", back.Leads)
}

func TestTheCertificateOfAHubThatHasMovedNamesItsNewHost(t *testing.T) {
	var used *hub.Options
	saved := make(chan struct{}, 8)
	returned(t, func(opt *hub.Options) {
		opt.Advertise = "hub1.example:8443"
		opt.SaveTLS = func() error { saved <- struct{}{}; return nil }
		used = opt
	})
	select {
	case <-saved:
	case <-time.After(20 * time.Second):
		t.Fatal("no certificate was asked for")
	}
	if names := used.TLS.Chain()[0].DNSNames; !slices.Contains(names, "hub1.example") {
		t.Errorf("the certificate names %q", names)
	}
	select {
	case <-saved:
		t.Error("it was renewed again")
	case <-time.After(300 * time.Millisecond):
	}
}

// Two that run from copies of one directory contradict each other; how often, movedPace says.
func TestTwoHubsOfOneNameContradictEachOther(t *testing.T) {
	first, leader := returned(t)
	comesAbout(t, "the first says where it is", func() bool { return seenBy(t, leader, hubtest.HubName).GetAddress() == first.Address })
	moved := func() int { return len(logged(t, first.Domain, state.KindHubMoved)) }
	before := moved()
	first.Domain.Start(t)
	comesAbout(t, "both have said where they are", func() bool { return moved() >= before+2 })
}

func TestOnlyAHubSaysWhereItIs(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	comesAbout(t, "the hub leads", h.Leads)
	_, err := adminv1.NewRingServiceClient(h.Operator(t)).SetAddress(t.Context(), &adminv1.SetAddressRequest{Address: "10.0.0.9:8443"})
	wantCode(t, err, fault.CodeNotPermitted)
	itself := adminv1.NewRingServiceClient(h.Dial(t, d.Source(t, identity.Hub, hubtest.HubName)))
	for _, address := range []string{"", "10.0.0.9", ":8443", "10.0.0.9:0", "0.0.0.0:8443", "[::]:8443", "a b:8443"} {
		_, err := itself.SetAddress(t.Context(), &adminv1.SetAddressRequest{Address: address})
		wantCode(t, err, fault.CodeBadRequest)
	}
	before := seqOf(t, h)
	if _, err := itself.SetAddress(t.Context(), &adminv1.SetAddressRequest{Address: h.Address}); err != nil {
		t.Fatal(err)
	}
	if after := seqOf(t, h); after != before {
		t.Errorf("the address that the log has was written again: entry %d, then %d", before, after)
	}
	unknown := adminv1.NewRingServiceClient(h.Dial(t, d.Source(t, identity.Hub, "hub9")))
	_, err = unknown.SetAddress(t.Context(), &adminv1.SetAddressRequest{Address: "10.0.0.9:8443"})
	wantCode(t, err, fault.CodeHubDropped)
}

// A hub whose place in a domain is empty answers for the domains that it serves.
func TestAHubThatDoesNotServeTheDomainIsSaidNotTo(t *testing.T) {
	d := hubtest.NewDomain(t)
	first := d.Start(t)
	comesAbout(t, "the first hub leads", first.Leads)
	second := first.Follower(t, "hub2")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "the second hub leads", second.Leads)
	l, err := tls.Listen("tcp", first.Address, &tls.Config{Certificates: []tls.Certificate{foreign(t)}, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go server.Serve(l) // ends with Stop
	t.Cleanup(server.Stop)
	var problem string
	comesAbout(t, "the hub is not found to serve the domain", func() bool {
		problem = seenBy(t, second, hubtest.HubName).GetProblem()
		return strings.HasPrefix(problem, "does not serve domain "+hubtest.Name+". ")
	})
	for _, want := range []string{"token create --hub --node " + hubtest.HubName, "meshhub join --hub " + second.Address, "--data DIR/domains/" + hubtest.Name} {
		if !strings.Contains(problem, want) {
			t.Errorf("%s lacks %q", problem, want)
		}
	}
}

// foreign is the certificate of a hub of another domain.
func foreign(t *testing.T) tls.Certificate {
	t.Helper()
	id, err := url.Parse("spiffe://eu-west/hub/" + hubtest.HubName)
	if err != nil {
		t.Fatal(err)
	}
	key := hubtest.Key(t)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{id}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
