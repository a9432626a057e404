// Package founding makes domains: everything that a domain's first hub needs, in one
// directory of its own (see hubdir).
//
//	pin, err := founding.Found(ctx, founding.Options{…})
//
// Steps come in this order, and a crash after any of them leaves a directory that
// hubdir.Claim tells from a hub's:
//
//	keys            root keys, keyset key, config key
//	CAs             root, issuing CA, CA for hubs
//	trust           the first root and the first keyset
//	certificates    the hub's, and the first operator's
//	log             its first entry; late, for a store that others use as well cannot
//	                be taken back like a directory
//	configuration   makes the directory a hub
//
// Once the first entry may be in the store, the directory with its keys stays. Found goes
// on with it when the same Maker asks again.
//
// Found may be called for several directories at a time.
package founding

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/credentials"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
)

// rootLifetime is how long the root of trust is good for without a rotation.
const rootLifetime = 5 * 365 * 24 * time.Hour

// Options of a domain in the making. Only Maker may be left out.
type Options struct {
	// Domain and Hub are the names of the domain and of its first hub.
	Domain, Hub string
	// Dir is the directory to make, absolute.
	Dir string
	// Listen is where the hub listens, Address where others reach it; host:port.
	Listen, Address string
	// RootThreshold of RootKeys change the root of trust.
	RootKeys, RootThreshold int
	// Config is the text of the hub's configuration.
	Config []byte
	// Maker is who has the domain made beside another one of the same hubs. The domain's
	// first operator has a key then and gets a certificate, so there is none made here.
	Maker *Maker
	Drivers
}

// Drivers say where the parts of a domain are kept.
type Drivers struct {
	// Keys opens a directory of keys.
	Keys func(dir string) (sign.Driver, error)
	// CA makes the driver of a CA with its key.
	CA func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error)
	// OpenLog opens the domain's log, and makes its store; Store names that for people.
	OpenLog func(context.Context) (*store.Log, error)
	Store   string
}

// Maker is made.json. The same request with the same key may be repeated.
type Maker struct {
	RequestID string `json:"requestId"`
	Author    string `json:"author"`
	// Key is the hex SHA-256 of the operator's public key.
	Key string `json:"key"`
}

// ReadMaker tells who had the domain of a directory made. It fails for one whose making
// was cut short, and for one that was made with `meshhub init` or was joined.
func ReadMaker(dir string) (*Maker, error) {
	if _, err := os.Stat(filepath.Join(dir, hubdir.ConfigFile)); err != nil {
		return nil, err // cut short
	}
	return readMaker(dir)
}

func readMaker(dir string) (*Maker, error) {
	data, err := durable.ReadFile(durable.OS, filepath.Join(dir, hubdir.MakerFile), 4<<10)
	if err != nil {
		return nil, err
	}
	var m Maker
	return &m, json.Unmarshal(data, &m)
}

// Found makes a domain in a directory that is absent or empty, or goes on where an
// earlier Found for its Maker was cut short after the log's first entry, and gives the pin of the
// domain's CA. After an error, also when ctx ends, the directory is as it was, unless that
// entry may be in the store. CodeInitNotEmpty, CodeInitIncomplete: the directory or the
// log is in use.
func Found(ctx context.Context, o Options) (pin string, err error) {
	g := &genesis{Options: o, now: time.Now()}
	switch begun, err := g.begun(ctx); {
	case err != nil:
		return "", err
	case begun:
		return g.finish(ctx)
	}
	made, err := hubdir.Claim(o.Dir)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil && !g.logged {
			hubdir.Clear(o.Dir, made)
		}
	}()
	for _, step := range []func(context.Context) error{g.makeKeys, g.makeCA, g.makeTrust, g.makeCredentials, g.makeLog, g.makeConfig} {
		if err := ctx.Err(); err != nil && !g.logged {
			return "", fault.New(fault.CodeCanceled, "interrupted; nothing was made: %w", err)
		}
		if err := step(ctx); err != nil {
			return "", err
		}
	}
	return g.authority.Pin(), nil
}

// Begun tells whether the directory of a domain that a Maker had made lacks its
// configuration alone, and the log is of its domain: it begins with the root of trust that
// lies there. Then Found goes on with it.
// CodeDomainExists: so it is, and another request made it.
func Begun(ctx context.Context, o Options) (bool, error) {
	return (&genesis{Options: o}).begun(ctx)
}

