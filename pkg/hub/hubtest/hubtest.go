// Package hubtest runs real hubs in a test's process: TLS on loopback, a real log
// in memory, a CA of crypto/x509, keys in memory. What is simplified is only
// where things are kept.
//
//	d := hubtest.NewDomain(t)
//	h := d.Start(t)
//	conn := h.Operator(t)
//
// A Domain outlives its hubs: Stop one and Start again to test a restart.
package hubtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Name is the domain's name, HubName its hub's.
const (
	Name    = "test-domain"
	HubName = "hub1"
)

// Domain is what survives a hub.
type Domain struct {
	Store     *memstore.Server
	Keys      *Keys
	RootKey   *sign.Signer
	Authority *ca.Authority
	// Wrap, when set, stands between the log and the store, to make it fail.
	Wrap func(store.Driver) store.Driver
	// Log are options of the store's log.
	Log store.Options
	// CASkew is by how much the CA's clock is ahead, in nanoseconds.
	CASkew atomic.Int64
	tls    *mtls.Source
	root   issuer // of the CA
}

// NewDomain makes a domain and its first log entry.
func NewDomain(t testing.TB) *Domain {
	t.Helper()
	ctx := context.Background()
	d := &Domain{Store: memstore.New(memstore.Options{}), Keys: NewKeys()}
	d.root, d.Authority = newAuthority(t, func() time.Time { return time.Now().Add(time.Duration(d.CASkew.Load())) })
	d.RootKey = must(sign.New(newEd25519(t)))(t)
	keyset := must(sign.Create(ctx, d.Keys, keyring.KeysetKey, sign.Ed25519))(t)
	config := must(sign.Create(ctx, d.Keys, keyring.ConfigKey, sign.Ed25519))(t)
	now := time.Now()
	root := must(trust.NewRoot(Name, []*sign.Signer{d.RootKey}, 1, []*sign.Signer{keyset}, now.AddDate(1, 0, 0)))(t)
	hubs := map[string][]sign.PublicKey{HubName: {config.Public()}}
	ks := must(trust.NewKeyset(root, 1, hubs, d.Authority.Bundle(), now.Add(keyring.KeysetLifetime), keyset))(t)
	l := must(store.Open(ctx, d.Store.Driver(), store.Options{}))(t)
	first := &logv1.DomainCreated{Domain: Name, Root: root, Keyset: ks, CaBundle: d.Authority.Bundle()}
	if _, err := replica.Genesis(ctx, l, store.Holder{Name: HubName}, id(t, identity.Hub, HubName).String(), now, first); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d.tls = d.Source(t, identity.Hub, HubName)
	return d
}

// Source issues a certificate and key.
func (d *Domain) Source(t testing.TB, kind identity.Kind, name string) *mtls.Source {
	t.Helper()
	return d.SourceOf(t, d.Authority, kind, name)
}

// SourceOf is Source, issued by another CA of the domain.
func (d *Domain) SourceOf(t testing.TB, by *ca.Authority, kind identity.Kind, name string) *mtls.Source {
	t.Helper()
	key := newP256(t)
	csr := must(ca.NewCSR(key, id(t, kind, name)))(t)
	cert := must(by.Issue(context.Background(), ca.Request{CSR: csr, ID: id(t, kind, name)}))(t)
	return must(mtls.NewSource(tls.Certificate{Certificate: cert.Chain, PrivateKey: key}, d.Authority.Bundle()))(t)
}

// Running is a hub that serves.
type Running struct {
	*hub.Hub
	Domain  *Domain
	Address string
	Metrics string
	cancel  context.CancelFunc
	ended   chan error
	once    sync.Once
	err     error
}

// Start runs a hub on the domain until the test ends or Stop. adjust may change
// its options.
func (d *Domain) Start(t testing.TB, adjust ...func(*hub.Options)) *Running {
	t.Helper()
	opt := hub.Options{
		Domain: Name, Name: HubName, StoreName: "memory", CertificateGrace: 72 * time.Hour, Keys: d.Keys, Authority: d.Authority, TLS: d.tls,
		Listener: listen(t), Metrics: listen(t), Drain: 500 * time.Millisecond,
		OpenLog: func(ctx context.Context) (*store.Log, error) {
			driver := d.Store.Driver()
			if d.Wrap != nil {
				driver = d.Wrap(driver)
			}
			opts := d.Log
			if b, ok := d.Store.Driver().(store.Blobs); ok {
				opts.Blobs = b
			}
			return store.Open(ctx, driver, opts)
		},
		Replica: replica.Options{Probe: 50 * time.Millisecond},
	}
	for _, f := range adjust {
		f(&opt)
	}
	h := must(hub.New(opt))(t)
	ctx, cancel := context.WithCancel(context.Background())
	r := &Running{Hub: h, Domain: d, cancel: cancel, ended: make(chan error, 1)}
	r.Address, r.Metrics = h.Addresses()
	go func() { r.ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("hub ended with %v", err)
		}
	})
	select {
	case <-h.Ready():
	case err := <-r.ended:
		t.Fatalf("hub did not start: %v", err)
	}
	return r
}

