package change

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
)

// outcome is the answer to a write.
type outcome struct {
	verb  string // "applied", "deleted", "undone"
	resp  *adminv1.ApplyResponse
	doc   json.RawMessage
	write writeFlags
}

// finish shows what a write did and, if asked to, waits for the agents.
func finish(ctx context.Context, app *cliutil.App, c *client.Client, format cliutil.Format, out outcome) error {
	plan, seq := out.resp.GetPlan(), out.resp.GetSeq()
	if format.Structured() {
		if err := app.IO.PrintDocument(format, out.doc); err != nil {
			return err
		}
	} else {
		app.IO.Out.Write([]byte(planText(app.IO, plan, false)))
	}
	switch {
	case out.write.dryRun:
		app.IO.Notef("dry run: %s; nothing was committed", summary(plan))
		return nil
	case out.resp.GetReplayed():
		app.IO.Notef("seq %d: this request id was committed before; nothing was done twice", seq)
	case seq == 0:
		app.IO.Notef("nothing to do: %s", summary(plan))
		return nil
	default:
		app.IO.Donef("%s: seq %d, %s", out.verb, seq, summary(plan))
	}
	if !out.write.wait {
		return nil
	}
	return waitFor(ctx, app, c, seq, out.write.timeout)
}

func summary(p *adminv1.PlanResponse) string {
	return fmt.Sprintf("%d created, %d changed, %d deleted, %d unchanged; touches %d of %s",
		p.GetCreated(), p.GetUpdated(), p.GetDeleted(), p.GetUnchanged(), p.GetAgentsTouched(), plural(int(p.GetAgentsTotal()), "agent"))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// planText shows the differences as people read them:
//
//	~ route/checkout
//	    spec.rules[0].clusters[0].weight: 90 → 50
//	    40% of checkout moves from checkout-v1 to checkout-v2
//	+ cluster/checkout-v2
//	- policy/old
//
// Fields of created and deleted resources are shown only in full.
func planText(s *cliutil.IO, p *adminv1.PlanResponse, full bool) string {
	var b strings.Builder
	for _, d := range p.GetDiffs() {
		mark, style := "~", cliutil.Yellow
		switch d.GetAction() {
		case "create":
			mark, style = "+", cliutil.Green
		case "delete":
			mark, style = "-", cliutil.Red
		case "unchanged":
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", s.PaintOut(style, mark), s.PaintOut(cliutil.Bold, cliutil.Clean(cliutil.Short(cliutil.KeyOf(d.GetKey())))))
		if full || mark == "~" {
			writeFields(&b, s, d.GetFields())
		}
		for _, e := range d.GetEffects() {
			fmt.Fprintf(&b, "    %s\n", s.PaintOut(cliutil.Cyan, cliutil.Clean(e)))
		}
	}
	return b.String()
}

func writeFields(b *strings.Builder, s *cliutil.IO, fields []*adminv1.FieldDiff) {
	for _, f := range fields {
		before, after := cliutil.Clean(f.GetBefore()), cliutil.Clean(f.GetAfter())
		field := cliutil.Clean(f.GetField())
		switch {
		case before == "":
			fmt.Fprintf(b, "    %s: (none) → %s\n", field, s.PaintOut(cliutil.Green, after))
		case after == "":
			fmt.Fprintf(b, "    %s: %s → (none)\n", field, s.PaintOut(cliutil.Red, before))
		default:
			fmt.Fprintf(b, "    %s: %s → %s\n", field, s.PaintOut(cliutil.Red, before), s.PaintOut(cliutil.Green, after))
		}
	}
}
