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
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
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
	// Another node takes the name: none of those certificates counts any more.
	d.CASkew.Store(int64(time.Minute))
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a"}), "node-a")
	_, err := renew(t, h, "node-a", source)
	wantCode(t, err, fault.CodeNodeForgotten)
}

func TestAnotherNodeUnderTheNameEndsTheStreamOfTheFirst(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", map[string]string{"region": "eu"})
	a.await(1)
	h.Domain.CASkew.Store(int64(2 * time.Second)) // certificates count in seconds
	o.apply(t, scopedCluster("c", "eu", "10.0.0.1:80"))
	h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{Node: "node-a", Labels: map[string]string{"region": "us"}}), "node-a")
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
