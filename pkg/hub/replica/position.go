package replica

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// The position file keeps how far this hub has followed the log, as JSON:
//
//	{"hub":"hub1","seq":120,"term":7,"hash":"<hex>","place":"consul:meshkit"}
//
// It is durable before the first entry of a term becomes current, so before any
// version of that term is shown to an agent, and otherwise at most about
// positionEvery old. So after a crash, at any moment:
//
//   - no term that an agent has seen through this hub is forgotten: a log that was
//     put back to an earlier term is always told;
//   - of the newest term, the entries of the last second may be forgotten. A log that
//     was put back to within that second is followed as it is: what a next leader
//     writes has a higher term than anything an agent has seen.
//
// A position that cannot be written is told, and stops nothing: agents are the
// last line, they refuse to go back by themselves.
const (
	positionEvery = time.Second
	positionBytes = 4 << 10 // at most
)

// position is what the file holds.
type position struct {
	store.Mark
	// Place is Options.Place of the log; empty in files of earlier builds.
	Place string `json:"place,omitempty"`
}

// elsewhere tells whether it is of a log in another place.
func (p position) elsewhere(place string) bool {
	return p.Place != "" && place != "" && p.Place != place
}

// ReadPosition reads a position file; false if there is none yet.
func ReadPosition(path string) (store.Mark, bool, error) {
	p, found, err := readPosition(path)
	return p.Mark, found, err
}

func readPosition(path string) (position, bool, error) {
	var m position
	data, err := durable.ReadFile(durable.OS, path, positionBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fault.New(fault.CodeIO, "read how far this hub followed the log: %w", err)
	}
	err = json.Unmarshal(data, &m)
	if _, ok := m.Head(); err != nil || !ok {
		return m, false, fault.New(fault.CodeCorrupt, "%s is damaged: it does not say how far this hub followed the log", path).
			WithRemedy("If the store was not put back since this hub ran last, remove %s and start the hub again.", path)
	}
	return m, true, nil
}

// known is the entry that a state ends with.
func known(s *state.State) store.Head {
	pos := s.Position()
	return store.Head{Position: store.Position{Seq: pos.Seq, Term: pos.Term}, Hash: pos.Hash}
}

// beginPosition reads the position file before the log is read for the first time.
func (r *Replica) beginPosition() error {
	if r.opt.PositionFile == "" {
		return nil
	}
	m, found, err := readPosition(r.opt.PositionFile)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if found {
		r.position = &m
	}
	return nil
}

// savePosition writes the position file. r.mu is held; the file is small.
func (r *Replica) savePosition(h store.Head) {
	m := position{store.MarkOf(r.opt.Holder.Name, h), r.opt.Place}
	data, err := json.Marshal(m)
	if err == nil {
		err = durable.WriteFile(durable.OS, r.opt.PositionFile, append(data, '\n'), 0o600)
	}
	if err != nil && r.positionFailed == nil {
		r.log.Error("position in the log not saved: a store that is put back now may not be noticed after a restart", "err", err)
	}
	r.positionFailed = err
	if err == nil {
		r.position = &m
	}
}

// noteTerm saves the position when h is of a later term than what is saved. r.mu is
// held.
func (r *Replica) noteTerm(h store.Head) {
	if !r.keepPosition || (r.position != nil && r.position.Term >= h.Term) {
		return
	}
	r.savePosition(h)
}

// keepPositions saves the position now and then, until ctx ends, and then once more.
func (r *Replica) keepPositions(ctx context.Context) {
	for {
		err := backoff.Sleep(ctx, positionEvery)
		r.mu.Lock()
		if cur := r.current.Load(); r.keepPosition && cur != nil && r.frozen == nil {
			if h := known(cur.State); r.position == nil || r.position.Seq != h.Seq {
				r.savePosition(h)
			}
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// PositionFailed tells why the position in the log could not be saved, or nil.
func (r *Replica) PositionFailed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.positionFailed
}
