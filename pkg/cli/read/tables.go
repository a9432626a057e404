package read

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
)

// tables turns API values into listings.
type tables struct {
	now  time.Time
	wide bool
	// namespaces: show them even if all are the default one.
	namespaces bool
}

// one narrows a listing to the name that was asked for.
func one(ref cliutil.Ref, l *cliutil.Listing, err error) (*cliutil.Listing, error) {
	if err != nil || ref.Name == "" {
		return l, err
	}
	suffix := "/" + ref.Name
	i := slices.IndexFunc(l.Names, func(n string) bool { return strings.HasSuffix(n, suffix) })
	if i < 0 {
		code := map[string]fault.Code{cliutil.Hubs: fault.CodeNoSuchHub, cliutil.Tokens: fault.CodeNoSuchToken, cliutil.Domains: fault.CodeNoSuchDomain}
		return nil, fault.New(code[ref.List], "there is no %s %q", strings.TrimSuffix(ref.List, "s"), ref.Name)
	}
	l.Items, l.Names, l.Table.Rows, l.Single = l.Items[i:i+1], l.Names[i:i+1], l.Table.Rows[i:i+1], true
	return l, nil
}

// resources lists resources of one kind with the kind's own columns.
func (t tables) resources(d *kind.Descriptor, rs ...*adminv1.Resource) (*cliutil.Listing, error) {
	l := &cliutil.Listing{Table: &cliutil.Table{}, Empty: "no " + d.Plural + " found", Documents: true}
	var columns []kind.Column
	for _, c := range d.Columns {
		if !c.Wide || t.wide {
			columns = append(columns, c)
		}
	}
	namespaces := t.wide || t.namespaces || slices.ContainsFunc(rs, func(r *adminv1.Resource) bool { return r.GetNamespace() != resource.DefaultNamespace })
	if namespaces {
		l.Table.Headings = append(l.Table.Headings, "NAMESPACE")
	}
	l.Table.Headings = append(l.Table.Headings, "NAME")
	for _, c := range columns {
		l.Table.Headings = append(l.Table.Headings, c.Name)
	}
	l.Table.Headings = append(l.Table.Headings, "AGE")
	if t.wide {
		l.Table.Headings = append(l.Table.Headings, "SEQ", "SCOPE", "LABELS")
	}
	for _, r := range rs {
		object, err := kind.Parse(r.GetContent())
		if err != nil {
			return nil, fault.New(fault.CodeUnexpectedReply, "read %s/%s: %w", r.GetKind(), r.GetName(), err)
		}
		var row []string
		if namespaces {
			row = append(row, r.GetNamespace())
		}
		row = append(row, r.GetName())
		for _, c := range columns {
			row = append(row, c.Value(object.Resource, object.Spec))
		}
		row = append(row, cliutil.Ago(t.now, r.GetCreatedAt().AsTime()))
		if t.wide {
			row = append(row, strconv.FormatUint(r.GetResourceVersion(), 10), scope(object.Resource), cliutil.Labels(object.Resource.Metadata.Labels))
		}
		l.Table.Add(row...)
		if err := addResource(l, r); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// mixed lists resources of several kinds, with what all of them have.
func (t tables) mixed(rs []*adminv1.Resource) (*cliutil.Listing, error) {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"KIND", "NAMESPACE", "NAME", "GENERATION", "SEQ", "AGE"}}, Empty: "no resources found", Documents: true}
	for _, r := range rs {
		l.Table.Add(r.GetKind(), r.GetNamespace(), r.GetName(), strconv.FormatUint(r.GetGeneration(), 10),
			strconv.FormatUint(r.GetResourceVersion(), 10), cliutil.Ago(t.now, r.GetCreatedAt().AsTime()))
		if err := addResource(l, r); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func addResource(l *cliutil.Listing, r *adminv1.Resource) error {
	doc, err := resourceJSON(r)
	if err != nil {
		return err
	}
	l.Items = append(l.Items, doc)
	l.Names = append(l.Names, cliutil.Short(resource.Key{Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName()}))
	return nil
}

// resourceJSON is a resource as -o json prints it: as it would stand in a file,
// with metadata.generation, resourceVersion, createdAt and updatedAt added.
// A file may keep these; apply looks at none but resourceVersion.
func resourceJSON(r *adminv1.Resource) (json.RawMessage, error) {
	var envelope struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   json.RawMessage `json:"metadata"`
		Scope      json.RawMessage `json:"scope,omitempty"`
		Spec       json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(r.GetContent(), &envelope); err != nil {
		return nil, fault.New(fault.CodeUnexpectedReply, "read %s/%s: %w", r.GetKind(), r.GetName(), err)
	}
	var extra bytes.Buffer
	fmt.Fprintf(&extra, `,"generation":%d,"resourceVersion":"%d"`, r.GetGeneration(), r.GetResourceVersion())
	for _, at := range []struct {
		name string
		t    interface{ AsTime() time.Time }
		set  bool
	}{{"createdAt", r.GetCreatedAt(), r.CreatedAt != nil}, {"updatedAt", r.GetUpdatedAt(), r.UpdatedAt != nil}} {
		if at.set {
			fmt.Fprintf(&extra, `,%q:%q`, at.name, at.t.AsTime().UTC().Format(time.RFC3339Nano))
		}
	}
	meta := bytes.TrimSuffix(bytes.TrimSpace(envelope.Metadata), []byte("}"))
	envelope.Metadata = append(append(bytes.Clone(meta), extra.Bytes()...), '}')
	doc, err := cliutil.MarshalJSON(envelope)
	if err != nil {
		return nil, fault.New(fault.CodeUnexpectedReply, "read %s/%s: %w", r.GetKind(), r.GetName(), err)
	}
	return doc, nil
}

func scope(r *resource.Resource) string {
	if r.Scope == nil {
		return ""
	}
	return cliutil.Labels(r.Scope.NodeLabels)
}

func (t tables) agents(agents ...*adminv1.Agent) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"NAME", "PHASE", "VERSION", "TARGET", "CONNECTED", "LABELS", "SEEN", "MESSAGE"}},
		Empty: "no agents have joined; make a token with: meshctl token create"}
	if t.wide {
		l.Table.Headings = []string{"NAME", "PHASE", "VERSION", "TARGET", "CONNECTED", "HUB", "LABELS", "JOINED", "SEEN", "CERTIFICATE", "VIEW", "ADDRESS", "BUILD", "MESSAGE"}
	}
	for _, a := range agents {
		row := []string{a.GetNode(), Phase(a), Version(a.GetActive()), target(a), connected(a), cliutil.Labels(a.GetLabels()), cliutil.Ago(t.now, a.GetLastSeen().AsTime()), a.GetMessage()}
		if t.wide {
			row = []string{a.GetNode(), Phase(a), Version(a.GetActive()), target(a), connected(a), a.GetHub(), cliutil.Labels(a.GetLabels()),
				cliutil.Ago(t.now, a.GetJoinedAt().AsTime()), cliutil.Ago(t.now, a.GetLastSeen().AsTime()), expires(t.now, a.GetCertificateNotAfter()), shortHex(a.GetView()), a.GetAddress(), build(a.GetBuild()), a.GetMessage()}
		}
		l.Table.Add(row...)
		l.Items = append(l.Items, cliutil.ProtoJSON(a))
		l.Names = append(l.Names, "agent/"+a.GetNode())
	}
	return l
}

