// Package hosting serves further domains in a hub's process, on the hub's own port: it
// makes or joins them when an operator says so, serves what it finds at the start, and
// keeps the lead over them spread among the ring's hubs.
//
//	host := hosting.New(hosting.Options{…})
//	h, err := hub.New(hub.Options{Host: host, …})
//	err = host.Run(ctx, h) // until ctx ends
//
// Each domain lies in a directory below the hub's, as hubdir has it:
//
//	domains/eu-central/{meshhub.yaml,keys,ca,tls,…}   served with the hub's own port
//	domains/eu-central/made.json                      who had it made, on the hub that made it
//
// A directory without meshhub.yaml is of a domain whose making or joining was cut
// short (hubdir.Stage says how far it came): the next try clears it, or goes on with it.
// One whose log has begun is gone on with at the start.
//
// A domain that fails takes none of the others with it. All methods are safe for
// concurrent use; New and Run are called once.
package hosting

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	hubjoin "github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/observe"
)

const (
	// maxDomains bounds the domains of one process: each has goroutines, connections
	// and a state of its own.
	maxDomains = 64
	// guestReady is how long a new domain may take to be served.
	guestReady = 10 * time.Second
	// tokenLife is how long the other hubs may take to join.
	tokenLife = time.Minute
)

// Program is what the program around the host knows: configurations, and drivers.
type Program interface {
	// Load reads the configuration in a domain's directory.
	Load(dir string) (Domain, error)
	// Founding says how a domain is made in a directory; Maker is set here.
	Founding(domain, dir string) (founding.Options, error)
	// Join joins a domain that another hub made, and makes its directory. It goes on with
	// a join that was cut short.
	Join(ctx context.Context, dir string, in *adminv1.AdoptDomainRequest) error
}

// Domain is a domain as its configuration has it.
type Domain struct {
	Name string
	// Shared says that other hubs reach the store of its log.
	Shared bool
	// Open opens what its hub is made of. Port, Registry, Logger and Advertise are set
	// here.
	Open func(ctx context.Context, log *slog.Logger) (hub.Options, error)
}

// Options of a Host. All are required.
type Options struct {
	// Domain is the hub's own one, and Name the hub's name in all of them.
	Domain, Name string
	// Dir holds a directory for each domain; absolute. It need not exist.
	Dir string
	// Address is where others reach the hub.
	Address  string
	Port     *hub.Port
	Registry *observe.Registry
	// Logger is of all domains: each adds its name.
	Logger *slog.Logger
	Program
}

// Host serves further domains beside a hub's own. It implements admin.DomainHost.
type Host struct {
	opt Options
	log *slog.Logger // of the hub's own domain

	making chan struct{} // has room for the one that makes or joins a domain

	mu     sync.Mutex // guards all below
	ctx    context.Context
	guests map[string]*guest
	wg     sync.WaitGroup
	health *observe.Health
}

// New makes a host that serves nothing before Run.
func New(opt Options) *Host {
	return &Host{opt: opt, log: opt.Logger.With("domain", opt.Domain), guests: make(map[string]*guest), making: make(chan struct{}, 1)}
}

// alone waits until nobody else makes or joins a domain; done ends that.
func (x *Host) alone(ctx context.Context) (done func(), err error) {
	select {
	case x.making <- struct{}{}:
		return func() { <-x.making }, nil
	case <-ctx.Done():
		return nil, fault.New(fault.CodeTimeout, "another domain is being made or joined: %w", context.Cause(ctx))
	}
}

// guest is a domain that is served.
type guest struct {
	domain Domain

	mu    sync.Mutex // guards both below
	hub   *hub.Hub   // nil while it does not run
	err   error      // why not
	ready chan struct{}
	once  sync.Once
}

// Run serves what is in the directory once the hub itself is ready, and keeps
// leadership spread, until ctx ends.
func (x *Host) Run(ctx context.Context, h *hub.Hub) error {
	select {
	case <-h.Ready():
	case <-ctx.Done():
		return nil
	}
	x.mu.Lock()
	x.ctx, x.health = ctx, h.Health()
	x.mu.Unlock()
	defer x.wg.Wait()
	entries, err := os.ReadDir(x.opt.Dir)
	if err != nil && !os.IsNotExist(err) {
		return fault.New(fault.CodeIO, "read %s: %w", x.opt.Dir, err)
	}
	var cut []string
	for _, e := range entries {
		dir := filepath.Join(x.opt.Dir, e.Name())
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			continue // an editor's, or a file manager's
		}
		switch stage, err := hubdir.Inspect(dir); {
		case err == nil && stage == hubdir.Complete:
			if _, err := x.start(e.Name()); err != nil {
				x.log.Error("domain not served", "guest", e.Name(), "err", err)
			}
		case err == nil && stage == hubdir.CutShort:
			cut = append(cut, e.Name())
		default:
			x.log.Warn("directory without a configuration: no domain is served from it", "path", dir, "err", err)
		}
	}
	for _, domain := range cut {
		x.wg.Go(func() { x.finish(ctx, domain) })
	}
	x.spread(ctx, h)
	return nil
}

