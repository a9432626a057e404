package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
	"github.com/meshkit/meshkit/test/harness"
)

// site is a hub with one agent, node-1, which holds the example mesh.
type site struct {
	*harness.Cluster
	hub   *harness.Hub
	agent *harness.Agent
	mesh  string // the example's files
}

// shared is a site for tests that ask and are refused: what they change is their
// own, and they restart nothing.
var shared struct {
	mu   sync.Mutex // guards site and seen
	tb   lasting
	site *site
	seen map[string]bool // tests that used the site; with -count, a second run gets a new one
}

// sharedSite gives the shared site to a test.
func sharedSite(t *testing.T) *site {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.seen[t.Name()] && !strings.Contains(t.Name(), "/") {
		shared.seen = nil
	}
	if shared.seen == nil {
		shared.seen = make(map[string]bool)
		done := make(chan struct{})
		go func() { // of its own, which Fatalf ends
			defer close(done)
			shared.site = nil
			shared.site = newSite(&shared.tb)
		}()
		<-done
	}
	shared.seen[t.Name()] = true
	if shared.site == nil {
		t.Fatalf("the shared site did not start: %s", shared.tb.why)
	}
	s := *shared.site
	s.Cluster = s.Cluster.With(t)
	s.hub, s.agent = s.hub.With(s.Cluster), s.agent.With(s.Cluster)
	return &s
}

// newSite makes a site of a test's own.
func newSite(tb harness.TB) *site {
	tb.Helper()
	c := harness.New(tb)
	s := &site{Cluster: c, hub: c.NewHub("eu-west"), mesh: c.Path("mesh")}
	if err := os.CopyFS(s.mesh, os.DirFS("../../docs/examples/mesh")); err != nil {
		tb.Fatalf("%v", err)
	}
	s.agent = c.NewAgent(s.hub, "node-1", "region=eu")
	c.Ctl("apply", "-f", s.mesh, "--wait")
	return s
}

// lasting is a harness.TB that outlives a test.
type lasting struct {
	cleanups []func()
	why      string // the first failure
}

// Helper implements harness.TB, as do the others.
func (l *lasting) Helper()                         {}
func (l *lasting) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (l *lasting) Errorf(format string, args ...any) {
	if l.why == "" {
		l.why = fmt.Sprintf(format, args...)
	}
}
func (l *lasting) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	runtime.Goexit()
}
func (l *lasting) Failed() bool     { return l.why != "" }
func (l *lasting) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

func (l *lasting) end() {
	for i := len(l.cleanups) - 1; i >= 0; i-- {
		l.cleanups[i]()
	}
}

