package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// lookupTime bounds how long a join waits for the addresses of a name.
const lookupTime = 2 * time.Second

// apart refuses an address for the new hub that is the one of the hub that is asked: the
// token would be spent for a hub that cannot start, or that nobody reaches. A domain
// beside the hub's own shares its port.
func (o *joinOptions) apart(ctx context.Context) error {
	if o.own != "" {
		return nil
	}
	name, port := endpoint(o.hub)
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	theirs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", name) // whoever does not resolve is not reached either
	for _, mine := range []struct{ flag, addr string }{{"listen", o.listen}, {"advertise", o.advertise}} {
		host, p := endpoint(mine.addr)
		if p != port || !strings.EqualFold(host, name) && !slices.ContainsFunc(theirs, func(ip netip.Addr) bool { return covers(host, ip.Unmap()) }) {
			continue
		}
		return cliutil.Usagef("--%s %s is where the hub answers that --hub %s asks: another hub cannot have that address", mine.flag, mine.addr, o.hub).
			WithRemedy("Give the new hub an address of its own, or on the same machine a port of its own: --listen HOST:PORT.")
	}
	return nil
}

// endpoint splits an address that is valid; the port is a number.
func endpoint(addr string) (host string, port int) {
	host, service, _ := net.SplitHostPort(addr)
	port, _ = net.LookupPort("tcp", service)
	return host, port
}

// covers tells whether who listens at host, an address of this machine or all of them,
// listens at ip. Other names are not looked up: they may get their addresses later.
func covers(host string, ip netip.Addr) bool {
	own, err := netip.ParseAddr(host)
	switch {
	case strings.EqualFold(host, "localhost"):
		return ip.IsLoopback()
	case host != "" && err != nil:
		return false
	case host != "" && !own.IsUnspecified():
		return own.Unmap().WithZone("") == ip.WithZone("")
	}
	here, _ := net.InterfaceAddrs()
	return ip.IsLoopback() || slices.ContainsFunc(here, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == ip.WithZone("")
	})
}
