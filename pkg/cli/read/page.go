package read

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// page is a description: aligned fields, then lists, then blocks.
type page struct {
	doc      []byte // the same as JSON
	heading  string
	fields   [][2]string
	sections []section
}

type section struct {
	title string
	lines []string
}

func (p *page) title(text string) { p.heading = text }

// field adds a line, unless it has no value.
func (p *page) field(name, value string) {
	if value != "" {
		p.fields = append(p.fields, [2]string{name, value})
	}
}

func (p *page) list(title string, lines []string) {
	if len(lines) > 0 {
		p.sections = append(p.sections, section{title, lines})
	}
}

func (p *page) block(title, text string) {
	p.list(title, strings.Split(strings.TrimRight(text, "\n"), "\n"))
}

// render lays the page out; every text is cleaned.
func (p *page) render(s *cliutil.IO) string {
	var b strings.Builder
	b.WriteString(s.PaintOut(cliutil.Bold, cliutil.Clean(p.heading)) + "\n")
	width := 0
	for _, f := range p.fields {
		width = max(width, utf8.RuneCountInString(f[0]))
	}
	for _, f := range p.fields {
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(f[0]))
		fmt.Fprintf(&b, "  %s:%s  %s\n", s.PaintOut(cliutil.Dim, f[0]), pad, cliutil.Clean(f[1]))
	}
	for _, sec := range p.sections {
		fmt.Fprintf(&b, "%s:\n", s.PaintOut(cliutil.Bold, sec.title))
		for _, l := range sec.lines {
			b.WriteString("  " + cliutil.Clean(l) + "\n")
		}
	}
	return b.String()
}

func (o *describeOptions) agent(ctx context.Context, c *client.Client, name string) (*page, error) {
	d, err := c.Agent(ctx, name)
	if err != nil {
		return nil, err
	}
	a, now := d.GetAgent(), o.app.Now()
	p := &page{doc: cliutil.ProtoJSON(d)}
	p.title("Agent " + a.GetNode())
	p.field("Phase", Phase(a))
	p.field("Message", a.GetMessage())
	p.field("Identity", d.GetSpiffeId())
	p.field("Labels", cliutil.Labels(a.GetLabels()))
	p.field("Reported labels", cliutil.Labels(d.GetReportedLabels()))
	p.field("Connected", connectedLine(a))
	p.field("Seen", age(now, a.GetLastSeen().AsTime()))
	p.field("Joined", age(now, a.GetJoinedAt().AsTime()))
	p.field("Joined with", d.GetTokenId())
	p.field("Active version", orElse(Version(a.GetActive()), "none"))
	p.field("Target version", strconv.FormatUint(a.GetTargetVersion(), 10))
	if digest := a.GetActive().GetDigest(); len(digest) > 0 {
		p.field("Digest", fmt.Sprintf("%x", digest))
	}
	p.field("View", a.GetView())
	p.field("Content", fmt.Sprintf("%d resources, %d bytes", d.GetResources(), d.GetBytes()))
	p.field("Capabilities", strings.Join(a.GetCapabilities(), ", "))
	p.field("Certificate", certificateLine(expires(now, a.GetCertificateNotAfter()), d.GetCertificateSerial()))
	p.field("Build", a.GetBuild())
	if n := a.GetNack(); n != nil {
		p.list("Newest refusal", []string{fmt.Sprintf("version %d.%d: [%s] %s", n.GetEpoch(), n.GetVersion(), n.GetCode(), strings.TrimSpace(n.GetResource()+" "+n.GetMessage())),
			"meshctl explain " + n.GetCode()})
	}
	var withheld []string
	for _, x := range d.GetDownlevels() {
		what := "a part is left out of"
		if x.GetWithheld() {
			what = "is not given"
		}
		withheld = append(withheld, fmt.Sprintf("%s %s: it lacks %s; %s", what, x.GetResource(), x.GetCapability(), x.GetReason()))
	}
	p.list("Down-levelled", withheld)
	return p, nil
}

func connectedLine(a *adminv1.Agent) string {
	if !a.GetConnected() {
		return "no"
	}
	return strings.TrimSpace("to " + a.GetHub() + " from " + a.GetAddress())
}

func certificateLine(left, serial string) string {
	switch {
	case left == "" && serial == "":
		return ""
	case left == "expired":
		return "expired, serial " + serial
	}
	return "expires " + left + ", serial " + serial
}

func (o *describeOptions) hub(ctx context.Context, c *client.Client, ref cliutil.Ref) (*page, error) {
	hubs, err := c.Hubs(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hubs {
		if h.GetName() != ref.Name {
			continue
		}
		p := &page{doc: hubJSON(hubs, h)}
		p.title("Hub " + h.GetName())
		p.field("Address", h.GetAddress())
		switch {
		case h.GetSeq() == 0:
			p.field("Role", "does not answer")
		case h.GetLeader():
			p.field("Role", fmt.Sprintf("leader in term %d", h.GetTerm()))
		default:
			p.field("Role", "follower")
		}
		if h.GetDrained() {
			p.field("Drained", "it takes no streams and leaves the lease to others; `meshctl hub undrain "+h.GetName()+"` ends that")
		}
		p.field("Problem", h.GetProblem())
		p.field("Log", fmt.Sprintf("at seq %d", h.GetSeq()))
		p.field("Streams", strconv.FormatUint(h.GetStreams(), 10))
		p.field("Config key", h.GetKeyId())
		p.field("Started", age(o.app.Now(), h.GetStartedAt().AsTime()))
		p.field("Build", h.GetBuild())
		return p, nil
	}
	return nil, fault.New(fault.CodeNoSuchHub, "there is no hub %q", ref.Name)
}

func (o *describeOptions) domain(ctx context.Context, c *client.Client, name string) (*page, error) {
	d, err := c.Domain(ctx)
	if err != nil {
		return nil, err
	}
	if name != "" && name != d.GetDomain() {
		return nil, fault.New(fault.CodeNoSuchDomain, "the context is for domain %s, not %s", d.GetDomain(), name).
			WithRemedy("Choose another with --context; `meshctl context list` shows them.")
	}
	p := &page{doc: cliutil.ProtoJSON(d)}
	p.title("Domain " + d.GetDomain())
	p.field("Answered by", d.GetHub())
	p.field("Leader", orElse(d.GetLeader(), "none")+fmt.Sprintf(" (term %d)", d.GetTerm()))
	p.field("Hubs", fmt.Sprintf("%d, %d of them well; the slowest is %d entries behind", d.GetHubs(), d.GetHubsWell(), d.GetLag()))
	p.field("Version", fmt.Sprintf("%d.%d (log at seq %d)", d.GetEpoch(), d.GetConfigSeq(), d.GetSeq()))
	p.field("Resources", strconv.FormatUint(d.GetResources(), 10))
	p.field("Agents", fmt.Sprintf("%d, %d of them connected", d.GetAgents(), d.GetAgentsConnected()))
	p.field("Views", strconv.FormatUint(d.GetViews(), 10))
	p.field("Digest", d.GetDigest())
	p.field("Store", strings.TrimSpace(d.GetStore()+", "+orElse(d.GetStoreHealth(), "health not reported")))
	p.field("Build", d.GetBuild())
	var also []string
	for _, o := range d.GetAlsoServed() {
		also = append(also, strings.TrimSpace(fmt.Sprintf("%s, led by %s in term %d, %d streams here %s", o.GetDomain(), orElse(o.GetLeader(), "nobody"), o.GetTerm(), o.GetStreams(), o.GetProblem())))
	}
	p.list("Also served by this hub", also)
	return p, nil
}
