package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// operator is the admin API as one operator sees it.
type operator struct {
	resources adminv1.ResourceServiceClient
	fleet     adminv1.FleetServiceClient
	trust     adminv1.TrustServiceClient
}

func operate(t testing.TB, h *hubtest.Running) operator {
	conn := h.Operator(t)
	return operator{adminv1.NewResourceServiceClient(conn), adminv1.NewFleetServiceClient(conn), adminv1.NewTrustServiceClient(conn)}
}

func cluster(name, address string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":%q},"spec":{"endpoints":[{"address":%q}]}}`, name, address)
}

func checkout(v1, v2 int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"checkout"},"spec":{"service":"checkout","rules":[
		{"name":"all","clusters":[{"name":"payments-v1","weight":%d},{"name":"payments-v2","weight":%d}]}]}}`, v1, v2)
}

func mesh() [][]byte {
	return [][]byte{cluster("payments-v1", "10.0.0.1:80"), cluster("payments-v2", "10.0.0.2:80"), checkout(90, 10)}
}

func (o operator) apply(t testing.TB, docs ...[]byte) *adminv1.ApplyResponse {
	t.Helper()
	resp, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: docs}})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func wantCode(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("error %v (%s), want %s", err, fault.CodeOf(err), code)
	}
}

func TestAChangeIsPlannedAppliedSeenAndUndone(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: map[string]string{"region": "eu"}}), "node-a")

	o.apply(t, mesh()...)
	plan, err := o.resources.Plan(t.Context(), &adminv1.PlanRequest{Change: &adminv1.Change{Resources: [][]byte{checkout(80, 20)}}})
	if err != nil {
		t.Fatal(err)
	}
	if plan.GetAgentsTouched() != 1 || plan.GetAgentsTotal() != 1 || plan.GetUpdated() != 1 {
		t.Errorf("plan touches %d of %d agents and updates %d, want 1 of 1 and 1", plan.GetAgentsTouched(), plan.GetAgentsTotal(), plan.GetUpdated())
	}
	if want := "10% of checkout moves from payments-v1 to payments-v2"; len(plan.GetDiffs()) != 1 || !slices.Contains(plan.GetDiffs()[0].GetEffects(), want) {
		t.Errorf("effects %v, want %q", plan.GetDiffs(), want)
	}
	first := o.apply(t, checkout(80, 20))
	if again := o.apply(t, checkout(80, 20)); again.GetSeq() != 0 {
		t.Errorf("a change that changes nothing was appended as %d", again.GetSeq())
	}
	sim, err := o.resources.Simulate(t.Context(), &adminv1.SimulateRequest{Service: "checkout", Procedure: "Checkout::pay", Draw: 0.85})
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(sim.GetDecision()) || !strings.Contains(string(sim.GetDecision()), "payments-v2") {
		t.Errorf("decision %s does not choose payments-v2", sim.GetDecision())
	}
	undo, err := o.resources.Undo(t.Context(), &adminv1.UndoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if undo.GetUndid() != first.GetSeq() {
		t.Errorf("undid %d, want the newest change %d", undo.GetUndid(), first.GetSeq())
	}
	got, err := o.resources.Get(t.Context(), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "Route", Name: "checkout"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got.GetResource().GetContent()), `"weight":90`) {
		t.Errorf("after undo the route is %s", got.GetResource().GetContent())
	}
	// A second undo goes further back: the mesh is gone.
	if _, err := o.resources.Undo(t.Context(), &adminv1.UndoRequest{AllowLargeChange: true}); err != nil {
		t.Fatal(err)
	}
	list, err := o.resources.List(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(list.GetResources()) != 0 {
		t.Errorf("after the second undo %d resources are left (%v)", len(list.GetResources()), err)
	}
	history, err := o.resources.History(t.Context(), &adminv1.HistoryRequest{})
	if err != nil || len(history.GetEntries()) != 4 || history.GetEntries()[2].GetUndoneBy() != undo.GetResult().GetSeq() {
		t.Errorf("history %v (%v)", history, err)
	}
}

func TestARetryWithTheSameRequestIDGetsTheFirstAnswer(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	req := &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: mesh()}, RequestId: "retry-1"}
	first, err := o.resources.Apply(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	o.apply(t, checkout(50, 50))
	again, err := o.resources.Apply(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !again.GetReplayed() || again.GetSeq() != first.GetSeq() || again.GetPlan().GetCreated() != 3 {
		t.Errorf("retry gave %v, want a replay of %d", again, first.GetSeq())
	}
	req.Change.Resources = [][]byte{checkout(1, 99)}
	_, err = o.resources.Apply(t.Context(), req)
	wantCode(t, err, fault.CodeRequestIDReused)
}

func TestASetIsAppliedWholeOrNotAtAll(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{cluster("payments-v1", "10.0.0.1:80"), checkout(90, 10)}}})
	wantCode(t, err, fault.CodeChangeInvalid)
	list, err := o.resources.List(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(list.GetResources()) != 0 {
		t.Errorf("a refused set left %d resources (%v)", len(list.GetResources()), err)
	}
	dry, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{DryRun: true, Change: &adminv1.Change{Resources: [][]byte{checkout(90, 10)}}})
	if err != nil || len(dry.GetPlan().GetFindings()) == 0 || dry.GetPlan().GetFindings()[0].GetCode() != string(fault.CodeRefDangling) {
		t.Errorf("dry run found %v (%v), want %s", dry.GetPlan().GetFindings(), err, fault.CodeRefDangling)
	}
}

func TestAnotherManagersFieldIsAConflictUntilForced(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	o.apply(t, mesh()...)
	change := &adminv1.Change{FieldManager: "rollout", Resources: [][]byte{checkout(70, 30)}}
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change})
	wantCode(t, err, fault.CodeFieldConflict)
	if !strings.Contains(err.Error(), `"meshctl"`) || !strings.Contains(err.Error(), "clusters") {
		t.Errorf("%v names neither manager nor field", err)
	}
	change.ForceConflicts = true
	if _, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change}); err != nil {
		t.Fatal(err)
	}
	got, err := o.resources.Get(t.Context(), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "route", Name: "checkout"}})
	if err != nil {
		t.Fatal(err)
	}
	var managers []string
	for _, owner := range got.GetResource().GetOwners() {
		managers = append(managers, owner.GetManager())
	}
	if !slices.Equal(managers, []string{"meshctl", "rollout"}) {
		t.Errorf("managers %v", managers)
	}
}

func TestAPlanOnAnOlderBaseIsRefused(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	base := o.apply(t, mesh()...).GetSeq()
	o.apply(t, checkout(80, 20))
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Base: base, Resources: [][]byte{checkout(70, 30)}}})
	wantCode(t, err, fault.CodeBaseMoved)
}

func TestRemovingALargeShareNeedsToBeMeant(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	var docs [][]byte
	for i := range 10 {
		docs = append(docs, cluster(fmt.Sprintf("c%d", i), "10.0.0.1:80"))
	}
	o.apply(t, docs...)
	change := &adminv1.Change{}
	for i := range 5 {
		change.Deletes = append(change.Deletes, &adminv1.Key{Kind: "Cluster", Name: fmt.Sprintf("c%d", i)})
	}
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change})
	wantCode(t, err, fault.CodeLargeRemoval)
	change.AllowLargeChange = true
	if _, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change}); err != nil {
		t.Fatal(err)
	}
}

func TestPruneRemovesOnlyWhatTheManagerOwns(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	o.apply(t, cluster("mine", "10.0.0.1:80"), cluster("kept", "10.0.0.1:80"))
	if _, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{FieldManager: "other", Resources: [][]byte{cluster("theirs", "10.0.0.1:80")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Prune: true, AllowLargeChange: true, Resources: [][]byte{cluster("kept", "10.0.0.1:80")}}}); err != nil {
		t.Fatal(err)
	}
	list, err := o.resources.List(t.Context(), &adminv1.ListRequest{Kind: "clusters"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range list.GetResources() {
		names = append(names, r.GetName())
	}
	if !slices.Equal(names, []string{"kept", "theirs"}) {
		t.Errorf("left: %v", names)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	const writers = 64
	seqs := make([]uint64, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			resp, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: fmt.Sprint("w", i), Change: &adminv1.Change{
				FieldManager: fmt.Sprint("m", i), Resources: [][]byte{cluster(fmt.Sprint("c", i), "10.0.0.1:80")},
			}})
			if err != nil {
				t.Error(err)
			}
			seqs[i] = resp.GetSeq()
		})
	}
	wg.Wait()
	slices.Sort(seqs)
	if len(slices.Compact(slices.Clone(seqs))) != writers || seqs[0] == 0 {
		t.Errorf("sequence numbers are not distinct: %v", seqs)
	}
	domain, err := o.fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
	if err != nil || domain.GetResources() != writers {
		t.Errorf("%d resources (%v), want %d", domain.GetResources(), err, writers)
	}
	// The same log gives the same digest after a restart.
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	again, err := operate(t, h.Domain.Start(t)).fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
	if err != nil || again.GetDigest() != domain.GetDigest() || again.GetConfigSeq() != domain.GetConfigSeq() {
		t.Errorf("after a restart %v (%v), before %v", again, err, domain)
	}
}

func TestARestartGoesOnFromASnapshot(t *testing.T) {
	d := hubtest.NewDomain(t)
	d.Log.Retain = 1
	small := func(opt *hub.Options) { opt.Replica.SnapshotEntries = 10 }
	h := d.Start(t, small)
	o := operate(t, h)
	for i := range 40 {
		o.apply(t, cluster("c", fmt.Sprintf("10.0.0.1:%d", i+1)))
	}
	before, err := o.fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	l, err := store.Open(t.Context(), d.Store.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := l.LatestSnapshot(t.Context()); err != nil || snap.Seq < 10 {
		t.Fatalf("no snapshot was taken: %v (%v)", snap.Seq, err)
	}
	_ = l.Close()
	after, err := operate(t, d.Start(t, small)).fleet.GetDomain(t.Context(), &adminv1.GetDomainRequest{})
	if err != nil || after.GetDigest() != before.GetDigest() {
		t.Errorf("digest %v (%v), want %v", after.GetDigest(), err, before.GetDigest())
	}
}

func TestOneTokenUseAdmitsExactlyOneOfManyAtOnce(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	token := h.Token(t, &adminv1.CreateTokenRequest{})
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	const n = 8
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		node := fmt.Sprint("node-", i)
		csr := hubtest.CSR(t, hubtest.Key(t), node)
		wg.Go(func() {
			_, errs[i] = client.Join(t.Context(), &identityv1.JoinRequest{Token: token, Node: node, Csr: csr, RequestId: node})
		})
	}
	wg.Wait()
	joined := 0
	for _, err := range errs {
		if err == nil {
			joined++
			continue
		}
		wantCode(t, err, fault.CodeTokenUsed)
	}
	if joined != 1 {
		t.Errorf("%d nodes joined with one use", joined)
	}
}

func TestAJoinIsRetriedWithoutSpendingAnotherUse(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	req := &identityv1.JoinRequest{Token: h.Token(t, &adminv1.CreateTokenRequest{}), Node: "node-a", Csr: hubtest.CSR(t, hubtest.Key(t), "node-a"), RequestId: "r1"}
	for range 3 {
		if _, err := client.Join(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	req.Csr = hubtest.CSR(t, hubtest.Key(t), "node-a")
	_, err := client.Join(t.Context(), req)
	wantCode(t, err, fault.CodeRequestIDReused)
	req.Token, req.Node = h.Token(t, &adminv1.CreateTokenRequest{}), "node-b"
	req.RequestId = "r2" // and the CSR is still node-a's
	_, err = client.Join(t.Context(), req)
	wantCode(t, err, fault.CodeForeignCSR)
}

func TestJoinRefusesTokensThatAreNotGood(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	join := func(token, node string) error {
		_, err := client.Join(t.Context(), &identityv1.JoinRequest{Token: token, Node: node, Csr: hubtest.CSR(t, hubtest.Key(t), node)})
		return err
	}
	wantCode(t, join("abc.def", "node-a"), fault.CodeTokenInvalid)
	if remedy := fault.RemedyOf(join("abc.def", "node-a")); !strings.Contains(remedy, "--ca-pin") { // it chose the domain
		t.Errorf("the pin may be the wrong one, and the remedy is %q", remedy)
	}
	wantCode(t, join("no-dot", "node-a"), fault.CodeTokenInvalid)
	bound := h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a", Uses: 3})
	wantCode(t, join(bound, "node-b"), fault.CodeTokenBound)
	open := h.Token(t, &adminv1.CreateTokenRequest{Uses: 3})
	if err := join(open, "node-a"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, join(open, "node-a"), fault.CodeNodeExists)
	if err := join(bound, "node-a"); err != nil { // bound to the name: may join again
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(open, ".")
	if _, err := o.fleet.RevokeToken(t.Context(), &adminv1.RevokeTokenRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, join(open, "node-c"), fault.CodeTokenRevoked)
}

func TestRolesAreKeptApart(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	node, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	_, err := adminv1.NewResourceServiceClient(h.Dial(t, node)).List(t.Context(), &adminv1.ListRequest{})
	wantCode(t, err, fault.CodeNotPermitted)
	stream, err := controlv1.NewControlServiceClient(h.Operator(t)).Stream(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, fault.CodeNotPermitted)
	_, err = adminv1.NewResourceServiceClient(h.Dial(t, nil)).List(t.Context(), &adminv1.ListRequest{})
	if err == nil {
		t.Error("a caller without a certificate was answered")
	}
	// Never joined: a certificate of the right CA is not enough.
	ghost := h.Domain.Source(t, identity.Node, "ghost")
	_, err = identityv1.NewIdentityServiceClient(h.Dial(t, ghost)).Renew(t.Context(), &identityv1.RenewRequest{Csr: hubtest.CSR(t, hubtest.Key(t), "ghost")})
	wantCode(t, err, fault.CodeNodeForgotten)
}

func TestANodeRenewsItsCertificateUntilItIsForgotten(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	node, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	client := identityv1.NewIdentityServiceClient(h.Dial(t, node))
	req := &identityv1.RenewRequest{Csr: hubtest.CSR(t, hubtest.Key(t), "node-a")}
	if resp, err := client.Renew(t.Context(), req); err != nil || len(resp.GetCertificateChain()) < 2 {
		t.Fatalf("renew: %v (%v)", resp, err)
	}
	_, err := client.Renew(t.Context(), &identityv1.RenewRequest{Csr: hubtest.CSR(t, hubtest.Key(t), "node-b")})
	wantCode(t, err, fault.CodeForeignCSR)
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Renew(t.Context(), req)
	wantCode(t, err, fault.CodeNodeForgotten)
}

// agent is a distribution client that verifies and acknowledges, as agents do.
type agent struct {
	t       *testing.T
	node    string
	client  *subscriber.Client
	updates chan *trustv1.Manifest
	lost    chan error

	mu       sync.Mutex // guards all below
	anchors  *trust.Anchors
	content  *digest.Trie
	active   *controlv1.ResumePoint
	required []string // by active
	accepted *controlv1.Accepted
	signer   string
	opened   int
	// snapshots counts updates that were not deltas.
	snapshots int
}

func (h *agentHost) start(t *testing.T, node string, labels map[string]string) *agent {
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: labels}), node)
	return h.connect(t, node, source)
}

// connect runs a node that has joined; before adjusts what it begins with.
func (h *agentHost) connect(t *testing.T, node string, source *mtls.Source, before ...func(*agent)) *agent {
	t.Helper()
	shown, err := adminv1.NewTrustServiceClient(h.Operator(t)).GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	anchors, err := trust.Join(hubtest.Name, shown.GetMetadata(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, node: node, anchors: anchors, updates: make(chan *trustv1.Manifest, 64), lost: make(chan error, 64)}
	for _, f := range before {
		f(a)
	}
	a.client, err = subscriber.New(subscriber.Config{
		Hubs: []string{h.Address}, Handler: a,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(source, mtls.AnyHub)))},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.client.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return a
}

type agentHost struct{ *hubtest.Running }

func (a *agent) Hello() *controlv1.Hello {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &controlv1.Hello{Node: a.node, Capabilities: view.Known(), Build: "test", Resume: a.active, Highest: a.active,
		RootVersion: a.anchors.RootVersion(), KeysetVersion: a.anchors.KeysetVersion()}
}

func (a *agent) Accepted(_ context.Context, _ string, acc *controlv1.Accepted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accepted = acc
	a.opened++
}

func (a *agent) Update(_ context.Context, u *subscriber.Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, key, err := a.anchors.VerifyManifest(u.Manifest, time.Now())
	if err != nil {
		a.t.Errorf("manifest: %v", err)
		return
	}
	if u.Snapshot {
		a.snapshots++
	}
	next, err := subscriber.Apply(a.content, m, u, distribution.Limits{})
	if err != nil {
		a.t.Errorf("update: %v", err)
		return
	}
	a.content, a.signer = next, key.KeyID
	a.active = &controlv1.ResumePoint{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest(), View: m.GetView()}
	a.required = m.GetRequiredCapabilities()
	a.client.Ack(&controlv1.Ack{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest()})
	a.updates <- m
}

func (a *agent) Freshness(_ context.Context, env *trustv1.Envelope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, _, err := a.anchors.VerifyFreshness(env, time.Now())
	if err != nil {
		a.t.Errorf("freshness: %v", err)
		return
	}
	// It may have to stand in for the manifest of the same content.
	if bytes.Equal(f.GetDigest(), a.active.GetDigest()) && f.GetView() == a.active.GetView() && !slices.Equal(f.GetRequiredCapabilities(), a.required) {
		a.t.Errorf("freshness requires %q, the manifest %q", f.GetRequiredCapabilities(), a.required)
	}
}

func (a *agent) Trust(_ context.Context, m *trustv1.Metadata) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, err := a.anchors.Update(m, time.Now())
	if err != nil {
		a.t.Errorf("trust: %v", err)
		return
	}
	a.anchors = next
}

func (a *agent) Notice(context.Context, *controlv1.Notice) {}

func (a *agent) Disconnected(_ string, err error, _ time.Duration) {
	select {
	case a.lost <- err:
	default:
	}
}

// await takes updates until one is at version or above.
func (a *agent) await(version uint64) *trustv1.Manifest {
	a.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-a.updates:
			if m.GetVersion() >= version {
				return m
			}
		case err := <-a.lost:
			a.t.Fatalf("stream lost: %v", err)
		case <-timeout:
			a.t.Fatalf("version %d did not arrive", version)
		}
	}
}

func TestAChangeReachesAConnectedNodeAndIsTrackedUntilAcked(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", map[string]string{"region": "eu"})
	a.await(1) // the empty mesh
	seq := o.apply(t, mesh()...).GetSeq()
	if m := a.await(seq); m.GetCount() != 3 {
		t.Errorf("the view holds %d resources, want 3", m.GetCount())
	}
	stream, err := o.fleet.WatchPropagation(t.Context(), &adminv1.WatchPropagationRequest{Version: seq})
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p.GetDone() {
			if p.GetConcerned() != 1 || p.GetAcked() != 1 || p.GetP99().AsDuration() <= 0 {
				t.Errorf("propagation %v, want one of one with a time", p)
			}
			break
		}
	}
	got, err := o.fleet.GetAgent(t.Context(), &adminv1.GetAgentRequest{Node: "node-a"})
	if err != nil || !got.GetAgent().GetConnected() || got.GetAgent().GetActive().GetVersion() != seq || got.GetResources() != 3 {
		t.Errorf("agent %v (%v)", got, err)
	}
}

func TestConnectedNodesFollowAKeyRotationWithoutReconnecting(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", nil)
	a.await(o.apply(t, mesh()...).GetSeq())
	rotated, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: "rot"})
	if err != nil {
		t.Fatal(err)
	}
	a.await(o.apply(t, checkout(50, 50)).GetSeq())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.signer != rotated.GetNewKeyId() || rotated.GetOldKeyId() == rotated.GetNewKeyId() {
		t.Errorf("manifest signed by %s, rotation %v", a.signer, rotated)
	}
	if a.anchors.KeysetVersion() != rotated.GetKeysetVersion() || len(a.anchors.Hubs()) != 1 {
		t.Errorf("keyset %d with %d keys on the node, want %d with one", a.anchors.KeysetVersion(), len(a.anchors.Hubs()), rotated.GetKeysetVersion())
	}
	if len(a.lost) > 0 {
		t.Errorf("the stream was lost: %v", <-a.lost)
	}
	_, err = o.trust.DropHubKey(t.Context(), &adminv1.DropHubKeyRequest{Hub: hubtest.HubName})
	wantCode(t, err, fault.CodeOwnKey)
}

func TestScopedResourcesReachOnlyTheirNodes(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	eu := (&agentHost{h}).start(t, "node-eu", map[string]string{"region": "eu"})
	us := (&agentHost{h}).start(t, "node-us", map[string]string{"region": "us"})
	eu.await(1)
	us.await(1)
	scoped := []byte(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"only-eu"},"scope":{"nodeLabels":{"region":"eu"}},"spec":{"endpoints":[{"address":"10.0.0.1:80"}]}}`)
	seq := o.apply(t, scoped, cluster("everywhere", "10.0.0.2:80")).GetSeq()
	if m := eu.await(seq); m.GetCount() != 2 {
		t.Errorf("node-eu has %d resources, want 2", m.GetCount())
	}
	if m := us.await(seq); m.GetCount() != 1 {
		t.Errorf("node-us has %d resources, want 1", m.GetCount())
	}
}