// Follower starts a further hub of the domain, of its own name and keys, which it
// lists in the keyset first. While r leads and has not stopped, it follows.
func (r *Running) Follower(t testing.TB, name string, adjust ...func(*hub.Options)) *Running {
	t.Helper()
	keys := NewKeys()
	config := must(sign.Create(t.Context(), keys, keyring.ConfigKey, sign.Ed25519))(t)
	r.Publish(t, trust.KeysetEdit{Add: map[string][]sign.PublicKey{name: {config.Public()}}})
	source := r.Domain.Source(t, identity.Hub, name)
	own := func(opt *hub.Options) { opt.Name, opt.Keys, opt.TLS = name, keys, source }
	return r.Domain.Start(t, append([]func(*hub.Options){own}, adjust...)...)
}

// Publish changes the keyset, as who has its key beside the hub does.
func (r *Running) Publish(t testing.TB, edit trust.KeysetEdit) {
	t.Helper()
	client := adminv1.NewTrustServiceClient(r.Operator(t))
	shown := must(client.GetTrust(t.Context(), &adminv1.GetTrustRequest{}))(t)
	signer := must(sign.Open(t.Context(), r.Domain.Keys, keyring.KeysetKey))(t)
	if edit.Expires.IsZero() {
		edit.Expires = time.Now().Add(keyring.KeysetLifetime)
	}
	m := shown.GetMetadata()
	m.Roots, m.Keyset = nil, must(trust.EditKeyset(m.GetKeyset(), edit, signer))(t)
	must(client.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: m, Reason: "test"}))(t)
}

// Stop ends the hub in order and waits for it.
func (r *Running) Stop() error {
	r.once.Do(func() {
		r.cancel()
		r.err = <-r.ended
	})
	return r.err
}

// Dial connects with a certificate; nil: without one, by CA pin.
func (r *Running) Dial(t testing.TB, s *mtls.Source) *grpc.ClientConn {
	t.Helper()
	var config *tls.Config
	if s != nil {
		config = mtls.ClientConfig(s, mtls.AnyHub)
	} else {
		var err error
		if config, _, err = mtls.PinnedClientConfig(r.Domain.Authority.Pin()); err != nil {
			t.Fatal(err)
		}
	}
	opts := wire.DialOptions(wire.DialConfig{ReceiveBytes: 64 << 20, SendBytes: 64 << 20, UserAgent: "hubtest"})
	conn := must(grpc.NewClient(r.Address, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(config)))...))(t)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Operator connects as an operator.
func (r *Running) Operator(t testing.TB) *grpc.ClientConn {
	t.Helper()
	return r.Dial(t, r.Domain.Source(t, identity.Operator, "admin"))
}

// Token makes a join token.
func (r *Running) Token(t testing.TB, req *adminv1.CreateTokenRequest) string {
	t.Helper()
	return must(adminv1.NewFleetServiceClient(r.Operator(t)).CreateToken(t.Context(), req))(t).GetToken()
}

// Join joins a node with a token and gives its credentials and what it was told.
func (r *Running) Join(t testing.TB, token, node string) (*mtls.Source, *identityv1.JoinResponse) {
	t.Helper()
	key := newP256(t)
	req := &identityv1.JoinRequest{Token: token, Node: node, Csr: CSR(t, key, node), RequestId: rand.Text()}
	resp := must(identityv1.NewIdentityServiceClient(r.Dial(t, nil)).Join(t.Context(), req))(t)
	return must(mtls.NewSource(tls.Certificate{Certificate: resp.GetCertificateChain(), PrivateKey: key}, resp.GetTrust().GetCaBundle()))(t), resp
}

// CSR makes a node's certificate request.
func CSR(t testing.TB, key crypto.Signer, node string) []byte {
	t.Helper()
	return must(ca.NewCSR(key, id(t, identity.Node, node)))(t)
}

// Key makes a P-256 key.
func Key(t testing.TB) crypto.Signer { return newP256(t) }

// Keys is a sign.Driver in memory.
type Keys struct {
	mu   sync.Mutex // guards keys
	keys map[string]crypto.Signer
}