// Phase is an agent's phase in a word, with what an operator should know of it.
func Phase(a *adminv1.Agent) string {
	word := strings.TrimPrefix(a.GetPhase().String(), "PHASE_")
	word = word[:1] + strings.ToLower(word[1:])
	switch {
	case a.GetPhase() == controlv1.Phase_PHASE_UNSPECIFIED:
		return "Unknown"
	case a.GetPinned():
		return word + " (pinned)"
	}
	return word
}

// Version writes a resume point as "epoch.version"; "" when there is none.
func Version(p *controlv1.ResumePoint) string {
	if p.GetVersion() == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", p.GetEpoch(), p.GetVersion())
}

// target is the version that an agent should have; "" when there is none.
func target(a *adminv1.Agent) string {
	if a.GetTargetVersion() == 0 {
		return ""
	}
	return strconv.FormatUint(a.GetTargetVersion(), 10)
}

// build is the version of a build, without commit and platform in brackets.
func build(b string) string {
	v, _, _ := strings.Cut(b, " (")
	return v
}

func connected(a *adminv1.Agent) string {
	if a.GetConnected() {
		return "yes"
	}
	return "no"
}

func expires(now time.Time, at interface {
	AsTime() time.Time
	GetSeconds() int64
}) string {
	switch {
	case at.GetSeconds() == 0:
		return ""
	case at.AsTime().Before(now):
		return "expired"
	}
	return cliutil.Age(now, at.AsTime())
}

