// Package durabletest is a file system in memory that forgets what was not made
// durable, and fails when told to: for tests of what must survive a crash.
//
//	fs := durabletest.New()
//	fs.CrashAfter(5)                 // the sixth operation and all later ones fail
//	err := store(fs)                 // errors.Is(err, durabletest.ErrCrashed)
//	after := fs.PowerLoss(seed)      // what the disk may hold then
//
// It models what POSIX leaves open: without a sync of the file, any part of what
// was written may be missing or replaced by zeros; without a sync of the
// directory, each creation, rename and removal may or may not be there, in any
// combination that keeps one file for each name. FS is safe for concurrent use.
package durabletest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meshkit/meshkit/pkg/durable"
)

// ErrCrashed is the error of every operation after the crash.
var ErrCrashed = errors.New("the machine has crashed")

// FS implements durable.FS.
type FS struct {
	mu sync.Mutex // guards all below, and the nodes
	// now is what the running system sees, by path.
	now map[string]*node
	// safe is, by directory, what its last sync made durable, by path.
	safe map[string]map[string]*node
	ops  int
	// crashAt is the number of operations after which all fail; -1 for never.
	crashAt int
	failAt  int
	failErr error
	applied bool
	// capacity in bytes of all files; -1 for no bound.
	capacity int
}

// node is a file or a directory. Its content outlives its names.
type node struct {
	dir    bool
	perm   fs.FileMode
	data   []byte
	synced []byte // of a file: what its last sync made durable
}

// New makes an empty file system: "/" and "." exist.
func New() *FS {
	root := map[string]*node{"/": {dir: true, perm: 0o755}, ".": {dir: true, perm: 0o755}}
	return &FS{now: root, safe: make(map[string]map[string]*node), crashAt: -1, failAt: -1, capacity: -1}
}

// Ops gives the number of operations so far; reading counts as well.
func (f *FS) Ops() int { f.mu.Lock(); defer f.mu.Unlock(); return f.ops }

// CrashAfter lets n more operations happen; all later ones fail with ErrCrashed.
func (f *FS) CrashAfter(n int) { f.mu.Lock(); defer f.mu.Unlock(); f.crashAt = f.ops + n }

// FailOp lets the n-th operation from now (from 1) fail with err, done or not.
func (f *FS) FailOp(n int, err error, applied bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failAt, f.failErr, f.applied = f.ops+n, err, applied
}

// Capacity bounds the bytes of all files together: what goes beyond is cut off,
// and the write fails with ENOSPC. -1 lifts the bound.
func (f *FS) Capacity(bytes int) { f.mu.Lock(); defer f.mu.Unlock(); f.capacity = bytes }

// begin counts an operation. It tells whether the operation is to be done, and
// the error that it is to give.
func (f *FS) begin() (do bool, err error) {
	if f.crashAt >= 0 && f.ops >= f.crashAt {
		return false, ErrCrashed
	}
	f.ops++
	if f.ops == f.failAt {
		return f.applied, f.failErr
	}
	return true, nil
}

// step runs op as one operation.
func (f *FS) step(verb, name string, op func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	do, fail := f.begin()
	var err error
	if do {
		err = op()
	}
	if fail != nil {
		err = fail
	}
	if err != nil {
		return &fs.PathError{Op: verb, Path: name, Err: err}
	}
	return nil
}

func (f *FS) lookup(name string) (*node, error) {
	if n := f.now[name]; n != nil {
		return n, nil
	}
	return nil, fs.ErrNotExist
}

// place checks that name can be made: free, in a directory that exists.
func (f *FS) place(name string) error {
	if f.now[name] != nil {
		return fs.ErrExist
	}
	if parent := f.now[path.Dir(name)]; parent == nil || !parent.dir {
		return fs.ErrNotExist
	}
	return nil
}

func clean(name string) string { return path.Clean(filepath.ToSlash(name)) }

