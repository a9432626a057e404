package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hosting"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/observe"
	group "github.com/meshkit/meshkit/pkg/run"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/plugins/builtin"
)

type runOptions struct {
	config    string
	listen    string
	metrics   string
	advertise string
	logFormat string
	logLevel  string
	readyFile string
}

func newRun() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:     "run --config DIR/meshhub.yaml",
		Short:   "Run the hub until it is interrupted",
		Example: "  meshhub run --config ./hub/meshhub.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "config"); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "configuration file that init wrote")
	f.StringVar(&o.listen, "listen", "", "listen here instead of where the configuration says")
	f.StringVar(&o.metrics, "metrics", "", "serve metrics and health here instead")
	f.StringVar(&o.advertise, "advertise", "", "address that agents and operators are told")
	f.StringVar(&o.logFormat, "log-format", "", "text or json")
	f.StringVar(&o.logLevel, "log-level", "", "debug, info, warn or error")
	f.StringVar(&o.readyFile, "ready-file", "", "write the addresses to this file, as JSON, once the hub serves")
	return cmd
}

func override(field *string, flag string) {
	if flag != "" {
		*field = flag
	}
}

func (o *runOptions) run(cmd *cobra.Command) error {
	keepHeapFloor()
	c, err := loadConfig(o.config)
	if err != nil {
		return err
	}
	override(&c.Listen, o.listen)
	override(&c.Metrics, o.metrics)
	override(&c.Advertise, o.advertise)
	override(&c.Log.Format, o.logFormat)
	override(&c.Log.Level, o.logLevel)
	if err := c.validate(o.config); err != nil {
		return err
	}
	c.Advertise = c.advertised()
	log, err := observe.NewLogger(cmd.ErrOrStderr(), c.Log.Format, c.Log.Level)
	if err != nil {
		return err
	}
	all := log.With("hub", c.Name) // for all domains of the process
	log = all.With("domain", c.Domain)
	if err := checkAdvertised(cmp.Or(c.Advertise, c.Listen)); err != nil {
		log.Warn("nobody can use the address that agents and other hubs are told: set advertise in the configuration", "err", err)
	}
	ctx := cmd.Context()
	endTracing, err := observe.StartTracing(ctx, "meshhub", c.Tracing.Endpoint)
	if err != nil {
		return err
	}
	defer func() {
		tctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = endTracing(tctx)
	}()
	p, err := o.assemble(ctx, c, all)
	if err != nil {
		return err
	}
	return o.serve(ctx, p, log)
}

// process is a hub, its port, and the domains beside it.
type process struct {
	port *hub.Port
	hub  *hub.Hub
	host *hosting.Host
	// unlock gives the hub's directory free.
	unlock func()
}

// lock keeps a second hub from running with the same certificate, by a lock on the
// directory to which a renewed one is written. Where no lock can be made, as on a file
// system that is read-only, it goes without.
func lock(c config, log *slog.Logger) (unlock func(), err error) {
	dir := filepath.Dir(c.TLS.Key)
	unlock, err = durable.LockDir(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, fault.New(fault.CodeHubDirectoryUsed, "another process runs hub %s with what is in %s", c.Name, dir)
	case err != nil:
		log.Warn("directory not locked: a second hub in it would not be noticed", "err", err)
		return func() {}, nil
	}
	return unlock, nil
}

// assemble opens what the hub needs. The listeners come last: nobody can connect
// to a hub that cannot start. Each domain adds its name to what all log to.
func (o *runOptions) assemble(ctx context.Context, c config, all *slog.Logger) (p *process, err error) {
	log := all.With("domain", c.Domain)
	unlock, err := lock(c, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	made, err := openParts(ctx, c, log)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "listen on %s: %w", c.Listen, err).WithRemedy("Choose another address with --listen, or end what uses it.")
	}
	var metrics net.Listener
	if c.Metrics != "" {
		if metrics, err = net.Listen("tcp", c.Metrics); err != nil {
			_ = listener.Close()
			return nil, fault.New(fault.CodeIO, "listen on %s: %w", c.Metrics, err).WithRemedy("Choose another address with --metrics, or end what uses it.")
		}
	}
	p = &process{port: hub.NewPort(listener, all), unlock: unlock}
	registry := observe.NewRegistry("meshhub")
	p.host = newHost(c, o.config, p.port, registry, all)
	opt := made.options(c, log)
	opt.Port, opt.Registry, opt.Metrics, opt.Host = p.port, registry, metrics, p.host
	p.hub, err = hub.New(opt)
	return p, err
}

