package main

import (
	"cmp"
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
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	hubjoin "github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// tokenVariable names the environment variable that may hold the token.
const tokenVariable = "MESHKIT_TOKEN"

// Files of a join that has begun and is not complete: what was asked for, and the
// TLS key. A repetition asks for the same, which costs no second use of the token.
const (
	pendingName = hubdir.JoiningFile
	pendingKey  = "joining.key"
)

type joinOptions struct {
	io                                           *cliutil.IO
	hub, token, tokenFile, pin, data, store      string
	name, listen, metrics, advertise, passphrase string
	timeout                                      time.Duration
	// own is the configuration of the hub that is to serve the domain beside its own;
	// empty: the hub has no other.
	own string
}

func newJoin(io *cliutil.IO) *cobra.Command { return joinCommand(&joinOptions{io: io}) }

func joinCommand(o *joinOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join --hub HOST:PORT --token-file PATH --ca-pin sha256:PIN --data DIR",
		Short: "Add a hub to a domain: keys, certificate, issuing CA, configuration",
		Long: `Join makes the keys of another hub of a domain, spends one use of a hub's token for their certificates, has its config
key listed in the keyset, and writes DIR/meshhub.yaml. Private keys never leave the machine. Any hub of the domain can be
asked. The hub with the keys that admit hubs must be up: the one that init made has them. The command can be repeated after any
failure.

All hubs of a domain share its log, so the store must be one that they all reach: the answer says where it is, unless
--store does. With --store, the log is looked for there before anything is asked or spent.

A hub that serves a domain joins another of the same ring with --data DIR/domains/DOMAIN, where DIR is its own directory: name,
addresses, store and passphrase are those of DIR/meshhub.yaml then, unless flags say otherwise.

"meshctl token create --hub" prints the token and the pin. The token comes from --token, else from the file that
--token-file names, else from $MESHKIT_TOKEN.`,
		Example: `  meshhub join --hub 10.0.0.1:8443 --token-file ./token --ca-pin sha256:PIN --data ./hub2 --listen 10.0.0.2:8443
  meshhub join --hub 10.0.0.1:8443 --token-file ./token --ca-pin sha256:PIN --data ./hub2/domains/eu-central`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "hub", "ca-pin", "data"); err != nil {
				return err
			}
			if err := o.beside(cmd.Flags().Changed); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.hub, "hub", "", "address of a hub that admits hubs, host:port")
	f.StringVar(&o.token, "token", "", "join token for a hub")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds the join token (default: $MESHKIT_TOKEN)")
	f.StringVar(&o.pin, "ca-pin", "", "pin of the domain's CA, sha256:…")
	f.StringVar(&o.data, "data", "", "directory to make")
	f.StringVar(&o.store, "store", "", "where the log is, as this machine reaches it (default: as the hub that is asked reaches it)")
	f.StringVar(&o.name, "name", "", "name of this hub (default: the last part of --data)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8443", "address of the gRPC port")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:9443", "address of metrics and health")
	f.StringVar(&o.advertise, "advertise", "", "address at which agents and operators reach the hub (default: --listen)")
	f.StringVar(&o.passphrase, "passphrase-file", "", "seal all private keys but the hub's TLS key with the passphrase in this file")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after this long")
	return cmd
}

// beside takes what flags do not say from the hub whose directory the new one is in.
func (o *joinOptions) beside(changed func(flag string) bool) error {
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return fault.New(fault.CodeIO, "find %s: %w", o.data, err)
	}
	path := filepath.Join(dir, "..", "..", hubdir.ConfigFile)
	if _, err := os.Stat(path); err != nil || filepath.Base(filepath.Dir(dir)) != hubdir.DomainsDir {
		return nil
	}
	own, err := loadConfig(path)
	if err != nil {
		return err
	}
	o.own = path
	for flag, x := range map[string]struct {
		field *string
		value string
	}{
		"name": {&o.name, own.Name}, "listen": {&o.listen, own.Listen}, "advertise": {&o.advertise, cmp.Or(own.Advertise, own.Listen)},
		"metrics": {&o.metrics, ""}, "store": {&o.store, own.Store.URL}, "passphrase-file": {&o.passphrase, own.Keys.PassphraseFile},
	} {
		if !changed(flag) {
			*x.field = x.value
		}
	}
	return nil
}

