package local

import (
	"net"
	"net/netip"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// ListenRemedy is what to do about an address that CheckListen refuses.
const ListenRemedy = "write 127.0.0.1:PORT, [::1]:PORT or localhost:PORT, or leave it empty and use the Unix socket; processes on other machines stream from an agent of their own"

// CheckListen refuses an address for the mutual TLS port that is not a loopback one
// (fault.CodeConfig).
func CheckListen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fault.New(fault.CodeConfig, "%w", err).WithRemedy("%s", ListenRemedy)
	}
	if strings.EqualFold(host, "localhost") {
		return nil // what it stands for is checked when it is listened on
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.Unmap().IsLoopback() {
		return notLoopback(addr)
	}
	return nil
}

func notLoopback(addr string) error {
	return fault.New(fault.CodeConfig, "%q is not a loopback address: the port serves the node's whole view, which is for processes of this node only", addr).WithRemedy("%s", ListenRemedy)
}

func listenLoopback(addr string) (net.Listener, error) {
	if err := CheckListen(addr); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "listen on %s: %w", addr, err)
	}
	// A hosts file may say anything about localhost.
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = l.Close()
		return nil, notLoopback(addr)
	}
	return l, nil
}
