package join

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
)

// Names tells whether a hub's certificate names the host of an address at which the hub
// is reached. An address that is every one of the machine has none to name.
func Names(cert *x509.Certificate, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if ip, ipErr := netip.ParseAddr(host); err != nil || host == "" || ipErr == nil && ip.IsUnspecified() {
		return true
	}
	names, ips := hostNames(address)
	missing := func(ip netip.Addr) bool { return !slices.Contains(Addresses(cert.IPAddresses), ip.Unmap()) }
	// The first of both is this machine's for itself, which every hub's has.
	return !slices.ContainsFunc(names[1:], func(name string) bool { return !slices.Contains(cert.DNSNames, name) }) && !slices.ContainsFunc(ips[1:], missing)
}
