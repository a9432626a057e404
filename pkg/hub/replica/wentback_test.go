package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

// hubOptions are those of one hub of a ring that keeps its position in dir.
func hubOptions(s *memstore.Server, name, dir string) Options {
	opt := options(s, nil)
	opt.Holder.Name, opt.Author = name, "spiffe://d/hub/"+name
	if dir != "" {
		opt.PositionFile = filepath.Join(dir, name+".position")
	}
	return opt
}

// writes commits n entries through whichever hub leads.
func writes(t *testing.T, n int, ring ...*Replica) {
	t.Helper()
	for range n {
		await(t, "a write", func() bool {
			for _, r := range ring {
				if _, leading := r.Leading(); !leading {
					continue
				}
				_, err := r.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) {
					return Proposal{Kind: "TermStarted", Payload: &logv1.TermStarted{Hub: r.opt.Holder.Name}}, nil
				})
				if err == nil {
					return true
				}
			}
			return false
		})
	}
}

// await waits for what only looking again shows.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func caughtUp(t *testing.T, ring ...*Replica) uint64 {
	t.Helper()
	seq := uint64(0)
	await(t, "one state on all hubs", func() bool {
		seq = ring[0].Current().State.Seq()
		for _, r := range ring {
			if r.Current().State.Seq() != seq {
				return false
			}
		}
		return true
	})
	return seq
}

func allWentBack(ring ...*Replica) func() bool {
	return func() bool {
		for _, r := range ring {
			if !r.WentBack() {
				return false
			}
		}
		return true
	}
}