// NewKeys makes a place without keys.
func NewKeys() *Keys { return &Keys{keys: make(map[string]crypto.Signer)} }

// Create implements sign.Driver.
func (k *Keys) Create(_ context.Context, name string, alg sign.Algorithm) (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys[name] != nil {
		return nil, fault.New(fault.CodeKeyExists, "key %s exists", name)
	}
	key, err := sign.Generate(alg)
	if err == nil {
		k.keys[name] = key
	}
	return key, err
}

// Open implements sign.Driver.
func (k *Keys) Open(_ context.Context, name string) (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.keys[name]; key != nil {
		return key, nil
	}
	return nil, fault.New(fault.CodeKeyNotFound, "no key %s", name)
}

// issuer is a ca.Driver of crypto/x509.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// CA makes a ca.Driver of crypto/x509.
func CA(cert *x509.Certificate, key crypto.Signer) ca.Driver { return issuer{cert, key} }

func (i issuer) Issuer() *x509.Certificate { return i.cert }

func (i issuer) Sign(_ context.Context, t ca.Template) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(t.CSR)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: serial.SetBit(serial, 121, 1), Subject: pkix.Name{CommonName: t.CommonName}, DNSNames: t.DNSNames,
		NotBefore: t.NotBefore, NotAfter: t.NotAfter, BasicConstraintsValid: true,
	}
	for _, ip := range t.IPs {
		c.IPAddresses = append(c.IPAddresses, net.IP(ip.AsSlice()))
	}
	switch t.Profile {
	case ca.ProfileIntermediate:
		c.IsCA, c.MaxPathLenZero, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	case ca.ProfileHubCA:
		c.IsCA, c.MaxPathLen, c.KeyUsage = true, 1, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	case ca.ProfileOperator:
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	default:
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	if t.URI != nil {
		c.URIs = []*url.URL{t.URI}
	}
	return x509.CreateCertificate(rand.Reader, c, i.cert, csr.PublicKey, i.key)
}

func newAuthority(t testing.TB, clock func() time.Time) (issuer, *ca.Authority) {
	t.Helper()
	begun := time.Now().Add(-7 * 24 * time.Hour) // certificates may be old
	rootKey, key := newP256(t), newP256(t)
	root := must(x509.ParseCertificate(must(ca.NewRoot(Name, rootKey, begun))(t)))(t)
	der := must(ca.NewIntermediate(context.Background(), issuer{root, rootKey}, Name, key, begun))(t)
	inter := must(x509.ParseCertificate(der))(t)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	return issuer{root, rootKey}, must(ca.New(Name, issuer{inter, key}, bundle, ca.Options{Now: clock}))(t)
}

// HubCA makes a CA that makes issuing CAs for hubs, and its certificate.
func (d *Domain) HubCA(t testing.TB) (ca.Driver, [][]byte) {
	t.Helper()
	key := newP256(t)
	der := must(ca.NewHubCA(context.Background(), d.root, Name, key, time.Now()))(t)
	return issuer{must(x509.ParseCertificate(der))(t), key}, [][]byte{der}
}

// AuthorityOf makes the issuing CA of a hub that joins.
func (d *Domain) AuthorityOf(t testing.TB, hub string) *ca.Authority {
	t.Helper()
	above, chain := d.HubCA(t)
	key := newP256(t)
	csr := must(ca.NewCSR(key, id(t, identity.Hub, hub)))(t)
	cert := must(x509.ParseCertificate(must(ca.IssueIntermediate(context.Background(), above, id(t, identity.Hub, hub), csr, time.Now()))(t)))(t)
	return must(ca.New(Name, issuer{cert, key}, d.Authority.Bundle(), ca.Options{Intermediates: chain}))(t)
}

// AuthorityFor makes the issuing CA that a hub was given when it joined.
func (d *Domain) AuthorityFor(t testing.TB, key crypto.Signer, chain [][]byte) *ca.Authority {
	t.Helper()
	cert := must(x509.ParseCertificate(chain[0]))(t)
	return must(ca.New(Name, issuer{cert, key}, d.Authority.Bundle(), ca.Options{Intermediates: chain[1:]}))(t)
}

func id(t testing.TB, kind identity.Kind, name string) identity.ID {
	t.Helper()
	return must(identity.New(Name, kind, name))(t)
}

func newP256(t testing.TB) crypto.Signer {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func newEd25519(t testing.TB) crypto.Signer {
	t.Helper()
	return must(sign.Generate(sign.Ed25519))(t)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	return must(net.Listen("tcp", "127.0.0.1:0"))(t)
}

// must ends the test when err is not nil: must(f())(t).
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