// finish ends the making of a domain that was cut short, however often that takes, and
// serves it.
func (x *Host) finish(ctx context.Context, domain string) {
	pause := backoff.New(backoff.Policy{Base: time.Second, Cap: time.Minute})
	for {
		done, err := x.finishOnce(ctx, domain)
		switch {
		case err == nil && done:
			if _, err := x.start(domain); err != nil {
				x.log.Error("domain not served", "guest", domain, "err", err)
			}
			return
		case err == nil:
			x.log.Warn("the log knows nothing of a domain whose making was cut short; `meshctl domain create` makes it", "guest", domain)
			return
		}
		x.log.Error("domain not served: its making was cut short; trying again", "guest", domain, "err", err)
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

func (x *Host) finishOnce(ctx context.Context, domain string) (done bool, err error) {
	release, err := x.alone(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if stage, err := hubdir.Inspect(filepath.Join(x.opt.Dir, domain)); err != nil || stage == hubdir.Complete {
		return err == nil, err // somebody has asked for it meanwhile
	}
	return x.goOn(ctx, domain)
}

// start serves a domain from its directory.
func (x *Host) start(domain string) (*guest, error) {
	d, err := x.opt.Load(filepath.Join(x.opt.Dir, domain))
	if err != nil {
		return nil, err
	}
	if d.Name != domain {
		return nil, fault.New(fault.CodeConfig, "the directory of domain %q holds the configuration of %q", domain, d.Name)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch g := x.guests[domain]; {
	case x.ctx == nil || x.ctx.Err() != nil:
		return nil, fault.New(fault.CodeHubDraining, "the hub is starting or shutting down")
	case g != nil:
		return g, nil
	}
	if err := x.full(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(x.ctx)
	g := &guest{domain: d, ready: make(chan struct{})}
	x.guests[domain] = g
	x.health.Add("domain "+domain, g.problem)
	x.wg.Go(func() {
		defer cancel()
		x.serve(ctx, g)
	})
	return g, nil
}

// serve runs a domain's hub, again after a failure, until ctx ends. A domain that
// fails takes none of the others with it.
func (x *Host) serve(ctx context.Context, g *guest) {
	log := x.opt.Logger.With("domain", g.domain.Name)
	pause := backoff.New(backoff.Policy{Base: time.Second, Cap: 30 * time.Second})
	for ctx.Err() == nil {
		err := x.runOnce(ctx, g, log)
		g.set(nil, err)
		x.opt.Registry.Include(g.domain.Name, nil)
		if ctx.Err() != nil {
			return
		}
		log.Error("domain not served; trying again", "err", err)
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

func (x *Host) runOnce(ctx context.Context, g *guest, log *slog.Logger) error {
	opt, err := g.domain.Open(ctx, log)
	if err != nil {
		return err
	}
	registry := observe.NewGuest()
	opt.Port, opt.Registry, opt.Logger, opt.Advertise = x.opt.Port, registry, log, x.opt.Address
	h, err := hub.New(opt)
	if err != nil {
		return err
	}
	x.opt.Registry.Include(g.domain.Name, registry)
	g.set(h, nil)
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(ready)
		select {
		case <-h.Ready():
			g.once.Do(func() { close(g.ready) })
			log.Info("domain served")
		case <-ctx.Done():
		}
	}()
	err = h.Run(ctx)
	cancel()
	<-ready
	if err == nil {
		err = errors.New("the hub ended")
	}
	return err
}

func (g *guest) set(h *hub.Hub, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hub, g.err = h, err
}

func (g *guest) get() (*hub.Hub, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hub, g.err
}

// problem is the domain's line of /readyz.
func (g *guest) problem(ctx context.Context) error {
	h, err := g.get()
	if h == nil {
		if err == nil {
			err = fault.New(fault.CodeHubDraining, "starting")
		}
		return err
	}
	var warning error
	for _, p := range h.Problems(ctx) {
		err := fault.New(cmp.Or(p.Code, fault.CodeReadOnly), "%s: %s", p.Check, p.Reason).WithRemedy("%s", p.Remedy)
		if !p.Warning {
			return err
		}
		warning = observe.Warn(err)
	}
	return warning
}

// await waits until the domain is served.
func (g *guest) await(ctx context.Context) (*hub.Hub, error) {
	ctx, cancel := context.WithTimeout(ctx, guestReady)
	defer cancel()
	select {
	case <-g.ready:
	case <-ctx.Done():
		_, err := g.get()
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, fault.New(fault.CodeHubDraining, "domain %s is made and not served yet: %w", g.domain.Name, err)
	}
	h, err := g.get()
	if h == nil && err == nil {
		err = fault.New(fault.CodeHubDraining, "domain %s is not served at the moment", g.domain.Name)
	}
	return h, err
}

// List implements admin.DomainHost.
func (x *Host) List() []*adminv1.ServedDomain {
	x.mu.Lock()
	guests := maps.Clone(x.guests)
	x.mu.Unlock()
	var out []*adminv1.ServedDomain
	for _, name := range slices.Sorted(maps.Keys(guests)) {
		h, err := guests[name].get()
		d := &adminv1.ServedDomain{Domain: name, Problem: "not served"}
		if h != nil {
			d = h.Status()
		} else if err != nil {
			d.Problem = err.Error()
		}
		out = append(out, d)
	}
	return out
}

// Made implements admin.DomainHost.
func (x *Host) Made(domain string) (made, done bool) {
	stage, m, err := founding.Inspect(filepath.Join(x.opt.Dir, domain))
	made = err == nil && m != nil
	return made, made && stage == hubdir.Complete
}

// Create implements admin.DomainHost.
func (x *Host) Create(ctx context.Context, d admin.NewDomain) (*admin.CreatedDomain, error) {
	request, err := certificate(d)
	if err != nil {
		return nil, err
	}
	if err := ca.CheckRequest(request); err != nil {
		return nil, err // before anything is made
	}
	csr, err := x509.ParseCertificateRequest(d.CSR)
	if err != nil {
		return nil, fault.New(fault.CodeBadRequest, "csr: %w", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	who := founding.Maker{RequestID: d.RequestID, Author: d.Author, Key: hex.EncodeToString(sum[:])}
	if err := x.made(ctx, d.Domain, &who); err != nil {
		return nil, err
	}
	g, err := x.start(d.Domain)
	if err != nil {
		return nil, err
	}
	h, err := g.await(ctx)
	if err != nil {
		return nil, err
	}
	return x.created(ctx, g, h, d)
}

// made makes a domain, unless the same request has.
func (x *Host) made(ctx context.Context, domain string, who *founding.Maker) error {
	done, err := x.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	dir := filepath.Join(x.opt.Dir, domain)
	stage, before, err := founding.Inspect(dir)
	switch {
	case err != nil:
		return err
	case stage == hubdir.Complete && before != nil && *before == *who:
		return nil
	case stage == hubdir.Complete:
		return fault.New(fault.CodeDomainExists, "domain %q exists", domain)
	case stage == hubdir.Joining:
		return fault.New(fault.CodeDomainExists, "domain %q exists: hub %s has begun to join it, in %s", domain, x.opt.Name, dir)
	case stage == hubdir.Early:
		hubdir.Clear(dir, true)
	}
	return x.make(ctx, domain, dir, who)
}

// certificate is the request for the first operator's certificate.
func certificate(d admin.NewDomain) (ca.Request, error) {
	id, err := identity.New(d.Domain, identity.Operator, d.Operator)
	return ca.Request{CSR: d.CSR, ID: id, TTL: hubjoin.OperatorTTL}, err
}

// room tells whether one more domain may be served.
func (x *Host) room() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.full()
}

// full is room for a caller that holds mu.
func (x *Host) full() error {
	if len(x.guests) < maxDomains {
		return nil
	}
	return fault.New(fault.CodeRequestTooLarge, "hub %s serves %d domains, its limit", x.opt.Name, len(x.guests)+1)
}

// make makes the domain's directory and log, as init does, beside what the hub has.
func (x *Host) make(ctx context.Context, domain, dir string, who *founding.Maker) error {
	if err := x.room(); err != nil {
		return err
	}
	o, err := x.opt.Founding(domain, dir)
	if err != nil {
		return err
	}
	o.Maker = who
	switch _, err := founding.Found(ctx, o); {
	case fault.CodeOf(err) == fault.CodeDomainExists: // another request's, which is done now
		if _, err := x.start(domain); err != nil {
			x.log.Error("domain not served", "guest", domain, "err", err)
		}
		return err
	case fault.CodeOf(err) == fault.CodeInitNotEmpty:
		return fault.New(fault.CodeDomainExists, "domain %q exists: %w", domain, err)
	case err != nil:
		return err
	}
	x.log.Info("domain made", "guest", domain, "author", who.Author)
	return nil
}

// goOn ends the making of a domain that was cut short after the log knew of it. The
// caller is alone.
func (x *Host) goOn(ctx context.Context, domain string) (done bool, err error) {
	dir := filepath.Join(x.opt.Dir, domain)
	o, err := x.opt.Founding(domain, dir)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, guestReady)
	defer cancel()
	done, err = founding.GoOn(ctx, o)
	if done && err == nil {
		x.log.Info("domain made, which was cut short", "guest", domain)
	}
	return done, err
}

// created gives the operator a certificate, and the other hubs tokens: in the operator's
// name, whoever leads the domain.
func (x *Host) created(ctx context.Context, g *guest, h *hub.Hub, d admin.NewDomain) (*admin.CreatedDomain, error) {
	opt, err := g.domain.Open(ctx, x.log)
	if err != nil {
		return nil, err
	}
	request, err := certificate(d)
	if err != nil {
		return nil, err
	}
	cert, err := opt.Authority.Issue(ctx, request)
	if err != nil {
		return nil, err
	}
	out := &admin.CreatedDomain{
		CAPin: opt.Authority.Pin(), Chain: cert.Chain, CABundle: opt.Authority.Bundle(),
		RootKeys: filepath.Join(x.opt.Dir, d.Domain, "root"), Address: x.opt.Address,
	}
	var chain []*x509.Certificate
	for _, der := range cert.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.New(fault.CodeInternal, "parse the operator's certificate: %w", err)
		}
		chain = append(chain, c)
	}
	if g.domain.Shared {
		out.Token = func(ctx context.Context, hub string) (string, error) { return h.HubToken(ctx, chain, hub, tokenLife) }
	}
	return out, nil
}

// Adopt implements admin.DomainHost.
func (x *Host) Adopt(ctx context.Context, in *adminv1.AdoptDomainRequest) error {
	if in.GetDomain() == x.opt.Domain {
		return fault.New(fault.CodeDomainExists, "domain %q is the one of hub %s itself", in.GetDomain(), x.opt.Name)
	}
	if err := x.joined(ctx, in); err != nil {
		return err
	}
	g, err := x.start(in.GetDomain())
	if err != nil {
		return err
	}
	_, err = g.await(ctx)
	return err
}

// joined joins a domain, unless this hub has.
func (x *Host) joined(ctx context.Context, in *adminv1.AdoptDomainRequest) error {
	done, err := x.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	dir := filepath.Join(x.opt.Dir, in.GetDomain())
	stage, err := x.joinable(ctx, in.GetDomain(), dir)
	if err != nil || stage == hubdir.Complete {
		return err
	}
	if err := x.room(); err != nil {
		return err
	}
	if in.GetToken() == "" {
		return fault.New(fault.CodeTokenInvalid, "hub %s has to join domain %s, and was given no token", x.opt.Name, in.GetDomain())
	}
	if err := x.opt.Join(ctx, dir, in); err != nil {
		return err
	}
	x.log.Info("domain joined", "guest", in.GetDomain(), "hub", in.GetAddress())
	return nil
}

// joinable makes room in a directory in which this hub began to make the domain, and
// another was first.
func (x *Host) joinable(ctx context.Context, domain, dir string) (hubdir.Stage, error) {
	stage, err := hubdir.Inspect(dir)
	if err != nil {
		return stage, err
	}
	if stage == hubdir.CutShort {
		switch done, err := x.goOn(ctx, domain); {
		case err != nil:
			return stage, err
		case done:
			return hubdir.Complete, nil
		}
	}
	if stage == hubdir.CutShort || stage == hubdir.Early {
		hubdir.Clear(dir, true)
		stage = hubdir.Absent
	}
	return stage, nil
}