func shortHex(s string) string { return s[:min(len(s), 12)] }

func (t tables) hubs(hubs []*adminv1.Hub) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"NAME", "ADDRESS", "ROLE", "TERM", "SEQ", "LAG", "STREAMS", "UP", "BUILD", "PROBLEM"}}, Empty: "no hubs found"}
	if t.wide {
		l.Table.Headings = append(l.Table.Headings, "ADMITS HUBS", "KEY")
	}
	for _, h := range hubs {
		role, seq, lag, streams := role(h), "", "", ""
		if h.GetSeq() > 0 {
			seq, lag, streams = strconv.FormatUint(h.GetSeq(), 10), strconv.FormatUint(behind(hubs, h), 10), strconv.FormatUint(h.GetStreams(), 10)
		}
		row := []string{h.GetName(), h.GetAddress(), role, strconv.FormatUint(h.GetTerm(), 10), seq, lag, streams,
			cliutil.Ago(t.now, h.GetStartedAt().AsTime()), build(h.GetBuild()), brief(h.GetProblem())}
		if t.wide {
			row = append(row, admits(h), h.GetKeyId())
		}
		l.Table.Add(row...)
		l.Items = append(l.Items, hubJSON(hubs, h))
		l.Names = append(l.Names, "hub/"+h.GetName())
	}
	return l
}

// briefRunes is how much of a problem a table shows; describe and -o json have all.
const briefRunes = 90

func brief(problem string) string {
	r := []rune(problem)
	if len(r) <= briefRunes {
		return problem
	}
	return string(r[:briefRunes-1]) + "…"
}

// role is what a hub does, in a word or two.
func role(h *adminv1.Hub) string {
	out := "follower"
	switch {
	case h.GetSeq() == 0:
		return "silent"
	case h.GetLeader():
		out = "leader"
	}
	if h.GetDrained() {
		out += ", drained"
	}
	return out
}

// admits tells whether a hub has the keys that a further hub's join needs.
func admits(h *adminv1.Hub) string {
	switch {
	case h.GetSeq() == 0:
		return ""
	case h.GetAdmitsHubs():
		return "yes"
	}
	return "no"
}

// behind is how many entries of the log a hub has not read that another of them has.
func behind(hubs []*adminv1.Hub, h *adminv1.Hub) uint64 {
	head := h.GetSeq()
	for _, other := range hubs {
		head = max(head, other.GetSeq())
	}
	return head - h.GetSeq()
}

// hubJSON is a hub as -o json prints it: as the API has it, with role, and with lag
// unless it is silent.
func hubJSON(hubs []*adminv1.Hub, h *adminv1.Hub) json.RawMessage {
	doc := bytes.TrimSuffix(bytes.TrimSpace(cliutil.ProtoJSON(h)), []byte("}"))
	extra := fmt.Sprintf(`,"role":%q`, role(h))
	if h.GetSeq() > 0 {
		extra += fmt.Sprintf(`,"lag":%d`, behind(hubs, h))
	}
	return append(bytes.Clone(doc), extra+"}"...)
}