func (g *genesis) begun(ctx context.Context) (begun bool, err error) {
	if g.Maker == nil {
		return false, nil // an init is not repeated: nobody knows whether it is the same one
	}
	if _, err := os.Stat(g.path(hubdir.ConfigFile)); err == nil {
		return false, nil
	}
	root, err := os.ReadFile(g.path("root", hubdir.RootFile(1)))
	if err != nil {
		return false, nil
	}
	if _, err := os.Stat(g.path("tls", "hub.pem")); err != nil {
		return false, nil // cut short before there could be an entry
	}
	l, err := g.OpenLog(ctx)
	if err != nil {
		return false, fmt.Errorf("store %s: %w", g.Store, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	first, err := replica.First(ctx, l)
	if err != nil || !bytes.Equal(first.GetRoot(), root) {
		return false, err
	}
	if by, err := readMaker(g.Dir); err != nil || *by != *g.Maker {
		return false, fault.New(fault.CodeDomainExists, "another request made domain %q, and was cut short", g.Domain)
	}
	return true, nil
}

// finish makes the directory a hub whose log has its first entry.
func (g *genesis) finish(ctx context.Context) (pin string, err error) {
	anchor, err := os.ReadFile(g.path("ca", "root.pem"))
	if err != nil {
		return "", fault.New(fault.CodeIO, "read the CA root: %w", err)
	}
	block, _ := pem.Decode(anchor)
	if block == nil {
		return "", fault.New(fault.CodeIO, "read the CA root: %s holds no certificate", g.path("ca", "root.pem"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fault.New(fault.CodeIO, "read the CA root: %w", err)
	}
	return ca.Pin(cert), g.makeConfig(ctx)
}

// genesis is a domain in the making: what one step leaves for the next.
type genesis struct {
	Options
	now time.Time

	roots          []*sign.Signer
	keyset, config *sign.Signer
	authority      *ca.Authority
	bundle         []byte
	root, signed   []byte // the root's metadata, and the keyset
	logged         bool   // the first entry may be in the log
}

func (g *genesis) path(elem ...string) string {
	return filepath.Join(append([]string{g.Dir}, elem...)...)
}

func (g *genesis) write(data []byte, perm os.FileMode, elem ...string) error {
	return hubdir.WriteFile(g.path(elem...), data, perm)
}

func (g *genesis) create(ctx context.Context, dir, name string, alg sign.Algorithm) (*sign.Signer, error) {
	d, err := g.Keys(g.path(dir))
	if err != nil {
		return nil, err
	}
	return sign.Create(ctx, d, name, alg)
}

func (g *genesis) makeKeys(ctx context.Context) error {
	for i := range g.RootKeys {
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
	rootKey, err := g.create(ctx, "ca", "root", sign.ECDSAP256)
	if err != nil {
		return err
	}
	rootDER, err := ca.NewRoot(g.Domain, rootKey.CryptoSigner(), g.now)
	if err != nil {
		return err
	}
	rootCert, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return fault.New(fault.CodeInternal, "parse the CA root: %w", err)
	}
	rootDriver, err := g.CA(rootCert, rootKey.CryptoSigner())
	if err != nil {
		return err
	}
	key, err := g.create(ctx, "ca", "intermediate", sign.ECDSAP256)
	if err != nil {
		return err
	}
	der, err := ca.NewIntermediate(ctx, rootDriver, g.Domain, key.CryptoSigner(), g.now)
	if err != nil {
		return err
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return fault.New(fault.CodeInternal, "parse the issuing CA: %w", err)
	}
	driver, err := g.CA(issuer, key.CryptoSigner())
	if err != nil {
		return err
	}
	hubKey, err := g.create(ctx, "ca", hubdir.HubCA, sign.ECDSAP256)
	if err != nil {
		return err
	}
	hubDER, err := ca.NewHubCA(ctx, rootDriver, g.Domain, hubKey.CryptoSigner(), g.now)
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
	g.authority, err = ca.New(g.Domain, driver, g.bundle, ca.Options{})
	return err
}

// makeTrust makes the first root and the first keyset.
func (g *genesis) makeTrust(context.Context) error {
	var err error
	g.root, err = trust.NewRoot(g.Domain, g.roots, g.RootThreshold, []*sign.Signer{g.keyset}, g.now.Add(rootLifetime))
	if err != nil {
		return err
	}
	if err := g.write(g.root, 0o644, "root", hubdir.RootFile(1)); err != nil {
		return err
	}
	hubs := map[string][]sign.PublicKey{g.Hub: {g.config.Public()}}
	g.signed, err = trust.NewKeyset(g.root, 1, hubs, g.bundle, g.now.Add(keyring.KeysetLifetime), g.keyset)
	return err
}

func (g *genesis) makeCredentials(ctx context.Context) error {
	id, err := identity.New(g.Domain, identity.Hub, g.Hub)
	if err != nil {
		return err
	}
	names, ips := hostNames(g.Listen, g.Address)
	to := mtls.Files{Cert: g.path("tls", "hub.pem"), Key: g.path("tls", "hub.key"), CA: g.path("ca", "root.pem")}
	if _, err := credentials.Issue(ctx, g.authority, id, ca.Request{DNSNames: names, IPs: ips}, to); err != nil {
		return err
	}
	if g.Maker != nil {
		data, err := json.Marshal(g.Maker)
		if err != nil {
			return fault.New(fault.CodeInternal, "encode who made the domain: %w", err)
		}
		return g.write(data, 0o600, hubdir.MakerFile)
	}
	_, err = credentials.IssueOperator(ctx, g.authority, g.Domain, "admin", g.Address, g.path("admin"))
	return err
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

// makeLog writes the first entry of the log.
func (g *genesis) makeLog(ctx context.Context) error {
	l, err := g.OpenLog(ctx)
	if err != nil {
		return err
	}
	id, err := identity.New(g.Domain, identity.Hub, g.Hub)
	if err == nil {
		err = replica.Genesis(ctx, l, store.Holder{Name: g.Hub, Address: g.Address}, id.String(), g.now,
			&logv1.DomainCreated{Domain: g.Domain, Root: g.root, Keyset: g.signed, CaBundle: g.bundle})
	}
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	g.logged = err == nil || fault.KindOf(err) == fault.Unknown
	if err != nil {
		return fmt.Errorf("store %s: %w", g.Store, err)
	}
	return nil
}

// makeConfig makes the directory a hub.
func (g *genesis) makeConfig(context.Context) error {
	return g.write(g.Config, 0o600, hubdir.ConfigFile)
}
