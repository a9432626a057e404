package demo

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Ports that freeAddress gives: below those that systems give to connections that go
// out, any of which could take one before it is used.
const (
	lowestPort  = 10_000
	highestPort = 30_000
	portTries   = 1000
)

var handedOut sync.Map // ports that this process was given

// freeAddress finds a port on loopback that nobody uses now, for TCP and UDP, and that
// it has not given before. Another program could take it before it is used: who was to
// use it then says so.
func freeAddress() (string, error) {
	var last error
	for range portTries {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if _, given := handedOut.LoadOrStore(port, true); given {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if last = free(address); last == nil {
			return address, nil
		}
	}
	return "", fault.New(fault.CodeDemoProcess, "find a free port: %w", last)
}

func free(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	return u.Close()
}
