package activation

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

// world is a runtime that answers effects in any order of events, with any outcome,
// and may crash. It holds the machine to the promises of the package comment.
type world struct {
	t        *rapid.T
	m        Machine
	now      time.Time
	open     []Effect // Validate, Persist, Activate that were not answered yet
	checks   []CheckHealth
	memos    []Remember
	ahead    int // how many of memos were queued before what is open
	stored   Durable
	unstored bool // the last Persist failed
	verified map[Point]bool
	highest  Point   // highest that was ever persisted
	before   Durable // state before the persist that is outstanding or was last
	given    Point   // what the data plane has
	commands map[uint64]bool
	requests uint64
}

func (w *world) step(ev Event) {
	before := w.m
	var effects []Effect
	w.m, effects = w.m.Step(ev, w.now)
	if w.m.d.Highest.Compare(before.d.Highest) < 0 && before.started {
		w.t.Fatalf("%T: highest went from %+v down to %+v", ev, before.d.Highest, w.m.d.Highest)
	}
	if n := len(w.m.d.Generations); n > MaxGenerations {
		w.t.Fatalf("%T: %d generations", ev, n)
	}
	for i, g := range w.m.d.Generations {
		if w.m.d.find(g.Point) != i {
			w.t.Fatalf("%T: %+v is stored twice", ev, g.Point)
		}
	}
	for _, e := range effects {
		w.effect(ev, e)
	}
}

func (w *world) effect(ev Event, e Effect) {
	switch e := e.(type) {
	case Persist:
		w.outstanding(ev, e)
		w.before = w.m.d
	case Validate:
		w.outstanding(ev, e)
	case Activate:
		w.outstanding(ev, e)
		w.activate(ev, e)
	case Remember:
		w.memos = append(w.memos, e)
	case CheckHealth:
		w.checks = append(w.checks, e)
	case Reply:
		if !w.commands[e.Request] {
			w.t.Fatalf("%T: reply %d was not asked for, or is the second", ev, e.Request)
		}
		delete(w.commands, e.Request)
	}
}

func (w *world) outstanding(ev Event, e Effect) {
	if len(w.open) > 0 {
		w.t.Fatalf("%T: %T while %T is outstanding", ev, e, w.open[0])
	}
	w.open = append(w.open, e)
	w.ahead = len(w.memos)
}

// activate holds one activation to the promises.
func (w *world) activate(ev Event, e Activate) {
	if !w.verified[e.Point] {
		w.t.Fatalf("%T: activates %+v, which was not verified", ev, e.Point)
	}
	if !e.From.IsZero() && e.Point.Compare(e.From) < 0 != e.Back {
		w.t.Fatalf("%T: from %+v to %+v with Back=%v", ev, e.From, e.Point, e.Back)
	}
	if e.Back && w.m.d.find(e.Point) < 0 {
		w.t.Fatalf("%T: goes back to %+v, which is not stored", ev, e.Point)
	}
	if w.m.flight.purpose == forward {
		if w.m.d.Pinned {
			w.t.Fatalf("%T: moves to %+v while pinned", ev, e.Point)
		}
		if _, bad := w.m.d.quarantined(e.Point.Digest); bad {
			w.t.Fatalf("%T: activates %+v, which is in quarantine", ev, e.Point)
		}
		if e.Point.Compare(w.before.Highest) < 0 && w.before.find(e.Point) < 0 {
			w.t.Fatalf("%T: activates %+v below %+v, and it was not stored", ev, e.Point, w.before.Highest)
		}
		if w.highest.Compare(e.Point) < 0 {
			w.t.Fatalf("%T: activates %+v with only %+v persisted", ev, e.Point, w.highest)
		}
	}
}

func (w *world) persisted(d Durable) {
	w.stored = d
	if d.Highest.Compare(w.highest) > 0 {
		w.highest = d.Highest
	}
	// The store keeps the highest of all.
	w.stored.Highest = w.highest
}

// answer answers the outstanding effect.
func (w *world) answer() {
	if len(w.open) == 0 {
		return
	}
	w.flush() // the runtime carries out one thing after the other
	e := w.open[0]
	w.open = nil
	var why *Reason
	if rapid.IntRange(0, 3).Draw(w.t, "fails") == 0 {
		why = &Reason{Code: fault.CodeInternal, Message: "failed"}
	}
	switch e := e.(type) {
	case Validate:
		w.step(Validated{e.Flight, why})
	case Persist:
		w.unstored = why != nil
		if why == nil {
			w.persisted(e.Durable)
		}
		w.step(Persisted{e.Flight, why})
	case Activate:
		w.durableSays(e)
		if why == nil || e.Regardless {
			w.given = e.Point
		}
		w.step(Activated{e.Flight, why})
	}
}

// durableSays checks, when a version is activated, that a crash from here on finds
// this version on disk: as active, and as running if it is new, so that the crash is
// counted against it. At a start the disk says what it said before; and going back
// does not wait for a disk.
func (w *world) durableSays(e Activate) {
	f := w.m.flight
	if f.purpose == restore || w.unstored {
		return
	}
	if active, _ := w.stored.Active(); active.Point != e.Point {
		w.t.Fatalf("activates %+v, and durable is that %+v is active", e.Point, active.Point)
	}
	if f.purpose == forward && !w.stored.Running {
		w.t.Fatalf("activates %+v, and durable is that it does not run", e.Point)
	}
}