// openLog opens the log as the command for operators does.
func openLog(t *testing.T, s *memstore.Server) *store.Log {
	t.Helper()
	l, err := store.Open(t.Context(), s.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, s *memstore.Server) Loss {
	t.Helper()
	l := openLog(t, s)
	loss, err := FindLoss(t.Context(), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(loss.Seen) == 0 {
		t.Fatal("nothing is found to be lost")
	}
	if err := Accept(t.Context(), l, store.Holder{Name: "operator"}, "spiffe://d/hub/h", "restored", loss, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return loss
}

// TestALogThatWentBackStopsTheRingUntilTheLossIsAccepted puts the store of a running
// ring back: hubs keep what they have, write nothing, keep a new hub from writing,
// and go on when an operator gave up what was lost.
func TestALogThatWentBackStopsTheRingUntilTheLossIsAccepted(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	a := start(t, hubOptions(s, "a", dir))
	b := start(t, hubOptions(s, "b", dir))
	writes(t, 3, a, b)
	caughtUp(t, a, b)
	backup := s.Copy()
	for range 3 { // terms go on too
		term := a.Current().State.Term()
		s.Expire()
		await(t, "the next term", func() bool { return a.Current().State.Term() > term })
		writes(t, 2, a, b)
	}
	seen, term := caughtUp(t, a, b), a.Current().State.Term()
	before := a.Current().State.Digest()
	s.Restore(backup)
	await(t, "the alarm of both hubs", allWentBack(a, b))
	for _, r := range []*Replica{a, b} {
		if r.Current().State.Digest() != before {
			t.Errorf("hub %s went back to entry %d", r.opt.Holder.Name, r.Current().State.Seq())
		}
		began := time.Now()
		_, err := r.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) { panic("a frozen hub proposes") })
		if !errors.Is(err, fault.CodeReadOnly) || !errors.Is(err, fault.CodeLogWentBack) || time.Since(began) > 2*time.Second {
			t.Errorf("a write on a log that went back gave %v after %v", err, time.Since(began))
		}
		if err := r.Health(); !errors.Is(err, fault.CodeLogWentBack) {
			t.Errorf("health is %v", err)
		}
	}
	l := openLog(t, s)
	// A hub that has seen nothing must not write on top either.
	await(t, "the alarms in the store", func() bool { m, err := l.Alarms(t.Context()); return err == nil && len(m) == 2 })
	if err := ends(t, hubOptions(s, "c", dir)); !errors.Is(err, fault.CodeLogWentBack) {
		t.Errorf("a new hub on the log that went back ended with %v", err)
	}
	kept, err := l.Head(t.Context())
	if err != nil || kept.Seq >= seen {
		t.Fatalf("the log ends at %d, %v: something was written on top", kept.Seq, err)
	}
	loss := accept(t, s)
	if loss.Seq != seen || loss.Term != term || loss.Kept.Seq() != kept.Seq {
		t.Errorf("the loss is told as up to entry %d of term %d with %d kept, not %d, %d, %d", loss.Seq, loss.Term, loss.Kept.Seq(), seen, term, kept.Seq)
	}
	await(t, "the end of the alarm", func() bool { return !a.WentBack() && !b.WentBack() })
	writes(t, 1, a, b)
	if now := caughtUp(t, a, b); now <= seen || a.Current().State.Term() <= term || a.Current().State.ConfigSeq() <= seen {
		t.Errorf("after entry %d of term %d the log goes on at %d of term %d, version %d", seen, term, now, a.Current().State.Term(), a.Current().State.ConfigSeq())
	}
	if a.Current().State.Digest() != b.Current().State.Digest() {
		t.Error("the hubs do not agree after the loss was accepted")
	}
	if m, err := openLog(t, s).Alarms(t.Context()); err != nil || len(m) > 0 {
		t.Errorf("alarms are left: %v, %v", m, err)
	}
	start(t, hubOptions(s, "c", dir)) // now it may
}

// TestALogThatIsWholeAgainIsFollowed puts the newest copy back after the old one.
func TestALogThatIsWholeAgainIsFollowed(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	a := start(t, hubOptions(s, "a", dir))
	b := start(t, hubOptions(s, "b", dir))
	writes(t, 2, a, b)
	old := s.Copy()
	writes(t, 2, a, b)
	seen := caughtUp(t, a, b)
	newest := s.Copy()
	s.Restore(old)
	await(t, "the alarm of both hubs", allWentBack(a, b))
	s.Restore(newest)
	await(t, "the end of the alarm", func() bool { return !a.WentBack() && !b.WentBack() })
	writes(t, 1, a, b)
	if now := caughtUp(t, a, b); now <= seen {
		t.Errorf("after entry %d the log goes on at %d", seen, now)
	}
}

// TestAHubRemembersWhatItSawOverARestart has the store put back while the hub is
// down, and written on by a hub that knows of nothing.
func TestAHubRemembersWhatItSawOverARestart(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	run := func(f func(*Replica)) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		r, ended := New(hubOptions(s, "a", dir)), make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		within(t, r.Ready(), "the hub is not ready")
		f(r)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	backup := s.Copy()
	var seen uint64
	run(func(r *Replica) {
		writes(t, 4, r)
		seen = r.Current().State.Seq()
	})
	s.Restore(backup)
	ignorant := start(t, hubOptions(s, "ignorant", ""))
	writes(t, int(seen)+2, ignorant) // longer than it was
	if err := ends(t, hubOptions(s, "a", dir)); !errors.Is(err, fault.CodeLogWentBack) {
		t.Fatalf("on a log that went back the hub ended with %v", err)
	}
	await(t, "the other hub's alarm", ignorant.WentBack)
	term := ignorant.Current().State.Term()
	accept(t, s)
	await(t, "the end of the alarm", func() bool { return !ignorant.WentBack() })
	run(func(r *Replica) {
		writes(t, 1, r, ignorant)
		if now := r.Current().State; now.Term() <= term {
			t.Errorf("the term is %d, after %d was seen", now.Term(), term)
		}
	})
}

// TestWhatAHubHasSeenElsewhereStopsNoOther has a hub that followed one log given another:
// it says so and ends, and who leads there goes on.
func TestWhatAHubHasSeenElsewhereStopsNoOther(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	older := s.Copy()
	opt := hubOptions(s, "a", dir)
	opt.Place = "consul:old"
	ctx, cancel := context.WithCancel(t.Context())
	a, ended := New(opt), make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	within(t, a.Ready(), "the hub is not ready")
	writes(t, 3, a)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	moved := memstore.New(memstore.Options{})
	moved.Restore(older)
	b := start(t, hubOptions(moved, "b", ""))
	writes(t, 1, b)
	opt = hubOptions(moved, "a", dir)
	opt.Place = "consul:new"
	err := ends(t, opt)
	if !errors.Is(err, fault.CodeLogWentBack) || !strings.Contains(err.Error(), "in consul:old") || !strings.Contains(fault.RemedyOf(err), opt.PositionFile) {
		t.Errorf("it ended with %v (%s)", err, fault.RemedyOf(err))
	}
	if marks, err := openLog(t, moved).Alarms(t.Context()); err != nil || len(marks) > 0 {
		t.Errorf("alarms %v (%v)", marks, err)
	}
	writes(t, 1, b)
	if err := os.Remove(opt.PositionFile); err != nil { // the remedy
		t.Fatal(err)
	}
	writes(t, 1, start(t, opt), b)

	if p, found, err := readPosition(opt.PositionFile); err != nil || !found || p.Place != "consul:new" {
		t.Errorf("the position is %+v (%v)", p, err)
	}
}

// TestATermIsRememberedBeforeItIsShown reads the position file whenever a state
// becomes current.
func TestATermIsRememberedBeforeItIsShown(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	opt := hubOptions(s, "a", dir)
	r := start(t, opt)
	for range 5 {
		writes(t, 1, r)
		cur, _ := r.Watch()
		m, found, err := ReadPosition(opt.PositionFile)
		if err != nil || !found || m.Term < cur.State.Term() {
			t.Fatalf("the state is of term %d, the file says %+v, %v", cur.State.Term(), m, err)
		}
		s.Expire()
		term := cur.State.Term()
		await(t, "the next term", func() bool { return r.Current().State.Term() > term })
	}
}

func TestADamagedPositionEndsTheStart(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	opt := hubOptions(s, "a", dir)
	if err := os.WriteFile(opt.PositionFile, []byte(`{"hub":"a","seq":1`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ends(t, opt); !errors.Is(err, fault.CodeCorrupt) {
		t.Errorf("a damaged position gave %v", err)
	}
}

// TestAnEmptiedLogIsNotTakenForANewOne deletes everything from under a hub that runs and
// one that starts: both say that the log is gone and how it is filled again, and the loss
// cannot be accepted, which would leave a log that begins with no domain.
func TestAnEmptiedLogIsNotTakenForANewOne(t *testing.T) {
	s, dir := domain(t), t.TempDir()
	a, opt := start(t, hubOptions(s, "a", dir)), hubOptions(s, "b", dir)
	ctx, cancel := context.WithCancel(t.Context())
	b, ended := New(opt), make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	within(t, b.Ready(), "the hub is not ready")
	writes(t, 3, a, b)
	seen := caughtUp(t, a, b)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	s.Restore(memstore.New(memstore.Options{}).Copy())
	await(t, "the alarm of the hub that runs", a.WentBack)
	tells := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, fault.CodeLogWentBack) || !strings.Contains(err.Error(), "went back to nothing") || !strings.Contains(fault.RemedyOf(err), "meshhub restore") {
			t.Errorf("%s: %v; fix: %s", what, err, fault.RemedyOf(err))
		}
	}
	tells("health of the hub that runs", a.Health())
	tells("a hub that starts", ends(t, opt))
	own, found, err := ReadPosition(opt.PositionFile)
	if err != nil || !found || own.Seq < seen {
		t.Fatalf("the position is %+v, %v, after entry %d", own, err, seen)
	}
	l := openLog(t, s)
	_, err = FindLoss(t.Context(), l, &own)
	tells("accept", err)
	if err := Accept(t.Context(), l, store.Holder{Name: "operator"}, "spiffe://d/hub/h", "why", Loss{Kept: state.New(), Seq: seen, Term: 9}, time.Now()); err == nil {
		t.Error("the loss of everything was accepted")
	}
	if end, err := l.End(t.Context()); err != nil || end > 0 {
		t.Errorf("the empty log ends at %d now, %v", end, err)
	}
}

// TestASplitHubWritesNothing has the hub that leads told of another log: it resigns,
// refuses at once, and leads again when that is over.
func TestASplitHubWritesNothing(t *testing.T) {
	s := domain(t)
	a := start(t, hubOptions(s, "a", ""))
	writes(t, 1, a)
	a.Split(fault.New(fault.CodeRingSplit, "another hub leads elsewhere"))
	began := time.Now()
	_, err := a.Propose(t.Context(), func(*Current, time.Time) (Proposal, error) { panic("a split hub proposes") })
	if !errors.Is(err, fault.CodeRingSplit) || time.Since(began) > 2*time.Second {
		t.Errorf("a write gave %v after %v", err, time.Since(began))
	}
	await(t, "the end of the lead", func() bool { _, leads := a.Leading(); return !leads })
	for what, err := range map[string]error{"health": a.Health(), "a read": a.Barrier(t.Context())} {
		if !errors.Is(err, fault.CodeRingSplit) {
			t.Errorf("%s: %v", what, err)
		}
	}
	b := start(t, hubOptions(s, "b", ""))
	writes(t, 1, b) // the lease is free
	caughtUp(t, a, b)
	a.Split(nil)
	s.Expire()
	writes(t, 1, a, b)
	if err := a.Health(); err != nil {
		t.Errorf("after it is over: %v", err)
	}
}

func TestALeaseThatIsLostAgainAndAgainIsToldOnce(t *testing.T) {
	var out strings.Builder
	opt := options(nil, nil)
	opt.Logger = slog.New(slog.NewTextHandler(&out, nil))
	r := New(opt)
	for i := range 20 {
		r.tellLost(fmt.Errorf("leadership of term %d", i))
	}
	if n := strings.Count(out.String(), "lease is not held"); n != 1 {
		t.Errorf("told %d times", n)
	}
}
