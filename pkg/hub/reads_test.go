package hub_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Without its store a hub answers reads with what it has and says that this may be
// old, unless the caller asks for what only the store can tell.
func TestReadsWithoutAStoreAreAnsweredAsAskedFor(t *testing.T) {
	d := hubtest.NewDomain(t)
	var gone, hangs atomic.Bool
	d.Wrap = func(driver store.Driver) store.Driver {
		return &storetest.Faults{Driver: driver, OnRead: func(ctx context.Context, _ uint64, _ int, next func() (store.Page, error)) (store.Page, error) {
			if hangs.Load() {
				<-ctx.Done()
				return store.Page{}, context.Cause(ctx)
			}
			if gone.Load() {
				return store.Page{}, fault.New(fault.CodeStoreUnavailable, "no cluster leader")
			}
			return next()
		}}
	}
	list := adminv1.NewResourceServiceClient(d.Start(t).Operator(t))
	read := func(consistency string) (stale string, err error) {
		var header metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ConsistencyHeader, consistency)
		_, err = list.List(ctx, &adminv1.ListRequest{}, grpc.Header(&header))
		return strings.Join(header.Get(wire.StaleHeader), ""), err
	}
	for _, c := range wire.Consistencies {
		if stale, err := read(c); err != nil || stale != "" {
			t.Errorf("%s, with a store: %v, stale %q", c, err, stale)
		}
	}
	gone.Store(true)
	if stale, err := read("default"); err != nil || !strings.Contains(stale, "no cluster leader") {
		t.Errorf("default, without a store: %v, stale %q", err, stale)
	}
	if stale, err := read("stale"); err != nil || stale != "" {
		t.Errorf("stale, without a store: %v, stale %q", err, stale)
	}
	if _, err := read("linearizable"); fault.CodeOf(wire.FromStatus(err)) != fault.CodeReadOnly {
		t.Errorf("linearizable, without a store: %v, want %s", err, fault.CodeReadOnly)
	}
	if _, err := read("newest"); fault.CodeOf(wire.FromStatus(err)) != fault.CodeBadRequest {
		t.Errorf("a consistency that does not exist: %v, want %s", err, fault.CodeBadRequest)
	}
	gone.Store(false)
	hangs.Store(true)
	defer hangs.Store(false)
	if stale, err := read("default"); err != nil || !strings.Contains(stale, "did not answer within 1s") {
		t.Errorf("default, with a store that hangs: %v, stale %q", err, stale)
	}
	began := time.Now()
	if _, err := read("linearizable"); fault.CodeOf(wire.FromStatus(err)) != fault.CodeReadOnly || !strings.Contains(err.Error(), "did not answer within 3s") || time.Since(began) > 10*time.Second {
		t.Errorf("linearizable, with a store that hangs: %v after %v", err, time.Since(began))
	}
}
