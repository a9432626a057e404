// Package bolt is the embedded log store: one bbolt file that holds the logs of
// several domains. It needs nothing else on the machine.
//
//	f, err := bolt.Open("hub/store.db", bolt.Options{})
//	driver, err := f.Domain("eu-west")
//	log, err := store.Open(ctx, driver, store.Options{})
//	… log.Close(), then f.Close()
//
// The lock on the file is the lease against other processes: while one has it
// open, another gets CodeStoreLocked. Within the process, drivers of one domain
// compete for its lease. Nothing is acknowledged, or shown to a reader, before
// fsync returned.
//
// The file:
//
//	bucket "meshkit"            "format"  → checked "meshkit-store 1"
//	                            "domains" → checked names, one in a line
//	bucket "domain/<name>"      "state"   → checked JSON of type state
//	  bucket "log"              <seq u64> → term u64, data   (big endian)
//	  bucket "blobs"            <key>     → data
//
// where checked is the first 8 bytes of the value's SHA-256 and the value. What
// is not checked here carries a hash that package store verifies. Every value
// that would be missed if it vanished is named by another one, and the structure
// of the file is checked before bbolt reads it (see check.go), so damage is an
// error (CodeCorrupt) and not an older state or a panic.
//
// A full disk (CodeStoreFull) leaves the store as it was; it goes on when there
// is space. A failed fsync (CodeStoreFailed) stops it until it is opened again:
// what the kernel then shows as written may not be on the device.
//
// The file grows with the log and gives space to later entries after a trim; it
// does not shrink. All types are safe for concurrent use. There are no goroutines
// but that of a Close.
package bolt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

const format = "meshkit-store 1"

var (
	rootBucket   = []byte("meshkit")
	formatKey    = []byte("format")
	domainsKey   = []byte("domains")
	stateKey     = []byte("state")
	logBucket    = []byte("log")
	blobsBucket  = []byte("blobs")
	domainPrefix = []byte("domain/")
)

// Options of a File.
type Options struct {
	// LockTimeout is how long Open waits for another process to let go of the
	// file; 0 means 1 s.
	LockTimeout time.Duration
	// MustExist makes a missing file an error (CodeStoreMissing) instead of a new one.
	MustExist bool
}

// File is an open store file; it holds the logs of several domains.
type File struct {
	path string
	db   *bbolt.DB
	fd   *os.File    // bbolt's own; closed with db
	info os.FileInfo // of fd, when it was opened
	// closed ends what waits.
	closed chan struct{}
	// panicked is set when bbolt did: its own locks may then be held for ever.
	panicked atomic.Bool

	mu      sync.Mutex         // guards all below
	domains map[string]*domain // those that were asked for
	failed  error              // why the file is unusable
	done    bool               // Close was called
}

// Open opens a store file, or makes one. Errors: CodeStoreLocked,
// CodeStoreMissing, CodeCorrupt, CodeStoreFormat, CodeStoreFull, CodeIO.
func Open(path string, opts Options) (*File, error) {
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = time.Second
	}
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist) && opts.MustExist:
		return nil, fault.New(fault.CodeStoreMissing, "open store %s: the file does not exist", path)
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fault.New(fault.CodeIO, "open store: %w", err)
	}
	return open(path, opts)
}

// create makes an initialized file and gives it its name last: an empty or
// half-made file under that name is therefore damage, never a beginning. A crash
// leaves at most a small file with a name of its own.
func create(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return fault.New(fault.CodeIO, "create store: %w", err)
	}
	defer os.Remove(tmp.Name())
	tmp.Close()
	db, err := bbolt.Open(tmp.Name(), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoStatistics: true})
	if err != nil {
		return fileError(path, "create store", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(rootBucket)
		if err != nil {
			return err
		}
		return errors.Join(b.Put(formatKey, checked([]byte(format))), b.Put(domainsKey, checked(nil)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fileError(path, "create store", err)
	}
	// A link, unlike a rename, does not replace what another process made meanwhile.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fault.New(fault.CodeIO, "create store: %w", err)
	}
	if err := durable.OS.SyncDir(filepath.Dir(path)); err != nil {
		return fault.New(fault.CodeIO, "create store: %w", err)
	}
	return nil
}

func open(path string, opts Options) (*File, error) {
	f := &File{path: path, closed: make(chan struct{}), domains: make(map[string]*domain)}
	err := f.guard("open", func() (err error) {
		f.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: opts.LockTimeout, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(_ string, flag int, perm fs.FileMode) (*os.File, error) {
				err := f.openFile(flag, perm, opts.LockTimeout)
				return f.fd, err
			},
		})
		return err
	})
	if err != nil {
		if f.fd != nil {
			_ = abandon(f.fd)
		}
		return nil, fileError(path, "open store", err)
	}
	if err := f.inspect(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFile opens the file for bbolt, after taking its lock and checking it.
func (f *File) openFile(flag int, perm fs.FileMode, timeout time.Duration) error {
	fd, err := os.OpenFile(f.path, flag&^os.O_CREATE, perm)
	if err != nil {
		return err
	}
	f.fd = fd
	if err := lock(fd, timeout); err != nil {
		return err
	}
	info, err := fd.Stat()
	if err != nil {
		return err
	}
	f.info = info
	if err := checkFile(fd, info.Size()); err != nil {
		return fault.New(fault.CodeCorrupt, "store %s is damaged: %w", f.path, err)
	}
	return nil
}

// inspect verifies what the file says of itself.
func (f *File) inspect() error {
	return f.view("open", func(tx *bbolt.Tx) error {
		names, err := f.listed(tx)
		if err != nil {
			return err
		}
		found := 0
		err = tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if bytes.Equal(name, rootBucket) {
				return nil
			}
			found++
			short, ok := bytes.CutPrefix(name, domainPrefix)
			if b == nil || !ok || !slices.Contains(names, string(short)) {
				return f.damaged("it has an unknown part %q", name)
			}
			return nil
		})
		if err == nil && found != len(names) {
			err = f.damaged("it should hold %d domains, it holds %d", len(names), found)
		}
		return err
	})
}