// joining is a hub in the making.
type joining struct {
	*joinOptions
	dir         string // absolute
	driver, url string // of the store, if they were given
	keys, caDir sign.Driver
	requestID   string

	config, issuer *sign.Signer
	tlsKey         crypto.Signer
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

func (o *joinOptions) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	j, err := o.prepare()
	if err != nil {
		return err
	}
	if err := o.apart(ctx); err != nil {
		return err
	}
	if err := j.check(ctx); err != nil {
		return err
	}
	if err := j.begin(ctx); err != nil {
		return err
	}
	got, err := j.ask(ctx)
	if err != nil {
		return unanswered(err)
	}
	if err := j.finish(ctx, got); err != nil {
		return err
	}
	o.io.Donef("hub %s joined domain %s", o.name, got.Hub.Domain)
	o.next()
	return nil
}

func (o *joinOptions) next() {
	if o.own != "" {
		o.io.Notef("\nNext: end the hub, and start it again; it serves the domain beside its own:\n  meshhub run --config %s", cliutil.ShellQuote(o.own))
		return
	}
	if cliutil.Loopback(o.advertise) {
		o.io.Notef("Only this machine reaches it at %s: agents and hubs on others do not.", o.advertise)
	}
	o.io.Notef("\nNext:\n  meshhub run --config %s", cliutil.ShellQuote(filepath.Join(o.data, hubdir.ConfigFile)))
}

