package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// usable tells why the file cannot be used, if so. The caller holds mu.
func (f *File) usable() error {
	if f.failed != nil {
		return f.failed
	}
	if f.done {
		return fault.New(fault.CodeStoreClosed, "store %s is closed", f.path)
	}
	return nil
}

// fail makes the file unusable until it is opened again.
func (f *File) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failLocked(err)
}

func (f *File) failLocked(err error) {
	if f.failed == nil {
		f.failed = err
	}
}

func (f *File) view(doing string, fn func(*bbolt.Tx) error) error {
	f.mu.Lock()
	err := f.usable()
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.judge(f.fail, doing, f.read(doing, fn))
}

// viewLocked is view for a caller that holds mu.
func (f *File) viewLocked(doing string, fn func(*bbolt.Tx) error) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.judge(f.failLocked, doing, f.read(doing, fn))
}

func (f *File) read(doing string, fn func(*bbolt.Tx) error) error {
	return f.guard(doing, func() error { return f.db.View(fn) })
}

// update runs fn in a transaction that is durable when update returns nil.
func (f *File) update(doing string, fn func(*bbolt.Tx) error) error {
	f.mu.Lock()
	err := f.usable()
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.judge(f.fail, doing, f.write(doing, fn))
}

// updateLocked is update for a caller that holds mu.
func (f *File) updateLocked(doing string, fn func(*bbolt.Tx) error) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.judge(f.failLocked, doing, f.write(doing, fn))
}

func (f *File) write(doing string, fn func(*bbolt.Tx) error) error {
	if err := f.inPlace(doing); err != nil {
		return err
	}
	return f.guard(doing, func() error { return f.db.Update(fn) })
}

// inPlace tells whether the file that is open is still the one of that name. What is
// written to a file without a name is gone when the process ends.
func (f *File) inPlace(doing string) error {
	now, err := os.Stat(f.path)
	if err == nil && os.SameFile(now, f.info) {
		return nil
	}
	return fault.New(fault.CodeStoreUnavailable, "%s: the store's file %s was removed or replaced while it is in use", doing, f.path).
		WithRemedy("The process still holds the file: copy it before it ends (on Linux `cp /proc/%d/fd/%d %s.saved`), then stop it and put the copy in place.", os.Getpid(), f.fd.Fd(), f.path)
}

// judge gives an error its code, and makes the file unusable after one that
// leaves its state in doubt.
//
// bbolt commits in this order: grow the file, write pages, fsync, write the meta
// page, fsync. A write that finds no space is before the meta page is changed
// (that one lies in space which exists), so nothing was done. After a failed
// fsync the meta page may or may not be on the device, and the kernel may drop
// the dirty page and say next time that all is well: only a new start tells.
func (f *File) judge(fail func(error), doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fault.CodeCorrupt):
		fail(err)
		return err
	case fault.CodeOf(err) != "":
		return err
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fault.New(fault.CodeStoreClosed, "%s: store %s is closed", doing, f.path)
	case noSpace(err):
		return fault.New(fault.CodeStoreFull, "%s: no space for store %s: %w", doing, f.path, err)
	}
	err = fault.New(fault.CodeStoreFailed, "%s: store %s could not make a write durable: %w", doing, f.path, err)
	fail(err)
	return err
}

// noSpace tells whether a write, or the growing of the file, found no space.
// bbolt gives the error of an fsync bare, so those do not match; that of growing
// it gives as text.
func noSpace(err error) bool {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Op == "write" && durable.IsFull(err)
	}
	text := err.Error()
	if !strings.HasPrefix(text, "file resize error") {
		return false
	}
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if strings.HasSuffix(text, e.Error()) {
			return true
		}
	}
	return false
}

// fileError gives an error of opening a file its code.
func fileError(path, doing string, err error) error {
	switch {
	case fault.CodeOf(err) != "":
		return err
	case errors.Is(err, berrors.ErrTimeout):
		return fault.New(fault.CodeStoreLocked, "%s %s: another process holds the file", doing, path).
			WithRemedy("Stop the other process (`fuser %s` shows it) or use another data directory.", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum),
		strings.HasPrefix(err.Error(), "file size too small"):
		return fault.New(fault.CodeCorrupt, "store %s is damaged: %w", path, err)
	case durable.IsFull(err):
		return fault.New(fault.CodeStoreFull, "%s %s: no space: %w", doing, path, err)
	}
	return fault.New(fault.CodeIO, "%s: %w", doing, pathed(path, err))
}

// pathed names the file where the system's error does not.
func pathed(path string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}
