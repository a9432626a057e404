package main

import (
	"cmp"
	"context"
	"log/slog"
	"path/filepath"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hosting"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/observe"
)

// adoptTime bounds the join of a domain that another hub made.
const adoptTime = 10 * time.Second

// beside makes, joins and configures domains beside a hub's own, as init and join would.
// It implements hosting.Program.
type beside struct {
	own     config // of the hub's own domain
	address string // where others reach the hub
}

func newHost(own config, configPath string, port *hub.Port, registry *observe.Registry, all *slog.Logger) *hosting.Host {
	dir, err := filepath.Abs(filepath.Dir(configPath))
	if err != nil {
		dir = filepath.Dir(configPath)
	}
	b := beside{own: own, address: cmp.Or(own.Advertise, port.Addr().String())}
	return hosting.New(hosting.Options{
		Domain: own.Domain, Name: own.Name, Dir: filepath.Join(dir, hubdir.DomainsDir), Address: b.address,
		Port: port, Registry: registry, Logger: all, Program: b,
	})
}

// Load implements hosting.Program.
func (b beside) Load(dir string) (hosting.Domain, error) {
	c, err := loadConfig(filepath.Join(dir, hubdir.ConfigFile))
	if err != nil {
		return hosting.Domain{}, err
	}
	return hosting.Domain{Name: c.Domain, Shared: c.Store.URL != "", Open: func(ctx context.Context, log *slog.Logger) (hub.Options, error) {
		p, err := openParts(ctx, c, log)
		if err != nil {
			return hub.Options{}, err
		}
		return p.options(c, log), nil
	}}, nil
}

// Founding implements hosting.Program.
func (b beside) Founding(domain, dir string) (founding.Options, error) {
	passphrase, err := readPassphrase(b.own.Keys.PassphraseFile)
	if err != nil {
		return founding.Options{}, err
	}
	at := b.own.Store
	text, err := configText(domain, b.own.Name, b.own.Listen, b.address, "", at.Driver, at.URL, b.own.Keys.PassphraseFile)
	if err != nil {
		return founding.Options{}, err
	}
	return founding.Options{
		Domain: domain, Hub: b.own.Name, Dir: dir, Listen: b.own.Listen, Address: b.address, RootKeys: 1, RootThreshold: 1, Config: text,
		Drivers: foundingDrivers(domain, dir, at.Driver, at.URL, passphrase),
	}, nil
}

// Join implements hosting.Program.
func (b beside) Join(ctx context.Context, dir string, in *adminv1.AdoptDomainRequest) error {
	o := &joinOptions{
		io: cliutil.Discard(), hub: in.GetAddress(), token: in.GetToken(), pin: in.GetCaPin(), data: dir, name: b.own.Name,
		listen: b.own.Listen, advertise: b.address, passphrase: b.own.Keys.PassphraseFile,
		timeout: adoptTime, store: b.own.Store.URL, domain: in.GetDomain(),
	}
	return o.run(ctx)
}