// write puts a file into the cluster's directory and gives its path.
func (s *site) write(t *testing.T, name, text string) string {
	t.Helper()
	path := s.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clusterYAML is a file with one Cluster.
func clusterYAML(name, address string) string {
	return fmt.Sprintf("apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata:\n  name: %s\nspec:\n  endpoints:\n    - address: %s\n", name, address)
}

// everything is the domain's whole desired state and its newest change, as text to
// compare.
func (s *site) everything(t *testing.T) string {
	t.Helper()
	return s.Ctl("get", "all", "-A", "-o", "json") + s.Ctl("history", "--limit", "1", "-o", "json")
}

// unchanged fails the test at its end unless the state is then what it is now.
func (s *site) unchanged(t *testing.T) {
	t.Helper()
	before := s.everything(t)
	t.Cleanup(func() {
		if after := s.everything(t); after != before {
			t.Errorf("what was refused changed the state:\nbefore %s\nafter %s", before, after)
		}
	})
}

var codePattern = regexp.MustCompile(`MK[0-9]{4}`)

// wantRefused holds a command's outcome to an exit code, a fault code and what its
// message must say; and that nothing it prints could act on a terminal.
func wantRefused(t *testing.T, r harness.Result, exit int, code fault.Code, parts ...string) {
	t.Helper()
	if r.Code != exit {
		t.Errorf("exit %d, want %d\n%s%s", r.Code, exit, r.Stdout, r.Stderr)
	}
	if !codePattern.MatchString(r.Stderr) {
		t.Errorf("no code in %q", r.Stderr)
	}
	for _, p := range append(parts, string(code)) {
		if !strings.Contains(r.Stderr, p) {
			t.Errorf("the message lacks %q:\n%s", p, r.Stderr)
		}
	}
	if i := strings.IndexFunc(r.Stdout+r.Stderr, acts); i >= 0 {
		t.Errorf("a control character reached the terminal: %q", (r.Stdout + r.Stderr)[max(0, i-20):])
	}
}

// acts tells whether a terminal would obey r instead of showing it.
func acts(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// wantCode holds an error to a code.
func wantCode(t *testing.T, what string, err error, codes ...fault.Code) {
	t.Helper()
	got := fault.CodeOf(err)
	for _, c := range codes {
		if got == c {
			return
		}
	}
	t.Errorf("%s: error %v (%q), want %v", what, err, got, codes)
}

// adminFiles and nodeFiles are the credentials of the operator and of an agent.
func adminFiles(h *harness.Hub) mtls.Files {
	at := func(name string) string { return filepath.Join(h.Data, "admin", name) }
	return mtls.Files{Cert: at("admin.pem"), Key: at("admin.key"), CA: at("ca.pem")}
}

func nodeFiles(a *harness.Agent) mtls.Files {
	at := func(name string) string { return filepath.Join(a.Data, "tls", name) }
	return mtls.Files{Cert: at("node.pem"), Key: at("node.key"), CA: at("ca.pem")}
}

func load(t *testing.T, f mtls.Files) *mtls.Source {
	t.Helper()
	s, err := mtls.LoadFiles(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dial opens a connection to the hub as f says, past meshctl.
func dial(t *testing.T, h *harness.Hub, f mtls.Files) *grpc.ClientConn {
	t.Helper()
	opts := append(wire.DialOptions(wire.DialConfig{ReceiveBytes: 64 << 20, SendBytes: 128 << 20}),
		grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(load(t, f), nil))))
	conn, err := grpc.NewClient("passthrough:///"+h.Address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// limited bounds a call to another program.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	t.Cleanup(cancel)
	return ctx
}

// hubWorks proves that the hub answers, commits and reaches its agent: a change is
// applied and awaited.
func (s *site) hubWorks(t *testing.T) {
	t.Helper()
	at := fmt.Sprintf("10.9.%d.%d:80", time.Now().UnixNano()%250, time.Now().UnixMicro()%250)
	r := s.Run("meshctl", "apply", "-f", s.write(t, "probe.yaml", clusterYAML("probe", at)), "--wait")
	if bundle := bundleOf(t, s.Cluster, s.agent); r.Code != 0 || !strings.Contains(bundle, at) {
		t.Errorf("apply --wait ended with %d and said\n%s%s; the agent's bundle should have %s and is\n%s\nits log:\n%s", r.Code, r.Stdout, r.Stderr, at, bundle, s.Log(s.agent.Node))
	}
}

// statusOf is what `meshagent status` says.
type statusOf struct {
	Phase       string `json:"phase"`
	Message     string `json:"message"`
	Connected   bool   `json:"connected"`
	Pinned      bool   `json:"pinned"`
	RootVersion uint64 `json:"rootVersion"`
	Keyset      uint64 `json:"keysetVersion"`
	Highest     point  `json:"highest"`
	Generations []struct {
		Point  point  `json:"point"`
		State  string `json:"state"`
		Reason string `json:"reason"`
	} `json:"generations"`
}

type point struct {
	Epoch   uint64 `json:"epoch"`
	Version uint64 `json:"version"`
	Digest  string `json:"digest"`
}

// active is the point that an agent serves, zero while it serves nothing or is
// changing over.
func (s statusOf) active() point {
	if len(s.Generations) == 0 || s.Generations[0].State == "staging" {
		return point{}
	}
	return s.Generations[0].Point
}

func status(t *testing.T, c *harness.Cluster, a *harness.Agent) statusOf {
	t.Helper()
	var out statusOf
	if err := json.Unmarshal([]byte(c.Must("meshagent", "status", "--config", a.Config(), "-o", "json")), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitStatus polls an agent's status until ok.
func awaitStatus(t *testing.T, c *harness.Cluster, a *harness.Agent, what string, ok func(statusOf) bool) statusOf {
	t.Helper()
	var last statusOf
	err := harness.Poll(harness.Patience, func() (bool, error) {
		last = status(t, c, a)
		return ok(last), nil
	})
	if err != nil {
		t.Fatalf("%s: %v; status %+v\nagent's log:\n%s", what, err, last, c.Log(a.Node))
	}
	return last
}

// resources is the admin API, past meshctl.
func resources(t *testing.T, h *harness.Hub) adminv1.ResourceServiceClient {
	return adminv1.NewResourceServiceClient(dial(t, h, adminFiles(h)))
}
