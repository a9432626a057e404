package join

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// HostNames are what the certificate of a hub of the domain names besides its SPIFFE ID,
// for clients that compare host names: this machine for itself, the domain, which tells
// a port that serves several of them which one is meant (SNI, RFC 6066 section 3), and the
// hosts of addresses at which the hub is reached.
func HostNames(domain string, addresses ...string) (names []string, ips []netip.Addr) {
	names, ips = []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	for _, address := range append([]string{net.JoinHostPort(domain, "0")}, addresses...) {
		host, _, err := net.SplitHostPort(address)
		host = strings.ToLower(host)
		ip, ipErr := netip.ParseAddr(host)
		ip = ip.WithZone("")
		switch {
		case err != nil || host == "" || ipErr == nil && ip.IsUnspecified():
		case ipErr != nil && !slices.Contains(names, host):
			names = append(names, host)
		case ipErr == nil && !slices.Contains(ips, ip):
			ips = append(ips, ip)
		}
	}
	return names, ips
}

// Names tells whether a hub's certificate names the host of an address at which the hub
// is reached. An address that is every one of the machine has none to name.
func Names(cert *x509.Certificate, address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case err != nil, host == "", strings.EqualFold(host, "localhost"), ipErr == nil && (ip.IsUnspecified() || ip == netip.MustParseAddr("127.0.0.1")):
		return true // every hub's does
	case ipErr == nil:
		return slices.Contains(Addresses(cert.IPAddresses), ip.WithZone("").Unmap())
	}
	return slices.Contains(cert.DNSNames, strings.ToLower(host))
}

// Addresses are those of a certificate, as a request for the next one names them.
func Addresses(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}
