// Package restore prepares to fill a domain's store from a backup: which roots of trust
// the backup is held against, what tells of changes after it, and in which term the
// domain goes on. Verifying and filling are done by package backup.
//
//	roots, err := restore.Roots(dir, nil)
//	v, err := backup.Verify(ctx, file, backup.Check{Domain: domain, Roots: roots})
//	later, err := restore.Look(ctx, v, restore.Places{…})
//	plan, err := later.Plan(v, 0, false)
//	err = backup.Fill(ctx, store, file, v, plan)
//
// Nothing here writes. All functions are for one goroutine a call.
package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Roots gives the root metadata that a backup is held against, oldest first: that of the
// named files, or of all in dir if none are named. CodeNoRootPin: there is none.
func Roots(dir string, named []string) ([][]byte, error) {
	paths := named
	if len(paths) == 0 {
		versions, err := hubdir.Roots(dir)
		if err != nil {
			return nil, err
		}
		for _, n := range versions {
			paths = append(paths, filepath.Join(dir, hubdir.RootFile(n)))
		}
	}
	if len(paths) == 0 {
		return nil, fault.New(fault.CodeNoRootPin, "%s holds no root-N.json, and --root names none", dir)
	}
	var roots [][]byte
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, fault.New(fault.CodeIO, "read root metadata: %w", err)
		}
		if _, err := trust.InspectRoot(data); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		roots = append(roots, data)
	}
	return roots, nil
}

// Places are where something may tell of changes after a backup.
type Places struct {
	// Position is the hub's position file.
	Position string
	// Keys is the hub's directory of keys.
	Keys string
	// Left opens the log in the store that is given up for another, which LeftName names
	// for people; nil: none is.
	Left     func(context.Context) (*store.Log, error)
	LeftName string
	// Filled prepares to fill the store that is to be filled; nil: no other hub reaches it.
	Filled     func() (*store.Restoration, error)
	FilledName string
}

// Evidence is what tells of changes after a backup.
type Evidence struct {
	seq, term uint64
	// led is up to where nothing happened after the backup but that hubs began to lead,
	// as stopping them one by one brings about: no change is lost with it.
	led store.Position
	// Says names each piece, for people.
	Says []string
	// Notes are what could not be looked at.
	Notes []string
}

// Look looks for changes after the backup: in the position file, in the store that
// the hub used so far, in alarms of other hubs, and in the names of key files.
// CodeStoreLocked: a hub uses one of the stores.
func Look(ctx context.Context, v backup.Verified, p Places) (Evidence, error) {
	var e Evidence
	if p.Left != nil {
		if err := e.left(ctx, v, p); err != nil {
			return e, err
		}
	}
	m, found, err := replica.ReadPosition(p.Position)
	if err != nil {
		return e, err
	}
	if found {
		e.add(v, "this hub has seen, by "+p.Position, m.Seq, m.Term)
	}
	if p.Filled != nil {
		if err := e.filled(ctx, v, p); err != nil {
			return e, err
		}
	}
	names, err := hubdir.KeyNames(p.Keys)
	if err != nil {
		return e, err
	}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, keyring.ConfigKey+"-")
		if n, err := strconv.ParseUint(number, 10, 64); ok && err == nil && n > v.Anchors.KeysetVersion() {
			e.Says = append(e.Says, fmt.Sprintf("key %s is of keyset version %d, and the backup has version %d", filepath.Join(p.Keys, name+".key"), n, v.Anchors.KeysetVersion()))
		}
	}
	return e, nil
}

func (e *Evidence) add(v backup.Verified, who string, seq, term uint64) {
	if seq <= v.Head.Seq && term <= v.Head.Term {
		return
	}
	e.seq, e.term = max(e.seq, seq), max(e.term, term)
	if seq <= e.led.Seq && term <= e.led.Term {
		return
	}
	e.Says = append(e.Says, fmt.Sprintf("%s: entry %d of term %d", who, seq, term))
}

