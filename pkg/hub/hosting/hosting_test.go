package hosting_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hosting"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

// program keeps keys and logs of domains in memory, and survives a host. The text of a
// configuration is the domain's name.
type program struct {
	mu   sync.Mutex // guards all below
	keys map[string]*hubtest.Keys
	logs map[string]*memstore.Server
	// broken, if set, fails the making of a log.
	broken error
	joined []string // directories
	// founded says that the files of tries before are there.
	founded bool
}

func newProgram() *program {
	return &program{keys: make(map[string]*hubtest.Keys), logs: make(map[string]*memstore.Server)}
}

func (p *program) keysIn(dir string) *hubtest.Keys {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys[dir] == nil {
		p.keys[dir] = hubtest.NewKeys()
	}
	return p.keys[dir]
}

func (p *program) openLog(ctx context.Context, domain string) (*store.Log, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return nil, p.broken
	}
	if p.logs[domain] == nil {
		p.logs[domain] = memstore.New(memstore.Options{})
	}
	return store.Open(ctx, p.logs[domain].Driver(), store.Options{})
}

func (p *program) Founding(domain, dir string) (founding.Options, error) {
	p.mu.Lock()
	if !p.founded {
		clear(p.keys) // of a try before, whose files are gone
	}
	p.mu.Unlock()
	return founding.Options{
		Domain: domain, Hub: hubtest.HubName, Dir: dir, Listen: "127.0.0.1:0", Address: "127.0.0.1:1", RootKeys: 1, RootThreshold: 1, Config: []byte(domain),
		Drivers: founding.Drivers{
			Keys:    func(dir string) (sign.Driver, error) { return p.keysIn(dir), nil },
			CA:      func(c *x509.Certificate, key crypto.Signer) (ca.Driver, error) { return hubtest.CA(c, key), nil },
			OpenLog: func(ctx context.Context) (*store.Log, error) { return p.openLog(ctx, domain) },
			Store:   "memory",
		},
	}, nil
}

func (p *program) Load(dir string) (hosting.Domain, error) {
	name, err := os.ReadFile(filepath.Join(dir, hubdir.ConfigFile))
	d := hosting.Domain{Name: string(name)}
	d.Open = func(ctx context.Context, _ *slog.Logger) (hub.Options, error) {
		o := hub.Options{
			Domain: d.Name, Name: hubtest.HubName, StoreName: "memory", Keys: p.keysIn(filepath.Join(dir, "keys")), Drain: time.Millisecond,
			OpenLog: func(ctx context.Context) (*store.Log, error) { return p.openLog(ctx, d.Name) },
		}
		bundle, err := os.ReadFile(filepath.Join(dir, "ca", "root.pem"))
		if err != nil {
			return o, err
		}
		text, err := os.ReadFile(filepath.Join(dir, "ca", "intermediate.pem"))
		if err != nil {
			return o, err
		}
		block, _ := pem.Decode(text)
		issuer, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return o, err
		}
		key, err := p.keysIn(filepath.Join(dir, "ca")).Open(ctx, "intermediate")
		if err != nil {
			return o, err
		}
		if o.Authority, err = ca.New(d.Name, hubtest.CA(issuer, key), bundle, ca.Options{}); err != nil {
			return o, err
		}
		o.TLS, err = mtls.LoadFiles(mtls.Files{Cert: filepath.Join(dir, "tls", "hub.pem"), Key: filepath.Join(dir, "tls", "hub.key"), CA: filepath.Join(dir, "ca", "root.pem")})
		return o, err
	}
	return d, err
}

// Join makes the domain, in place of another hub that did.
func (p *program) Join(ctx context.Context, dir string, in *adminv1.AdoptDomainRequest) error {
	o, err := p.Founding(in.GetDomain(), dir)
	if err == nil {
		_, err = founding.Found(ctx, o)
	}
	p.mu.Lock()
	p.joined = append(p.joined, dir)
	p.mu.Unlock()
	return err
}

// start runs a hub with a host on a directory, until stop.
func start(t *testing.T, own *hubtest.Domain, p hosting.Program, dir string) (host *hosting.Host, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	port, registry := hub.NewPort(l, log), observe.NewRegistry("test")
	host = hosting.New(hosting.Options{
		Domain: hubtest.Name, Name: hubtest.HubName, Dir: dir, Address: l.Addr().String(), Port: port, Registry: registry, Logger: log, Program: p,
	})
	accepting, serving := make(chan error, 1), make(chan error, 1)
	go func() { accepting <- port.Run() }()
	h := own.Start(t, func(o *hub.Options) { o.Port, o.Registry, o.Host, o.Listener = port, registry, host, nil })
	ctx, cancel := context.WithCancel(context.Background())
	go func() { serving <- host.Run(ctx, h.Hub) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-serving, h.Stop()); err != nil {
			t.Error(err)
		}
		port.Close()
		if err := <-accepting; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return host, stop
}

