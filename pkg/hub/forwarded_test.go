package hub_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
)

// list adds a hub to the keyset that does not run.
func list(t *testing.T, h *hubtest.Running, hub string) {
	t.Helper()
	key, err := sign.Create(t.Context(), hubtest.NewKeys(), "config", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	h.Publish(t, trust.KeysetEdit{Add: map[string][]sign.PublicKey{hub: {key.Public()}}})
}

// selfSigned is a certificate that nobody vouches for.
func selfSigned(t *testing.T, spiffe string) []byte {
	t.Helper()
	uri, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	key := hubtest.Key(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin"}, URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A hub that forwards can name as the caller only who has a certificate that its own
// port would let in.
func TestAForwardedCallerIsJudgedLikeOneWhoCalls(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	list(t, h, "hub2")
	client := adminv1.NewFleetServiceClient(h.Dial(t, d.Source(t, identity.Hub, "hub2")))
	forward := func(chain ...[]byte) error {
		md := metadata.Pairs("meshkit-forwarded", "1")
		for _, der := range chain {
			md.Append("meshkit-forwarded-cert-bin", string(der))
		}
		_, err := client.CreateToken(metadata.NewOutgoingContext(context.Background(), md), &adminv1.CreateTokenRequest{})
		return err
	}
	good := d.Source(t, identity.Operator, "admin").Certificate().Certificate
	if err := forward(good...); err != nil {
		t.Errorf("an operator of the domain: %v", err)
	}
	wantCode(t, forward(selfSigned(t, "spiffe://"+hubtest.Name+"/operator/admin")), fault.CodePeerUnverified)
	wantCode(t, forward(good[0]), fault.CodePeerUnverified) // nothing leads to the root
	wantCode(t, forward(selfSigned(t, "spiffe://elsewhere/operator/admin")), fault.CodePeerDomain)
	d.CASkew.Store(-int64(30 * time.Hour))
	wantCode(t, forward(d.Source(t, identity.Operator, "admin").Certificate().Certificate...), fault.CodePeerExpired)
	wantCode(t, forward(d.Source(t, identity.Node, "node-a").Certificate().Certificate...), fault.CodeNotPermitted) // in its grace, and no operator
	wantCode(t, forward(), fault.CodeNoClientCert)
}

// The certificate of a hub is shown to whoever connects to it: that another hub has it
// says nothing of who calls. In its own name a hub forwards.
func TestAHubForwardsForNoOtherHub(t *testing.T) {
	d, leader := failedOver(t) // hub2 leads, hub3 is listed
	hub1 := d.Source(t, identity.Hub, hubtest.HubName)
	conn := leader.Dial(t, d.Source(t, identity.Hub, "hub3"))
	as := func(chain []*x509.Certificate) context.Context {
		md := metadata.Pairs("meshkit-forwarded", "1", "meshkit-forwarded-address", "192.0.2.7:1234")
		for _, c := range chain {
			md.Append("meshkit-forwarded-cert-bin", string(c.Raw))
		}
		return metadata.NewOutgoingContext(t.Context(), md)
	}
	csr, err := ca.NewCSR(hubtest.Key(t), hub1.ID())
	if err != nil {
		t.Fatal(err)
	}
	ring, identities, trusted := adminv1.NewRingServiceClient(conn), identityv1.NewIdentityServiceClient(conn), adminv1.NewTrustServiceClient(conn)
	for name, call := range map[string]func(context.Context) error{
		"its address": func(ctx context.Context) error {
			_, err := ring.SetAddress(ctx, &adminv1.SetAddressRequest{Address: "10.66.66.66:8443"})
			return err
		},
		"its certificate": func(ctx context.Context) error {
			_, err := identities.Renew(ctx, &identityv1.RenewRequest{Csr: csr})
			return err
		},
		"a join that it prepared": func(ctx context.Context) error {
			_, err := identities.AdmitHub(ctx, &identityv1.AdmitHubRequest{})
			return err
		},
		"trust metadata": func(ctx context.Context) error {
			_, err := trusted.PublishTrust(ctx, &adminv1.PublishTrustRequest{})
			return err
		},
	} {
		err := call(as(hub1.Chain()))
		if fault.CodeOf(err) != fault.CodeNotPermitted || !strings.Contains(err.Error(), "for spiffe://"+hubtest.Name+"/hub/hub1") {
			t.Errorf("%s: %v (%s)", name, err, fault.CodeOf(err))
		}
	}
	if moved := logged(t, d, state.KindHubMoved); len(moved) != 0 {
		t.Errorf("the log has %d entries of hubs that moved", len(moved))
	}
	if issued := logged(t, d, state.KindCertificateIssued); len(issued) != 0 {
		t.Errorf("the log has %d certificates", len(issued))
	}
	own := d.Source(t, identity.Hub, "hub3") // of another moment than that of the connection
	if _, err := identities.AdmitHub(as(own.Chain()), &identityv1.AdmitHubRequest{}); fault.CodeOf(err) != fault.CodeBadRequest {
		t.Errorf("in its own name it is not judged by what it says: %v", err)
	}
	// Who joins shows a token; its certificate is of no matter.
	if _, err := identities.Join(as(hub1.Chain()), &identityv1.JoinRequest{}); fault.CodeOf(err) != fault.CodeBadRequest {
		t.Errorf("a join from where another hub is: %v", err)
	}
}