func TestAForgottenNodeLosesItsStream(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", nil)
	a.await(1)
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.lost:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream of a forgotten node stays open")
	}
}

func TestAWatcherSeesTheStateThenEveryChange(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	o.apply(t, mesh()...)
	stream, err := o.resources.Watch(t.Context(), &adminv1.WatchRequest{Kind: "Cluster"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() (adminv1.WatchResponse_Event, string) {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m.GetEvent(), m.GetResource().GetName()
	}
	for range 2 {
		if e, _ := next(); e != adminv1.WatchResponse_EVENT_UPSERT {
			t.Fatalf("event %v", e)
		}
	}
	if e, _ := next(); e != adminv1.WatchResponse_EVENT_SYNCED {
		t.Fatalf("event %v, want synced", e)
	}
	o.apply(t, cluster("new", "10.0.0.3:80"))
	if e, name := next(); e != adminv1.WatchResponse_EVENT_UPSERT || name != "new" {
		t.Fatalf("event %v of %s", e, name)
	}
	if _, err := o.resources.Undo(t.Context(), &adminv1.UndoRequest{AllowLargeChange: true}); err != nil {
		t.Fatal(err)
	}
	if e, name := next(); e != adminv1.WatchResponse_EVENT_DELETE || name != "new" {
		t.Fatalf("event %v of %s", e, name)
	}
}
