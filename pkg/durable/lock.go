package durable

import (
	"errors"
	"fmt"
)

// ErrLocked says that another process holds the lock of a directory.
var ErrLocked = errors.New("in use by another process")

// LockDir keeps two processes from using one directory: ErrLocked when another one
// does, fs.ErrNotExist without the directory. The lock is on the file "lock" in it, and
// the system drops it when the process ends, however it ends.
func LockDir(dir string) (unlock func(), err error) {
	unlock, err = lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return unlock, nil
}
