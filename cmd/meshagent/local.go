package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/agent/local"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// commandTime bounds a command: an activation may have to end first.
const commandTime = 60 * time.Second

// connection finds the agent that a command is for.
type connection struct {
	io             *cliutil.IO
	config, socket string
}

func (k *connection) flags(c *cobra.Command) {
	c.Flags().StringVar(&k.config, "config", "", "configuration file of the agent (default ./"+agent.ConfigName+")")
	c.Flags().StringVar(&k.socket, "socket", "", "Unix socket of the agent (default from --config, or $MESHKIT_AGENT_SOCKET)")
}

// path is the agent's socket.
func (k *connection) path() (string, error) {
	switch {
	case k.socket != "":
		return k.socket, nil
	case k.config == "" && k.io.Env("MESHKIT_AGENT_SOCKET") != "":
		return k.io.Env("MESHKIT_AGENT_SOCKET"), nil
	case k.config == "":
		k.config = agent.ConfigName
	}
	cfg, err := agent.LoadConfig(filepath.Clean(k.config))
	return cfg.Socket, err
}

// call runs f with a client of the agent.
func (k *connection) call(ctx context.Context, f func(context.Context, agentv1.AgentServiceClient) error) error {
	path, err := k.path()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	conn, err := local.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(ctx, local.NewClient(conn))
}

func newStatus(io *cliutil.IO) *cobra.Command {
	k := &connection{io: io}
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this node has and does; needs no hub",
		Example: `  meshagent status --config ./agent/meshagent.yaml
  meshagent status --socket /run/meshagent.sock -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			format, err := cliutil.ParseFormat(output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			return k.call(c.Context(), func(ctx context.Context, a agentv1.AgentServiceClient) error {
				s, err := a.GetStatus(ctx, &agentv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				if format.Structured() {
					return io.PrintDocument(format, cliutil.ProtoJSON(s))
				}
				return showStatus(io, s, time.Now())
			})
		},
	}
	k.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json, yaml or jsonpath=…")
	return c
}

func showStatus(io *cliutil.IO, s *agentv1.GetStatusResponse, now time.Time) error {
	w := tabwriter.NewWriter(io.Out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, cliutil.Clean(fmt.Sprintf(format, args...)))
	}
	row("Node", "%s in domain %s", s.GetNode(), s.GetDomain())
	row("Phase", "%s", phaseWord(s.GetPhase().String()))
	if g := s.GetGenerations(); len(g) > 0 {
		row("Active", "version %d of epoch %d, %s", g[0].GetPoint().GetVersion(), g[0].GetPoint().GetEpoch(), standing(g[0].GetState()))
	} else {
		row("Active", "nothing yet")
	}
	if m := s.GetMessage(); m != "" {
		row("Message", "%s", m)
	}
	switch {
	case s.GetConnected():
		row("Hub", "%s", s.GetHub())
	case s.GetHub() != "":
		row("Hub", "not connected, last %s", s.GetHub())
	default:
		row("Hub", "not connected")
	}
	row("Confirmed", "%s", ago(s.GetFreshAt(), now))
	row("Certificate", "valid until %s", s.GetCertificateNotAfter().AsTime().Format(time.RFC3339))
	row("Trust", "root %d, keyset %d", s.GetRootVersion(), s.GetKeysetVersion())
	if s.GetHighest() != nil {
		row("Highest", "version %d of epoch %d", s.GetHighest().GetVersion(), s.GetHighest().GetEpoch())
	}
	row("Pinned", "%s", map[bool]string{true: "yes", false: "no"}[s.GetPinned()])
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.GetGenerations()) > 0 {
		fmt.Fprintln(w, "\nVERSION\tEPOCH\tSTATE\tRESOURCES\tBYTES\tACTIVATED\tREASON")
	}
	for _, g := range s.GetGenerations() {
		fmt.Fprintf(w, "%d\t%d\t%s\t%d\t%d\t%s\t%s\n", g.GetPoint().GetVersion(), g.GetPoint().GetEpoch(), g.GetState(),
			g.GetResources(), g.GetBytes(), ago(g.GetActivatedAt(), now), cliutil.Clean(g.GetReason()))
	}
	for _, d := range s.GetDownlevels() {
		what := "simplified"
		if d.GetWithheld() {
			what = "withheld"
		}
		fmt.Fprintf(w, "\n%s %s: %s (%s)\n", cliutil.Clean(d.GetResource()), what, cliutil.Clean(d.GetReason()), cliutil.Clean(d.GetCapability()))
	}
	return w.Flush()
}

// standing says what an active generation's state means.
func standing(state string) string {
	switch state {
	case "probation":
		return "in probation"
	case "active":
		return "kept"
	case "staging":
		return "being activated"
	}
	return state
}

// phaseWord turns PHASE_ACTIVE into Active.
func phaseWord(name string) string {
	w := strings.ToLower(strings.TrimPrefix(name, "PHASE_"))
	return strings.ToUpper(w[:1]) + w[1:]
}

func ago(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "never"
	}
	return now.Sub(t.AsTime()).Round(time.Second).String() + " ago"
}

func newPin(io *cliutil.IO) *cobra.Command {
	k := &connection{io: io}
	var version uint64
	var reason string
	c := &cobra.Command{
		Use:   "pin",
		Short: "Hold a stored generation: newer ones are not activated; needs no hub",
		Example: `  meshagent pin --config ./agent/meshagent.yaml --reason "incident 4711"
  meshagent pin --config ./agent/meshagent.yaml --version 41`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return k.call(c.Context(), func(ctx context.Context, a agentv1.AgentServiceClient) error {
				r, err := a.Pin(ctx, &agentv1.PinRequest{Version: version, Reason: reason})
				if err != nil {
					return err
				}
				io.Donef("pinned version %d; `meshagent unpin` lets newer versions through again", r.GetGeneration().GetPoint().GetVersion())
				return nil
			})
		},
	}
	k.flags(c)
	c.Flags().Uint64Var(&version, "version", 0, "stored version to hold (default: the active one)")
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks next")
	return c
}

func newUnpin(io *cliutil.IO) *cobra.Command {
	k := &connection{io: io}
	c := &cobra.Command{
		Use:     "unpin",
		Short:   "Let newer versions through again, and forget what was reverted here; needs no hub",
		Example: `  meshagent unpin --config ./agent/meshagent.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return k.call(c.Context(), func(ctx context.Context, a agentv1.AgentServiceClient) error {
				if _, err := a.Unpin(ctx, &agentv1.UnpinRequest{}); err != nil {
					return err
				}
				io.Donef("unpinned; the newest version is activated when it is verified")
				return nil
			})
		},
	}
	k.flags(c)
	return c
}

func newRevert(io *cliutil.IO) *cobra.Command {
	k := &connection{io: io}
	var reason string
	c := &cobra.Command{
		Use:     "revert",
		Short:   "Go back to the generation before the active one, and pin it; needs no hub",
		Example: `  meshagent revert --config ./agent/meshagent.yaml --reason "checkout fails since 42"`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return k.call(c.Context(), func(ctx context.Context, a agentv1.AgentServiceClient) error {
				r, err := a.Revert(ctx, &agentv1.RevertRequest{Reason: reason})
				if err != nil {
					return err
				}
				io.Donef("back at version %d, pinned; `meshagent unpin` lets newer versions through again", r.GetGeneration().GetPoint().GetVersion())
				return nil
			})
		},
	}
	k.flags(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks next")
	return c
}
