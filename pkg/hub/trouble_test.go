package hub_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// failing is a store whose appends fail while fail is set.
type failing struct {
	mu      sync.Mutex // guards both below
	fail    error
	applied bool // the write is done and then reported failed
}

func (f *failing) set(err error, applied bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.applied = err, applied
}

func (f *failing) wrap(d store.Driver) store.Driver { return &failingDriver{Driver: d, f: f} }

type failingDriver struct {
	store.Driver
	f *failing
}

func (d *failingDriver) Append(ctx context.Context, b store.Batch) error {
	d.f.mu.Lock()
	fail, applied := d.f.fail, d.f.applied
	d.f.mu.Unlock()
	if fail == nil {
		return d.Driver.Append(ctx, b)
	}
	if applied {
		if err := d.Driver.Append(ctx, b); err != nil {
			return err
		}
	}
	return fail
}

func readyz(t *testing.T, h *hubtest.Running) (int, string) {
	t.Helper()
	source := h.Domain.Source(t, identity.Operator, "admin")
	tr := &http.Transport{TLSClientConfig: mtls.ClientConfig(source, mtls.AnyHub)}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + h.Metrics + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits for a condition that only the passing of time shows.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s did not come about", what)
		}
	}
}

func TestAFullStoreMakesTheHubReadOnlyUntilSpaceReturns(t *testing.T) {
	d := hubtest.NewDomain(t)
	f := &failing{}
	d.Wrap = f.wrap
	h := d.Start(t)
	o := operate(t, h)
	o.apply(t, mesh()...)
	f.set(fault.New(fault.CodeStoreFull, "no space left on device"), false)
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{checkout(1, 99)}}})
	wantCode(t, err, fault.CodeStoreFull)
	if code, body := readyz(t, h); code != http.StatusServiceUnavailable || !strings.Contains(body, "no space left") || !strings.Contains(body, "df -h") {
		t.Errorf("/readyz says %d %s", code, body)
	}
	if got, err := o.resources.Get(t.Context(), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "Route", Name: "checkout"}}); err != nil || !strings.Contains(string(got.GetResource().GetContent()), `"weight":90`) {
		t.Errorf("read while read-only: %v (%v)", got, err)
	}
	f.set(nil, false)
	eventually(t, "readiness by itself", func() bool { code, _ := readyz(t, h); return code == http.StatusOK })
	o.apply(t, checkout(1, 99))
}

func TestAWriteThatWasAppliedButReportedFailedIsFoundAgain(t *testing.T) {
	d := hubtest.NewDomain(t)
	f := &failing{}
	d.Wrap = f.wrap
	o := operate(t, d.Start(t))
	o.apply(t, cluster("a", "10.0.0.1:80"))
	f.set(context.DeadlineExceeded, true) // no code: the outcome is unknown
	req := &adminv1.ApplyRequest{RequestId: "r", Change: &adminv1.Change{Resources: [][]byte{cluster("b", "10.0.0.1:80")}}}
	first, err := o.resources.Apply(t.Context(), req)
	if err != nil {
		t.Fatalf("the log holds the write, and the answer was %v", err)
	}
	f.set(nil, false)
	again, err := o.resources.Apply(t.Context(), req)
	if err != nil || !again.GetReplayed() || again.GetSeq() != first.GetSeq() {
		t.Errorf("the retry gave %v (%v), first was %d", again, err, first.GetSeq())
	}
}

func TestAFailedEngineIsOpenedAgain(t *testing.T) {
	d := hubtest.NewDomain(t)
	f := &failing{}
	d.Wrap = f.wrap
	h := d.Start(t)
	o := operate(t, h)
	o.apply(t, cluster("a", "10.0.0.1:80"))
	f.set(fault.New(fault.CodeStoreFailed, "input/output error"), false)
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{cluster("b", "10.0.0.1:80")}}})
	if err == nil {
		t.Fatal("a failed engine committed")
	}
	f.set(nil, false)
	eventually(t, "writing", func() bool {
		_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{cluster("c", "10.0.0.1:80")}}})
		return err == nil
	})
}

