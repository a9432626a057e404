package cli_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
)

// golden compares text with a file under testdata/golden; -update writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func readingHub() *fakeHub {
	agents := []*adminv1.Agent{
		{Node: "eu-1", Labels: map[string]string{"region": "eu", "tier": "edge"}, JoinedAt: stamp(48 * time.Hour), Connected: true, Hub: "hub1", Phase: controlv1.Phase_PHASE_ACTIVE,
			Active: &controlv1.ResumePoint{Epoch: 1, Version: 7, Digest: []byte{0xab, 0xcd}, View: "0123456789abcdef"}, View: "0123456789abcdef", Build: "dev", LastSeen: stamp(2 * time.Second),
			CertificateNotAfter: stamp(-20 * time.Hour), TargetVersion: 7, Address: "10.0.0.9:5000", Capabilities: []string{"core/v1"}},
		{Node: "us-1", Phase: controlv1.Phase_PHASE_DEGRADED, Active: &controlv1.ResumePoint{Epoch: 1, Version: 5}, Pinned: true, Message: "hostile \x1b[31m\u202etext", TargetVersion: 7,
			Nack: &controlv1.Nack{Epoch: 1, Version: 7, Code: "MK5001", Message: "probation failed"}},
	}
	all := []*adminv1.Resource{cluster("payments", "10.0.0.7:80", 4), cluster("spare", "10.0.0.8:80", 5), route("shop", "payments", 6)}
	return &fakeHub{
		get: func(r *adminv1.GetRequest) (*adminv1.GetResponse, error) {
			for _, res := range all {
				if res.Kind == r.Key.Kind && res.Name == r.Key.Name {
					return &adminv1.GetResponse{Resource: res}, nil
				}
			}
			return nil, fault.New(fault.CodeNoSuchResource, "there is no %s/%s/%s", r.Key.Kind, r.Key.Namespace, r.Key.Name)
		},
		list: func(r *adminv1.ListRequest) (*adminv1.ListResponse, error) {
			var out []*adminv1.Resource
			for _, res := range all {
				if r.Kind == "" || res.Kind == r.Kind {
					out = append(out, res)
				}
			}
			if r.PageToken == "" && len(out) > 1 { // two pages, so that paging is seen
				return &adminv1.ListResponse{Resources: out[:1], NextPageToken: "more"}, nil
			}
			if r.PageToken == "more" {
				out = out[1:]
			}
			return &adminv1.ListResponse{Resources: out}, nil
		},
		agents: func(context.Context, *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
			return &adminv1.ListAgentsResponse{Agents: agents}, nil
		},
		agent: func(r *adminv1.GetAgentRequest) (*adminv1.GetAgentResponse, error) {
			return &adminv1.GetAgentResponse{Agent: agents[1], SpiffeId: "spiffe://demo/node/us-1", TokenId: "tok1",
				Downlevels: []*controlv1.Downlevel{{Resource: "Route/default/shop", Capability: "mirror/v1", Reason: "the mirror is left out"}}}, nil
		},
		history: func(*adminv1.HistoryRequest) (*adminv1.HistoryResponse, error) {
			return &adminv1.HistoryResponse{Entries: []*adminv1.HistoryEntry{
				{Seq: 6, Epoch: 1, Time: stamp(5 * time.Minute), Author: "spiffe://demo/operator/admin", Message: "half to v2", Updated: 1, Keys: []string{"Cluster/default/payments"},
					Diff: &adminv1.ResourceDiff{Action: "update", Fields: []*adminv1.FieldDiff{{Field: "spec.endpoints[0].address", Before: `"10.0.0.6:80"`, After: `"10.0.0.7:80"`}}, Effects: []string{"10.0.0.6:80 gets no more requests"}}},
				{Seq: 4, Epoch: 1, Time: stamp(3 * time.Hour), Author: "spiffe://demo/operator/admin", Created: 3, UndoneBy: 6, Diff: &adminv1.ResourceDiff{Action: "create"}},
			}}, nil
		},
	}
}

