package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/agent/fleet"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// reportEvery is the time between two lines of --report.
const reportEvery = time.Second

func newFleet(io *cliutil.IO) *cobra.Command {
	var cfg fleet.Config
	var report bool
	var tokenFile string
	p := &program{io: io, name: "meshagent"}
	c := &cobra.Command{
		Use:   "fleet --hub HOST:PORT --token TOKEN --ca-pin sha256:PIN --count N --data DIR",
		Short: "Run many agents in one process, for demonstrations and load tests",
		Long: `Run N agents in one process, each with its own identity, stream and last-known-good.
The token needs as many uses as there are agents to join; a restart with the same
--data keeps the identities and needs none.

With --report it prints a JSON line per second:
  {"agents":18,"active":18,"version":42,"epoch":3,"connected":18,"phases":{"active":18}}
"active" counts the agents that have the newest version of any of them.`,
		Example: `  meshctl token create --uses 18 --ttl 1h
  meshagent fleet --hub 10.0.0.1:8443 --token TOKEN --ca-pin sha256:PIN --count 18 --data ./fleet --report`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "hub", "ca-pin", "data"); err != nil {
				return err
			}
			token, err := joinToken(io, cfg.Token, tokenFile)
			if err != nil {
				return err
			}
			cfg.Token = token
			if report {
				p.report = func(ctx context.Context, m member) error { return reports(ctx, io, m.(*group).Fleet) }
			}
			tuneMemory(agent.DefaultConfig().Memory.GCPercent, 0)
			return p.run(c.Context(), func(log *slog.Logger, m *agent.Metrics) (member, error) {
				f, err := fleet.Open(c.Context(), cfg, fleet.Options{Logger: log, Metrics: m})
				if err != nil {
					return nil, err
				}
				return &group{f}, nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Hub, "hub", "", "address of any hub, host:port")
	f.StringVar(&cfg.Token, "token", "", "join token with enough uses; not needed once all have joined")
	f.StringVar(&tokenFile, "token-file", "", "file that holds the join token (default: $MESHKIT_TOKEN)")
	f.StringVar(&cfg.Pin, "ca-pin", "", "pin of the domain's CA, sha256:…")
	f.StringVar(&cfg.Dir, "data", "", "directory of the agents' directories")
	f.IntVar(&cfg.Count, "count", 1, "number of agents")
	f.StringVar(&cfg.Prefix, "prefix", "fleet", "node names are PREFIX-001 and so on")
	f.BoolVar(&report, "report", false, "print a JSON line per second")
	f.StringVar(&p.metrics, "metrics", "", "address of /metrics, /healthz and /readyz; empty: none")
	f.StringVar(&p.ready, "ready-file", "", "write the addresses as JSON here once the agents run")
	f.StringVar(&p.log.Format, "log-format", "text", "text or json")
	f.StringVar(&p.log.Level, "log-level", "warn", "debug, info, warn or error")
	return c
}

// group is a fleet as a member.
type group struct{ *fleet.Fleet }

// Checks implements member.
func (g *group) Checks() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"agents": g.Ready}
}

// Serving implements member: a fleet has no local endpoints to wait for.
func (g *group) Serving() (<-chan struct{}, func() map[string]string) {
	at := make(chan struct{})
	close(at)
	return at, func() map[string]string { return make(map[string]string) }
}

// reports prints what the fleet is like until ctx ends.
func reports(ctx context.Context, io *cliutil.IO, f *fleet.Fleet) error {
	enc := json.NewEncoder(io.Out)
	every := time.NewTicker(reportEvery)
	defer every.Stop()
	for {
		if err := enc.Encode(f.Report()); err != nil {
			return err
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}
