package agent

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"

	"github.com/meshkit/meshkit/pkg/fault"
)

// LockDirectory keeps two processes from using one data directory. The error has
// fault.CodeAgentDirectoryInUse when another one does. The system drops
// the lock when the process ends, however it ends.
func LockDirectory(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if os.IsNotExist(err) {
		return nil, fault.New(fault.CodeNotJoined, "there is no directory %s", dir)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "open lock of %s: %w", dir, err)
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{}); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.CodeAgentDirectoryInUse, "%s is in use by another process", dir)
	}
	return func() { _ = f.Close() }, nil
}