func TestAnEntryThatCannotBeAppliedFreezesTheHubAtTheLastGoodState(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	o.apply(t, mesh()...)
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	poison(t, d)
	h = d.Start(t, func(opt *hub.Options) { opt.Drain = 100 * time.Millisecond })
	o = operate(t, h)
	list, err := o.resources.List(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(list.GetResources()) != 3 {
		t.Errorf("%d resources of the last good state (%v), want 3", len(list.GetResources()), err)
	}
	_, err = o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{checkout(1, 99)}}})
	wantCode(t, err, fault.CodeReadOnly)
	if code, body := readyz(t, h); code != http.StatusServiceUnavailable || !strings.Contains(body, "log entry") || !strings.Contains(body, "restart hub hub1") || strings.Contains(body, "Writing resumes") {
		t.Errorf("/readyz says %d %s", code, body)
	}
}

// poison appends an entry that contradicts the state, with a good hash chain.
func poison(t *testing.T, d *hubtest.Domain) {
	t.Helper()
	l, err := store.Open(t.Context(), d.Store.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "evil"})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(&logv1.TokenRevoked{Id: "no-such-token"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenure.Submit(t.Context(), func(store.Position) (store.Draft, error) {
		return store.Draft{Kind: state.KindTokenRevoked, Author: "x", Time: time.Now(), Payload: payload}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestEntryTimesNeverGoBack(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t, func(opt *hub.Options) {
		opt.Replica.Now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	})
	o := operate(t, h)
	seq := o.apply(t, mesh()...).GetSeq()
	history, err := o.resources.History(t.Context(), &adminv1.HistoryRequest{})
	if err != nil || history.GetEntries()[0].GetSeq() != seq {
		t.Fatalf("history %v (%v)", history, err)
	}
	if at := history.GetEntries()[0].GetTime().AsTime(); time.Since(at) > time.Hour {
		t.Errorf("the entry is from %s, before the domain was made", at)
	}
}

func TestPlaintextAndOlderTLSGetNowhere(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	conn, err := tls.Dial("tcp", h.Address, &tls.Config{MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12, ServerName: "localhost"})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
	resp, err := http.Get("http://" + h.Address)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("plaintext was answered")
		}
	}
}

// TestALogThatWentBackIsToldAndReadsGoOn puts the store back under a hub.
func TestALogThatWentBackIsToldAndReadsGoOn(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	o.apply(t, cluster("kept", "10.0.0.1:80"))
	backup := d.Store.Copy()
	o.apply(t, cluster("lost", "10.0.0.2:80"))
	newest := d.Store.Copy()
	d.Store.Restore(backup)
	eventually(t, "the alarm", func() bool {
		code, body := readyz(t, h)
		return code == http.StatusServiceUnavailable && strings.Contains(body, "went back") && strings.Contains(body, "meshhub store accept")
	})
	_, err := o.resources.Apply(t.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{cluster("more", "10.0.0.3:80")}}})
	wantCode(t, err, fault.CodeReadOnly)
	if _, err := o.resources.Get(t.Context(), &adminv1.GetRequest{Key: &adminv1.Key{Kind: "Cluster", Namespace: "default", Name: "lost"}}); err != nil {
		t.Errorf("what was served before is not any more: %v", err)
	}
	hubs, err := adminv1.NewFleetServiceClient(h.Operator(t)).ListHubs(t.Context(), &adminv1.ListHubsRequest{})
	if st := h.Status(); st.GetLeader() != "" || !strings.Contains(st.GetProblem(), "went back") {
		t.Errorf("status: led by %q, problem %q", st.GetLeader(), st.GetProblem())
	}
	if err != nil || !strings.Contains(hubs.GetHubs()[0].GetProblem(), "went back") {
		t.Errorf("get hubs says %v, %v", hubs, err)
	}
	d.Store.Restore(newest)
	eventually(t, "readiness by itself", func() bool { code, _ := readyz(t, h); return code == http.StatusOK })
	o.apply(t, cluster("more", "10.0.0.3:80"))
}
