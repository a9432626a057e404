package agent

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/version"
)

var phases = map[activation.Phase]controlv1.Phase{
	activation.Connecting: controlv1.Phase_PHASE_CONNECTING,
	activation.Staging:    controlv1.Phase_PHASE_STAGING,
	activation.Active:     controlv1.Phase_PHASE_ACTIVE,
	activation.Degraded:   controlv1.Phase_PHASE_DEGRADED,
	activation.Stale:      controlv1.Phase_PHASE_STALE,
}

func phaseToProto(p activation.Phase) controlv1.Phase { return phases[p] }

// Report is the agent's state at this moment; zero before it has started.
func (a *Agent) Report() activation.Report {
	s := a.state.Load()
	if s == nil {
		return activation.Report{Phase: activation.Connecting}
	}
	return s.report
}

// Status answers meshagent status.
func (a *Agent) Status() *agentv1.GetStatusResponse {
	rep := a.Report()
	anchors := a.anchors.get()
	out := &agentv1.GetStatusResponse{
		Node: a.cfg.Node, Domain: a.cfg.Domain, Phase: phaseToProto(rep.Phase), Message: rep.Message,
		Hub: rep.Hub, Connected: rep.Connected, Pinned: rep.Durable.Pinned,
		Highest: resumePoint(rep.Durable.Highest), CertificateNotAfter: timestamppb.New(a.source.NotAfter()),
		RootVersion: anchors.RootVersion(), KeysetVersion: anchors.KeysetVersion(), Build: version.String(),
		Downlevels: a.accepted.Load().GetDownlevels(),
	}
	if !rep.FreshAt.IsZero() {
		out.FreshAt = timestamppb.New(rep.FreshAt)
	}
	s := a.state.Load()
	if s == nil {
		return out
	}
	for i, g := range rep.Durable.Generations {
		status := string(g.Status)
		switch {
		case i > 0:
		case g.Point != rep.Active:
			status = "staging"
		case g.Status == activation.Kept:
			status = "active"
		}
		out.Generations = append(out.Generations, s.generation(g, status))
	}
	if rep.Held != nil {
		out.Generations = append(out.Generations, s.generation(activation.Generation{Point: rep.Held.Point}, string(activation.Held)))
	}
	if q := rep.Durable.Quarantine; len(q) > 0 {
		last := q[len(q)-1]
		out.Generations = append(out.Generations, s.generation(activation.Generation{Point: last.Point, Reason: string(last.Code) + ": " + last.Message}, string(activation.Reverted)))
	}
	return out
}

func (s *state) generation(g activation.Generation, status string) *agentv1.Generation {
	out := &agentv1.Generation{Point: resumePoint(g.Point), State: status, Reason: g.Reason}
	if !g.ActivatedAt.IsZero() {
		out.ActivatedAt = timestamppb.New(g.ActivatedAt)
	}
	if b := s.bundles[g.Point]; b != nil {
		out.Resources, out.Bytes = uint64(b.content.Trie.Len()), uint64(b.content.Trie.Bytes())
	}
	return out
}

// Active gives the content that the data plane has; ok is false when it has none.
func (a *Agent) Active() (manifest *trustv1.Envelope, content *digest.Trie, ok bool) {
	s := a.state.Load()
	if s == nil || s.active == nil {
		return nil, nil, false
	}
	return s.active.content.Manifest, s.active.content.Trie, true
}

// Pin holds a stored generation; version 0 is the active one.
func (a *Agent) Pin(ctx context.Context, version uint64, reason string) (*agentv1.Generation, error) {
	return a.command(ctx, activation.Pin{Version: version, Reason: reason})
}

// Unpin lets newer content through again and empties the quarantine.
func (a *Agent) Unpin(ctx context.Context) error {
	_, err := a.command(ctx, activation.Unpin{})
	return err
}

// Revert activates and pins the generation before the active one.
func (a *Agent) Revert(ctx context.Context, reason string) (*agentv1.Generation, error) {
	return a.command(ctx, activation.Revert{Reason: reason})
}

// command carries an operator's word to the loop and waits for the outcome.
func (a *Agent) command(ctx context.Context, ev activation.Event) (*agentv1.Generation, error) {
	answer := make(chan reply, 1)
	select {
	case a.messages <- message{ev: ev, reply: answer}:
	case <-a.stopped:
		return nil, fault.New(fault.CodeAgentStopping, "the agent is stopping")
	case <-ctx.Done():
		return nil, fault.New(fault.CodeTimeout, "the agent did not take the command in time: %w", context.Cause(ctx))
	}
	select {
	case r := <-answer:
		if r.err != nil {
			return nil, r.err
		}
		return a.state.Load().generation(r.generation, string(r.generation.Status)), nil
	case <-a.stopped:
		return nil, fault.New(fault.CodeAgentStopping, "the agent is stopping")
	case <-ctx.Done():
		return nil, fault.New(fault.CodeTimeout, "the command was not carried out in time; it may still be: %w", context.Cause(ctx))
	}
}

// status is what the hub is told.
func (a *Agent) status(rep activation.Report) *controlv1.Status {
	return &controlv1.Status{
		Phase: phaseToProto(rep.Phase), Active: resumePoint(rep.Active), Highest: resumePoint(rep.Durable.Highest),
		Message: clip(rep.Message), Pinned: rep.Durable.Pinned, CertificateNotAfter: timestamppb.New(a.source.NotAfter()),
	}
}

func sameStatus(a, b *controlv1.Status) bool { return proto.Equal(a, b) }

func (a *Agent) report(s *controlv1.Status) {
	a.send(func(c *subscriber.Client) { c.Report(s) })
}

// Ready says why the agent is not ready, or nil: it is ready when it has content.
func (a *Agent) Ready(context.Context) error {
	rep := a.Report()
	if rep.Active.IsZero() {
		return fault.New(fault.CodeAgentNotReady, "no content is active: %s", rep.Message)
	}
	return nil
}

// trustExpiry says whether the trust metadata has expired.
func (a *Agent) trustExpiry(context.Context) error { return a.anchors.get().Expired(time.Now()) }

// Checks are the agent's readiness checks, by name.
func (a *Agent) Checks() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"content": a.Ready, "trust": a.trustExpiry, "certificate": a.certificateValid}
}

// certificateValid says whether the certificate has expired.
func (a *Agent) certificateValid(context.Context) error {
	if until := a.source.NotAfter(); time.Now().After(until) {
		return fault.New(fault.CodeRenewal, "the certificate expired at %s", until.UTC().Format(time.RFC3339))
	}
	return nil
}
