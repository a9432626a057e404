// Package founding makes domains: everything that a domain's first hub needs, in one
// directory of its own (see hubdir).
//
//	pin, err := founding.Found(ctx, founding.Options{…})
//
// Steps come in this order. A crash leaves a directory without a configuration, which
// hubdir.Claim tells from a hub's:
//
//	keys            root keys, keyset key, config key
//	CAs             root, issuing CA, CA for hubs
//	trust           the first root and the first keyset
//	certificates    the hub's, and the first operator's
//	maker           made.json: who has it made, and the log's first entry
//	log             its first entry; late, for a store that others use as well cannot
//	                be taken back like a directory
//	configuration   makes the directory a hub; without another domain's, made.json goes
//
// From the log on, the directory stays whatever happens: it has the only keys of a
// domain whose name is taken then. Found goes on with it from made.json when it is
// called again as before, and GoOn does, whoever calls it.
//
// Found may be called for several directories at a time.
package founding

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/credentials"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/join"
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

// Maker is who has a domain made, in made.json. The same request with the same key may be
// repeated.
type Maker struct {
	RequestID string `json:"requestId"`
	Author    string `json:"author"`
	// Key is the hex SHA-256 of the operator's public key.
	Key string `json:"key"`
}

// madeFile is made.json as it lies in the directory. It is written when all is there but
// the log's first entry and the configuration.
type madeFile struct {
	Maker
	// First is the payload of the first entry.
	First []byte `json:"first,omitempty"`
}

// maxMade bounds made.json, in bytes.
const maxMade = 256 << 10

func readMade(dir string) (*madeFile, error) {
	path := filepath.Join(dir, hubdir.MakerFile)
	data, err := durable.ReadFile(durable.OS, path, maxMade)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read %s: %w", path, err)
	}
	var m madeFile
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fault.New(fault.CodeConfig, "%s: %w", path, err)
	}
	return &m, nil
}

// cutShort is made.json of a directory in which Found was cut short; nil: it is not one.
func cutShort(dir string) (*madeFile, error) {
	if stage, err := hubdir.Inspect(dir); err != nil || stage != hubdir.CutShort {
		return nil, err
	}
	return readMade(dir)
}

// Inspect tells how far the directory of a domain has come, and who had it made. There is
// no maker of one that `meshhub init` made, or that was joined, or that did not come to
// made.json.
func Inspect(dir string) (hubdir.Stage, *Maker, error) {
	stage, err := hubdir.Inspect(dir)
	if err != nil || stage != hubdir.Complete && stage != hubdir.CutShort {
		return stage, nil, err
	}
	made, err := readMade(dir)
	switch {
	case err == nil:
		return stage, &made.Maker, nil
	case stage == hubdir.Complete && errors.Is(err, fs.ErrNotExist):
		return stage, nil, nil
	}
	return stage, nil, err
}

// finishTime bounds the last steps, which do not end with who asked for them.
const finishTime = 10 * time.Second

// byInit is the author of a domain that is made with `meshhub init`.
const byInit = "meshhub init"

