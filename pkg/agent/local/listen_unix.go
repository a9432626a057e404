//go:build unix

package local

import (
	"net"
	"os"
	"path/filepath"
)

// listenPrivate makes a socket that never has a mode wider than 0600: it is made in
// a directory that only the agent's user can enter, and moved from there.
func listenPrivate(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(made, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	if err := os.Rename(made, path); err != nil {
		_ = l.Close()
		return nil, err
	}
	return &socket{UnixListener: l, path: path}, nil
}

// socket removes its file when it is closed.
type socket struct {
	*net.UnixListener
	path string
}

// Close closes the listener and removes the socket.
func (s *socket) Close() error {
	_ = os.Remove(s.path) // a left-over is replaced at the next start
	return s.UnixListener.Close()
}
