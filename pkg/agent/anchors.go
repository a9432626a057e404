package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/trust"
)

const (
	// maxTrustFile bounds stored trust metadata.
	maxTrustFile = 64 << 20
	// maxCopies bounds the kept copies of trust metadata.
	maxCopies = 8
)

// anchorage is the agent's trust metadata, in memory and on disk. A copy of each is
// kept under its versions (anchors.ROOT.KEYSET, the last maxCopies): under the earlier
// ones last-known-good content can be verified until a hub vouches for it under the
// present ones, and the newest stands in for a damaged file. They are used for that
// alone, and all chains start at the pinned root.
type anchorage struct {
	fs          durable.FS
	path        string
	domain, pin string
	// damage is why the file could not be used, and a copy was; nil: it could.
	damage error

	cur atomic.Pointer[trust.Anchors]

	mu    sync.Mutex // orders writes, and guards dirty
	dirty bool       // the disk is behind the memory
}

// openAnchors loads what join stored.
func openAnchors(fsys durable.FS, path, domain, pin string) (*anchorage, error) {
	a := &anchorage{fs: fsys, path: path, domain: domain, pin: pin}
	anchors, err := a.load(path)
	if err != nil {
		copies := a.copies()
		if len(copies) == 0 {
			return nil, err
		}
		anchors, a.damage, a.dirty = copies[0], err, true
	}
	a.cur.Store(anchors)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keep(anchors) != nil {
		a.dirty = true // tried again with the next content
	}
	return a, nil
}

func (a *anchorage) load(path string) (*trust.Anchors, error) {
	data, err := durable.ReadFile(a.fs, path, maxTrustFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodeNotJoined, "there is no trust metadata in %s", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "load trust metadata: %w", err)
	}
	return trust.Load(a.domain, a.pin, data)
}

// names lists the copies, newest first.
func (a *anchorage) names() []string {
	entries, err := a.fs.ReadDir(filepath.Dir(a.path))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		var root, keyset uint64
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(a.path)+".")
		if n, err := fmt.Sscanf(rest, "%010d.%010d", &root, &keyset); ok && n == 2 && err == nil && !strings.HasSuffix(rest, durable.TempSuffix) {
			out = append(out, filepath.Join(filepath.Dir(a.path), e.Name()))
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

// copies loads those copies that are intact, newest first.
func (a *anchorage) copies() []*trust.Anchors {
	var out []*trust.Anchors
	for _, name := range a.names() {
		if anchors, err := a.load(name); err == nil {
			out = append(out, anchors)
		}
	}
	return out
}

// keep makes sure that there is a copy of these, and drops the oldest. a.mu is held.
func (a *anchorage) keep(anchors *trust.Anchors) error {
	name := fmt.Sprintf("%s.%010d.%010d", a.path, anchors.RootVersion(), anchors.KeysetVersion())
	names := a.names()
	if slices.Contains(names, name) {
		if _, err := a.load(name); err == nil {
			return nil
		}
	}
	data, err := anchors.Marshal()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(a.fs, name, data, 0o600); err != nil {
		return fault.New(fault.CodeLKGWrite, "keep a copy of trust metadata: %w", err)
	}
	for names = a.names(); len(names) > maxCopies; names = names[:len(names)-1] {
		_ = a.fs.Remove(names[len(names)-1]) // does no harm but for its size
	}
	return nil
}

// get gives the present anchors.
func (a *anchorage) get() *trust.Anchors { return a.cur.Load() }

// verifyStored is what the last-known-good store asks of a generation.
func (a *anchorage) verifyStored(p activation.Point, c *lkg.Content) error {
	err := proves(a.get(), p, c)
	if err == nil {
		return nil
	}
	for _, earlier := range a.copies() {
		if proves(earlier, p, c) == nil {
			return nil
		}
	}
	return err
}

// update takes metadata in; it reports whether anything was new. What cannot be
// written is used all the same, since a rotation must not wait for a disk, and is
// written before the next content is.
func (a *anchorage) update(m *trustv1.Metadata, now time.Time) (changed bool, err error) {
	before := a.get()
	next, err := before.Update(m, now)
	if err != nil || next == before {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cur.Store(next)
	a.dirty = true
	if err := a.keep(before); err != nil {
		return true, err
	}
	return true, a.write()
}

// flush writes what could not be written before.
func (a *anchorage) flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.dirty {
		return nil
	}
	return a.write()
}

// write puts the present anchors on disk, and a copy beside them. a.mu is held.
func (a *anchorage) write() error {
	anchors := a.get()
	data, err := anchors.Marshal()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(a.fs, a.path, data, 0o600); err != nil {
		return fault.New(fault.CodeLKGWrite, "save trust metadata: %w", err)
	}
	if err := a.keep(anchors); err != nil {
		return err
	}
	a.dirty = false
	return nil
}

// lists tells whether the key that signed env is in the present keyset.
func (a *anchorage) lists(env *trustv1.Envelope) bool {
	for _, hub := range a.get().Hubs() {
		for _, s := range env.GetSignatures() {
			if s.GetKeyId() == hub.KeyID {
				return true
			}
		}
	}
	return false
}