// serve runs all of it until ctx ends or the hub fails.
func (o *runOptions) serve(ctx context.Context, p *process, log *slog.Logger) error {
	accepting := make(chan error, 1)
	go func() { accepting <- p.port.Run() }()
	parts := group.New(ctx)
	parts.Go("hub", p.hub.Run)
	parts.Go("domains", func(ctx context.Context) error { return p.host.Run(ctx, p.hub) })
	parts.Go("ready", func(ctx context.Context) error { return o.announce(ctx, p.hub, log) })
	err := parts.Wait()
	p.port.Close()
	err = errors.Join(err, <-accepting)
	p.unlock()
	return err
}

// announce tells that the hub serves, and returns with ctx.
func (o *runOptions) announce(ctx context.Context, h *hub.Hub, log *slog.Logger) error {
	select {
	case <-h.Ready():
	case <-ctx.Done():
		return nil
	}
	listen, metrics := h.Addresses()
	log.Info("serving", "listen", listen, "metrics", metrics, "build", version.String())
	if o.readyFile != "" {
		if err := writeReady(o.readyFile, listen, metrics); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// parts are what a hub is made of that its configuration names.
type parts struct {
	keys      sign.Driver
	hubCA     ca.Driver
	above     [][]byte
	authority *ca.Authority
	source    *mtls.Source
}

func openParts(ctx context.Context, c config, log *slog.Logger) (p parts, err error) {
	if p.keys, err = c.keys(); err != nil {
		return p, err
	}
	if p.hubCA, p.above, err = c.hubCA(ctx, log); err != nil {
		return p, err
	}
	if p.authority, err = c.authority(ctx, p.above, log); err != nil {
		return p, err
	}
	p.source, err = mtls.LoadFiles(c.tlsFiles())
	return p, err
}

func (p parts) options(c config, log *slog.Logger) hub.Options {
	return hub.Options{
		Domain: c.Domain, Name: c.Name, Advertise: c.Advertise, StoreName: c.Store.Driver, Keys: p.keys, Authority: p.authority,
		OpenLog: func(ctx context.Context) (*store.Log, error) {
			return builtin.OpenLog(ctx, c.Store.Driver, c.Domain, builtin.StoreOptions{Path: c.Store.Path, URL: c.Store.URL, Logger: log})
		},
		HubCA: p.hubCA, HubCAChain: p.above, StoreURL: c.Store.URL,
		TLS: p.source, SaveTLS: func() error { return p.source.SaveFiles(c.tlsFiles()) },
		Logger: log, CertificateGrace: c.TLS.Grace,
		Distribution: distribution.ServerConfig{
			MaxStreams: c.Agents.MaxStreams, AdmissionRate: c.Agents.AdmissionRate, AdmissionBurst: c.Agents.AdmissionBurst,
		},
		Replica: replica.Options{SnapshotEntries: uint64(c.Snapshots.Entries), SnapshotBytes: c.Snapshots.Bytes, PositionFile: c.positionFile(), Place: c.Store.place()},
	}
}

func writeReady(path, listen, metrics string) error {
	data, err := json.Marshal(map[string]string{"listen": listen, "metrics": metrics})
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	if err := durable.WriteFile(durable.OS, path, append(data, '\n'), 0o644); err != nil {
		return fault.New(fault.CodeIO, "write --ready-file: %w", err)
	}
	return nil
}
