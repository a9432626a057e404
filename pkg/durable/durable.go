// Package durable writes files so that a crash at any moment leaves the old
// content or the new, never a mixture and never neither.
//
// The order that gives this, and what a crash after each step leaves:
//
//	remove PATH.tmp             old content (a left-over of an earlier crash goes)
//	create PATH.tmp             old content
//	write, fsync PATH.tmp       old content
//	rename PATH.tmp → PATH      old or new content: the directory is not yet safe
//	fsync of the directory      new content
//
// A left-over PATH.tmp is never read and goes with the next WriteFile.
//
// All functions go through an FS, so that tests can fail or crash between any
// two steps (package durabletest). FS values and functions are safe for
// concurrent use; two writers of one path at one time are not.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// TempSuffix ends the name of a file that is being written.
const TempSuffix = ".tmp"

// ErrTooLarge is what ReadFile wraps for a file beyond its limit.
var ErrTooLarge = errors.New("file too large")

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	io.Closer
	// Sync returns once the content is on stable storage. After an error the
	// content is unknown: do not write on, write a new file.
	Sync() error
}

// FS is the part of a file system that durable writing needs. Errors satisfy
// errors.Is for fs.ErrNotExist and fs.ErrExist.
type FS interface {
	// Open opens for reading.
	Open(path string) (File, error)
	// Create makes a new file for writing; it fails if the path exists.
	Create(path string, perm fs.FileMode) (File, error)
	// Rename replaces to by from, atomically for readers; it is durable only
	// after SyncDir.
	Rename(from, to string) error
	// Remove deletes a file or an empty directory; durable only after SyncDir.
	Remove(path string) error
	// Mkdir makes one directory; it fails if the path exists.
	Mkdir(path string, perm fs.FileMode) error
	// ReadDir lists a directory by name.
	ReadDir(path string) ([]fs.DirEntry, error)
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(path string) error
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) Open(path string) (File, error) { return os.Open(path) }

func (osFS) Create(path string, perm fs.FileMode) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}

func (osFS) Rename(from, to string) error               { return os.Rename(from, to) }
func (osFS) Remove(path string) error                   { return os.Remove(path) }
func (osFS) Mkdir(path string, perm fs.FileMode) error  { return os.Mkdir(path, perm) }
func (osFS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// SyncDir opens the directory and syncs it. File systems that cannot sync a
// directory (EINVAL) order metadata themselves.
func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// WriteFile replaces the content of path, in the order of the package comment.
// On an error the file has its old content, except after a failed sync of the
// directory: then it has the new one, which a power loss may take back.
func WriteFile(fsys FS, path string, data []byte, perm fs.FileMode) error {
	tmp := path + TempSuffix
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure("remove", tmp, err)
	}
	if err := writeNew(fsys, tmp, data, perm); err != nil {
		// Gives the space back; a left-over would do no harm.
		_ = fsys.Remove(tmp)
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		_ = fsys.Remove(tmp)
		return failure("rename", tmp, err)
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return failure("sync directory of", path, err)
	}
	return nil
}

func writeNew(fsys FS, path string, data []byte, perm fs.FileMode) error {
	f, err := fsys.Create(path, perm)
	if err != nil {
		return failure("create", path, err)
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return failure("write", path, err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return failure("sync", path, err)
	}
	if err := f.Close(); err != nil {
		return failure("close", path, err)
	}
	return nil
}

// ReadFile reads path whole; a file of more than limit bytes is an error, so
// that a damaged or planted file cannot take the memory. The error of a missing
// file satisfies errors.Is(err, fs.ErrNotExist).
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, failure("open", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, failure("read", path, err)
	}
	if int64(len(data)) > limit {
		return nil, failure("read", path, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit))
	}
	return data, nil
}

// Rename moves a file within one directory, durably.
func Rename(fsys FS, from, to string) error {
	if err := fsys.Rename(from, to); err != nil {
		return failure("rename", from, err)
	}
	if err := fsys.SyncDir(filepath.Dir(to)); err != nil {
		return failure("sync directory of", to, err)
	}
	return nil
}

// MkdirAll makes path and what is missing above it; each new name is durable
// before the next is made below it. Directories that exist keep their mode.
func MkdirAll(fsys FS, path string, perm fs.FileMode) error {
	if _, err := fsys.ReadDir(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(fsys, parent, perm); err != nil {
			return err
		}
	}
	if err := fsys.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return failure("make directory", path, err)
	}
	// Also when another process made it a moment ago: it may not have synced.
	if err := fsys.SyncDir(parent); err != nil {
		return failure("sync directory of", path, err)
	}
	return nil
}

// IsFull tells whether err means that the file system (or the process's or
// user's share of it) has no space left.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func failure(verb, path string, err error) error {
	// The path is said once: the system's errors name it as well.
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	} else if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}