// listed gives the names of the domains that the file must hold.
func (f *File) listed(tx *bbolt.Tx) ([]string, error) {
	b := tx.Bucket(rootBucket)
	if b == nil {
		return nil, f.damaged("its first bucket is missing")
	}
	v, ok := unchecked(b.Get(formatKey))
	if !ok {
		return nil, f.damaged("its format is not readable")
	}
	if string(v) != format {
		return nil, fault.New(fault.CodeStoreFormat, "store %s has the format %q, this build knows %q", f.path, v, format)
	}
	v, ok = unchecked(b.Get(domainsKey))
	if !ok {
		return nil, f.damaged("its list of domains is not readable")
	}
	return strings.Fields(string(v)), nil
}

// Domain gives a driver for one domain's log, which begins empty. Each call
// gives another driver, as another hub would have.
func (f *File) Domain(name string) (store.Driver, error) {
	if name == "" || len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fault.New(fault.CodeConfig, "open store: %q is not the name of a domain", name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.domains[name]
	if d == nil {
		s, err := f.prepare(name)
		if err != nil {
			return nil, err
		}
		d = &domain{file: f, name: name, bucket: append(bytes.Clone(domainPrefix), name...), state: s, changed: make(chan struct{})}
		f.domains[name] = d
	}
	return &driver{d: d, closed: make(chan struct{})}, nil
}

// prepare reads the state of a domain, after making the domain if it is new.
// The caller holds mu.
func (f *File) prepare(name string) (state, error) {
	var s state
	var known bool
	bucket := append(bytes.Clone(domainPrefix), name...)
	err := f.viewLocked("open domain "+name, func(tx *bbolt.Tx) error {
		names, err := f.listed(tx)
		if err != nil {
			return err
		}
		if known = slices.Contains(names, name); known {
			s, err = f.consistent(tx, bucket)
		}
		return err
	})
	if err != nil || known {
		return s, err
	}
	return s, f.updateLocked("make domain "+name, func(tx *bbolt.Tx) error {
		names, err := f.listed(tx)
		if err != nil {
			return err
		}
		names = append(names, name)
		slices.Sort(names)
		if err := tx.Bucket(rootBucket).Put(domainsKey, checked([]byte(strings.Join(names, "\n")))); err != nil {
			return err
		}
		b, err := tx.CreateBucket(bucket)
		if err != nil {
			return err
		}
		_, err1 := b.CreateBucket(logBucket)
		_, err2 := b.CreateBucket(blobsBucket)
		return errors.Join(err1, err2, s.put(b))
	})
}

// Path is the file's path.
func (f *File) Path() string { return f.path }

// closeTimeout is how long Close waits for transactions.
const closeTimeout = 5 * time.Second

// Close ends what waits, and closes the file when the transactions under way
// are done. Drivers of the file fail with CodeStoreClosed from then on. A
// transaction that hangs with its disk is left behind after 5 s, with
// CodeTimeout: the file stays locked until it ends, or the process does. The
// descriptor is not taken from it: the write may still be under way, and the
// number could be another file's by then.
func (f *File) Close() error {
	return f.closeWithin(closeTimeout)
}

func (f *File) closeWithin(limit time.Duration) error {
	closed := make(chan error, 1)
	go func() { closed <- f.close() }() // mu as well may be held by a call that hangs
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return fault.New(fault.CodeTimeout, "close store %s: a transaction under way does not end; the file stays locked until it does", f.path)
	}
}

func (f *File) close() error {
	f.mu.Lock()
	was := f.done
	f.done = true
	f.mu.Unlock()
	if was {
		return nil
	}
	close(f.closed)
	if f.panicked.Load() {
		return abandon(f.fd)
	}
	return f.db.Close()
}

// abandon closes a file that bbolt has not closed. The memory map that it leaves
// would keep the file's lock, so that is given up first.
func abandon(fd *os.File) error {
	return errors.Join(unlock(fd), fd.Close())
}

// checked puts a sum before a value that no hash chain covers.
func checked(v []byte) []byte {
	sum := sha256.Sum256(v)
	return append(sum[:8:8], v...)
}

func unchecked(b []byte) ([]byte, bool) {
	if len(b) < 8 {
		return nil, false
	}
	sum := sha256.Sum256(b[8:])
	return b[8:], bytes.Equal(sum[:8], b[:8])
}

func (f *File) damaged(why string, args ...any) error {
	return fault.New(fault.CodeCorrupt, "store %s is damaged: %s", f.path, fmt.Sprintf(why, args...))
}

// guard turns panics, and faults in the memory map, into CodeCorrupt.
func (f *File) guard(doing string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f.panicked.Store(true)
			err = fault.New(fault.CodeCorrupt, "%s: store %s is damaged: %v", doing, f.path, r)
		}
	}()
	return fn()
}
