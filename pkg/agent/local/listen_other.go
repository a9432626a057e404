//go:build !unix

package local

import "net"

// listenPrivate makes the socket where only the agent's user can reach it: in its
// data directory.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }
