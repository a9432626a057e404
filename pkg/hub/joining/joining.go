// Package joining makes a hub of a domain that there is, in a directory of its own (see
// hubdir). pkg/hub/join is the other end: the hubs that admit it.
//
//	domain, err := joining.Join(ctx, joining.Options{…})
//
// Steps come in this order; after a failure or a crash at any of them the same call goes
// on, and spends no second use of the token:
//
//	keys            config key, issuing CA's key, TLS key: they never leave the directory
//	joining.json    makes the keys count, with the id of the request
//	request         signed by a hub with the keys that admit hubs, committed by the leader
//	certificates    and roots, once the answer is verified
//	configuration   makes the directory a hub; joining.json goes
//
// Join may be called for several directories at a time.
package joining

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Files of a join that has begun and is not complete: what was asked for, and the
// TLS key. A repetition asks for the same, which costs no second use of the token.
const (
	pendingName = hubdir.JoiningFile
	pendingKey  = "joining.key"
)

// Options of a hub in the making. All but Domain are required.
type Options struct {
	// Hub is the address of any hub of the domain, Pin that of the domain's CA, and Token
	// a token for a hub.
	Hub, Pin, Token string
	// Name is the name of the new hub, Address where others reach it; host:port.
	Name, Address string
	// Dir is the directory to make, absolute.
	Dir string
	// Domain, if set, is the one that is to be joined, whatever the hub is of.
	Domain string
	Drivers
}

// Drivers say where the parts of a hub are kept.
type Drivers struct {
	// Keys opens a directory of keys.
	Keys func(dir string) (sign.Driver, error)
	// CA makes the driver of a CA with its key.
	CA func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error)
	// Configure gives the text of the hub's configuration, and checks that the hub will
	// reach the domain's log; driver and url are where the other hubs do.
	Configure func(ctx context.Context, domain, driver, url string) ([]byte, error)
}

// pending is joining.json.
type pending struct {
	Name      string `json:"name"`
	Pin       string `json:"pin"`
	RequestID string `json:"requestId"`
	// Token is the id of the token, which the request names as well. With another one it
	// is another request, by the same keys.
	Token string `json:"token,omitempty"`
}

// joining is a hub in the making: what one step leaves for the next.
type joining struct {
	Options
	keys, caDir sign.Driver
	requestID   string

	config, issuer *sign.Signer
	tlsKey         crypto.Signer
}

// Join makes the directory of a hub that the domain admits, and gives the domain's name.
// CodeInitNotEmpty: the directory holds something else; CodeJoinOtherTarget: an unfinished
// join of another hub or domain; CodeJoinAnswer: what was answered is not what was asked for.
func Join(ctx context.Context, o Options) (domain string, err error) {
	j := &joining{Options: o}
	if j.keys, err = o.Keys(j.path("keys")); err != nil {
		return "", err
	}
	if j.caDir, err = o.Keys(j.path("ca")); err != nil {
		return "", err
	}
	if err := j.begin(ctx); err != nil {
		return "", err
	}
	got, err := j.ask(ctx)
	if err != nil {
		return "", unanswered(err)
	}
	return got.Hub.Domain, j.finish(ctx, got)
}

func (j *joining) path(elem ...string) string {
	return filepath.Join(append([]string{j.Dir}, elem...)...)
}

// begin makes the directory and its keys, or finds those of a join that was cut
// short. joining.json comes last and makes them count.
func (j *joining) begin(ctx context.Context) error {
	if err := durable.MkdirAll(durable.OS, j.Dir, 0o700); err != nil {
		return fault.New(fault.CodeIO, "make %s: %w", j.Dir, err)
	}
	data, err := durable.ReadFile(durable.OS, j.path(pendingName), 4<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j.beginNew(ctx)
	case err != nil:
		return fault.New(fault.CodeIO, "read the unfinished join: %w", err)
	}
	var p pending
	if err := json.Unmarshal(data, &p); err != nil || p.Name != j.Name || p.Pin != j.Pin {
		return fault.New(fault.CodeJoinOtherTarget, "%s holds an unfinished join of hub %q with CA pin %s", j.Dir, p.Name, p.Pin)
	}
	j.requestID = p.RequestID
	if j.config, err = sign.Open(ctx, j.keys, keyring.ConfigKey); err != nil {
		return err
	}
	if j.issuer, err = sign.Open(ctx, j.caDir, "intermediate"); err != nil {
		return err
	}
	if j.tlsKey, err = mtls.ReadKey(j.path(pendingKey)); err != nil || p.Token == "" || p.Token == j.tokenID() {
		return err
	}
	return j.pend()
}

