package agent

import (
	"errors"
	"io/fs"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// LockDirectory keeps two processes from using one data directory. The error has
// fault.CodeAgentDirectoryInUse when another one does.
func LockDirectory(dir string) (unlock func(), err error) {
	unlock, err = durable.LockDir(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, fault.New(fault.CodeAgentDirectoryInUse, "%s is in use by another process", dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.CodeNotJoined, "there is no directory %s", dir)
	case err != nil:
		return nil, fault.New(fault.CodeIO, "%w", err)
	}
	return unlock, nil
}