// domains lists the domain that was asked for, and those that the hub serves besides.
func (t tables) domains(d *adminv1.GetDomainResponse) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"DOMAIN", "LEADER", "VERSION", "RESOURCES", "AGENTS", "VIEWS", "STORE"}}}
	row := []string{d.GetDomain(), d.GetLeader(), fmt.Sprintf("%d.%d", d.GetEpoch(), d.GetConfigSeq()), strconv.FormatUint(d.GetResources(), 10),
		fmt.Sprintf("%d/%d connected", d.GetAgentsConnected(), d.GetAgents()), strconv.FormatUint(d.GetViews(), 10), strings.TrimSpace(d.GetStore() + " " + brief(d.GetStoreHealth()))}
	if t.wide {
		l.Table.Headings = append(l.Table.Headings, "TERM", "SEQ", "LAG", "HUBS", "DIGEST", "ANSWERED BY", "BUILD")
		row = append(row, strconv.FormatUint(d.GetTerm(), 10), strconv.FormatUint(d.GetSeq(), 10), strconv.FormatUint(d.GetLag(), 10),
			fmt.Sprintf("%d/%d well", d.GetHubsWell(), d.GetHubs()), d.GetDigest(), d.GetHub(), d.GetBuild())
	}
	l.Table.Add(row...)
	own := proto.CloneOf(d)
	own.AlsoServed = nil // each is an item of its own
	l.Items = append(l.Items, domainJSON(own, nil))
	l.Names = append(l.Names, "domain/"+d.GetDomain())
	for _, o := range d.GetAlsoServed() {
		health := orElse(o.GetProblem(), "ok")
		row := []string{o.GetDomain(), o.GetLeader(), "", "", fmt.Sprintf("%d on this hub", o.GetStreams()), "", strings.TrimSpace(o.GetStore() + " " + brief(health))}
		if t.wide {
			row = append(row, strconv.FormatUint(o.GetTerm(), 10), strconv.FormatUint(o.GetSeq(), 10), "", "", "", d.GetHub(), d.GetBuild())
		}
		l.Table.Add(row...)
		l.Items = append(l.Items, domainJSON(&adminv1.GetDomainResponse{
			Domain: o.GetDomain(), Hub: d.GetHub(), Leader: o.GetLeader(), Seq: o.GetSeq(), Term: o.GetTerm(), Store: o.GetStore(), StoreHealth: health, Build: d.GetBuild(),
		}, o))
		l.Names = append(l.Names, "domain/"+o.GetDomain())
	}
	return l
}

// untold are the fields of a domain that a hub does not tell of one that it serves besides.
var untold = []string{"epoch", "configSeq", "resources", "agents", "agentsConnected", "views", "digest", "hubs", "hubsWell", "lag"}

// domainJSON is a domain as -o json prints it: as the API has it, with problem, and with
// streams, which only a further domain tells of. What is not told is null.
func domainJSON(d *adminv1.GetDomainResponse, further *adminv1.ServedDomain) json.RawMessage {
	doc := bytes.TrimSuffix(bytes.TrimSpace(cliutil.ProtoJSON(d)), []byte("}"))
	streams, problem := "null", ""
	if further != nil {
		streams, problem = strconv.FormatUint(further.GetStreams(), 10), further.GetProblem()
		for _, f := range untold { // a quote inside of a string is escaped: only fields match
			doc = bytes.Replace(doc, []byte(`"`+f+`":0,`), []byte(`"`+f+`":null,`), 1)
			doc = bytes.Replace(doc, []byte(`"`+f+`":"",`), []byte(`"`+f+`":null,`), 1)
		}
	} else if d.GetStoreHealth() != "ok" {
		problem = d.GetStoreHealth()
	}
	text, err := cliutil.MarshalJSON(problem)
	if err != nil { // strings always marshal
		panic(err)
	}
	return append(bytes.Clone(doc), `,"streams":`+streams+`,"problem":`+string(text)+"}"...)
}

func (t tables) tokens(tokens []*adminv1.Token) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"ID", "STATE", "USED", "EXPIRES", "ROLE", "NODE", "LABELS", "AUTHOR"}},
		Empty: "no tokens; make one with: meshctl token create"}
	for _, k := range tokens {
		l.Table.Add(k.GetId(), tokenState(t.now, k), fmt.Sprintf("%d/%d", k.GetUsed(), k.GetUses()), expires(t.now, k.GetExpiresAt()),
			k.GetRole(), k.GetNode(), cliutil.Labels(k.GetLabels()), k.GetAuthor())
		l.Items = append(l.Items, cliutil.ProtoJSON(k))
		l.Names = append(l.Names, "token/"+k.GetId())
	}
	return l
}

// Tokens lists tokens, for `token list`.
func Tokens(app *cliutil.App, tokens []*adminv1.Token) *cliutil.Listing {
	return tables{now: app.Now()}.tokens(tokens)
}

func tokenState(now time.Time, k *adminv1.Token) string {
	switch {
	case k.GetRevoked():
		return "revoked"
	case k.GetUsed() >= k.GetUses():
		return "used up"
	case k.GetExpiresAt().AsTime().Before(now):
		return "expired"
	}
	return "good"
}
