package replica

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// Genesis writes a domain's first entry into an empty log. CodeInitNotEmpty: it has one.
// CodeStoreRemains: it is that of a domain which was lost or removed while a hub ran.
// begun tells after another error whether the entry may be in the log nevertheless.
func Genesis(ctx context.Context, l *store.Log, holder store.Holder, author string, now time.Time, first *logv1.DomainCreated) (begun bool, err error) {
	used := func(entries uint64) error {
		return fault.New(fault.CodeInitNotEmpty, "the log of domain %s has %d entries already", first.GetDomain(), entries).
			WithRemedy("Add a hub to that domain with `meshhub join`, or give another --domain or --store.")
	}
	// Before campaigning: its leader may hold the lease for long.
	head, err := l.Head(ctx)
	if err != nil {
		return false, fmt.Errorf("read the new log: %w", err)
	}
	if head.Seq > 0 {
		return false, used(head.Seq)
	}
	if err := l.Unused(ctx); err != nil {
		return false, err
	}
	tenure, err := l.Campaign(ctx, holder)
	if err != nil {
		return false, fmt.Errorf("campaign for the lease of the new log: %w", err)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(first)
	if err != nil {
		return false, fmt.Errorf("encode the first entry: %w", err)
	}
	_, err = tenure.Submit(ctx, func(next store.Position) (store.Draft, error) {
		if next.Seq != 1 {
			return store.Draft{}, used(next.Seq - 1)
		}
		return store.Draft{Kind: state.KindDomainCreated, Author: author, Time: now, Payload: payload}, nil
	})
	if rerr := tenure.Resign(ctx); err == nil {
		err = rerr
	}
	return true, err
}
