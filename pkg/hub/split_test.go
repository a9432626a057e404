package hub_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

// TestOfTwoLogsOnlyTheOneWithTheHigherTermIsWritten has hub1 come back on a copy of the
// store in a higher term, as after a restore, while hub2 goes on with the old one.
func TestOfTwoLogsOnlyTheOneWithTheHigherTermIsWritten(t *testing.T) {
	d := hubtest.NewDomain(t)
	hub1 := d.Start(t)
	comesAbout(t, "hub1 leads", hub1.Leads)
	hub2 := hub1.Follower(t, "hub2")
	address := hub1.Address
	if err := hub1.Stop(); err != nil {
		t.Fatal(err)
	}
	comesAbout(t, "hub2 leads", hub2.Leads)
	operate(t, hub2).apply(t, mesh()...)

	moved := memstore.New(memstore.Options{})
	moved.Restore(d.Store.Copy())
	open := func(ctx context.Context) (*store.Log, error) { return store.Open(ctx, moved.Driver(), store.Options{}) }
	l, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "restore", Above: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tenure.Resign(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
	hub1 = d.Start(t, func(opt *hub.Options) {
		opt.Listener.Close()
		if opt.Listener, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		opt.OpenLog = open
	})
	comesAbout(t, "hub1 leads on the other store", hub1.Leads)
	splits := func() bool {
		return slices.ContainsFunc(hub2.Problems(t.Context()), func(p observe.Problem) bool { return p.Code == fault.CodeRingSplit })
	}
	comesAbout(t, "hub2 says that the ring is split", splits)
	comesAbout(t, "hub2 gives up the lease", func() bool { return !hub2.Leads() })
	change := &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: [][]byte{cluster("late", "10.0.0.9:80")}}}
	if _, err := operate(t, hub2).resources.Apply(t.Context(), change); !errors.Is(err, fault.CodeRingSplit) {
		t.Errorf("a write on the old log gave %v", err)
	}
	operate(t, hub1).apply(t, cluster("late", "10.0.0.9:80"))
	if !hub1.Leads() {
		t.Error("hub1 gave up as well")
	}
}
