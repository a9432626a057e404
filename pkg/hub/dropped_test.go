package hub_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/trust"
)

// A hub that was dropped may do nothing that hubs may, also on a connection that it
// had before.
func TestADroppedHubMayDoNothing(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	list(t, h, "hub2")
	source := d.Source(t, identity.Hub, "hub2")
	conn := h.Dial(t, source)
	ring, fleet, identities := adminv1.NewRingServiceClient(conn), adminv1.NewFleetServiceClient(conn), identityv1.NewIdentityServiceClient(conn)
	calls := map[string]func() error{
		"list hubs": func() error {
			_, err := fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
			return err
		},
		"hold back": func() error {
			_, err := ring.HoldBack(t.Context(), &adminv1.HoldBackRequest{})
			return err
		},
		"adopt a domain": func() error {
			_, err := adminv1.NewDomainServiceClient(conn).AdoptDomain(t.Context(), &adminv1.AdoptDomainRequest{})
			return err
		},
		"renew": func() error {
			csr, err := ca.NewCSR(hubtest.Key(t), source.ID())
			if err != nil {
				t.Fatal(err)
			}
			_, err = identities.Renew(t.Context(), &identityv1.RenewRequest{Csr: csr})
			return err
		},
		"read metrics": func() error {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: mtls.ClientConfig(source, nil)}}
			defer client.CloseIdleConnections()
			resp, err := client.Get("https://" + h.Metrics + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fault.New(fault.CodeHubDropped, "status %s", resp.Status)
			}
			return nil
		},
	}
	for name, call := range calls {
		if err := call(); fault.CodeOf(err) == fault.CodeHubDropped {
			t.Errorf("%s while it is listed: %v", name, err)
		}
	}
	h.Publish(t, trust.KeysetEdit{DropHubs: []string{"hub2"}})
	for name, call := range calls {
		if err := call(); fault.CodeOf(err) != fault.CodeHubDropped {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who has the issuing CA of a hub that was dropped makes nobody an operator or a hub
// with it. Who got a certificate from it that is in the log keeps it.
func TestTheIssuingCAOfADroppedHubCountsNoMore(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	list(t, h, "hub2")
	list(t, h, "hub3")
	stolen := d.AuthorityOf(t, "hub2")
	dial := func(kind identity.Kind, name string) *grpc.ClientConn {
		return h.Dial(t, d.SourceOf(t, stolen, kind, name))
	}
	hubs := func(conn *grpc.ClientConn) error {
		_, err := adminv1.NewFleetServiceClient(conn).ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
		return err
	}
	for name, conn := range map[string]*grpc.ClientConn{"operator": dial(identity.Operator, "admin"), "hub": dial(identity.Hub, "hub3")} {
		if err := hubs(conn); err != nil {
			t.Errorf("%s while hub2 is listed: %v", name, err)
		}
	}
	// Another operator renewed through hub2, when that led.
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h2 := d.Start(t, withAuthority(stolen))
	key, before := hubtest.Key(t), d.Source(t, identity.Operator, "keeper")
	csr, err := ca.NewCSR(key, before.ID())
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := identityv1.NewIdentityServiceClient(h2.Dial(t, before)).Renew(t.Context(), &identityv1.RenewRequest{Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := mtls.NewSource(tls.Certificate{Certificate: renewed.GetCertificateChain(), PrivateKey: key}, renewed.GetCaBundle())
	if err != nil {
		t.Fatal(err)
	}
	h2.Publish(t, trust.KeysetEdit{DropHubs: []string{"hub2"}})
	wantCode(t, hubs(h2.Dial(t, d.SourceOf(t, stolen, identity.Operator, "admin"))), fault.CodeHubDropped)
	wantCode(t, hubs(h2.Dial(t, d.SourceOf(t, stolen, identity.Hub, "hub3"))), fault.CodeHubDropped)
	// Nor does it forward in the name of an operator whose certificate it has seen.
	md := metadata.Pairs("meshkit-forwarded", "1")
	for _, der := range keeper.Certificate().Certificate {
		md.Append("meshkit-forwarded-cert-bin", string(der))
	}
	forger := adminv1.NewFleetServiceClient(h2.Dial(t, d.SourceOf(t, stolen, identity.Hub, "hub3")))
	_, err = forger.CreateToken(metadata.NewOutgoingContext(t.Context(), md), &adminv1.CreateTokenRequest{})
	wantCode(t, err, fault.CodeHubDropped)
	if err := hubs(h2.Dial(t, keeper)); err != nil {
		t.Errorf("an operator whose certificate is in the log: %v", err)
	}
	if err := hubs(h2.Dial(t, d.Source(t, identity.Hub, "hub3"))); err != nil {
		t.Errorf("a hub with a certificate of another CA: %v", err)
	}
}

// A hub that took another's place leaves nothing to the machine that was lost: neither
// its certificate counts nor what its issuing CA signs.
func TestWhoseHubsPlaceAnotherHasMayDoNothing(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t, admits(t, d))
	list(t, h, "hub3")
	call := func(s *mtls.Source) error {
		_, err := adminv1.NewFleetServiceClient(h.Dial(t, s)).ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
		return err
	}
	forward := func(s *mtls.Source) error {
		md := metadata.Pairs("meshkit-forwarded", "1")
		for _, der := range d.Source(t, identity.Operator, "admin").Certificate().Certificate {
			md.Append("meshkit-forwarded-cert-bin", string(der))
		}
		_, err := adminv1.NewFleetServiceClient(h.Dial(t, s)).CreateToken(metadata.NewOutgoingContext(t.Context(), md), &adminv1.CreateTokenRequest{})
		return err
	}
	// place has a hub2 join and gives its certificate, and its issuing CA.
	place := func() (*mtls.Source, *ca.Authority) {
		n := joining(t, d, h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Node: "hub2"}), "hub2")
		got, err := admit(t, h, n)
		if err != nil {
			t.Fatal(err)
		}
		source, err := mtls.NewSource(mtls.Certificate(got.GetCertificateChain(), n.key), d.Authority.Bundle())
		if err != nil {
			t.Fatal(err)
		}
		return source, d.AuthorityFor(t, n.issuer, got.GetIssuerChain())
	}
	list(t, h, "hub2")
	d.CASkew.Store(-int64(time.Hour))
	lost := d.Source(t, identity.Hub, "hub2") // of some time ago
	d.CASkew.Store(0)
	conn := h.Dial(t, lost)
	open := func() error {
		_, err := adminv1.NewFleetServiceClient(conn).ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
		return err
	}
	for name, err := range map[string]error{"call": call(lost), "forward": forward(lost), "on an open connection": open()} {
		if err != nil {
			t.Errorf("%s before it was replaced: %v", name, err)
		}
	}
	_, stolen := place()
	for name, err := range map[string]error{"call": call(lost), "forward": forward(lost), "on an open connection": open()} {
		if fault.CodeOf(err) != fault.CodeHubDropped {
			t.Errorf("%s after it was replaced: %v", name, err)
		}
	}
	forged := []*mtls.Source{d.SourceOf(t, stolen, identity.Operator, "admin"), d.SourceOf(t, stolen, identity.Hub, "hub2"), d.SourceOf(t, stolen, identity.Hub, "hub3")}
	for _, s := range forged {
		if err := call(s); err != nil {
			t.Errorf("%s of the present issuing CA: %v", s.ID(), err)
		}
	}
	present, issuer := place()
	for _, s := range forged {
		if err := call(s); fault.CodeOf(err) != fault.CodeHubDropped {
			t.Errorf("%s of the lost issuing CA: %v", s.ID(), err)
		}
	}
	for _, s := range []*mtls.Source{present, d.SourceOf(t, issuer, identity.Operator, "admin"), d.SourceOf(t, issuer, identity.Hub, "hub2")} {
		if err := call(s); err != nil {
			t.Errorf("%s of the hub that has the place: %v", s.ID(), err)
		}
	}
}

// lines collects what a hub logs.
type lines struct {
	mu  sync.Mutex // guards all
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) with(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// A hub whose key is not listed any more shows it where people look, and logs it once.
func TestAHubThatCannotSignSaysSo(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	var log lines
	h2 := h.Follower(t, "hub2", func(opt *hub.Options) { opt.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	fleet := operate(t, h2).fleet
	problem := func() string {
		got, err := fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetHubs()[0].GetProblem()
	}
	if p := problem(); p != "" {
		t.Errorf("a hub that is listed: %s", p)
	}
	h.Publish(t, trust.KeysetEdit{DropHubs: []string{"hub2"}})
	comesAbout(t, "hub2 shows its problem", func() bool { return strings.Contains(problem(), "the keyset lists no key that hub hub2 holds") })
	list(t, h, "hub3") // another keyset
	seq := operate(t, h).apply(t, mesh()...).GetSeq()
	comesAbout(t, "hub2 has read on", func() bool {
		got, err := fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
		return err == nil && got.GetSeq() >= seq
	})
	if n := log.with("the hub cannot sign"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}

func withAuthority(a *ca.Authority) func(*hub.Options) {
	return func(opt *hub.Options) { opt.Authority = a }
}

// locked are keys that cannot be opened, as those of a file with a wrong mode.
type locked struct{ *hubtest.Keys }

func (locked) Open(context.Context, string) (crypto.Signer, error) {
	return nil, fault.New(fault.CodeKeyExposed, "key file config.key has mode 0644").WithRemedy("Run `chmod 600 config.key`.")
}

// A key that cannot be used is another matter than one that is not listed.
func TestAHubWhoseKeyCannotBeUsedSaysWhy(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	var log lines
	h2 := h.Follower(t, "hub2", func(opt *hub.Options) {
		opt.Keys, opt.Logger = locked{opt.Keys.(*hubtest.Keys)}, slog.New(slog.NewTextHandler(&log, nil))
	})
	got, err := operate(t, h2).fleet.ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := got.GetHubs()[0].GetProblem(); !strings.Contains(p, "mode 0644") || strings.Contains(p, "keyset") {
		t.Errorf("the problem is %q", p)
	}
	if log.with("its config key cannot be used") != 1 || log.with("it was dropped") != 0 {
		t.Error("the log says that the hub was dropped, or nothing")
	}
}
