//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package bolt

import (
	"os"
	"time"
)

// lock leaves locking to bbolt, whose lock is not ours here: the check of the
// file may then see a change that another process is making, and refuse it.
func lock(*os.File, time.Duration) error { return nil }

func unlock(*os.File) error { return nil }