func TestReadsPrintTheirGoldens(t *testing.T) {
	s := newSession(t, readingHub())
	for name, args := range map[string]string{
		"get-clusters.txt":      "get clusters",
		"get-clusters-wide.txt": "get clusters -o wide",
		"get-cluster.json":      "get cluster payments -o json",
		"get-clusters.yaml":     "get clusters -o yaml",
		"get-all-names.txt":     "get all -o name",
		"get-all.txt":           "get all",
		"get-agents.txt":        "get agents",
		"get-agents-wide.txt":   "get agents -o wide",
		"get-agents.json":       "get agents -o json",
		"get-domain.txt":        "get domain",
		"jsonpath.txt":          "get agents -o jsonpath=$.items[?@.connected==true].labels",
		"jsonpath-kubectl.txt":  "get agents -o jsonpath={.items[*].node}",
		"describe-cluster.txt":  "describe cluster payments",
		"describe-cluster.json": "describe cluster/payments -o json",
		"describe-agent.txt":    "describe agent us-1",
		"history.txt":           "history",
		"history-wide.txt":      "history -o wide",
		"history-resource.txt":  "history cluster/payments",
	} {
		t.Run(name, func(t *testing.T) {
			s.run(0, strings.Fields(args)...)
			if s.err.Len() > 0 {
				t.Errorf("stderr: %s", s.err)
			}
			if strings.ContainsAny(s.out.String(), "\x1b\u202e") {
				t.Error("hostile text reaches the terminal unescaped")
			}
			golden(t, name, s.out.String())
		})
	}
}

func TestWhatGetPrintsAsYAMLIsValidInput(t *testing.T) {
	s := newSession(t, readingHub())
	for _, what := range []string{"cluster/payments", "all"} {
		s.run(0, "get", what, "-o", "yaml")
		s.in.Write(s.out.Bytes())
		s.run(0, "validate", "-")
	}
}

func TestExitCodesFollowTheHubsFaults(t *testing.T) {
	h := readingHub()
	s := newSession(t, h)
	s.run(5, "get", "cluster", "nobody")
	for code, want := range map[fault.Code]int{
		fault.CodeBaseMoved: 6, fault.CodeNotPermitted: 4, fault.CodeNoClientCert: 4, fault.CodeBadRequest: 65, fault.CodeInternal: 1, fault.CodeRateLimited: 1, fault.CodeTimeout: 8,
	} {
		h.get = func(*adminv1.GetRequest) (*adminv1.GetResponse, error) {
			return nil, fault.New(code, "the hub says so").WithRemedy("do as it says")
		}
		s.run(want, "get", "cluster", "payments")
		if !strings.Contains(s.err.String(), "error["+string(code)+"]: the hub says so\n  fix: do as it says") {
			t.Errorf("stderr: %s", s.err)
		}
	}
}

const shopFile = `apiVersion: meshkit.dev/v1
kind: Route
metadata: {name: shop}
spec:
  service: shop
  rules:
    - name: all
      clusters:
        - name: payments
`

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func applied() *adminv1.ApplyResponse {
	return &adminv1.ApplyResponse{Seq: 8, Epoch: 1, Plan: &adminv1.PlanResponse{Updated: 1, AgentsTouched: 2, AgentsTotal: 2, Base: 7, Diffs: []*adminv1.ResourceDiff{{
		Key: &adminv1.Key{Kind: "Route", Namespace: "default", Name: "shop"}, Action: "update",
		Fields:  []*adminv1.FieldDiff{{Field: "spec.timeout", Before: `"1s"`, After: `"2s"`}, {Field: "spec.priority", After: "3"}},
		Effects: []string{"requests to shop may take 2s"}}}}}
}

