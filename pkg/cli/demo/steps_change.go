package demo

import (
	"context"
	"fmt"
	"strings"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/route"
)

func (s *story) publish(ctx context.Context) (string, error) {
	in, err := s.load("mesh")
	if err != nil {
		return "", err
	}
	g, findings := in.Graph()
	if findings = append(findings, in.Findings...); resource.HasErrors(findings) {
		return "", fmt.Errorf("the sample mesh is not valid: %s", findings[0])
	}
	s.say.detail("meshctl validate mesh/   %d resources in %d files, no errors", len(in.Documents), in.Files)
	resp, err := s.apply(ctx, "mesh", "the demo's sample mesh")
	if err != nil {
		return "", err
	}
	s.say.detail("meshctl apply -f mesh/ --wait   seq %d, %d created", resp.GetSeq(), resp.GetPlan().GetCreated())
	r, err := s.propagate(ctx, agentCount)
	if err != nil {
		return "", err
	}
	d := route.Compile(g).Decide(route.Request{Service: "checkout", Procedure: "Checkout::pay", Caller: "web", Draw: 0.95})
	if d.Outcome != route.Routed {
		return "", fmt.Errorf("a payment at the checkout would meet %q", d.Outcome)
	}
	s.say.detail("meshctl simulate route --service checkout --procedure Checkout::pay --caller web --draw 0.95   → %s, rule %s", d.Cluster, d.Rule)
	return fmt.Sprintf("%d resources at version %d.%d, %s", resp.GetPlan().GetCreated(), resp.GetEpoch(), resp.GetSeq(), arrival(r)), nil
}

// arrival writes the figures of a propagation.
func arrival(r *adminv1.WatchPropagationResponse) string {
	return fmt.Sprintf("active on %d of %d agents: p50 %s, p99 %s, last %s", r.GetAcked(), r.GetConcerned(), ms(r.GetP50().AsDuration()), ms(r.GetP99().AsDuration()), ms(r.GetLast().AsDuration()))
}

func (s *story) changeWeight(ctx context.Context) (string, error) {
	in, err := s.load("change")
	if err != nil {
		return "", err
	}
	plan, err := s.client.Plan(ctx, in.Change(""))
	if err != nil {
		return "", err
	}
	if plan.GetUpdated() != 1 || plan.GetAgentsTouched() != agentCount {
		return "", fmt.Errorf("the plan would update %d resources and touch %d agents; 1 and %d were to be expected", plan.GetUpdated(), plan.GetAgentsTouched(), agentCount)
	}
	for _, d := range plan.GetDiffs() {
		for _, f := range d.GetFields() {
			s.say.detail("~ %s: %s → %s", f.GetField(), f.GetBefore(), f.GetAfter())
		}
		for _, e := range d.GetEffects() {
			s.say.detail("  %s", e)
		}
	}
	resp, err := s.apply(ctx, "change", "half of the payments to checkout-v2")
	if err != nil {
		return "", err
	}
	r, err := s.propagate(ctx, agentCount)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("version %d.%d, %s", resp.GetEpoch(), resp.GetSeq(), arrival(r)), nil
}

func (s *story) refuse(ctx context.Context) (string, error) {
	before, err := s.client.Domain(ctx)
	if err != nil {
		return "", err
	}
	in, err := s.load("broken")
	if err != nil {
		return "", err
	}
	local, err := s.expectFinding(in.Findings, fault.CodeUnknownField)
	if err != nil {
		return "", fmt.Errorf("a file with an unknown field: %w", err)
	}
	if in, err = s.load("dangling"); err != nil {
		return "", err
	}
	if len(in.Findings) > 0 {
		return "", fmt.Errorf("a reference was judged without the mesh: %s", in.Findings[0])
	}
	findings, err := in.Try(ctx, s.client, s.app.NewID())
	if err != nil {
		return "", err
	}
	remote, err := s.expectFinding(findings, fault.CodeRefDangling)
	if err != nil {
		return "", fmt.Errorf("a dangling reference: %w", err)
	}
	after, err := s.client.Domain(ctx)
	if err != nil {
		return "", err
	}
	if after.GetConfigSeq() != before.GetConfigSeq() || after.GetDigest() != before.GetDigest() {
		return "", fmt.Errorf("the domain moved from version %d to %d", before.GetConfigSeq(), after.GetConfigSeq())
	}
	return fmt.Sprintf("refused here at %s [%s] and by the hub at %s [%s]; still at version %d", local.Pos, local.Code, remote.Pos, remote.Code, after.GetConfigSeq()), nil
}

// expectFinding gives the finding of a code, its file named as people would.
func (s *story) expectFinding(findings []resource.Finding, code fault.Code) (resource.Finding, error) {
	for _, f := range findings {
		if f.Code != code || f.Severity != resource.Error {
			continue
		}
		if f.Pos.Line == 0 || f.Pos.Column == 0 {
			return f, fmt.Errorf("the finding has no line and column: %s", f)
		}
		f.Pos.File = strings.TrimPrefix(f.Pos.File, s.dir+"/")
		s.say.detail("%s", f)
		return f, nil
	}
	return resource.Finding{}, fmt.Errorf("no finding %s among %d", code, len(findings))
}