// maker is who has the domain made: without a Maker, whoever gives these options.
func (o Options) maker() Maker {
	if o.Maker != nil {
		return *o.Maker
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %d %d %q", o.Domain, o.Hub, o.Listen, o.Address, o.RootKeys, o.RootThreshold, o.Config))
	return Maker{Author: byInit, Key: hex.EncodeToString(sum[:])}
}

// Found makes a domain in a directory that is absent or empty, and gives the pin of its
// CA. One that was cut short is gone on with when it was begun with the same options. One
// that was cut short for another Maker is cleared if nothing of it is in the log. After an
// error, also when ctx ends, the directory is as it was, unless the first entry may be in
// the log. CodeInitNotEmpty, CodeInitIncomplete: the directory or the log is in use.
// CodeDomainExists: another request made the domain, and was cut short; that is done now.
func Found(ctx context.Context, o Options) (pin string, err error) {
	switch made, err := cutShort(o.Dir); {
	case err != nil:
		return "", err
	case made == nil:
	case made.Maker == o.maker():
		return goOn(ctx, o, made)
	case o.Maker != nil:
		switch done, err := GoOn(ctx, o); {
		case err != nil:
			return "", err
		case done:
			return "", fault.New(fault.CodeDomainExists, "another request made domain %q, and was cut short", o.Domain)
		}
		hubdir.Clear(o.Dir, true)
	default:
		return "", fault.New(fault.CodeInitIncomplete, "%s holds a domain whose init was interrupted, and which was begun with other flags", o.Dir).
			WithRemedy("Repeat the `meshhub init` that was interrupted, with the same flags: it goes on. Or move %s away, if %s has no entries of that domain.", o.Dir, o.Store)
	}
	made, err := hubdir.Claim(o.Dir)
	if err != nil {
		return "", err
	}
	g := &genesis{Options: o, now: time.Now(), hosted: o.Maker != nil}
	defer func() {
		if err != nil && !g.begun {
			hubdir.Clear(o.Dir, made)
		}
	}()
	for _, step := range []func(context.Context) error{g.makeKeys, g.makeCA, g.makeTrust, g.makeCredentials, g.makeMade, g.makeLog, g.makeConfig} {
		if err := ctx.Err(); err != nil && !g.begun {
			return "", fault.New(fault.CodeCanceled, "interrupted; nothing was made: %w", err)
		}
		if err := step(ctx); err != nil {
			if g.begun {
				err = g.left(err)
			}
			return "", err
		}
	}
	return g.authority.Pin(), nil
}

// left says how to go on after an error that leaves the directory.
func (g *genesis) left(err error) error {
	switch {
	case g.Maker != nil, errors.Is(err, fault.CodeStoreRemains):
		return err // who asked knows; what remains is for people to remove first
	case g.taken:
		return fault.New(fault.CodeInitNotEmpty, "%w; %s is of a domain that never began", err, g.Dir).
			WithRemedy("Move %s away. Then add a hub to that domain with `meshhub join`, or give another --domain or --store.", g.Dir)
	}
	return fault.New(cmp.Or(fault.CodeOf(err), fault.CodeStoreUnavailable), "%w; %s stays, for the domain may have begun", err, g.Dir).
		WithRemedy("Repeat the command with the same flags: it goes on. Keep %s: it has the domain's only keys.", g.Dir)
}

// resumed is the domain that was cut short in a directory, as made.json has it.
func resumed(o Options, made *madeFile) (*genesis, error) {
	var first logv1.DomainCreated
	if err := proto.Unmarshal(made.First, &first); err != nil || first.GetDomain() != o.Domain {
		return nil, fault.New(fault.CodeConfig, "%s holds no first entry of domain %s (%v)", filepath.Join(o.Dir, hubdir.MakerFile), o.Domain, err)
	}
	return &genesis{Options: o, now: time.Now(), root: first.GetRoot(), signed: first.GetKeyset(), bundle: first.GetCaBundle(), begun: true, hosted: made.Author != byInit}, nil
}

// whole tells whether the keys are there without which nobody can lead the domain.
func (g *genesis) whole(ctx context.Context) error {
	for _, k := range []struct{ dir, name string }{{"keys", keyring.KeysetKey}, {"keys", keyring.ConfigKey}, {"ca", "intermediate"}, {"ca", hubdir.HubCA}} {
		d, err := g.Keys(g.path(k.dir))
		if err != nil {
			return err
		}
		if _, err := sign.Open(ctx, d, k.name); err != nil {
			return fmt.Errorf("%s, in which the making of domain %s was cut short, is not whole: %w", g.Dir, g.Domain, err)
		}
	}
	return nil
}

// goOn ends what was cut short in the directory. If another one has the log's first
// entry, it is of no use; what was made beside a domain goes then, and what a person
// has made is left to that one.
func goOn(ctx context.Context, o Options, made *madeFile) (pin string, err error) {
	g, err := resumed(o, made)
	if err != nil {
		return "", err
	}
	if err := g.whole(ctx); err != nil {
		return "", err
	}
	if err := g.makeLog(ctx); err != nil {
		if g.taken && o.Maker != nil {
			hubdir.Clear(o.Dir, true)
		}
		return "", g.left(err)
	}
	if err := g.makeConfig(ctx); err != nil {
		return "", g.left(err)
	}
	block, _ := pem.Decode(g.bundle)
	if block == nil {
		return "", fault.New(fault.CodeConfig, "the CA bundle of domain %s holds no certificate", o.Domain)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fault.New(fault.CodeConfig, "parse the CA root of domain %s: %w", o.Domain, err)
	}
	return ca.Pin(root), nil
}

// GoOn makes a directory a hub in which Found was cut short, whoever had it made, if the
// log's first entry is of it; otherwise done is false, and all stays as it is, but for an
// embedded store, which is made.
func GoOn(ctx context.Context, o Options) (done bool, err error) {
	made, err := cutShort(o.Dir)
	if err != nil || made == nil {
		return false, err
	}
	g, err := resumed(o, made)
	if err != nil {
		return false, err
	}
	l, err := g.OpenLog(ctx)
	if err != nil {
		return false, err
	}
	whose, err := g.firstOf(ctx, l)
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err == nil && whose == ours {
		err = g.whole(ctx)
	}
	if err != nil || whose != ours {
		return false, err
	}
	return true, g.makeConfig(ctx)
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
	begun          bool   // the first entry may be in the log: the directory stays
	hosted         bool   // it is made beside another domain, for a Maker
	taken          bool   // another domain has the log: the directory is of no use
}

// first is the first entry of the log.
func (g *genesis) first() *logv1.DomainCreated {
	return &logv1.DomainCreated{Domain: g.Domain, Root: g.root, Keyset: g.signed, CaBundle: g.bundle}
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
	names, ips := join.HostNames(g.Domain, g.Listen, g.Address)
	to := mtls.Files{Cert: g.path("tls", "hub.pem"), Key: g.path("tls", "hub.key"), CA: g.path("ca", "root.pem")}
	if _, err := credentials.Issue(ctx, g.authority, id, ca.Request{DNSNames: names, IPs: ips}, to); err != nil {
		return err
	}
	if g.Maker == nil {
		_, err = credentials.IssueOperator(ctx, g.authority, g.Domain, "admin", g.Address, g.path("admin"))
	}
	return err
}

// makeMade writes made.json.
func (g *genesis) makeMade(context.Context) error {
	first, err := proto.MarshalOptions{Deterministic: true}.Marshal(g.first())
	if err != nil {
		return fault.New(fault.CodeInternal, "encode the first entry: %w", err)
	}
	data, err := json.Marshal(madeFile{Maker: g.maker(), First: first})
	if err != nil {
		return fault.New(fault.CodeInternal, "encode who made the domain: %w", err)
	}
	return g.write(data, 0o600, hubdir.MakerFile)
}

// makeLog writes the first entry of the log. Once that has begun it goes on without
// who asked: whether a write whose answer was lost was done, only another try can tell.
func (g *genesis) makeLog(ctx context.Context) error {
	l, err := g.OpenLog(ctx)
	if err != nil {
		return err
	}
	if err = ctx.Err(); err != nil && !g.begun {
		err = fault.New(fault.CodeCanceled, "interrupted; nothing was made: %w", err)
	} else {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
		defer cancel()
		err = g.writeFirst(ctx, l)
	}
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", g.Store, err)
	}
	return nil
}