// prepare checks the flags, before anything is made or asked.
func (o *joinOptions) prepare() (*joining, error) {
	if err := o.readToken(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "find %s: %w", o.data, err)
	}
	if o.name == "" {
		o.name = strings.ToLower(filepath.Base(dir))
	}
	if o.advertise == "" {
		o.advertise = o.listen
	}
	if err := identity.ValidName(o.name); err != nil {
		return nil, usage(fmt.Errorf("--name: %w", err))
	}
	for flag, addr := range map[string]string{"hub": o.hub, "listen": o.listen, "metrics": o.metrics, "advertise": o.advertise} {
		if err := validAddress(addr); err != nil && (flag != "metrics" || addr != "") {
			return nil, usage(fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if err := checkAdvertised(o.advertise); err != nil {
		return nil, usage(err).WithRemedy("%s", fault.RemedyOf(err))
	}
	if _, port, _ := net.SplitHostPort(o.advertise); port == "0" {
		return nil, usage(fmt.Errorf("--advertise: others must know the port of %s", o.advertise))
	}
	if _, _, err := mtls.PinnedClientConfig(o.pin); err != nil {
		return nil, err
	}
	j := &joining{joinOptions: o, dir: dir}
	if o.store != "" {
		here, err := os.Getwd()
		if err != nil {
			return nil, fault.New(fault.CodeIO, "find the working directory: %w", err)
		}
		if j.driver, j.url, err = builtin.StoreDriver(o.store, here); err != nil {
			return nil, usage(err)
		}
		if j.url == "" {
			return nil, usage(errors.New("--store bolt: a file cannot be shared by hubs"))
		}
	}
	passphrase, err := readPassphrase(o.passphrase)
	if err != nil {
		return nil, err
	}
	if j.keys, err = builtin.Signer("file", j.path("keys"), passphrase); err != nil {
		return nil, err
	}
	j.caDir, err = builtin.Signer("file", j.path("ca"), passphrase)
	return j, err
}

// check tells whether the hub that is asked is of the domain whose directory is to be
// made, and whether the store that was given holds its log, before anything is made or
// spent.
func (j *joining) check(ctx context.Context) error {
	if j.url == "" && j.own == "" {
		return nil
	}
	hub, err := client.WhoIs(ctx, j.hub, j.pin)
	if err != nil {
		return err
	}
	if j.own != "" && filepath.Base(j.dir) != hub.Domain {
		return cliutil.Usagef("--data %s: hub %s is of domain %s, and a hub serves it from a directory of that name", j.data, j.hub, hub.Domain).
			WithRemedy("Give --data %s.", filepath.Join(filepath.Dir(j.data), hub.Domain))
	}
	if j.url == "" {
		return nil
	}
	if err := reachLog(ctx, j.driver, j.url, hub.Domain); err != nil {
		return fmt.Errorf("nothing was asked of hub %s, for --store does not work here: %w", j.hub, err)
	}
	return nil
}

func (o *joinOptions) readToken() error {
	switch {
	case o.token != "" && o.tokenFile != "":
		return usage(errors.New("--token and --token-file exclude each other"))
	case o.tokenFile != "":
		data, err := durable.ReadFile(durable.OS, o.tokenFile, 4<<10)
		if err != nil {
			return fault.New(fault.CodeJoinArguments, "token file: %w", err)
		}
		o.token = strings.TrimSpace(string(data))
	case o.token == "":
		o.token = strings.TrimSpace(o.io.Env(tokenVariable))
	}
	if o.token == "" {
		return usage(fmt.Errorf("needs --token, --token-file or $%s", tokenVariable))
	}
	return nil
}

func (j *joining) path(elem ...string) string {
	return filepath.Join(append([]string{j.dir}, elem...)...)
}

// begin makes the directory and its keys, or finds those of a join that was cut
// short. joining.json comes last and makes them count.
func (j *joining) begin(ctx context.Context) error {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fault.New(fault.CodeIO, "make %s: %w", j.dir, err)
	}
	data, err := durable.ReadFile(durable.OS, j.path(pendingName), 4<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j.beginNew(ctx)
	case err != nil:
		return fault.New(fault.CodeIO, "read the unfinished join: %w", err)
	}
	var p pending
	if err := json.Unmarshal(data, &p); err != nil || p.Name != j.name || p.Pin != j.pin {
		return fault.New(fault.CodeJoinOtherTarget, "%s holds an unfinished join of hub %q with CA pin %s", j.dir, p.Name, p.Pin)
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
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fault.New(fault.CodeIO, "read %s: %w", j.dir, err)
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == hubdir.ConfigFile }) {
		return fault.New(fault.CodeInitNotEmpty, "%s holds a hub that was made or has joined already", j.dir).
			WithRemedy("Start it: meshhub run --config %s. For another hub give another --data directory.", cliutil.ShellQuote(j.path(hubdir.ConfigFile)))
	}
	for _, e := range entries {
		// Keys without joining.json were not sent to anybody.
		if !slices.Contains([]string{"keys", "ca", pendingKey}, e.Name()) {
			return fault.New(fault.CodeInitNotEmpty, "%s is not empty", j.dir)
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
	id, _, _ := strings.Cut(j.token, ".")
	return id
}

// pend begins a request with the keys that are there.
func (j *joining) pend() error {
	j.requestID = rand.Text()
	data, err := json.Marshal(pending{Name: j.name, Pin: j.pin, RequestID: j.requestID, Token: j.tokenID()})
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
	proof, err := j.config.Sign(ctx, hubjoin.HubProof(j.pin, j.name, j.tokenID()))
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
	return client.AskPinned(ctx, j.hub, j.pin, nil, func(ctx context.Context, c identityv1.IdentityServiceClient) (*identityv1.JoinHubResponse, error) {
		return c.JoinHub(ctx, &identityv1.JoinHubRequest{
			Token: j.token, Hub: j.name, Address: j.advertise, Csr: csr, IssuerCsr: issuerCSR,
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

// finish verifies the answer and writes the directory; the configuration last.
func (j *joining) finish(ctx context.Context, got client.Pinned[*identityv1.JoinHubResponse]) error {
	bad := func(format string, args ...any) error { return fault.New(fault.CodeJoinAnswer, format, args...) }
	answer, domain := got.Answer, got.Hub.Domain
	if answer.GetDomain() != domain {
		return bad("%s answered for domain %q", got.Hub, answer.GetDomain())
	}
	anchors, err := trust.Join(domain, answer.GetTrust(), time.Now())
	if err != nil {
		return bad("trust metadata: %w", err)
	}
	if !slices.ContainsFunc(anchors.Hubs(), func(h trust.HubKey) bool { return h.Hub == j.name && h.KeyID == j.config.KeyID() }) {
		return bad("the keyset does not list the config key of hub %s", j.name)
	}
	bundle := anchors.CABundle()
	if err := j.checkIssuer(domain, answer.GetIssuerChain(), bundle); err != nil {
		return err
	}
	source, err := mtls.NewSource(tls.Certificate{Certificate: answer.GetCertificateChain(), PrivateKey: j.tlsKey}, bundle)
	if err != nil {
		return bad("certificate: %w", err)
	}
	if want, err := identity.New(domain, identity.Hub, j.name); err != nil || source.ID() != want {
		return bad("the certificate is for %s, and %s was asked for", source.ID(), want)
	}
	driver, url := j.driver, j.url
	if url == "" {
		if driver, url, err = builtin.StoreDriver(answer.GetStoreUrl(), "/"); err != nil || url == "" {
			return fault.New(fault.CodeStoreNotShared, "the log of domain %s is in a store of driver %q, which other hubs cannot reach", domain, answer.GetStoreDriver())
		}
		if err := reachLog(ctx, driver, url, domain); err != nil {
			return fault.New(fault.CodeStoreUnavailable, "hub %s is admitted, but this machine does not reach the log where the others do: %w", j.name, err).
				WithRemedy("Run the same command again with --store, as this machine reaches it: that spends no further use of the token.")
		}
	}
	chain := answer.GetIssuerChain()
	files := []struct {
		name string
		data []byte
	}{{"root.pem", bundle}, {"intermediate.pem", hubdir.CertificatePEM(chain[0])}, {hubdir.HubCA + ".pem", hubdir.CertificatePEM(chain[1])}}
	// What this hub believes a backup by, see restore.
	for _, root := range anchors.Metadata(0, 0).GetRoots() {
		info, err := trust.InspectRoot(root)
		if err != nil {
			return err
		}
		if err := j.write(root, 0o644, "root", hubdir.RootFile(info.Version)); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := j.write(f.data, 0o644, "ca", f.name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(j.path("tls"), 0o700); err != nil {
		return fault.New(fault.CodeIO, "make %s: %w", j.path("tls"), err)
	}
	if err := source.SaveFiles(mtls.Files{Cert: j.path("tls", "hub.pem"), Key: j.path("tls", "hub.key"), CA: j.path("ca", "root.pem")}); err != nil {
		return err
	}
	text, err := configText(domain, j.name, j.listen, j.advertise, j.metrics, driver, url, j.passphrase)
	if err != nil {
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
	driver, err := builtin.CA("cfssl", cert, j.issuer.CryptoSigner(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	authority, err := ca.New(domain, driver, bundle, ca.Options{Intermediates: chain[1:]})
	if err != nil {
		return fault.New(fault.CodeJoinAnswer, "issuing CA: %w", err)
	}
	if authority.Pin() != strings.ToLower(j.pin) {
		return fault.New(fault.CodeJoinAnswer, "the issuing CA leads to %s, not to the pinned CA", authority.Pin())
	}
	return nil
}

func (j *joining) write(data []byte, perm os.FileMode, elem ...string) error {
	return hubdir.WriteFile(j.path(elem...), data, perm)
}
