// Package fleet runs many agents in one process, for demonstrations and load
// tests: each has an identity, a stream and a last-known-good store of its own;
// metrics and equal content are shared. Their local sockets are left out.
//
//	f, err := fleet.Open(ctx, fleet.Config{Hub: …, Token: …, Pin: …, Dir: …, Count: 18}, fleet.Options{})
//	err = f.Run(ctx)
//
// Agent i has the directory DIR/agents/PREFIX-i; one that joined before keeps its
// identity, so that a restart needs no token. A Fleet is safe for concurrent use.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/join"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// MaxCount bounds the agents of one process.
const MaxCount = 10_000

// joiners is how many agents join at the same time.
const joiners = 8

// Config says which agents to run.
type Config struct {
	// Hub, Token and Pin are as for join; Token is needed only while some of the
	// agents have not joined yet.
	Hub, Token, Pin string
	Dir             string
	Count           int
	// Prefix of the node names; empty: "fleet".
	Prefix string
	// JoinTimeout bounds the join of one agent; 0: join.DefaultTimeout.
	JoinTimeout time.Duration
}

// Options are what a fleet is given beside its configuration.
type Options struct {
	Logger  *slog.Logger
	Metrics *agent.Metrics
	// Change alters each agent's configuration before it is used; may be nil.
	Change func(*agent.Config)
	// DialOptions are added to those of every connection.
	DialOptions []grpc.DialOption
}

// Fleet is a set of agents. Use Open.
type Fleet struct{ agents []*agent.Agent }

// Open joins the agents that have not joined yet and opens all of them.
func Open(ctx context.Context, cfg Config, opts Options) (*Fleet, error) {
	if cfg.Count < 1 || cfg.Count > MaxCount {
		return nil, fault.New(fault.CodeJoinArguments, "a fleet of %d agents; 1 to %d are possible", cfg.Count, MaxCount)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "fleet"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Metrics == nil {
		opts.Metrics = agent.NewMetrics()
	}
	if err := cfg.joinAll(ctx, opts); err != nil {
		return nil, err
	}
	f := &Fleet{}
	shared := agent.NewShared()
	for i := range cfg.Count {
		c, err := agent.LoadConfig(filepath.Join(cfg.dir(i), agent.ConfigName))
		if err != nil {
			f.close()
			return nil, err
		}
		if opts.Change != nil {
			opts.Change(&c)
		}
		a, err := agent.New(c, agent.Options{
			Logger: opts.Logger.With("node", c.Node), Metrics: opts.Metrics, Shared: shared, DialOptions: opts.DialOptions, NoLocal: true,
		})
		if err != nil {
			f.close()
			return nil, fmt.Errorf("open agent %s: %w", c.Node, err)
		}
		f.agents = append(f.agents, a)
	}
	return f, nil
}

func (c Config) node(i int) string { return fmt.Sprintf("%s-%03d", c.Prefix, i+1) }
func (c Config) dir(i int) string  { return filepath.Join(c.Dir, "agents", c.node(i)) }

// joinAll joins who has not, a few at a time.
func (c Config) joinAll(ctx context.Context, opts Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(joiners, c.Count) {
		wg.Go(func() {
			for i := range next {
				if err := c.joinOne(ctx, i, opts); err != nil {
					cancel(fault.New(fault.CodeFleetIncomplete, "agent %s: %w", c.node(i), err))
				}
			}
		})
	}
	for i := range c.Count {
		if join.Joined(c.dir(i)) {
			continue
		}
		select {
		case next <- i:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func (c Config) joinOne(ctx context.Context, i int, opts Options) error {
	if c.Token == "" {
		return fault.New(fault.CodeJoinArguments, "it has not joined yet, and there is no token")
	}
	_, err := join.Join(ctx, join.Request{
		Hub: c.Hub, Token: c.Token, Pin: c.Pin, Dir: c.dir(i), Node: c.node(i), NoBundle: true,
		Timeout: c.JoinTimeout, DialOptions: opts.DialOptions,
	})
	return err
}

func (f *Fleet) close() {
	for _, a := range f.agents {
		a.Close()
	}
}

// Run runs all agents until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(f.agents))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, a := range f.agents {
		wg.Go(func() {
			if err := a.Run(ctx); err != nil {
				errs[i] = fmt.Errorf("agent %s: %w", a.Config().Node, err)
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Source is the identity of the first agent, for the process's own port.
func (f *Fleet) Source() *mtls.Source { return f.agents[0].Source() }

// Ready says why the fleet is not ready, or nil: every agent has content.
func (f *Fleet) Ready(ctx context.Context) error {
	for _, a := range f.agents {
		if err := a.Ready(ctx); err != nil {
			return fmt.Errorf("agent %s: %w", a.Config().Node, err)
		}
	}
	return nil
}

// Report is what the fleet is like, as one line of JSON.
type Report struct {
	Agents int `json:"agents"`
	// Active counts the agents whose active content is the newest that any agent of
	// the fleet has; it is Version of Epoch.
	Active  int    `json:"active"`
	Version uint64 `json:"version"`
	Epoch   uint64 `json:"epoch"`
	// Connected counts the agents with a stream to a hub.
	Connected int `json:"connected"`
	// Phases counts the agents by phase.
	Phases map[activation.Phase]int `json:"phases"`
}

// Report describes the fleet now.
func (f *Fleet) Report() Report {
	r := Report{Agents: len(f.agents), Phases: make(map[activation.Phase]int)}
	reports := make([]activation.Report, len(f.agents))
	var newest activation.Point
	for i, a := range f.agents {
		reports[i] = a.Report()
		if reports[i].Active.Compare(newest) > 0 {
			newest = reports[i].Active
		}
	}
	r.Version, r.Epoch = newest.Version, newest.Epoch
	for _, rep := range reports {
		r.Phases[rep.Phase]++
		if !rep.Active.IsZero() && rep.Active.Compare(newest) == 0 {
			r.Active++
		}
		if rep.Connected {
			r.Connected++
		}
	}
	return r
}
