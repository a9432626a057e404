package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// rootLifetime is how long the root of trust is good for without a rotation.
const rootLifetime = 5 * 365 * 24 * time.Hour

type initOptions struct {
	domain, data, store, listen, metrics, advertise, name, passphrase string
	rootKeys, rootThreshold                                           int
}

func newInit() *cobra.Command {
	o := &initOptions{}
	cmd := &cobra.Command{
		Use:   "init --domain NAME --data DIR",
		Short: "Make a new domain: keys, root of trust, CA, store, admin credentials, configuration",
		Long: `Init makes everything that a domain's first hub needs in one directory, and prints what to do next. It refuses a
directory that is not empty and changes nothing else. The configuration is written last: without it the directory is no hub.`,
		Example: `  meshhub init --domain eu-west --data ./hub
  meshhub init --domain eu-west --store "consul://127.0.0.1:8501/meshkit?dc=dc1" --data ./hub1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "domain", "data"); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.domain, "domain", "", "trust domain, like eu-west")
	f.StringVar(&o.data, "data", "", "directory to make")
	f.StringVar(&o.store, "store", "bolt", "where the log is: bolt (a file in --data), or consul://HOST:PORT/PREFIX?dc=NAME&token-file=PATH")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8443", "address of the gRPC port")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:9443", "address of metrics and health")
	f.StringVar(&o.advertise, "advertise", "", "address at which agents and operators reach the hub (default: --listen)")
	f.StringVar(&o.name, "name", "hub1", "name of this hub")
	f.StringVar(&o.passphrase, "passphrase-file", "", "seal all private keys but the hub's TLS key with the passphrase in this file")
	f.IntVar(&o.rootKeys, "root-keys", 1, "number of root keys")
	f.IntVar(&o.rootThreshold, "root-threshold", 1, "root keys needed to change the root of trust")
	return cmd
}

// validate checks the flags before anything is made.
func (o *initOptions) validate() error {
	if err := identity.ValidDomain(o.domain); err != nil {
		return usage(err)
	}
	if err := identity.ValidName(o.name); err != nil {
		return usage(err)
	}
	for flag, addr := range map[string]string{"listen": o.listen, "metrics": o.metrics, "advertise": o.advertise} {
		if err := validAddress(addr); err != nil && (flag == "listen" || addr != "") {
			return usage(fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if err := checkAdvertised(o.address()); err != nil {
		return usage(err).WithRemedy("%s", fault.RemedyOf(err))
	}
	if o.rootKeys < 1 || o.rootKeys > 16 || o.rootThreshold < 1 || o.rootThreshold > o.rootKeys {
		return usage(fmt.Errorf("--root-threshold %d of --root-keys %d: want 1 to 16 keys and a threshold of at most that", o.rootThreshold, o.rootKeys))
	}
	return nil
}

// genesis is a domain in the making.
type genesis struct {
	*initOptions
	dir        string // absolute
	passphrase []byte
	now        time.Time

	roots          []*sign.Signer
	keyset, config *sign.Signer
	authority      *ca.Authority
	bundle         []byte
	root, signed   []byte // the root's metadata, and the keyset
	driver, url    string // of the store
	// made is when it is made for a caller of another domain of the same hubs, who
	// has a key and gets a certificate: there is no key of an operator here.
	made *madeBy
}

func (o *initOptions) run(ctx context.Context, out io.Writer) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return fault.New(fault.CodeIO, "find %s: %w", o.data, err)
	}
	here, err := os.Getwd()
	if err != nil {
		return fault.New(fault.CodeIO, "find the working directory: %w", err)
	}
	driver, url, err := builtin.StoreDriver(o.store, here)
	if err != nil {
		return usage(err)
	}
	passphrase, err := readPassphrase(o.passphrase)
	if err != nil {
		return err
	}
	made, err := hubdir.Claim(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // also when interrupted: leave nothing behind
			hubdir.Clear(dir, made)
		}
	}()
	g := &genesis{initOptions: o, dir: dir, passphrase: passphrase, now: time.Now(), driver: driver, url: url}
	if err := g.make(ctx); err != nil {
		return err
	}
	g.nextSteps(out)
	return nil
}

func (g *genesis) make(ctx context.Context) error {
	for _, step := range []func(context.Context) error{g.makeKeys, g.makeCA, g.makeTrust, g.makeCredentials, g.makeLog, g.makeConfig} {
		if err := ctx.Err(); err != nil {
			return fault.New(fault.CodeCanceled, "interrupted; nothing was made: %w", err)
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (g *genesis) path(elem ...string) string {
	return filepath.Join(append([]string{g.dir}, elem...)...)
}

func (g *genesis) create(ctx context.Context, dir, name string, alg sign.Algorithm) (*sign.Signer, error) {
	d, err := builtin.Signer("file", g.path(dir), g.passphrase)
	if err != nil {
		return nil, err
	}
	return sign.Create(ctx, d, name, alg)
}

func (g *genesis) makeKeys(ctx context.Context) error {
	for i := range g.rootKeys {
		k, err := g.create(ctx, "root", "root-"+strconv.Itoa(i+1), sign.Ed25519)
		if err != nil {
			return err
		}
		g.roots = append(g.roots, k)
	}
	var err error
	if g.keyset, err = g.create(ctx, "keys", keyring.KeysetKey, sign.Ed25519); err != nil {
		return err
	}
	g.config, err = g.create(ctx, "keys", keyring.ConfigKey, sign.Ed25519)
	return err
}

func (g *genesis) makeCA(ctx context.Context) error {
	log := slog.New(slog.DiscardHandler)
	rootKey, err := g.create(ctx, "ca", "root", sign.ECDSAP256)
	if err != nil {
		return err
	}
	rootDER, err := ca.NewRoot(g.domain, rootKey.CryptoSigner(), g.now)
	if err != nil {
		return err
	}
	rootCert, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return fault.New(fault.CodeInternal, "parse the CA root: %w", err)
	}
	rootDriver, err := builtin.CA("cfssl", rootCert, rootKey.CryptoSigner(), log)
	if err != nil {
		return err
	}
	key, err := g.create(ctx, "ca", "intermediate", sign.ECDSAP256)
	if err != nil {
		return err
	}
	der, err := ca.NewIntermediate(ctx, rootDriver, g.domain, key.CryptoSigner(), g.now)
	if err != nil {
		return err
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return fault.New(fault.CodeInternal, "parse the issuing CA: %w", err)
	}
	driver, err := builtin.CA("cfssl", issuer, key.CryptoSigner(), log)
	if err != nil {
		return err
	}
	hubKey, err := g.create(ctx, "ca", hubdir.HubCA, sign.ECDSAP256)
	if err != nil {
		return err
	}
	hubDER, err := ca.NewHubCA(ctx, rootDriver, g.domain, hubKey.CryptoSigner(), g.now)
	if err != nil {
		return err
	}
	if err := g.write(hubdir.CertificatePEM(hubDER), 0o644, "ca", hubdir.HubCA+".pem"); err != nil {
		return err
	}
	g.bundle = hubdir.CertificatePEM(rootDER)
	if err := g.write(g.bundle, 0o644, "ca", "root.pem"); err != nil {
		return err
	}
	if err := g.write(hubdir.CertificatePEM(der), 0o644, "ca", "intermediate.pem"); err != nil {
		return err
	}
	g.authority, err = ca.New(g.domain, driver, g.bundle, ca.Options{})
	return err
}

func (g *genesis) write(data []byte, perm os.FileMode, elem ...string) error {
	return hubdir.WriteFile(g.path(elem...), data, perm)
}

// makeTrust makes the first root and the first keyset.
func (g *genesis) makeTrust(ctx context.Context) error {
	var err error
	g.root, err = trust.NewRoot(g.domain, g.roots, g.rootThreshold, []*sign.Signer{g.keyset}, g.now.Add(rootLifetime))
	if err != nil {
		return err
	}
	if err := g.write(g.root, 0o644, "root", hubdir.RootFile(1)); err != nil {
		return err
	}
	hubs := map[string][]sign.PublicKey{g.name: {g.config.Public()}}
	g.signed, err = trust.NewKeyset(g.root, 1, hubs, g.bundle, g.now.Add(keyring.KeysetLifetime), g.keyset)
	return err
}

// makeLog writes the first entry of the log. It comes late: a store that others
// use as well cannot be taken back like a directory.
func (g *genesis) makeLog(ctx context.Context) error {
	l, err := builtin.OpenLog(ctx, g.driver, g.domain, builtin.StoreOptions{Path: g.path("store.db"), URL: g.url, Create: true})
	if err != nil {
		return err
	}
	id, err := identity.New(g.domain, identity.Hub, g.name)
	if err == nil {
		err = replica.Genesis(ctx, l, store.Holder{Name: g.name, Address: g.address()}, id.String(), g.now,
			&logv1.DomainCreated{Domain: g.domain, Root: g.root, Keyset: g.signed, CaBundle: g.bundle})
	}
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", cmp.Or(g.url, g.path("store.db")), err)
	}
	return nil
}

// address is where others reach the hub.
func (o *initOptions) address() string { return cmp.Or(o.advertise, o.listen) }

func (g *genesis) makeCredentials(ctx context.Context) error {
	hub := mtls.Files{Cert: g.path("tls", "hub.pem"), Key: g.path("tls", "hub.key"), CA: g.path("ca", "root.pem")}
	admin := mtls.Files{Cert: g.path("admin", "admin.pem"), Key: g.path("admin", "admin.key"), CA: g.path("admin", "ca.pem")}
	names, ips := hostNames(g.listen, g.address())
	if _, err := issue(ctx, g.authority, g.domain, identity.Hub, g.name, ca.Request{DNSNames: names, IPs: ips}, hub); err != nil {
		return err
	}
	if g.made != nil {
		data, err := json.Marshal(g.made)
		if err != nil {
			return fault.New(fault.CodeInternal, "encode who made the domain: %w", err)
		}
		return g.write(data, 0o600, hubdir.MakerFile)
	}
	if _, err := issue(ctx, g.authority, g.domain, identity.Operator, "admin", ca.Request{TTL: join.OperatorTTL}, admin); err != nil {
		return err
	}
	return g.write([]byte(contextFile(g.domain, g.address(), admin)), 0o600, "admin", "context.yaml")
}

// issue has the CA certify a new key, and writes key, chain and CA bundle.
func issue(ctx context.Context, authority *ca.Authority, domain string, kind identity.Kind, name string, req ca.Request, to mtls.Files) (*mtls.Source, error) {
	id, err := identity.New(domain, kind, name)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	req.ID = id
	if req.CSR, err = ca.NewCSR(key, id); err != nil {
		return nil, err
	}
	cert, err := authority.Issue(ctx, req)
	if err != nil {
		return nil, err
	}
	source, err := mtls.NewSource(tls.Certificate{Certificate: cert.Chain, PrivateKey: key}, authority.Bundle())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(to.Cert), 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "make %s: %w", filepath.Dir(to.Cert), err)
	}
	return source, source.SaveFiles(to)
}

// hostNames are what the hub's certificate names besides its SPIFFE ID, for
// clients that compare host names.
func hostNames(addrs ...string) (names []string, ips []netip.Addr) {
	seen := make(map[string]bool)
	for _, addr := range append(addrs, "localhost:0", "127.0.0.1:0") {
		host, _, err := net.SplitHostPort(addr)
		if err != nil || host == "" || seen[host] {
			continue
		}
		seen[host] = true
		if ip, err := netip.ParseAddr(host); err == nil {
			if !ip.IsUnspecified() {
				ips = append(ips, ip.WithZone(""))
			}
			continue
		}
		names = append(names, strings.ToLower(host))
	}
	return names, ips
}

// contextFile is the meshctl context that is written beside credentials.
func contextFile(domain, hub string, f mtls.Files) string {
	return fmt.Sprintf(`# A meshctl context: add it with "meshctl context add --from", or name it in MESHKIT_CONFIG.
currentContext: %[1]s
contexts:
  - name: %[1]s
    hub: %[2]s
    domain: %[1]s
    caFile: %[3]s
    certFile: %[4]s
    keyFile: %[5]s
`, strconv.Quote(domain), strconv.Quote(hub), strconv.Quote(f.CA), strconv.Quote(f.Cert), strconv.Quote(f.Key))
}

// makeConfig writes meshhub.yaml: the last step, which makes the directory a hub.
func (g *genesis) makeConfig(context.Context) error {
	text, err := configText(g.domain, g.name, g.listen, g.advertise, g.metrics, g.driver, g.url, g.initOptions.passphrase)
	if err != nil {
		return err
	}
	return g.write(text, 0o600, hubdir.ConfigFile)
}

func (g *genesis) nextSteps(out io.Writer) {
	reach := ""
	if cliutil.Loopback(g.address()) {
		reach = "\n     Only this machine reaches it at " + g.address() + ". For others, set listen in meshhub.yaml first."
	}
	dir := g.data
	hub := g.address()
	fmt.Fprintf(out, `Domain %[1]s is ready in %[2]s.

CA pin       %[3]s
Root keys    %[4]d, of which %[5]d change the root of trust

Next:
  1. Take the root keys and the CA's root key offline; the hub runs without them:
       %[6]s
       %[7]s
     Keep a copy of the keys that admit further hubs, should this one be lost:
       %[11]s
       %[12]s
  2. Run the hub:
       meshhub run --config %[8]s%[13]s
  3. Point meshctl at it:
       export MESHKIT_CONFIG=%[9]s
       meshctl get domain
  4. Admit a node:
       meshctl token create --label region=eu --ttl 1h --uses 1
       meshagent join --hub %[10]s --token TOKEN --ca-pin %[3]s --data ./agent
       meshagent run --config ./agent/meshagent.yaml
`, g.domain, dir, g.authority.Pin(), g.rootKeys, g.rootThreshold,
		filepath.Join(dir, "root", "root-*.key"), filepath.Join(dir, "ca", "root.key"),
		filepath.Join(dir, "meshhub.yaml"), filepath.Join(dir, "admin", "context.yaml"), hub,
		filepath.Join(dir, "keys", keyring.KeysetKey+".key"), filepath.Join(dir, "ca", hubdir.HubCA+".key"), reach)
}
