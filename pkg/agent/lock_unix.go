//go:build unix

package agent

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/meshkit/meshkit/pkg/fault"
)

// LockDirectory keeps two processes from using one data directory. The error has
// fault.CodeAgentDirectoryInUse when another one does. The kernel drops
// the lock when the process ends, however it ends.
func LockDirectory(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if os.IsNotExist(err) {
		return nil, fault.New(fault.CodeNotJoined, "there is no directory %s", dir)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "open lock of %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.CodeAgentDirectoryInUse, "%s is in use by another process", dir)
	}
	return func() { _ = f.Close() }, nil
}
