package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/run"
)

// flushTime bounds what is done after the agent has stopped.
const flushTime = 500 * time.Millisecond

func newRun(io *cliutil.IO) *cobra.Command {
	var config, ready string
	var override agent.Config
	c := &cobra.Command{
		Use:   "run --config DIR/meshagent.yaml",
		Short: "Run the agent",
		Long: `Run the agent until it is interrupted. It starts from last-known-good, with or without a
hub. SIGTERM and SIGINT stop it cleanly within five seconds.`,
		Example: `  meshagent run --config ./agent/meshagent.yaml
  meshagent run --config ./agent/meshagent.yaml --log-format json --ready-file /run/meshagent.ready`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "config"); err != nil {
				return err
			}
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				return err
			}
			overrideWith(c, &cfg, override)
			p := &program{io: io, name: "meshagent", log: cfg.Log, metrics: cfg.Metrics, tracing: cfg.Tracing, ready: ready}
			tuneMemory(cfg.Memory.GCPercent, cfg.Memory.LimitMiB)
			return p.run(c.Context(), func(log *slog.Logger, m *agent.Metrics) (member, error) {
				return newSingle(cfg, log, m)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "configuration file that join wrote")
	f.StringVar(&ready, "ready-file", "", "write the addresses as JSON here once the agent serves")
	f.StringVar(&override.Listen, "listen", "", "override listen, with another loopback address")
	f.StringVar(&override.Metrics, "metrics", "", "override metrics")
	f.StringVar(&override.Log.Format, "log-format", "", "override log.format: text or json")
	f.StringVar(&override.Log.Level, "log-level", "", "override log.level: debug, info, warn or error")
	return c
}

// overrideWith lets flags win over the file.
func overrideWith(c *cobra.Command, cfg *agent.Config, o agent.Config) {
	for name, set := range map[string]func(){
		"listen":     func() { cfg.Listen = o.Listen },
		"metrics":    func() { cfg.Metrics = o.Metrics },
		"log-format": func() { cfg.Log.Format = o.Log.Format },
		"log-level":  func() { cfg.Log.Level = o.Log.Level },
	} {
		if c.Flags().Changed(name) {
			set()
		}
	}
}

// member is what a program runs: one agent, or a fleet.
type member interface {
	Run(ctx context.Context) error
	Source() *mtls.Source
	Checks() map[string]func(context.Context) error
	// Serving is closed when the endpoints in the map serve.
	Serving() (<-chan struct{}, func() map[string]string)
}

// single is one agent as a member.
type single struct {
	*agent.Agent
	serving   chan struct{}
	endpoints agent.Endpoints // set before serving is closed
	release   chan struct{}   // a large change was made; room for one
}

// releaseAbove is the size of a change, in bytes, after which the memory that it
// took to make goes back to the system at once. Smaller ones reuse theirs.
const releaseAbove = 256 << 10

func newSingle(cfg agent.Config, log *slog.Logger, m *agent.Metrics) (*single, error) {
	s := &single{serving: make(chan struct{}), release: make(chan struct{}, 1)}
	a, err := agent.New(cfg, agent.Options{
		Logger: log, Metrics: m,
		Ready: func(e agent.Endpoints) {
			s.endpoints = e
			close(s.serving)
		},
		Changed: func(bytes int64) {
			if bytes < releaseAbove {
				return
			}
			select {
			case s.release <- struct{}{}:
			default:
			}
		},
	})
	s.Agent = a
	return s, err
}

// Run implements member.
func (s *single) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		for {
			select {
			case <-s.release:
				debug.FreeOSMemory()
			case <-ctx.Done():
				return
			}
		}
	})
	return s.Agent.Run(ctx)
}

// Serving implements member.
func (s *single) Serving() (<-chan struct{}, func() map[string]string) {
	return s.serving, func() map[string]string {
		return map[string]string{"listen": s.endpoints.Listen, "socket": s.endpoints.Socket}
	}
}

// program is what run and fleet have in common.
type program struct {
	io      *cliutil.IO
	name    string
	log     agent.Log
	metrics string
	tracing agent.Tracing
	ready   string
	report  func(ctx context.Context, m member) error // may be nil
}

// run opens the member, serves its metrics beside it, and ends with ctx.
func (p *program) run(ctx context.Context, open func(*slog.Logger, *agent.Metrics) (member, error)) (err error) {
	log, err := observe.NewLogger(p.io.Err, p.log.Format, p.log.Level)
	if err != nil {
		return err
	}
	shutdown, err := observe.StartTracing(ctx, p.name, p.tracing.Endpoint)
	if err != nil {
		return fault.New(fault.CodeConfig, "tracing: %w", err)
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		if flushErr := shutdown(flush); flushErr != nil {
			log.Debug("traces not flushed", "err", flushErr)
		}
	}()
	metrics := agent.NewMetrics()
	m, err := open(log, metrics)
	if err != nil {
		return err
	}
	g := run.New(ctx)
	g.Go("agent", m.Run)
	address, err := p.serveMetrics(g, m, metrics)
	if err != nil {
		g.Stop()
		return errors.Join(err, g.Wait())
	}
	g.Go("ready file", func(ctx context.Context) error { return p.announce(ctx, log, m, address) })
	if p.report != nil {
		g.Go("report", func(ctx context.Context) error { return p.report(ctx, m) })
	}
	return g.Wait()
}

// serveMetrics opens the observation port, if there is one.
func (p *program) serveMetrics(g *run.Group, m member, metrics *agent.Metrics) (address string, err error) {
	if p.metrics == "" {
		return "", nil
	}
	reg := observe.NewRegistry(p.name)
	if err := reg.Register(metrics); err != nil {
		return "", fault.New(fault.CodeInternal, "register metrics: %w", err)
	}
	health := observe.NewHealth()
	for name, check := range m.Checks() {
		health.Add(name, check)
	}
	l, err := net.Listen("tcp", p.metrics)
	if err != nil {
		return "", fault.New(fault.CodeIO, "listen on %s: %w", p.metrics, err)
	}
	srv := observe.NewServer(observe.Handler(reg, health, withCertificate))
	tlsConfig := mtls.ServerConfig(m.Source(), mtls.ServerOptions{OptionalClient: true})
	g.Go("metrics port", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stop()
		if err := srv.Serve(tls.NewListener(l, tlsConfig)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return l.Addr().String(), nil
}

// withCertificate admits who proved to belong to the domain.
func withCertificate(r *http.Request) error {
	if r.TLS != nil {
		if _, ok := mtls.StateID(*r.TLS); ok {
			return nil
		}
	}
	return fault.New(fault.CodePeerNoCertificate, "metrics need a client certificate of the domain")
}

// announce tells where the member serves, in the log and the ready file, gives start-up's memory back, and waits.
func (p *program) announce(ctx context.Context, log *slog.Logger, m member, metrics string) error {
	serving, endpoints := m.Serving()
	select {
	case <-serving:
	case <-ctx.Done():
		return nil
	}
	addresses := endpoints()
	if metrics != "" {
		addresses["metrics"] = metrics
	}
	log.Info("serving", "listen", addresses["listen"], "socket", addresses["socket"], "metrics", metrics)
	if p.ready != "" {
		data, err := json.Marshal(addresses)
		if err != nil {
			return fault.New(fault.CodeInternal, "encode ready file: %w", err)
		}
		if err := durable.WriteFile(durable.OS, p.ready, append(data, '\n'), 0o600); err != nil {
			return fault.New(fault.CodeIO, "write ready file: %w", err)
		}
	}
	debug.FreeOSMemory()
	<-ctx.Done()
	return nil
}