func (j *joining) beginNew(ctx context.Context) error {
	entries, err := os.ReadDir(j.Dir)
	if err != nil {
		return fault.New(fault.CodeIO, "read %s: %w", j.Dir, err)
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == hubdir.ConfigFile }) {
		return fault.New(fault.CodeInitNotEmpty, "%s holds a hub that was made or has joined already", j.Dir).
			WithRemedy("Start it: meshhub run --config %s. For another hub give another --data directory.", j.path(hubdir.ConfigFile))
	}
	for _, e := range entries {
		// Keys without joining.json were not sent to anybody.
		if !slices.Contains([]string{"keys", "ca", pendingKey}, e.Name()) {
			return fault.New(fault.CodeInitNotEmpty, "%s is not empty", j.Dir)
		}
	}
	for _, sub := range []string{"keys", "ca"} {
		if err := os.RemoveAll(j.path(sub)); err != nil {
			return fault.New(fault.CodeIO, "clear %s: %w", j.path(sub), err)
		}
	}
	if j.config, err = sign.Create(ctx, j.keys, keyring.ConfigKey, sign.Ed25519); err != nil {
		return err
	}
	if j.issuer, err = sign.Create(ctx, j.caDir, "intermediate", sign.ECDSAP256); err != nil {
		return err
	}
	if err := j.makeTLSKey(); err != nil {
		return err
	}
	return j.pend()
}

func (j *joining) tokenID() string {
	id, _, _ := strings.Cut(j.Token, ".")
	return id
}

// pend begins a request with the keys that are there.
func (j *joining) pend() error {
	j.requestID = rand.Text()
	data, err := json.Marshal(pending{Name: j.Name, Pin: j.Pin, RequestID: j.requestID, Token: j.tokenID()})
	if err != nil {
		return fault.New(fault.CodeInternal, "encode the join request: %w", err)
	}
	if err := durable.WriteFile(durable.OS, j.path(pendingName), data, 0o600); err != nil {
		return fault.New(fault.CodeIO, "begin the join: %w", err)
	}
	return nil
}

func (j *joining) makeTLSKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.New(fault.CodeInternal, "make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fault.New(fault.CodeInternal, "encode key: %w", err)
	}
	j.tlsKey = key
	return j.write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, pendingKey)
}

// ask sends the request until it is answered.
func (j *joining) ask(ctx context.Context) (client.Pinned[*identityv1.JoinHubResponse], error) {
	var none client.Pinned[*identityv1.JoinHubResponse]
	key, err := j.config.Public().PEM()
	if err != nil {
		return none, err
	}
	proof, err := j.config.Sign(ctx, join.HubProof(j.Pin, j.Name, j.tokenID()))
	if err != nil {
		return none, err
	}
	// Requests without names: the certificate is for whom the token admits.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, j.tlsKey)
	if err != nil {
		return none, fault.New(fault.CodeInternal, "make certificate request: %w", err)
	}
	issuerCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, j.issuer.CryptoSigner())
	if err != nil {
		return none, fault.New(fault.CodeInternal, "make certificate request: %w", err)
	}
	return client.AskPinned(ctx, j.Hub, j.Pin, nil, func(ctx context.Context, c identityv1.IdentityServiceClient) (*identityv1.JoinHubResponse, error) {
		return c.JoinHub(ctx, &identityv1.JoinHubRequest{
			Token: j.Token, Hub: j.Name, Address: j.Address, Csr: csr, IssuerCsr: issuerCSR,
			ConfigKey: key, ConfigProof: proof, RequestId: j.requestID,
		})
	})
}

// unanswered says how a join goes on that may have been granted: it keeps its request
// id in the directory.
func unanswered(err error) error {
	code := fault.CodeOf(err)
	switch k := fault.KindOf(err); {
	case code == "" || code == fault.CodeNoHubCA:
		return err
	case k == fault.Timeout, k == fault.Unknown, code == fault.CodeNotLeader:
		return fault.New(code, "%w", err).
			WithRemedy("See with `meshctl get hubs` that a hub leads, and run the same command again, with a longer --timeout if need be: it goes on with the same request, which spends no second use of the token.")
	}
	return err
}

// admitted is an answer that was verified.
type admitted struct {
	domain  string
	anchors *trust.Anchors
	source  *mtls.Source
	issuer  [][]byte // the issuing CA's certificate and its CA's, DER
}

