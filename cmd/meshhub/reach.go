package main

import (
	"context"
	"errors"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// storeTime bounds how long a store may take to show a log.
const storeTime = 10 * time.Second

// reachLog checks that a domain's log is in the store of a URL, as this machine
// reaches it.
func reachLog(ctx context.Context, driver, url, domain string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	log, err := builtin.OpenLog(ctx, driver, domain, builtin.StoreOptions{URL: url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	end, err := log.End(ctx)
	if err != nil {
		return err
	}
	if end == 0 {
		return fault.New(fault.CodeStoreDomain, "store %s holds no log of domain %s", url, domain).
			WithRemedy("Give --store as the other hubs have it, in store.url of their meshhub.yaml; the address alone may differ.")
	}
	return nil
}
