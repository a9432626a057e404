package main

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
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	hubjoin "github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/observe"
)

// Domains beside the hub's own lie below its directory, each as init or join would
// have made it:
//
//	domains/eu-central/{meshhub.yaml,keys,ca,tls,…}   served with the hub's own port
//	domains/eu-central/made.json                      who had it made, on the hub that made it
//
// A directory without meshhub.yaml is of a domain whose making or joining was cut
// short: the next try clears it, or goes on with it.
const (
	// maxDomains bounds the domains of one process: each has goroutines, connections
	// and a state of its own.
	maxDomains = 64
	// guestReady is how long a new domain may take to be served.
	guestReady = 10 * time.Second
	// tokenLife is how long the other hubs may take to join.
	tokenLife = time.Minute
)

// host serves further domains beside a hub's own. It implements admin.DomainHost.
type host struct {
	own      config // of the hub's own domain
	dir      string // of the domains, absolute
	port     *hub.Port
	registry *observe.Registry
	all, log *slog.Logger // of all domains, and of the hub's own

	making sync.Mutex // held while one domain is made or joined

	mu     sync.Mutex // guards all below
	ctx    context.Context
	guests map[string]*guest
	wg     sync.WaitGroup
	health *observe.Health
}

// guest is a domain that is served.
type guest struct {
	config config
	cancel context.CancelFunc

	mu    sync.Mutex // guards both below
	hub   *hub.Hub   // nil while it does not run
	err   error      // why not
	ready chan struct{}
	once  sync.Once
}

func newHost(own config, configPath string, port *hub.Port, registry *observe.Registry, all *slog.Logger) *host {
	dir, err := filepath.Abs(filepath.Dir(configPath))
	if err != nil {
		dir = filepath.Dir(configPath)
	}
	return &host{own: own, dir: filepath.Join(dir, hubdir.DomainsDir), port: port, registry: registry, all: all, log: all.With("domain", own.Domain), guests: make(map[string]*guest)}
}