// Open implements durable.FS.
func (f *FS) Open(name string) (durable.File, error) {
	name = clean(name)
	var out *file
	err := f.step("open", name, func() error {
		n, err := f.lookup(name)
		out = &file{fs: f, node: n, name: name}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Create implements durable.FS.
func (f *FS) Create(name string, perm fs.FileMode) (durable.File, error) {
	name = clean(name)
	var out *file
	err := f.step("create", name, func() error {
		if err := f.place(name); err != nil {
			return err
		}
		n := &node{perm: perm}
		f.now[name] = n
		out = &file{fs: f, node: n, name: name, writable: true}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Rename implements durable.FS, for files.
func (f *FS) Rename(from, to string) error {
	from, to = clean(from), clean(to)
	return f.step("rename", from, func() error {
		n, err := f.lookup(from)
		if err != nil {
			return err
		}
		if err := f.place(to); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if old := f.now[to]; n.dir || (old != nil && old.dir) {
			return syscall.EISDIR
		}
		f.now[to] = n
		delete(f.now, from)
		return nil
	})
}

// Remove implements durable.FS.
func (f *FS) Remove(name string) error {
	name = clean(name)
	return f.step("remove", name, func() error {
		n, err := f.lookup(name)
		if err != nil {
			return err
		}
		if n.dir && len(f.children(name)) > 0 {
			return syscall.ENOTEMPTY
		}
		delete(f.now, name)
		return nil
	})
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	name = clean(name)
	return f.step("mkdir", name, func() error {
		if err := f.place(name); err != nil {
			return err
		}
		f.now[name] = &node{dir: true, perm: perm}
		return nil
	})
}

// ReadDir implements durable.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	name = clean(name)
	var out []fs.DirEntry
	err := f.step("readdir", name, func() error {
		n, err := f.lookup(name)
		if err != nil {
			return err
		}
		if !n.dir {
			return syscall.ENOTDIR
		}
		for _, p := range f.children(name) {
			out = append(out, fs.FileInfoToDirEntry(info{path.Base(p), f.now[p].perm, f.now[p].dir, int64(len(f.now[p].data))}))
		}
		return nil
	})
	return out, err
}

// SyncDir implements durable.FS.
func (f *FS) SyncDir(name string) error {
	name = clean(name)
	return f.step("sync", name, func() error {
		if _, err := f.lookup(name); err != nil {
			return err
		}
		f.safe[name] = f.names(name)
		return nil
	})
}

// children gives the paths directly below a directory, sorted.
func (f *FS) children(dir string) []string {
	return slices.Sorted(maps.Keys(f.names(dir)))
}

func (f *FS) names(dir string) map[string]*node {
	out := make(map[string]*node)
	for p, n := range f.now {
		if p != dir && path.Dir(p) == dir {
			out[p] = n
		}
	}
	return out
}

// used gives the bytes of all files.
func (f *FS) used() int {
	sum := 0
	for _, n := range f.now {
		sum += len(n.data)
	}
	return sum
}

// Kill gives what is there after the process alone has died: all that was done.
func (f *FS) Kill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := New()
	for p, n := range f.now {
		out.now[p] = n.copy(n.data)
	}
	out.settle()
	return out
}

// PowerLoss gives a state that the disk may be in after the power went: the
// same for the same history and seed.
func (f *FS) PowerLoss(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 1))
	out := New()
	f.recover(out, "/", r)
	f.recover(out, ".", r)
	out.settle()
	return out
}

// recover decides what one directory holds, and then those below it.
func (f *FS) recover(out *FS, dir string, r *rand.Rand) {
	safe, now := f.safe[dir], f.names(dir)
	paths := maps.Clone(now)
	maps.Copy(paths, safe)
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		n := safe[p]
		if now[p] != n && r.IntN(2) == 0 {
			n = now[p]
		}
		if n == nil {
			continue
		}
		out.now[p] = n.copy(n.afterPowerLoss(r))
		if n.dir {
			f.recover(out, p, r)
		}
	}
}

// settle makes all that is there durable.
func (f *FS) settle() {
	for p, n := range f.now {
		if n.dir {
			f.safe[p] = f.names(p)
		}
	}
}

func (n *node) copy(data []byte) *node {
	data = slices.Clone(data)
	return &node{dir: n.dir, perm: n.perm, data: data, synced: slices.Clone(data)}
}

// afterPowerLoss gives what a file may hold: what was synced, or with a part of
// what was written since, of which some may read as zeros.
func (n *node) afterPowerLoss(r *rand.Rand) []byte {
	if string(n.data) == string(n.synced) || r.IntN(2) == 0 {
		return n.synced
	}
	from := min(len(n.synced), len(n.data))
	data := slices.Clone(n.data[:from+r.IntN(len(n.data)-from+1)])
	if len(data) > from && r.IntN(2) == 0 {
		clear(data[from+r.IntN(len(data)-from):])
	}
	return data
}

// Flip changes one byte of a file, as a bad disk does.
func (f *FS) Flip(name string, at int, xor byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now[clean(name)].data[at] ^= xor
}

// Truncate cuts a file.
func (f *FS) Truncate(name string, size int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.now[clean(name)]
	n.data = n.data[:size]
}

// Tree describes all files, for messages.
func (f *FS) Tree() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(f.now)) {
		if n := f.now[p]; !n.dir {
			fmt.Fprintf(&b, "%s %q\n", p, n.data)
		}
	}
	return b.String()
}

// file is an open file. Its offset is its user's; the rest is guarded by fs.mu.
type file struct {
	fs       *FS
	node     *node
	name     string
	writable bool
	offset   int
}

func (h *file) Read(p []byte) (n int, err error) {
	err = h.fs.step("read", h.name, func() error {
		n = copy(p, h.node.data[min(h.offset, len(h.node.data)):])
		h.offset += n
		return nil
	})
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (h *file) Write(p []byte) (n int, err error) {
	err = h.fs.step("write", h.name, func() error {
		if !h.writable {
			return fs.ErrPermission
		}
		n = len(p)
		var full error
		if c := h.fs.capacity; c >= 0 && h.fs.used()+n > c {
			n, full = max(c-h.fs.used(), 0), syscall.ENOSPC
		}
		h.node.data = append(h.node.data, p[:n]...)
		return full
	})
	return n, err
}

func (h *file) Sync() error {
	return h.fs.step("sync", h.name, func() error {
		h.node.synced = slices.Clone(h.node.data)
		return nil
	})
}

func (h *file) Close() error { return h.fs.step("close", h.name, func() error { return nil }) }

// info implements fs.FileInfo.
type info struct {
	name string
	perm fs.FileMode
	dir  bool
	size int64
}

func (i info) Name() string     { return i.name }
func (i info) Size() int64      { return i.size }
func (info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool      { return i.dir }
func (info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return i.perm | fs.ModeDir
	}
	return i.perm
}