func (g *genesis) writeFirst(ctx context.Context, l *store.Log) error {
	id, err := identity.New(g.Domain, identity.Hub, g.Hub)
	if err != nil {
		return err
	}
	pause := backoff.New(backoff.Policy{Base: 100 * time.Millisecond, Cap: time.Second})
	for {
		begun, err := replica.Genesis(ctx, l, store.Holder{Name: g.Hub, Address: g.Address}, id.String(), g.now, g.first())
		g.begun = g.begun || begun
		if err == nil {
			return nil
		}
		if fault.CodeOf(err) == fault.CodeInitNotEmpty {
			switch whose, rerr := g.firstOf(ctx, l); {
			case rerr != nil:
				err = fmt.Errorf("read the first entry of the log: %w", rerr)
			case whose == ours:
				g.begun = true
				return nil
			case whose == anothers:
				g.begun, g.taken = false, true // it never will be ours
				return err
			}
		}
		if !g.begun || errors.Is(err, fault.CodeStoreRemains) || pause.Wait(ctx) != nil {
			return err
		}
	}
}

// owner is whose the first entry of a log is.
type owner int

const (
	nobodys owner = iota // there is none
	ours                 // this domain's, of these keys
	anothers
)

// firstOf tells whose the log's first entry is.
func (g *genesis) firstOf(ctx context.Context, l *store.Log) (owner, error) {
	entries, err := l.Read(ctx, 0, 1)
	if err != nil || len(entries) == 0 {
		return nobodys, err
	}
	var first logv1.DomainCreated
	if err := proto.Unmarshal(entries[0].GetPayload(), &first); err != nil {
		return nobodys, fault.New(fault.CodeBadEntry, "first entry of the log: %w", err)
	}
	if proto.Equal(&first, g.first()) {
		return ours, nil
	}
	return anothers, nil
}

// makeConfig makes the directory a hub.
func (g *genesis) makeConfig(context.Context) error {
	if err := g.write(g.Config, 0o600, hubdir.ConfigFile); err != nil || g.hosted {
		return err
	}
	_ = os.Remove(g.path(hubdir.MakerFile)) // nobody asks; it does no harm either
	return nil
}
