package client

import (
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/resolver"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Addresses reads the addresses of hubs, host:port each, separated by commas. One that
// is named twice is tried once.
func Addresses(hub string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(hub, ",") {
		addr := strings.TrimSpace(part)
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			if strings.Contains(hub, ",") {
				return nil, fault.New(fault.CodeConfig, "hub address %q, of %q, is not host:port", addr, hub)
			}
			return nil, fault.New(fault.CodeConfig, "hub address %q is not host:port", addr)
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out, nil
}

// hubScheme is that of gRPC targets that hubResolver resolves.
const hubScheme = "meshkit-hubs"

// hubResolver gives gRPC the addresses as they are, of which its policy pick_first takes
// the first that answers. Names are looked up when one is dialled, so that a name that
// does not resolve is an address that fails, with the lookup's own error.
type hubResolver []string

// Build implements resolver.Builder.
func (r hubResolver) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	var state resolver.State
	for _, addr := range r {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}})
	}
	return r, cc.UpdateState(state)
}

// Scheme implements resolver.Builder.
func (hubResolver) Scheme() string { return hubScheme }

// ResolveNow implements resolver.Resolver.
func (hubResolver) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements resolver.Resolver.
func (hubResolver) Close() {}

// named is how messages speak of the hubs that a client may talk to.
func named(hub string) string {
	if strings.Contains(hub, ",") {
		return "hubs " + hub
	}
	return "hub " + hub
}

// unresolved finds the name that could not be looked up, and why, in the reason for
// which a connection did not come about.
func unresolved(reason string) (name, why string, ok bool) {
	_, after, ok := strings.Cut(reason, "lookup ")
	if !ok {
		return "", "", false
	}
	name, _, _ = strings.Cut(after, " ") // " on SERVER" may follow
	return strings.TrimSuffix(name, ":"), after[strings.LastIndex(after, ": ")+2:], true
}

// unreachable is the error of a call for which no connection came about.
func unreachable(hub, reason string) error {
	name, why, unknown := unresolved(reason)
	if unknown {
		reason = "the name " + name + " cannot be resolved: " + why
	}
	if strings.Contains(hub, ",") {
		return fault.New(fault.CodeUnreachable, "none of the %s can be reached; the last that was tried: %s", named(hub), reason)
	}
	err := fault.New(fault.CodeUnreachable, "%s: %s", named(hub), reason)
	if unknown {
		return err.WithRemedy("Check the name (`meshctl context show`), and how this machine resolves names.")
	}
	return err.WithRemedy("%s If the domain has other hubs, name them too: --hub %s,HOST:PORT; `meshctl context sync` takes them into the context.", fault.RemedyOf(err), hub)
}