// until calls f until it gives no error that the hub is starting.
func until[T any](t *testing.T, f func() (T, error)) (T, error) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		v, err := f()
		if fault.CodeOf(err) != fault.CodeHubDraining || time.Now().After(end) {
			return v, err
		}
	}
}

func request(t *testing.T, id string) admin.NewDomain {
	t.Helper()
	return admin.NewDomain{Domain: "guest", RequestID: id, Operator: "ann", Author: "spiffe://test-domain/operator/ann", CSR: csrOf(t, "guest")}
}

func csrOf(t *testing.T, domain string) []byte {
	t.Helper()
	ann, err := identity.New(domain, identity.Operator, "ann")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(hubtest.Key(t), ann)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestARequestThatTheCARefusesMakesNoDomain(t *testing.T) {
	own, p, dir := hubtest.NewDomain(t), newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, own, p, dir)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	in := request(t, "r1")
	ofAnn := in.CSR
	if in.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Create(t.Context(), in); fault.CodeOf(err) != fault.CodeWeakKey {
		t.Errorf("a key on P-224: %v", err)
	}
	in.CSR, in.Operator = ofAnn, "bob"
	if _, err := host.Create(t.Context(), in); fault.CodeOf(err) != fault.CodeForeignCSR {
		t.Errorf("a request in another's name: %v", err)
	}
	if left, err := os.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is left (%v)", left, err)
	}
}

func TestAHubDoesNotAdoptItsOwnDomain(t *testing.T) {
	own, p := hubtest.NewDomain(t), newProgram()
	host, _ := start(t, own, p, filepath.Join(t.TempDir(), "domains"))
	err := host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: hubtest.Name, Token: "t"})
	if fault.CodeOf(err) != fault.CodeDomainExists || len(p.joined) > 0 {
		t.Errorf("%v; joined %v", err, p.joined)
	}
}

func TestADomainIsMadeServedAndFoundAgain(t *testing.T) {
	own, p, dir := hubtest.NewDomain(t), newProgram(), filepath.Join(t.TempDir(), "domains")
	host, stop := start(t, own, p, dir)
	in := request(t, "r1")
	made, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), in) })
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(made.Chain[0])
	if err != nil || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://guest/operator/ann" {
		t.Errorf("the operator's certificate is %v (%v)", leaf, err)
	}
	if made.Token != nil || made.RootKeys != filepath.Join(dir, "guest", "root") {
		t.Errorf("made %+v", made)
	}
	if again, err := host.Create(t.Context(), in); err != nil || again.CAPin != made.CAPin {
		t.Errorf("the same request again: %v (%v)", again, err)
	}
	for name, other := range map[string]admin.NewDomain{"another request": request(t, "r2"), "another key": request(t, "r1")} {
		if _, err := host.Create(t.Context(), other); fault.CodeOf(err) != fault.CodeDomainExists {
			t.Errorf("%s: %v", name, err)
		}
	}
	serves := func(when string, host *hosting.Host) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			all := host.List()
			if len(all) == 1 && all[0].GetDomain() == "guest" && all[0].GetLeader() == hubtest.HubName {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s, served: %v", when, all)
			}
		}
	}
	serves("made", host)
	stop()
	if _, err := host.Create(t.Context(), request(t, "r3")); fault.CodeOf(err) != fault.CodeDomainExists {
		t.Errorf("after the end: %v", err)
	}
	host, _ = start(t, own, p, dir)
	serves("after a restart", host)
}

func TestADomainThatCouldNotBeMadeIsMadeByTheNextTry(t *testing.T) {
	p, dir := newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, hubtest.NewDomain(t), p, dir)
	p.broken = errors.New("broken")
	if _, err := host.Create(t.Context(), request(t, "r1")); !errors.Is(err, p.broken) {
		t.Fatalf("made without a store: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "guest")); !os.IsNotExist(err) {
		t.Errorf("its directory is left (%v)", err)
	}
	// A kill leaves more, and no configuration.
	for _, name := range []string{"keys/config.key", "ca/root.key"} {
		if err := hubdir.WriteFile(filepath.Join(dir, "guest", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.mu.Lock()
	p.broken = nil
	p.mu.Unlock()
	in := request(t, "r2")
	if _, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), in) }); err != nil {
		t.Error(err)
	}
}

func TestADomainIsJoinedOnce(t *testing.T) {
	p, dir := newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, hubtest.NewDomain(t), p, dir)
	for range 2 {
		if _, err := until(t, func() (any, error) {
			return nil, host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "guest", Token: "t"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "new"}); fault.CodeOf(err) != fault.CodeTokenInvalid {
		t.Errorf("it has to join, and has no token: %v", err)
	}
	if len(p.joined) != 1 || p.joined[0] != filepath.Join(dir, "guest") {
		t.Errorf("joined in %v", p.joined)
	}
	if err := os.Rename(filepath.Join(dir, "guest"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	if err := host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "other"}); fault.CodeOf(err) != fault.CodeConfig {
		t.Errorf("a directory with another domain's configuration: %v", err)
	}
}