// run serves what is in the directory once the hub itself is ready, and keeps
// leadership spread, until ctx ends.
func (x *host) run(ctx context.Context, h *hub.Hub) error {
	select {
	case <-h.Ready():
	case <-ctx.Done():
		return nil
	}
	x.mu.Lock()
	x.ctx, x.health = ctx, h.Health()
	x.mu.Unlock()
	defer x.wg.Wait()
	entries, err := os.ReadDir(x.dir)
	if err != nil && !os.IsNotExist(err) {
		return fault.New(fault.CodeIO, "read %s: %w", x.dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(x.dir, e.Name(), hubdir.ConfigFile)
		if _, err := os.Stat(path); err != nil {
			x.log.Warn("directory without a configuration: no domain is served from it", "path", filepath.Dir(path))
			continue
		}
		if _, err := x.start(e.Name()); err != nil {
			x.log.Error("domain not served", "guest", e.Name(), "err", err)
		}
	}
	x.spread(ctx, h)
	return nil
}

// start serves a domain from its directory.
func (x *host) start(domain string) (*guest, error) {
	c, err := loadConfig(filepath.Join(x.dir, domain, hubdir.ConfigFile))
	if err != nil {
		return nil, err
	}
	if c.Domain != domain {
		return nil, fault.New(fault.CodeConfig, "the directory of domain %q holds the configuration of %q", domain, c.Domain)
	}
	c.Advertise = cmp.Or(x.own.Advertise, x.port.Addr().String())
	x.mu.Lock()
	defer x.mu.Unlock()
	switch g := x.guests[domain]; {
	case x.ctx == nil || x.ctx.Err() != nil:
		return nil, fault.New(fault.CodeHubDraining, "the hub is starting or shutting down")
	case g != nil:
		return g, nil
	case len(x.guests) >= maxDomains:
		return nil, fault.New(fault.CodeRequestTooLarge, "the hub serves %d domains, its limit", len(x.guests)+1)
	}
	ctx, cancel := context.WithCancel(x.ctx)
	g := &guest{config: c, cancel: cancel, ready: make(chan struct{})}
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
func (x *host) serve(ctx context.Context, g *guest) {
	log := x.all.With("domain", g.config.Domain)
	pause := backoff.New(backoff.Policy{Base: time.Second, Cap: 30 * time.Second})
	for ctx.Err() == nil {
		err := x.runOnce(ctx, g, log)
		g.set(nil, err)
		x.registry.Include(g.config.Domain, nil)
		if ctx.Err() != nil {
			return
		}
		log.Error("domain not served; trying again", "err", err)
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

func (x *host) runOnce(ctx context.Context, g *guest, log *slog.Logger) error {
	p, err := openParts(ctx, g.config, log)
	if err != nil {
		return err
	}
	registry := observe.NewGuest()
	h, err := hub.New(p.options(g.config, x.port, registry, log))
	if err != nil {
		return err
	}
	x.registry.Include(g.config.Domain, registry)
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
	for _, p := range h.Problems(ctx) {
		return fault.New(cmp.Or(p.Code, fault.CodeReadOnly), "%s: %s", p.Check, p.Reason)
	}
	return nil
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
		return nil, fault.New(fault.CodeHubDraining, "domain %s is made and not served yet: %w", g.config.Domain, err)
	}
	h, err := g.get()
	if h == nil && err == nil {
		err = fault.New(fault.CodeHubDraining, "domain %s is not served at the moment", g.config.Domain)
	}
	return h, err
}

// List implements admin.DomainHost.
func (x *host) List() []*adminv1.ServedDomain {
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

// Create implements admin.DomainHost.
func (x *host) Create(ctx context.Context, d admin.NewDomain) (*admin.CreatedDomain, error) {
	csr, err := x509.ParseCertificateRequest(d.CSR)
	if err != nil {
		return nil, fault.New(fault.CodeBadRequest, "csr: %w", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	who := founding.Maker{RequestID: d.RequestID, Author: d.Author, Key: hex.EncodeToString(sum[:])}
	x.making.Lock()
	defer x.making.Unlock()
	dir := filepath.Join(x.dir, d.Domain)
	switch before, err := founding.ReadMaker(dir); {
	case err == nil && *before != who:
		return nil, fault.New(fault.CodeDomainExists, "domain %q exists", d.Domain)
	case err != nil:
		if _, serr := os.Stat(filepath.Join(dir, hubdir.ConfigFile)); serr == nil {
			return nil, fault.New(fault.CodeDomainExists, "domain %q exists", d.Domain)
		}
		if err := x.make(ctx, d.Domain, dir, &who); err != nil {
			return nil, err
		}
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

// make makes the domain's directory and log, as init does, beside what the hub has.
func (x *host) make(ctx context.Context, domain, dir string, who *founding.Maker) error {
	passphrase, err := readPassphrase(x.own.Keys.PassphraseFile)
	if err != nil {
		return err
	}
	address := cmp.Or(x.own.Advertise, x.port.Addr().String())
	config, err := configText(domain, x.own.Name, x.own.Listen, address, "", x.own.Store.Driver, x.own.Store.URL, x.own.Keys.PassphraseFile)
	if err != nil {
		return err
	}
	hubdir.Clear(dir, true) // what was cut short; without a configuration nothing has used it
	if _, err := founding.Found(ctx, founding.Options{
		Domain: domain, Hub: x.own.Name, Dir: dir, Listen: x.own.Listen, Address: address, RootKeys: 1, RootThreshold: 1, Config: config, Maker: who,
		Drivers: foundingDrivers(domain, dir, x.own.Store.Driver, x.own.Store.URL, passphrase),
	}); err != nil {
		return err
	}
	x.log.Info("domain made", "guest", domain, "author", who.Author)
	return nil
}

// created gives the operator a certificate, and the other hubs a token.
func (x *host) created(ctx context.Context, g *guest, h *hub.Hub, d admin.NewDomain) (*admin.CreatedDomain, error) {
	p, err := openParts(ctx, g.config, x.log)
	if err != nil {
		return nil, err
	}
	id, err := identity.New(d.Domain, identity.Operator, d.Operator)
	if err != nil {
		return nil, err
	}
	cert, err := p.authority.Issue(ctx, ca.Request{CSR: d.CSR, ID: id, TTL: hubjoin.OperatorTTL})
	if err != nil {
		return nil, err
	}
	out := &admin.CreatedDomain{
		CAPin: p.authority.Pin(), Chain: cert.Chain, CABundle: p.authority.Bundle(),
		RootKeys: filepath.Join(x.dir, d.Domain, "root"), Address: g.config.Advertise,
	}
	if d.Joining > 0 && g.config.Store.URL != "" {
		out.Token, err = h.HubToken(ctx, d.Joining, tokenLife)
	}
	return out, err
}

// Adopt implements admin.DomainHost.
func (x *host) Adopt(ctx context.Context, in *adminv1.AdoptDomainRequest) error {
	x.making.Lock()
	defer x.making.Unlock()
	dir := filepath.Join(x.dir, in.GetDomain())
	if _, err := os.Stat(filepath.Join(dir, hubdir.ConfigFile)); err != nil {
		o := &joinOptions{
			io: cliutil.Discard(), hub: in.GetAddress(), token: in.GetToken(), pin: in.GetCaPin(), data: dir, name: x.own.Name,
			listen: x.own.Listen, advertise: cmp.Or(x.own.Advertise, x.port.Addr().String()), passphrase: x.own.Keys.PassphraseFile,
			timeout: guestReady, store: x.own.Store.URL,
		}
		if err := o.run(ctx); err != nil {
			return err
		}
		x.log.Info("domain joined", "guest", in.GetDomain(), "hub", in.GetAddress())
	}
	g, err := x.start(in.GetDomain())
	if err != nil {
		return err
	}
	_, err = g.await(ctx)
	return err
}
