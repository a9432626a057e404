package simulate

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/route"
)

// page is aligned lines of text.
type page struct {
	io *cliutil.IO
	b  strings.Builder
}

func (p *page) line(name, format string, args ...any) {
	fmt.Fprintf(&p.b, "  %s  %s\n", p.io.PaintOut(cliutil.Dim, fmt.Sprintf("%-9s", name)), cliutil.Clean(fmt.Sprintf(format, args...)))
}

// render shows a decision as people read it.
func render(io *cliutil.IO, d route.Decision, explain bool) string {
	p := &page{io: io}
	p.head(d)
	if d.Route != "" {
		p.line("route", "%s, rule %s", short(d.Route), d.Rule)
	}
	if d.Cluster != "" {
		p.cluster(d)
	}
	for _, m := range d.Mirrors {
		p.line("mirror", "%s%% to %s (%s)", number(m.Percent), short(m.Cluster), short(m.From))
	}
	if d.Timeout.Value > 0 {
		p.line("timeout", "%s (%s)", d.Timeout.Value, short(d.Timeout.From))
	}
	if d.IdleTimeout.Value > 0 {
		p.line("idle", "%s (%s)", d.IdleTimeout.Value, short(d.IdleTimeout.From))
	}
	p.policies(d)
	if d.Authz.Effect != "" {
		p.line("authz", "%s: %s", d.Authz.Effect, d.Authz.Why)
	}
	if explain {
		fmt.Fprintf(&p.b, "\n%s\n", io.PaintOut(cliutil.Bold, "Why"))
		for i, s := range d.Steps {
			where := strings.TrimSpace(short(s.Resource) + " " + s.Field)
			fmt.Fprintf(&p.b, "  %2d. %s\n", i+1, cliutil.Clean(fmt.Sprintf("%s: %s: %s", where, s.Outcome, s.Why)))
		}
	}
	return p.b.String()
}

func (p *page) head(d route.Decision) {
	var text string
	style := cliutil.Red
	switch d.Outcome {
	case route.Routed:
		text, style = "→ "+short(d.Cluster), cliutil.Green
	case route.Denied:
		text = "✗ denied: " + d.Authz.Why
	case route.NoRoute:
		text = "✗ no route takes this request to service " + strconv.Quote(d.Service)
	case route.NoCluster:
		text = "✗ the rule that takes it has no cluster to send it to"
	default:
		text = string(d.Outcome)
	}
	p.b.WriteString(p.io.PaintOut(style, cliutil.Clean(text)) + "\n")
}

func (p *page) cluster(d route.Decision) {
	chosen := ""
	if d.ChosenBy != "" && d.ChosenBy != "only" {
		chosen = fmt.Sprintf(", %s%% of the rule, chosen by %s", number(d.Weight), d.ChosenBy)
	}
	balancing := d.LoadBalancing
	if d.HashKey != "" {
		balancing += fmt.Sprintf(" by %s %q", d.HashKey, d.HashValue)
	}
	p.line("cluster", "%s%s, %s", short(d.Cluster), chosen, balancing)
	p.tiers("endpoints", d.Endpoints)
	for _, b := range d.Failover {
		p.line("failover", "%s", short(b.Cluster))
		p.tiers("", b.Endpoints)
	}
}

func (p *page) tiers(name string, tiers []route.Tier) {
	for i, t := range tiers {
		addresses := make([]string, len(t.Endpoints))
		for j, e := range t.Endpoints {
			addresses[j] = e.Address
		}
		text := strings.Join(addresses, ", ")
		if len(tiers) > 1 {
			text = fmt.Sprintf("%d. %s", i+1, text)
		}
		if t.Why != "" {
			text += " (" + t.Why + ")"
		}
		p.line(name, "%s", text)
		name = ""
	}
}

func (p *page) policies(d route.Decision) {
	if r := d.Retry; r != nil {
		p.line("retry", "%d more tries (%s)", r.Attempts, short(r.From))
	}
	if c := d.CircuitBreaker; c != nil {
		p.line("breaker", "%s", short(c.From))
	}
	for _, r := range d.RateLimits {
		p.line("limit", "%s per second by %s (%s)", number(r.RequestsPerSecond), orService(r.By), short(r.From))
	}
	for i, a := range d.Policies {
		name := ""
		if i == 0 {
			name = "policies"
		}
		p.line(name, "%s (%s): %s", short(a.Policy), a.Via, strings.Join(a.Parts, ", "))
	}
}

func orService(by string) string {
	if by == "" {
		return "service"
	}
	return by
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// short writes a key as people do; other text stays.
func short(s string) string {
	key, err := resource.ParseKey(s)
	if err != nil {
		return s
	}
	return cliutil.Short(key)
}