func TestApplyWaitsForTheAgents(t *testing.T) {
	report := func(r *adminv1.WatchPropagationResponse) func(*adminv1.WatchPropagationRequest, grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error {
		return func(req *adminv1.WatchPropagationRequest, s grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error {
			if req.Version != 8 {
				return fault.New(fault.CodeBadRequest, "version %d", req.Version)
			}
			if err := s.Send(r); err != nil || r.Done {
				return err
			}
			<-s.Context().Done()
			return nil
		}
	}
	refused := &adminv1.AgentNack{Node: "us-1", Nack: &controlv1.Nack{Version: 8, Code: "MK5001", Resource: "Route/default/shop", Message: "no \x1b room"}}
	tests := map[string]struct {
		report *adminv1.WatchPropagationResponse
		exit   int
		golden string
	}{
		"all have it":     {&adminv1.WatchPropagationResponse{Version: 8, Concerned: 2, Acked: 2, Done: true, P50: durationpb.New(1500 * time.Microsecond), P99: durationpb.New(12 * time.Millisecond), Last: durationpb.New(12 * time.Millisecond)}, 0, "wait-done.txt"},
		"one refused":     {&adminv1.WatchPropagationResponse{Version: 8, Concerned: 2, Acked: 1, Nacked: 1, Nacks: []*adminv1.AgentNack{refused}, Done: true}, 9, "wait-refused.txt"},
		"one never spoke": {&adminv1.WatchPropagationResponse{Version: 8, Concerned: 2, Acked: 1}, 8, "wait-timeout.txt"},
	}
	file := writeFile(t, "shop.yaml", shopFile)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, &fakeHub{apply: func(context.Context, *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) { return applied(), nil }, propagate: report(tt.report)})
			s.run(tt.exit, "apply", "-f", file, "--wait", "--timeout", "250ms")
			golden(t, tt.golden, "--- stdout\n"+s.out.String()+"--- stderr\n"+s.err.String())
		})
	}
}

