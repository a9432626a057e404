package hub_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/view"
)

func TestATokenIsShownAgainToARetryThatRunsBesideTheFirstCall(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	tokens := make([]string, 16)
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() {
			resp, err := o.fleet.CreateToken(t.Context(), &adminv1.CreateTokenRequest{RequestId: "one"})
			if err != nil {
				t.Error(err)
			}
			tokens[i] = resp.GetToken()
		})
	}
	wg.Wait()
	for _, token := range tokens {
		if token != tokens[0] {
			t.Fatal("one request gave two tokens")
		}
	}
	h.Join(t, tokens[0], "node-a") // and it is the one that the log knows
}

func TestAReplayedUndoNamesWhatTheFirstOneUndid(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	o.apply(t, cluster("a", "10.0.0.1:80"))
	target := o.apply(t, cluster("a", "10.0.0.2:80")).GetSeq()
	answers := make([]*adminv1.UndoResponse, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = o.resources.Undo(t.Context(), &adminv1.UndoRequest{RequestId: "undo-once"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a.GetUndid() != target || a.GetResult().GetSeq() != target+1 {
			t.Errorf("undid %d in %d, want %d in %d", a.GetUndid(), a.GetResult().GetSeq(), target, target+1)
		}
	}
}

func TestAFindingAboutTheWholeChangeNamesNoItem(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	change := &adminv1.Change{}
	var docs [][]byte
	for i := range 10 {
		docs = append(docs, cluster(fmt.Sprint("c", i), "10.0.0.1:80"))
		if i < 5 {
			change.Deletes = append(change.Deletes, &adminv1.Key{Kind: "Cluster", Name: fmt.Sprint("c", i)})
		}
	}
	o.apply(t, docs...)
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change})
	wantCode(t, err, fault.CodeLargeRemoval)
	if strings.Contains(err.Error(), "item") || strings.Contains(err.Error(), "-1") {
		t.Errorf("%v", err)
	}
	change.AllowLargeChange = true
	dry, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: change, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range dry.GetPlan().GetFindings() {
		if strings.Contains(f.GetRemedy(), "--allow-large-change") {
			t.Errorf("a warning advises what was given: %v", f)
		}
	}
	if len(dry.GetPlan().GetFindings()) == 0 {
		t.Error("the removal is not even a warning")
	}
}

func TestAChangeThatNeedsMoreViewsThanAllowedIsRefused(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	o.apply(t, []byte(`{"apiVersion":"meshkit.dev/v1","kind":"DomainSettings","metadata":{"name":"domain"},"spec":{"limits":{"maxViews":2}}}`))
	for i := range 3 {
		h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Labels: map[string]string{"region": fmt.Sprint("r", i)}}), fmt.Sprint("node-", i))
	}
	a := (&agentHost{h}).start(t, "node-a", map[string]string{"region": "r0"})
	a.await(1)
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{scopedCluster("c", "r0", "10.0.0.1:80")}}})
	wantCode(t, err, fault.CodeViewLimit)
	if !strings.Contains(err.Error(), "region") || !strings.Contains(err.Error(), "3 views") {
		t.Errorf("%v tells neither the label nor the number", err)
	}
	a.await(o.apply(t, cluster("c", "10.0.0.1:80")).GetSeq())
}

// renew gives a node its next certificate.
func renew(t *testing.T, h *hubtest.Running, node string, source *mtls.Source) (*mtls.Source, error) {
	t.Helper()
	key := hubtest.Key(t)
	conn := h.Dial(t, source)
	resp, err := identityv1.NewIdentityServiceClient(conn).Renew(t.Context(), &identityv1.RenewRequest{Csr: hubtest.CSR(t, key, node)})
	if err != nil {
		return nil, err
	}
	next, err := mtls.NewSource(tls.Certificate{Certificate: resp.GetCertificateChain(), PrivateKey: key}, resp.GetCaBundle())
	if err != nil {
		t.Fatal(err)
	}
	return next, nil
}

// Once a clock that was ahead is set right, the certificates that a node renews
// begin before it joined.
func TestANodeThatJoinedUnderAFastClockGoesOnRenewing(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	d.CASkew.Store(int64(4 * time.Minute))
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	d.CASkew.Store(0)
	for i := range 2 {
		next, err := renew(t, h, "node-a", source)
		if err != nil {
			t.Fatalf("renewal %d: %v", i+1, err)
		}
		source = next
	}
	// Another node takes the name, whose certificate begins earlier: none of the
	// others counts any more.
	d.CASkew.Store(-int64(time.Minute))
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a"}), "node-a")
	_, err := renew(t, h, "node-a", source)
	wantCode(t, err, fault.CodeNodeForgotten)
}