// verify holds an answer against what was asked for, and against the pin.
func (j *joining) verify(got client.Pinned[*identityv1.JoinHubResponse]) (admitted, error) {
	bad := func(format string, args ...any) (admitted, error) {
		return admitted{}, fault.New(fault.CodeJoinAnswer, format, args...)
	}
	answer, domain := got.Answer, got.Hub.Domain
	if answer.GetDomain() != domain || j.Domain != "" && j.Domain != domain {
		return bad("%s answered for domain %q", got.Hub, answer.GetDomain())
	}
	anchors, err := trust.Join(domain, answer.GetTrust(), time.Now())
	if err != nil {
		return bad("trust metadata: %w", err)
	}
	if !slices.ContainsFunc(anchors.Hubs(), func(h trust.HubKey) bool { return h.Hub == j.Name && h.KeyID == j.config.KeyID() }) {
		return bad("the keyset does not list the config key of hub %s", j.Name)
	}
	if err := j.checkIssuer(domain, answer.GetIssuerChain(), anchors.CABundle()); err != nil {
		return admitted{}, err
	}
	source, err := mtls.NewSource(tls.Certificate{Certificate: answer.GetCertificateChain(), PrivateKey: j.tlsKey}, anchors.CABundle())
	if err != nil {
		return bad("certificate: %w", err)
	}
	if want, err := identity.New(domain, identity.Hub, j.Name); err != nil || source.ID() != want {
		return bad("the certificate is for %s, and %s was asked for", source.ID(), want)
	}
	return admitted{domain: domain, anchors: anchors, source: source, issuer: answer.GetIssuerChain()}, nil
}

// finish writes the directory; the configuration last.
func (j *joining) finish(ctx context.Context, got client.Pinned[*identityv1.JoinHubResponse]) error {
	a, err := j.verify(got)
	if err != nil {
		return err
	}
	text, err := j.Configure(ctx, a.domain, got.Answer.GetStoreDriver(), got.Answer.GetStoreUrl())
	if err != nil {
		return err
	}
	// What this hub believes a backup by, see restore.
	for _, root := range a.anchors.Metadata(0, 0).GetRoots() {
		info, err := trust.InspectRoot(root)
		if err != nil {
			return err
		}
		if err := j.write(root, 0o644, "root", hubdir.RootFile(info.Version)); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"root.pem", a.anchors.CABundle()}, {"intermediate.pem", hubdir.CertificatePEM(a.issuer[0])}, {hubdir.HubCA + ".pem", hubdir.CertificatePEM(a.issuer[1])},
	} {
		if err := j.write(f.data, 0o644, "ca", f.name); err != nil {
			return err
		}
	}
	if err := durable.MkdirAll(durable.OS, j.path("tls"), 0o700); err != nil {
		return fault.New(fault.CodeIO, "make %s: %w", j.path("tls"), err)
	}
	if err := a.source.SaveFiles(mtls.Files{Cert: j.path("tls", "hub.pem"), Key: j.path("tls", "hub.key"), CA: j.path("ca", "root.pem")}); err != nil {
		return err
	}
	if err := j.write(text, 0o600, hubdir.ConfigFile); err != nil {
		return err
	}
	for _, name := range []string{pendingName, pendingKey} {
		if err := os.Remove(j.path(name)); err != nil {
			return fault.New(fault.CodeIO, "finish the join: %w", err)
		}
	}
	return nil
}

// checkIssuer checks that the issuing CA is of our key and leads to the pinned
// root.
func (j *joining) checkIssuer(domain string, chain [][]byte, bundle []byte) error {
	if len(chain) != 2 {
		return fault.New(fault.CodeJoinAnswer, "the issuing CA came with a chain of %d certificates, not 2", len(chain))
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fault.New(fault.CodeJoinAnswer, "issuing CA: %w", err)
	}
	if key, ok := j.issuer.CryptoSigner().Public().(*ecdsa.PublicKey); !ok || !key.Equal(cert.PublicKey) {
		return fault.New(fault.CodeJoinAnswer, "the issuing CA is of another key")
	}
	driver, err := j.CA(cert, j.issuer.CryptoSigner())
	if err != nil {
		return err
	}
	authority, err := ca.New(domain, driver, bundle, ca.Options{Intermediates: chain[1:]})
	if err != nil {
		return fault.New(fault.CodeJoinAnswer, "issuing CA: %w", err)
	}
	if authority.Pin() != strings.ToLower(j.Pin) {
		return fault.New(fault.CodeJoinAnswer, "the issuing CA leads to %s, not to the pinned CA", authority.Pin())
	}
	return nil
}

func (j *joining) write(data []byte, perm os.FileMode, elem ...string) error {
	return hubdir.WriteFile(j.path(elem...), data, perm)
}