// A kill between the log's first entry and the configuration leaves the domain's only
// keys: the next start serves it, and the same request is answered.
func TestADomainThatWasCutShortIsServedAfterARestart(t *testing.T) {
	own, p, dir := hubtest.NewDomain(t), newProgram(), filepath.Join(t.TempDir(), "domains")
	host, stop := start(t, own, p, dir)
	in := request(t, "r1")
	made, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), in) })
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.Remove(filepath.Join(dir, "guest", hubdir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	p.founded = true
	host, _ = start(t, own, p, dir)
	again, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), in) })
	if err != nil || again.CAPin != made.CAPin {
		t.Errorf("the same request again: %v (%v)", again, err)
	}
	if _, err := host.Create(t.Context(), request(t, "r2")); fault.CodeOf(err) != fault.CodeDomainExists {
		t.Errorf("another request: %v", err)
	}
}

// A directory in which this hub joins a domain is not cleared by a request for one of its
// name.
func TestAJoinThatHasBegunIsNotCleared(t *testing.T) {
	p, dir := newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, hubtest.NewDomain(t), p, dir)
	for _, name := range []string{"keys/config.key", hubdir.JoiningFile} {
		if err := hubdir.WriteFile(filepath.Join(dir, "guest", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), request(t, "r1")) }); fault.CodeOf(err) != fault.CodeDomainExists {
		t.Errorf("made: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "guest", "keys", "config.key")); err != nil {
		t.Errorf("its key is gone: %v", err)
	}
}

// What a kill left before anybody knew of it is no obstacle when another hub has made the
// domain since.
func TestADomainThatThisHubBeganToMakeIsAdopted(t *testing.T) {
	p, dir := newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, hubtest.NewDomain(t), p, dir)
	for _, name := range []string{"keys/config.key", "root/root-1.key"} {
		if err := hubdir.WriteFile(filepath.Join(dir, "guest", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := until(t, func() (any, error) {
		return nil, host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "guest", Token: "t"})
	}); err != nil {
		t.Error(err)
	}
}

// A file that cannot be read says nothing about the keys beside it.
func TestADirectoryThatCannotBeReadIsNotCleared(t *testing.T) {
	p, dir := newProgram(), filepath.Join(t.TempDir(), "domains")
	host, _ := start(t, hubtest.NewDomain(t), p, dir)
	key, made := filepath.Join(dir, "guest", "keys", "config.key"), filepath.Join(dir, "guest", hubdir.MakerFile)
	if err := hubdir.WriteFile(key, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(made, made); err != nil {
		t.Fatal(err)
	}
	if _, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), request(t, "r1")) }); fault.CodeOf(err) != fault.CodeIO {
		t.Errorf("made: %v", err)
	}
	if err := host.Adopt(t.Context(), &adminv1.AdoptDomainRequest{Domain: "guest", Token: "t"}); err == nil {
		t.Error("joined")
	}
	if _, err := os.Stat(key); err != nil {
		t.Errorf("its key is gone: %v", err)
	}
}

// held has the logs of all domains but guest wait, and fail as often as it says.
type held struct {
	*program
	entered chan string
	release chan struct{}
	fails   atomic.Int32
}

func (h *held) Founding(domain, dir string) (founding.Options, error) {
	o, err := h.program.Founding(domain, dir)
	if domain == "guest" {
		return o, err
	}
	open := o.OpenLog
	o.OpenLog = func(ctx context.Context) (*store.Log, error) {
		h.entered <- domain
		<-h.release
		if h.fails.Add(-1) >= 0 {
			return nil, fault.New(fault.CodeStoreUnavailable, "not yet")
		}
		return open(ctx)
	}
	return o, err
}

// A domain that was cut short waits for its store by itself, and is served when that is
// back.
func TestADomainThatCannotBeGoneOnWithHoldsUpNoOther(t *testing.T) {
	own, p, dir := hubtest.NewDomain(t), newProgram(), filepath.Join(t.TempDir(), "domains")
	host, stop := start(t, own, p, dir)
	for i, domain := range []string{"guest", "aaa"} {
		in := request(t, "r1")
		if in.Domain = domain; i > 0 {
			in.CSR = csrOf(t, domain)
		}
		if _, err := until(t, func() (*admin.CreatedDomain, error) { return host.Create(t.Context(), in) }); err != nil {
			t.Fatal(err)
		}
		p.founded = true
	}
	stop()
	if err := os.Remove(filepath.Join(dir, "aaa", hubdir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	h := &held{program: p, entered: make(chan string, 10), release: make(chan struct{})}
	h.fails.Store(1)
	host, _ = start(t, own, h, dir)
	<-h.entered
	served := func(n int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); len(host.List()) != n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("served: %v, want %d", host.List(), n)
			}
		}
	}
	served(1)

	// Nor does who waits for its turn wait for longer than it may.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := host.Adopt(ctx, &adminv1.AdoptDomainRequest{Domain: "other", Token: "t"}); fault.CodeOf(err) != fault.CodeTimeout {
		t.Errorf("adopted while another is made: %v", err)
	}
	close(h.release)
	served(2)
}