// Two certificates of one second, as when a node is forgotten and another joins at
// once.
func TestAForgottenNodesCertificateIsNotTheNextOnes(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	first, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}); err != nil {
		t.Fatal(err)
	}
	second, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	_, err := renew(t, h, "node-a", first)
	wantCode(t, err, fault.CodeNodeForgotten)
	if _, err := renew(t, h, "node-a", second); err != nil {
		t.Errorf("the member cannot renew: %v", err)
	}
}

// An answer to a renewal can be lost any number of times: the certificate that the
// node holds goes on being its own.
func TestLostAnswersToRenewalsDoNotShutANodeOut(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	held, err := renew(t, h, "node-a", source)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * state.MaxAccepted {
		h.Domain.CASkew.Add(int64(time.Second)) // so that serials and times differ
		if _, err := renew(t, h, "node-a", held); fault.CodeOf(err) == fault.CodeRateLimited {
			break // the pace of renewals is bounded as well
		} else if err != nil {
			t.Fatalf("renewal %d: %v", i, err)
		}
	}
	(&agentHost{h}).connect(t, "node-a", held).await(1)
}

// A node that was forgotten repeats the request that it joined with, after another
// has joined under the name with the same token.
func TestARepeatedJoinIsOfTheMemberThatItMade(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	token := h.Token(t, &adminv1.CreateTokenRequest{Uses: 3})
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	req := &identityv1.JoinRequest{Token: token, Node: "node-a", Csr: hubtest.CSR(t, hubtest.Key(t), "node-a"), RequestId: "first"}
	for range 2 { // an answer that was lost is given again
		if _, err := client.Join(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.fleet.ForgetAgent(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}); err != nil {
		t.Fatal(err)
	}
	_, err := client.Join(t.Context(), req)
	wantCode(t, err, fault.CodeNodeForgotten)
	h.Join(t, token, "node-a") // another machine
	_, err = client.Join(t.Context(), req)
	wantCode(t, err, fault.CodeNodeForgotten)
}

// A token that was revoked gives nobody a certificate, also not to who used it.
func TestARevokedTokenRepeatsNoJoin(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	token := h.Token(t, &adminv1.CreateTokenRequest{Uses: 3})
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	req := &identityv1.JoinRequest{Token: token, Node: "node-a", Csr: hubtest.CSR(t, hubtest.Key(t), "node-a"), RequestId: "first"}
	if _, err := client.Join(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(token, ".")
	if _, err := o.fleet.RevokeToken(t.Context(), &adminv1.RevokeTokenRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	_, err := client.Join(t.Context(), req)
	wantCode(t, err, fault.CodeTokenRevoked)
}

// Guessing tokens is slowed down; it does not keep out who has one and comes from
// the same address.
func TestGuessingTokensKeepsNobodyOut(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	client := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	csr := hubtest.CSR(t, hubtest.Key(t), "node-a")
	var err error
	for range 30 {
		if _, err = client.Join(t.Context(), &identityv1.JoinRequest{Token: "aaaaaaaa.guess", Node: "node-a", Csr: csr}); fault.CodeOf(err) != fault.CodeTokenInvalid {
			break
		}
	}
	wantCode(t, err, fault.CodeRateLimited)
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
}

// A node opens its stream, and says hello only after another has joined under its
// name.
func TestALateHelloIsNotTakenForTheNextNodes(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node-a")
	conn := h.Dial(t, source)
	stream, err := controlv1.NewControlServiceClient(conn).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// On the same connection and answered after the log was written: the guard has
	// let the stream in by then.
	if _, err := identityv1.NewIdentityServiceClient(conn).Renew(t.Context(), &identityv1.RenewRequest{Csr: hubtest.CSR(t, hubtest.Key(t), "node-a")}); err != nil {
		t.Fatal(err)
	}
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a"}), "node-a")
	if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "node-a", Protocols: []string{"v1"}, Capabilities: view.Known()}}}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var m *controlv1.StreamResponse
		if m, err = stream.Recv(); m.GetUpdate() != nil {
			t.Fatal("the node that was replaced is sent the content of the one that has its name")
		}
	}
	wantCode(t, err, fault.CodeNodeForgotten)
}

func TestAnotherNodeUnderTheNameEndsTheStreamOfTheFirst(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	a := (&agentHost{h}).start(t, "node-a", map[string]string{"region": "eu"})
	a.await(1)
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a", Labels: map[string]string{"region": "eu"}}), "node-a")
	select {
	case <-a.lost:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream of the node that was replaced stays open")
	}
}

// A connection that never finishes its handshake must not hold up the end.
func TestStoppingDoesNotWaitForHalfOpenConnections(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t, func(opt *hub.Options) { opt.Drain = 100 * time.Millisecond })
	for range 20 {
		conn, err := net.Dial("tcp", h.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	operate(t, h).apply(t, cluster("a", "10.0.0.1:80")) // all are accepted by now
	begin := time.Now()
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopping took %s", took)
	}
}
