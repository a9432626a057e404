package join_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"testing"

	"github.com/meshkit/meshkit/pkg/hub/join"
)

func TestHostNamesNameTheMachineTheDomainAndTheHosts(t *testing.T) {
	for _, c := range []struct {
		addresses []string
		want      string
	}{
		{nil, "[localhost eu-west] [127.0.0.1]"},
		{[]string{"0.0.0.0:8443", "Hub1.example:8443"}, "[localhost eu-west hub1.example] [127.0.0.1]"},
		{[]string{"10.0.0.1:8443", "10.0.0.1:9443", "[fe80::1%eth0]:1", ":8443", "nonsense"}, "[localhost eu-west] [127.0.0.1 10.0.0.1 fe80::1]"},
		{[]string{"127.0.0.1:1", "localhost:1", "eu-west:1"}, "[localhost eu-west] [127.0.0.1]"},
	} {
		names, ips := join.HostNames("eu-west", c.addresses...)
		if got := fmt.Sprint(names, ips); got != c.want {
			t.Errorf("%q: %s, want %s", c.addresses, got, c.want)
		}
	}
}

func TestACertificateNamesTheHostOfAnAddress(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"localhost", "eu-west", "hub1.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1)}}
	for address, want := range map[string]bool{
		"HUB1.example:8443": true, "hub2.example:8443": false, "10.0.0.1:1": true, "10.0.0.2:1": false,
		"0.0.0.0:1": true, ":1": true, "localhost:1": true, "127.0.0.1:1": true,
	} {
		if got := join.Names(cert, address); got != want {
			t.Errorf("%s: %t, want %t", address, got, want)
		}
	}
}
