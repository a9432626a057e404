package hub_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
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