// flush carries out the memos that nothing open is in the way of.
func (w *world) flush() {
	n := len(w.memos)
	if len(w.open) > 0 {
		n = w.ahead
	}
	due := w.memos[:n]
	w.memos, w.ahead = w.memos[n:], 0
	for _, m := range due {
		if rapid.IntRange(0, 3).Draw(w.t, "forgets") == 0 {
			w.step(Remembered{&Reason{Code: fault.CodeLKGWrite, Message: "full"}})
			continue
		}
		w.persisted(m.Durable)
	}
}

// crash starts over from the store; memos that were not carried out are lost.
func (w *world) crash() {
	w.open, w.checks, w.memos, w.ahead = nil, nil, nil, 0
	w.commands = make(map[uint64]bool)
	w.m = New(w.m.cfg)
	if w.stored.Highest.Compare(w.highest) < 0 {
		w.t.Fatalf("the store's highest is %+v, and %+v was persisted", w.stored.Highest, w.highest)
	}
	w.step(Start{w.stored})
}

func (w *world) offer() {
	p := Point{
		Epoch: rapid.Uint64Range(1, 2).Draw(w.t, "epoch"), Version: rapid.Uint64Range(1, 12).Draw(w.t, "version"),
		View: rapid.SampledFrom([]string{"v", "v", "v", "w"}).Draw(w.t, "view"), Digest: digest.Hash{rapid.ByteRange(1, 8).Draw(w.t, "content")},
	}
	verified := rapid.IntRange(0, 4).Draw(w.t, "verified") > 0
	if verified {
		w.verified[p] = true
	}
	w.step(Offered{Candidate{Point: p, Verified: verified}})
}

func (w *world) command() {
	w.requests++
	w.commands[w.requests] = true
	switch rapid.IntRange(0, 3).Draw(w.t, "command") {
	case 0:
		w.step(Pin{Request: w.requests, Version: rapid.Uint64Range(0, 12).Draw(w.t, "pin")})
	case 1:
		w.step(Revert{Request: w.requests})
	default:
		w.step(Unpin{Request: w.requests})
	}
}

func (w *world) fresh() {
	g, ok := w.m.Active()
	if !ok {
		return
	}
	p := g.Point
	p.Version += rapid.Uint64Range(0, 2).Draw(w.t, "ahead")
	w.verified[p] = true
	w.step(Fresh{Point: p})
}

func (w *world) health() {
	if len(w.checks) == 0 {
		return
	}
	c := w.checks[0]
	w.checks = w.checks[1:]
	var why *Reason
	if rapid.Bool().Draw(w.t, "sick") {
		why = &Reason{Code: fault.CodeProbationFailed, Message: "sick"}
	}
	w.step(Health{c.Point, why})
}

func TestPromisesHoldWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := testConfig()
		cfg.Capabilities = nil
		cfg.MaxLost = 2
		w := &world{t: t, m: New(cfg), now: epoch0, verified: make(map[Point]bool), commands: make(map[uint64]bool)}
		w.step(Start{})
		t.Repeat(map[string]func(*rapid.T){
			"offer":   func(*rapid.T) { w.offer() },
			"answer":  func(*rapid.T) { w.answer() },
			"answer2": func(*rapid.T) { w.answer() },
			"answer3": func(*rapid.T) { w.answer(); w.answer(); w.answer() },
			"flush":   func(*rapid.T) { w.flush() },
			"health":  func(*rapid.T) { w.health() },
			"command": func(*rapid.T) { w.command() },
			"fresh":   func(*rapid.T) { w.fresh() },
			"vouched": func(*rapid.T) { w.step(Vouched{}) },
			"lost":    func(*rapid.T) { w.step(DataPlaneLost{}) },
			"refused": func(*rapid.T) { w.step(Refused{Point{Version: 3}, Reason{Code: fault.CodeInternal}}) },
			"nack": func(*rapid.T) {
				g, _ := w.m.Active()
				w.step(DataPlaneNack{Epoch: g.Epoch, Version: g.Version})
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second)
				w.step(Tick{})
			},
			"crash": func(*rapid.T) { w.crash() },
			"": func(t *rapid.T) {
				rep := w.m.Report(w.now)
				if !slices.Contains(Phases(), rep.Phase) {
					t.Fatalf("phase %q", rep.Phase)
				}
				if !rep.Active.IsZero() && rep.Active.Digest != w.given.Digest {
					t.Fatalf("active %+v, and the data plane was given %+v", rep.Active, w.given)
				}
				if rep.Active.Compare(w.m.d.Highest) > 0 {
					t.Fatalf("active %+v above highest %+v", rep.Active, w.m.d.Highest)
				}
			},
		})
		// Whatever was asked is answered once nothing is outstanding any more.
		for len(w.open) > 0 {
			w.answer()
		}
		if len(w.commands) > 0 {
			t.Fatalf("commands %v were never answered", w.commands)
		}
	})
}
