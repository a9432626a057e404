package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// genesisTime bounds the writing of the first entry, which the end of ctx does not
// interrupt: whoever made the domain must know whether it is there.
const genesisTime = 10 * time.Second

// First reads a log's first entry; nil when it has none, or when that was trimmed or is
// of another kind.
func First(ctx context.Context, l *store.Log) (*logv1.DomainCreated, error) {
	entries, err := l.Read(ctx, 0, 1)
	switch {
	case errors.Is(err, fault.CodeTrimmed), err == nil && len(entries) == 0:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the log's first entry: %w", err)
	case entries[0].GetKind() != state.KindDomainCreated:
		return nil, nil
	}
	first := new(logv1.DomainCreated)
	if err := proto.Unmarshal(entries[0].GetPayload(), first); err != nil {
		return nil, fault.New(fault.CodeBadEntry, "the log's first entry: %w", err)
	}
	return first, nil
}

// Genesis writes a domain's first entry into an empty log. It refuses a log that
// has one.
func Genesis(ctx context.Context, l *store.Log, holder store.Holder, author string, now time.Time, first *logv1.DomainCreated) error {
	used := func(entries uint64) error {
		return fault.New(fault.CodeInitNotEmpty, "the log of domain %s has %d entries already", first.GetDomain(), entries).
			WithRemedy("Add a hub to that domain with `meshhub join`, or give another --domain or --store.")
	}
	// Before campaigning: its leader may hold the lease for long.
	head, err := l.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the new log: %w", err)
	}
	if head.Seq > 0 {
		return used(head.Seq)
	}
	tenure, err := l.Campaign(ctx, holder)
	if err != nil {
		return fmt.Errorf("campaign for the lease of the new log: %w", err)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(first)
	if err != nil {
		return fmt.Errorf("encode the first entry: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), genesisTime)
	defer cancel()
	_, err = tenure.Submit(ctx, func(next store.Position) (store.Draft, error) {
		if next.Seq != 1 {
			return store.Draft{}, used(next.Seq - 1)
		}
		return store.Draft{Kind: state.KindDomainCreated, Author: author, Time: now, Payload: payload}, nil
	})
	if rerr := tenure.Resign(ctx); err == nil {
		err = rerr
	}
	return err
}