func TestInterruptedWaitSaysThatTheChangeStands(t *testing.T) {
	waiting := make(chan struct{})
	s := newSession(t, &fakeHub{apply: func(context.Context, *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) { return applied(), nil },
		propagate: func(_ *adminv1.WatchPropagationRequest, s grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error {
			close(waiting)
			<-s.Context().Done()
			return nil
		}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waiting
		cancel()
	}()
	s.runContext(ctx, 130, "apply", "-f", writeFile(t, "shop.yaml", shopFile), "--wait")
	if !strings.Contains(s.err.String(), "seq 8 is committed") {
		t.Errorf("stderr: %s", s.err)
	}
}

func TestFindingsOfTheHubPointIntoTheFiles(t *testing.T) {
	key := &adminv1.Key{Kind: "Route", Namespace: "default", Name: "shop"}
	finding := &adminv1.Finding{Code: "MK2401", Severity: "error", Resource: key, Field: "spec.rules[0].clusters[0].name", Reason: "Cluster/default/payments does not exist", Remedy: "create it", Index: 0}
	s := newSession(t, &fakeHub{
		apply: func(context.Context, *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
			return nil, fault.New(fault.CodeChangeInvalid, "nothing was changed: MK2401: …")
		},
		plan: func(*adminv1.PlanRequest) (*adminv1.PlanResponse, error) {
			return &adminv1.PlanResponse{Findings: []*adminv1.Finding{finding}}, nil
		},
	})
	file := writeFile(t, "shop.yaml", shopFile)
	for _, args := range [][]string{{"apply", "-f", file}, {"plan", "-f", file}, {"validate", "--live", file}} {
		s.run(65, args...)
		if want := file + ":9:17: error[MK2401]: route/shop spec.rules[0].clusters[0].name:"; !strings.Contains(s.err.String(), want) {
			t.Errorf("meshctl %v: no %q in\n%s", args, want, s.err)
		}
	}
}

func TestFetchedResourcesAreAppliedOnTheVersionTheyWereFetchedAt(t *testing.T) {
	h := readingHub()
	var got []byte
	h.apply = func(_ context.Context, r *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
		got = r.GetChange().GetResources()[0]
		return nil, fault.New(fault.CodeBaseMoved, "Cluster/default/payments is not at resource version 4 any more")
	}
	s := newSession(t, h)
	s.run(0, "get", "cluster/payments", "-o", "yaml")
	s.in.Write(s.out.Bytes())
	s.run(6, "apply", "-f", "-")
	if !strings.Contains(string(got), `"resourceVersion":"4"`) || strings.Contains(string(got), "generation") {
		t.Errorf("sent %s", got)
	}
}

func TestFilesWithErrorsAreNotSent(t *testing.T) {
	sent := false
	s := newSession(t, &fakeHub{apply: func(context.Context, *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
		sent = true
		return applied(), nil
	}})
	s.run(65, "apply", "-f", writeFile(t, "bad.yaml", strings.Replace(shopFile, "service:", "servise:", 1)))
	if sent {
		t.Error("the hub was asked")
	}
}

func TestUnknownOutcomePrintsTheCommandToRetry(t *testing.T) {
	var ids []string
	h := &fakeHub{}
	s := newSession(t, h)
	h.apply = func(_ context.Context, r *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
		ids = append(ids, r.RequestId)
		s.server.Stop() // the connection breaks with the request in the hub's hands
		return nil, nil
	}
	file := writeFile(t, "it's.yaml", shopFile)
	s.run(1, "apply", "-f", file, "-m", "two words")
	want := `meshctl apply -f '` + strings.ReplaceAll(file, "'", `'\''`) + `' -m 'two words' --request-id=6e2b57a1-0000-4000-8000-000000000001`
	if !strings.Contains(s.err.String(), want) || !strings.Contains(s.err.String(), "error[MK7013]") {
		t.Errorf("no %q in\n%s", want, s.err)
	}
	if len(ids) != 1 {
		t.Errorf("%d requests reached the hub", len(ids))
	}
}

func TestPlanIsSavedAndAppliedOnItsBaseOnly(t *testing.T) {
	plan := applied().Plan
	moved := false
	var got *adminv1.Change
	s := newSession(t, &fakeHub{
		plan: func(*adminv1.PlanRequest) (*adminv1.PlanResponse, error) { return plan, nil },
		apply: func(_ context.Context, r *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
			if got = r.Change; moved {
				return nil, fault.New(fault.CodeBaseMoved, "planned on 7, now at 9")
			}
			return applied(), nil
		},
	})
	file, save := writeFile(t, "shop.yaml", shopFile), filepath.Join(t.TempDir(), "change.plan")
	s.run(2, "plan", "-f", file, "--exit-code", "--save", save, "-m", "why")
	golden(t, "plan.txt", s.out.String())
	s.run(0, "apply", "--plan", save)
	if got.Base != 7 || got.Message != "why" || len(got.Resources) != 1 || !strings.Contains(string(got.Resources[0]), `"service":"shop"`) {
		t.Errorf("applied %v", got)
	}
	moved = true
	s.run(6, "apply", "--plan", save)

	data, err := os.ReadFile(save)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(save, []byte(strings.Replace(string(data), `"base": 7`, `"base": 8`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	got = nil
	s.run(65, "apply", "--plan", save)
	if got != nil {
		t.Error("an altered plan was sent")
	}
	plan.Updated = 0
	s.run(0, "plan", "-f", file, "--exit-code")
}

func TestWatchPrintsThePresentThenChangesAndEndsWith130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSession(t, &fakeHub{watch: func(_ *adminv1.WatchRequest, w grpc.ServerStreamingServer[adminv1.WatchResponse]) error {
		for _, e := range []*adminv1.WatchResponse{
			{Event: adminv1.WatchResponse_EVENT_UPSERT, Resource: cluster("payments", "10.0.0.7:80", 4), Seq: 4},
			{Event: adminv1.WatchResponse_EVENT_SYNCED, Seq: 4},
			{Event: adminv1.WatchResponse_EVENT_UPSERT, Resource: cluster("payments", "10.0.0.9:80", 5), Seq: 5},
			{Event: adminv1.WatchResponse_EVENT_DELETE, Resource: &adminv1.Resource{Kind: "Cluster", Namespace: "default", Name: "payments"}, Seq: 6},
		} {
			if err := w.Send(e); err != nil {
				return err
			}
		}
		<-w.Context().Done()
		return nil
	}})
	s.app.IO.Out = &stopAfter{Writer: s.out, text: `"delete"`, stop: cancel}
	s.runContext(ctx, 130, "get", "clusters", "--watch", "-o", "json")
	if lines := strings.Split(strings.TrimSpace(s.out.String()), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[2], `{"event":"delete","seq":6,"resource":{`) {
		t.Errorf("stdout:\n%s", s.out)
	}
}

// stopAfter calls stop once text has been written.
type stopAfter struct {
	Writer interface{ Write([]byte) (int, error) }
	text   string
	stop   func()
}

func (w *stopAfter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		defer w.stop()
	}
	return w.Writer.Write(b)
}

func TestAWrongNameIsAnsweredWithTheNearest(t *testing.T) {
	s := newSession(t, readingHub())
	for _, verb := range []string{"get", "describe"} {
		s.run(5, verb, "cluster", "paymnts")
		if !strings.Contains(s.err.String(), "did you mean payments?") {
			t.Errorf("%s: %s", verb, s.err)
		}
	}
	s.run(5, "get", "cluster", "nothing-like-it")
	if strings.Contains(s.err.String(), "did you mean") {
		t.Errorf("%s", s.err)
	}
}

func TestCompletionOffersLiveNamesAndGivesUpAfterASecond(t *testing.T) {
	h := readingHub()
	s := newSession(t, h)
	s.run(0, "__complete", "describe", "agent", "")
	if !strings.HasPrefix(s.out.String(), "eu-1\nus-1\n") {
		t.Errorf("stdout: %s", s.out)
	}
	s.run(0, "__complete", "delete", "cluster/")
	if !strings.HasPrefix(s.out.String(), "cluster/payments\ncluster/spare\n") {
		t.Errorf("stdout: %s", s.out)
	}
	s.run(0, "__complete", "undo", "")
	if !strings.HasPrefix(s.out.String(), "6\thalf to v2\n:") { // 4 is undone
		t.Errorf("stdout: %s", s.out)
	}
	s.run(0, "__complete", "simulate", "route", "--service", "")
	if !strings.HasPrefix(s.out.String(), "shop\n") {
		t.Errorf("stdout: %s", s.out)
	}
	h.agents = func(ctx context.Context, _ *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	begun := time.Now()
	s.run(0, "__complete", "describe", "agent", "")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestADrainThatTakesTooLongSaysWhatIsLeft(t *testing.T) {
	h := readingHub()
	s := newSession(t, h)
	hub1, hub2 := &adminv1.Hub{Name: "hub1", Seq: 9, Leader: true}, &adminv1.Hub{Name: "hub2", Seq: 9}
	h.hubs = []*adminv1.Hub{hub1, hub2}
	drain := func(want string) {
		t.Helper()
		s.run(8, "hub", "drain", "hub1", "--timeout", "300ms")
		if !strings.Contains(s.err.String(), want) {
			t.Errorf("want %q in %s", want, s.err)
		}
	}
	drain("it has no streams, but no other hub leads yet")
	hub1.Streams = 3
	drain("it still has 3 streams, and no other hub leads")
	hub1.Leader, hub2.Leader = false, true
	drain("it still has 3 streams\n")
	hub1.Streams = 0
	s.run(0, "hub", "drain", "hub1")
}

// A token for hubs says what stands in the way of hubs on other machines.
func TestATokenForHubsTellsOfHubsThatOthersDoNotReach(t *testing.T) {
	h := readingHub()
	s := newSession(t, h)
	h.hubs = []*adminv1.Hub{{Name: "hub1", Address: "127.0.0.1:8443"}, {Name: "hub2", Address: "[::1]:8443"}, {Name: "hub3", Address: "10.0.0.3:8443"}, {Name: "hub4", Address: "localhost:8443"}}
	s.run(0, "token", "create", "--hub")
	for name, want := range map[string]bool{"hub1": true, "hub2": true, "hub3": false, "hub4": true} {
		if got := strings.Contains(s.err.String(), "note: hub "+name+" is advertised at"); got != want {
			t.Errorf("%s is warned of: %t\n%s", name, got, s.err)
		}
	}
	if !strings.Contains(s.err.String(), " --listen HOST:PORT") {
		t.Errorf("the command for the other machine: %s", s.err)
	}
	s.run(0, "token", "create")
	if strings.Contains(s.err.String(), "note:") || strings.Contains(s.err.String(), "--listen") {
		t.Errorf("a token for nodes: %s", s.err)
	}
}

// A token for hubs is of no use where a hub has its store for itself.
func TestNoTokenForHubsIsMadeOfAStoreThatTheyCannotReach(t *testing.T) {
	h := readingHub()
	h.store = "bolt"
	s := newSession(t, h)
	s.run(6, "token", "create", "--hub")
	if s.out.Len() > 0 || !strings.Contains(s.err.String(), "MK6068") || !strings.Contains(s.err.String(), "meshhub restore --from") {
		t.Errorf("stdout %s, stderr %s", s.out, s.err)
	}
	s.run(0, "token", "create")
}

// What is in force already may be published again: the answer to the first time may have
// been lost.
func TestTrustThatIsInForceMayBePublishedAgain(t *testing.T) {
	s := newSession(t, &fakeHub{trust: &trustv1.Metadata{Roots: [][]byte{[]byte("1"), []byte("2")}, Keyset: []byte("k")}})
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, keyset, old, own := file("root-2.json", "2"), file("keyset.json", "k"), file("old.json", "j"), file("own.json", "3")
	for _, args := range [][]string{{"--root", root}, {"--root", root, "--keyset", keyset}, {"--keyset", keyset}} {
		s.run(0, append([]string{"trust", "publish"}, args...)...)
		if !strings.Contains(s.err.String(), "published before: root version 2 and keyset version 3 are in force") {
			t.Errorf("%v: %s", args, s.err)
		}
	}
	for _, args := range [][]string{{"--root", own}, {"--root", root, "--keyset", old}} {
		s.run(65, append([]string{"trust", "publish"}, args...)...)
	}
}

// Hubs and domains are lists like any other, and a hub says in JSON what its row does.
func TestHubsAndDomainsAreListsInJSON(t *testing.T) {
	h := readingHub()
	s := newSession(t, h)
	h.hubs = []*adminv1.Hub{{Name: "hub1", Seq: 9, Leader: true}, {Name: "hub2", Seq: 7, Drained: true}, {Name: "hub3"}}
	h.guests = []*adminv1.ServedDomain{{Domain: "guest"}}
	prints := func(want string, args ...string) {
		t.Helper()
		s.run(0, args...)
		if got := strings.TrimSpace(s.out.String()); got != want {
			t.Errorf("%v prints %s, want %s", args, got, want)
		}
	}
	for path, want := range map[string]string{
		"$.items[*].role": "leader\nfollower, drained\nsilent", "$.items[*].lag": "0\n2", "$.items[*].name": "hub1\nhub2\nhub3",
	} {
		prints(want, "get", "hubs", "-o", "jsonpath="+path)
	}
	h.hubs[1].AdmitsHubs = true
	s.run(0, "get", "hubs", "-o", "wide")
	var admits []string
	for line := range strings.Lines(s.out.String()) {
		if f := strings.Fields(line); len(f) > 0 {
			admits = append(admits, f[0]+" "+f[len(f)-2]) // a key id is last
		}
	}
	if want := []string{"NAME HUBS", "hub1 no", "hub2 yes", "hub3 -"}; !slices.Equal(admits, want) {
		t.Errorf("admits hubs: %q, want %q", admits, want)
	}
	prints("follower, drained", "get", "hub", "hub2", "-o", "jsonpath=$.role")
	prints("2", "describe", "hub", "hub2", "-o", "jsonpath=$.lag")
	prints("demo\nguest", "get", "domains", "-o", "jsonpath=$.items[*].domain")
	prints("guest", "get", "domain", "guest", "-o", "jsonpath=$.domain")
	prints("domain/demo\ndomain/guest", "get", "domains", "-o", "name")
	h.guests[0] = &adminv1.ServedDomain{Domain: "guest", Problem: `the "log" went back`, Streams: 3, Store: "consul", Term: 4}
	var domains struct{ Items []map[string]any }
	s.run(0, "get", "domains", "-o", "json")
	if err := json.Unmarshal(s.out.Bytes(), &domains); err != nil {
		t.Fatal(err)
	}
	own, guest := domains.Items[0], domains.Items[1]
	if a, b := slices.Sorted(maps.Keys(own)), slices.Sorted(maps.Keys(guest)); !slices.Equal(a, b) {
		t.Errorf("fields of the domain: %v\nof a further one:    %v", a, b)
	}
	for field, want := range map[string]any{"agents": nil, "digest": nil, "streams": 3.0, "problem": `the "log" went back`, "storeHealth": `the "log" went back`, "hub": "hub1", "term": 4.0, "leader": ""} {
		if guest[field] != want {
			t.Errorf("%s of a further domain is %v, want %v", field, guest[field], want)
		}
	}
	if own["agents"] != 0.0 || own["streams"] != nil {
		t.Errorf("the domain: %v", own)
	}
	s.run(5, "get", "domain", "other")
	s.run(5, "describe", "domain", "other")
	s.run(0, "describe", "domain", "demo")
}

func TestAContextTakesTheHubsOfTheDomain(t *testing.T) {
	h := readingHub()
	h.hubs = []*adminv1.Hub{{Name: "hub1", Address: "10.0.0.1:8443", Seq: 9}, {Name: "hub2", Address: "10.0.0.2:8443", Seq: 9}, {Name: "hub3", Address: "127.0.0.1:8443"}, {Name: "hub4", Address: "10.0.0.4:8443,evil:1"}}
	s := newSession(t, h)
	path := filepath.Join(t.TempDir(), "config.yaml")
	env := map[string]string{"MESHKIT_CONFIG": path}
	s.app.IO.Env = func(k string) string { return env[k] }
	hub := func() string {
		t.Helper()
		s.run(0, "context", "show", "-o", "jsonpath=$.hub")
		return strings.TrimSpace(s.out.String())
	}
	s.run(64, "context", "add", "demo", "--hub", "10.0.0.1:8443,", "--ca-file", "c", "--cert-file", "c", "--key-file", "k")
	s.run(0, "context", "add", "demo", "--hub", "hub.example:8443", "--ca-file", "c", "--cert-file", "c", "--key-file", "k")
	s.app.Flags = cliutil.Flags{}

	// A person is told, and nothing is written.
	s.app.IO.ErrTerminal = true
	s.run(0, "get", "hubs")
	if !strings.Contains(s.err.String(), "meshctl context sync") || hub() != "hub.example:8443" {
		t.Errorf("stderr %s, hub %s", s.err, hub())
	}
	s.run(0, "get", "hubs", "-o", "json")
	if strings.Contains(s.err.String(), "sync") {
		t.Errorf("a program is told: %s", s.err)
	}

	s.run(0, "context", "sync")
	if got := hub(); got != "hub.example:8443,10.0.0.1:8443,10.0.0.2:8443" {
		t.Errorf("synced: %s", got)
	}
	s.run(0, "context", "sync")
	for _, want := range []string{"context demo stays as it is", "hub3 is left out", "hub4 is left out", "no hub is advertised at hub.example:8443"} {
		if !strings.Contains(s.err.String(), want) {
			t.Errorf("synced again: %s lacks %q", s.err, want)
		}
	}
	s.run(0, "get", "hubs")
	if strings.Contains(s.err.String(), "sync") {
		t.Errorf("told although it is done: %s", s.err)
	}
	s.run(0, "context", "sync", "demo", "--replace")
	if got := hub(); got != "10.0.0.1:8443,10.0.0.2:8443" {
		t.Errorf("replaced: %s", got)
	}
	s.run(5, "context", "sync", "nobody")
	s.app.Flags = cliutil.Flags{}

	// What is printed for another machine is one address.
	s.run(0, "token", "create")
	if !strings.Contains(s.err.String(), "join --hub 10.0.0.1:8443 --token") {
		t.Errorf("token create: %s", s.err)
	}
}

func TestTablesOfHubsAndDomainsKeepToTheTerminal(t *testing.T) {
	h := readingHub()
	h.hubs = []*adminv1.Hub{
		{Name: "hub1", Address: "10.0.0.1:8443", Seq: 123456, Term: 17, Leader: true, Streams: 2000, Build: "v0.1.0", KeyId: strings.Repeat("ab", 32)},
		{Name: "hub2", Address: "10.0.0.2:8443", Problem: "does not answer: dial tcp 10.0.0.2:8443: connect: connection refused"},
	}
	s := newSession(t, h)
	for _, width := range []int{60, 80} {
		s.app.IO.Width = width
		for _, args := range []string{"get hubs", "get hubs -o wide", "get domains", "get domains -o wide"} {
			s.run(0, strings.Fields(args)...)
			for line := range strings.Lines(s.out.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, "abab") { // a key id is one word
					t.Errorf("%s: a line has %d columns of %d: %s", args, n, width, line)
				}
			}
		}
		if s.run(0, "get", "hubs"); !strings.Contains(s.out.String(), "connection refused") {
			t.Errorf("%d columns lack the problem:\n%s", width, s.out)
		}
	}
}

func TestHistoryRefusesMoreThanThereIs(t *testing.T) {
	s := newSession(t, readingHub())
	s.run(0, "history", "--limit", "1000")
	s.run(64, "history", "--limit", "5000")
	if !strings.Contains(s.err.String(), "at most 1000") {
		t.Errorf("stderr: %s", s.err)
	}
}