// left looks at the store that is given up for another. One that is in use stops
// the restore: two stores must not be written for one domain.
func (e *Evidence) left(ctx context.Context, v backup.Verified, p Places) (err error) {
	l, err := p.Left(ctx)
	switch {
	case errors.Is(err, fault.CodeStoreLocked):
		return fault.New(fault.CodeStoreLocked, "a hub uses the store %s, which is to be left: %w", p.LeftName, err).
			WithRemedy("Stop all hubs of the domain, then run it again.")
	case err != nil:
		e.Notes = append(e.Notes, fmt.Sprintf("The store used so far, %s, could not be looked at for later changes: %v", p.LeftName, err))
		return nil
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := unused(ctx, l, p.LeftName, "left"); err != nil {
		return err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	if onlyLed(ctx, l, v.Head) {
		e.led = head.Position
	}
	e.add(v, "the store used so far, "+p.LeftName+", ends with", head.Seq, head.Term)
	return nil
}

// ledMost bounds how many beginnings of terms are looked at.
const ledMost = 100

// onlyLed tells whether the log goes on after the backup with beginnings of terms alone.
func onlyLed(ctx context.Context, l *store.Log, end store.Head) bool {
	entries, all, err := l.Follow(ctx, end, ledMost)
	return err == nil && all && !slices.ContainsFunc(entries, func(e store.Entry) bool { return e.GetKind() != state.KindTermStarted })
}

// filled looks at the store that is to be filled: no hub may lead on it, and in one
// that lost its log, hubs may have told of more.
func (e *Evidence) filled(ctx context.Context, v backup.Verified, p Places) (err error) {
	r, err := p.Filled()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := unused(ctx, r, p.FilledName, "filled"); err != nil {
		return err
	}
	marks, err := r.Alarms(ctx)
	for _, m := range marks {
		e.add(v, "hub "+m.Hub+" has seen", m.Seq, m.Term)
	}
	return err
}

// unused refuses a store on which a hub leads; done is what is to be done with it.
func unused(ctx context.Context, in interface {
	Leader(context.Context) (store.Holder, uint64, error)
}, name, done string) error {
	holder, term, err := in.Leader(ctx)
	switch {
	case err == nil:
		return fault.New(fault.CodeStoreLocked, "hub %s leads on the store %s in term %d, which is to be %s", holder.Name, name, term, done).
			WithRemedy("Stop all hubs of the domain, then run it again; a hub that was killed counts for some seconds more.")
	case errors.Is(err, fault.CodeNoLeader), errors.Is(err, fault.CodeRestoreUnfinished):
		return nil
	}
	return err
}

// Plan decides on the term, floor unless that is 0, and refuses a loss that nobody
// accepted. Author and By are left to the caller. CodeRestoreLoss, CodeTermFloor.
func (e Evidence) Plan(v backup.Verified, floor uint64, acceptLoss bool) (backup.Plan, error) {
	if len(e.Says) > 0 && !acceptLoss {
		return backup.Plan{}, fault.New(fault.CodeRestoreLoss, "the backup ends at entry %d of term %d, and there were changes after it: %s", v.Head.Seq, v.Head.Term, strings.Join(e.Says, "; "))
	}
	p := backup.Plan{Term: floor, LostSeq: e.seq, LostTerm: e.term, Now: time.Now()}
	seen := max(v.Head.Term, e.term)
	if p.LostTerm == 0 && p.LostSeq > 0 {
		p.LostTerm = v.Head.Term
	}
	if p.Term == 0 {
		p.Term = backup.TermFloor(seen, v.Backup.GetCreatedAt().AsTime(), p.Now)
	}
	if p.Term <= seen {
		return p, fault.New(fault.CodeTermFloor, "--term-floor %d is not above term %d, which is known", p.Term, seen)
	}
	return p, nil
}
