package activation

import (
	"slices"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

var epoch0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testConfig() Config {
	return Config{
		Probation: 10 * time.Second, HealthInterval: 2 * time.Second, HealthFailures: 2, MaxCrashes: 3,
		StaleAfter: 35 * time.Second, RetryPersist: 5 * time.Second, Capabilities: []string{"core/v1"},
	}
}

func point(version uint64, content byte) Point {
	return Point{Epoch: 1, Version: version, View: "v", Digest: digest.Hash{content}}
}

// A hub takes what is reported active for what requests meet: not before the data
// plane was given it, and never what its activation refused.
func TestOnlyWhatTheDataPlaneWasGivenIsReportedActive(t *testing.T) {
	r := newRig(t, testConfig())
	first, second := point(1, 1), point(2, 2)
	r.do(offer(first))
	active := func() Point { return r.m.Report(r.now).Active }
	if active() != first {
		t.Fatalf("%+v is reported active, want %+v", active(), first)
	}
	var effects []Effect
	step := func(ev Event) { r.m, effects = r.m.Step(ev, r.now) }
	step(offer(second))
	step(Validated{Flight: effects[0].(Validate).Flight})
	step(Persisted{Flight: effects[0].(Persist).Flight})
	if active() != first {
		t.Errorf("%+v is reported active before it was activated", active())
	}
	step(Activated{Flight: effects[0].(Activate).Flight, Reason: &Reason{Code: fault.CodeActivationFailed, Message: "the hook failed"}})
	if active() == second {
		t.Error("what the activation refused is reported active")
	}
	r = newRig(t, testConfig())
	r.do(offer(first))
	stored := r.stored
	r.m = New(testConfig())
	step(Start{Durable: stored})
	if !active().IsZero() {
		t.Errorf("%+v is reported active before the start gave it to the data plane", active())
	}
}

func offer(p Point) Offered { return Offered{Candidate{Point: p, Verified: true}} }

// rig drives a machine and answers its effects as told.
type rig struct {
	t       *testing.T
	m       Machine
	now     time.Time
	effects []Effect // of the last event and what followed from answering
	// failures by stage: what the next answers are.
	validate, persist, activate map[Point]*Reason
	sick                        bool
	stored                      Durable // what the store holds
}

func newRig(t *testing.T, cfg Config) *rig {
	r := &rig{t: t, now: epoch0, validate: map[Point]*Reason{}, persist: map[Point]*Reason{}, activate: map[Point]*Reason{}}
	r.m = New(cfg)
	r.do(Start{})
	return r
}

// do takes an event and answers everything that it leads to.
func (r *rig) do(ev Event) []Effect {
	r.effects = nil
	r.step(ev)
	return r.effects
}

func (r *rig) step(ev Event) {
	var out []Effect
	r.m, out = r.m.Step(ev, r.now)
	for _, e := range out {
		r.effects = append(r.effects, e)
		switch e := e.(type) {
		case Validate:
			r.step(Validated{e.Flight, r.validate[e.Point]})
		case Persist:
			why := r.persist[e.Durable.Generations[0].Point]
			if why == nil {
				r.stored = e.Durable
			}
			r.step(Persisted{e.Flight, why})
		case Remember:
			r.stored = e.Durable
		case Activate:
			r.step(Activated{e.Flight, r.activate[e.Point]})
		case CheckHealth:
			var why *Reason
			if r.sick {
				why = &Reason{Code: fault.CodeProbationFailed, Message: "sick"}
			}
			r.step(Health{e.Point, why})
		}
	}
}

// pass lets time go by, with a tick whenever the machine wants one.
func (r *rig) pass(d time.Duration) {
	end := r.now.Add(d)
	for {
		at := r.m.Deadline()
		if at.IsZero() || at.After(end) {
			break
		}
		if at.After(r.now) {
			r.now = at
		}
		r.effects = nil
		r.step(Tick{})
	}
	r.now = end
}

// restart starts over from what the store holds.
func (r *rig) restart(cfg Config) []Effect {
	r.m = New(cfg)
	return r.do(Start{r.stored})
}

func (r *rig) wantActive(p Point) {
	r.t.Helper()
	if g, _ := r.m.Active(); g.Point != p {
		r.t.Fatalf("active is version %d, want %d (message %q)", g.Version, p.Version, r.m.message)
	}
}

func (r *rig) wantPhase(p Phase) {
	r.t.Helper()
	if got := r.m.Report(r.now).Phase; got != p {
		r.t.Fatalf("phase %s, want %s (message %q)", got, p, r.m.message)
	}
}

func nackOf(effects []Effect) (Nack, bool) {
	for _, e := range effects {
		if n, ok := e.(Nack); ok {
			return n, true
		}
	}
	return Nack{}, false
}

func (r *rig) wantNack(code fault.Code) {
	r.t.Helper()
	if n, ok := nackOf(r.effects); !ok || n.Reason.Code != code {
		r.t.Fatalf("got %+v, want a nack with %s", r.effects, code)
	}
}

func TestAVersionIsStagedMadeDurableActivatedAndKept(t *testing.T) {
	r := newRig(t, testConfig())
	r.wantPhase(Connecting)
	effects := r.do(offer(point(1, 1)))
	want := []string{"Validate", "Persist", "Activate", "Ack"}
	if got := names(effects); !slices.Equal(got, want) {
		t.Fatalf("effects %v, want %v", got, want)
	}
	if p := effects[1].(Persist); p.Durable.Highest != point(1, 1) || !p.Durable.Running {
		t.Fatalf("persisted %+v before activation", p.Durable)
	}
	r.wantPhase(Staging)
	r.pass(11 * time.Second)
	r.wantPhase(Active)
	if g, _ := r.m.Active(); g.Status != Kept || r.stored.Running {
		t.Fatalf("after probation: %+v, stored %+v", g, r.stored)
	}
}

func names(effects []Effect) []string {
	var out []string
	for _, e := range effects {
		switch e.(type) {
		case Validate:
			out = append(out, "Validate")
		case Persist:
			out = append(out, "Persist")
		case Activate:
			out = append(out, "Activate")
		case Remember:
			out = append(out, "Remember")
		case Ack:
			out = append(out, "Ack")
		case Nack:
			out = append(out, "Nack")
		case WentBack:
			out = append(out, "WentBack")
		case Reply:
			out = append(out, "Reply")
		case CheckHealth:
			out = append(out, "CheckHealth")
		case Resume:
			out = append(out, "Resume")
		}
	}
	return out
}

// kept brings the rig to a state where versions 1 and 2 have been kept.
func kept(t *testing.T) *rig {
	r := newRig(t, testConfig())
	for v := uint64(1); v <= 2; v++ {
		r.do(offer(point(v, byte(v))))
		r.pass(11 * time.Second)
		r.do(Fresh{Point: point(v, byte(v))})
	}
	r.wantActive(point(2, 2))
	r.wantPhase(Active)
	return r
}

func TestAnUnhealthyVersionIsRevertedQuarantinedAndNotTriedAgain(t *testing.T) {
	r := kept(t)
	r.sick = true
	r.do(offer(point(3, 3)))
	r.pass(5 * time.Second)
	r.wantActive(point(2, 2))
	r.wantPhase(Degraded)
	if r.stored.Highest.Version != 3 {
		t.Fatalf("highest is %d after the revert, want 3", r.stored.Highest.Version)
	}
	r.sick = false
	r.do(offer(point(4, 3))) // the same content under a new version
	r.wantNack(fault.CodeQuarantined)
	r.wantActive(point(2, 2))
	r.do(offer(point(5, 5)))
	r.pass(11 * time.Second)
	r.wantActive(point(5, 5))
	r.wantPhase(Active)
}

func TestAFailedHookRevertsAtOnce(t *testing.T) {
	r := kept(t)
	r.activate[point(3, 3)] = &Reason{Code: fault.CodeActivationFailed, Message: "exit status 1"}
	effects := r.do(offer(point(3, 3)))
	r.wantNack(fault.CodeActivationFailed)
	want := []string{"Validate", "Persist", "Activate", "Nack", "Persist", "Activate", "WentBack"}
	if got := names(effects); !slices.Equal(got, want) {
		t.Fatalf("effects %v, want %v", got, want)
	}
	r.wantActive(point(2, 2))
}

func TestAFailedFirstVersionLeavesNothingActive(t *testing.T) {
	r := newRig(t, testConfig())
	r.activate[point(1, 1)] = &Reason{Code: fault.CodeActivationFailed, Message: "exit status 1"}
	r.do(offer(point(1, 1)))
	r.wantNack(fault.CodeActivationFailed)
	r.wantPhase(Connecting)
	if len(r.stored.Generations) != 0 {
		t.Fatalf("the store would start with %+v", r.stored.Generations)
	}
}

func TestWhatCannotBeMadeDurableIsNotActivatedAndTriedAgain(t *testing.T) {
	r := kept(t)
	r.persist[point(3, 3)] = &Reason{Code: fault.CodeLKGWrite, Message: "no space"}
	r.do(offer(point(3, 3)))
	r.wantNack(fault.CodeLKGWrite)
	r.wantActive(point(2, 2))
	r.pass(6 * time.Second)
	r.wantActive(point(2, 2))
	delete(r.persist, point(3, 3))
	r.pass(6 * time.Second)
	r.wantActive(point(3, 3))
}

func TestACrashLoopStartsFromTheGenerationBefore(t *testing.T) {
	r := kept(t)
	r.do(offer(point(3, 3)))
	for range 2 {
		r.restart(testConfig())
		r.wantActive(point(3, 3))
		r.pass(3 * time.Second)
	}
	effects := r.restart(testConfig())
	r.wantActive(point(2, 2))
	if n, ok := nackOf(effects); !ok || n.Reason.Code != fault.CodeCrashLoop {
		t.Fatalf("said %+v", effects)
	}
	r.do(offer(point(3, 3)))
	r.wantNack(fault.CodeQuarantined)
}

func TestCleanStopsAreNoCrashLoop(t *testing.T) {
	r := kept(t)
	r.do(offer(point(3, 3)))
	for range 6 {
		r.pass(time.Second)
		r.do(Stop{})
		r.restart(testConfig())
	}
	r.wantActive(point(3, 3))
}

func TestChangesFasterThanProbationsStillLeaveARecentFallback(t *testing.T) {
	r := kept(t)
	for v := uint64(3); v <= 30; v++ {
		r.do(offer(point(v, byte(v))))
		r.pass(time.Second)
	}
	r.wantActive(point(30, 30))
	r.sick = true
	r.do(DataPlaneNack{Epoch: 1, Version: 30, Message: "no"})
	g, _ := r.m.Active()
	if g.Version < 10 || g.Version >= 30 {
		t.Fatalf("went back to version %d, want one that is at most two probations old", g.Version)
	}
}

func TestNothingOlderIsAcceptedAfterARestart(t *testing.T) {
	r := kept(t)
	r.do(Stop{})
	r.restart(testConfig())
	r.do(offer(point(1, 1)))
	r.wantNack(fault.CodeNotNewer)
	r.do(offer(Point{Epoch: 0, Version: 99, View: "v", Digest: digest.Hash{9}}))
	r.wantNack(fault.CodeNotNewer)
	r.wantActive(point(2, 2))
}

func TestTheSameVersionIsTakenAgainAfterItsContentWasLost(t *testing.T) {
	r := newRig(t, testConfig())
	r.m = New(testConfig())
	r.do(Start{Durable{Highest: point(7, 7)}})
	r.do(offer(point(7, 7)))
	r.wantActive(point(7, 7))
}

func TestTwoContentsForOneVersionAreReported(t *testing.T) {
	r := kept(t)
	r.do(offer(point(2, 9)))
	r.wantNack(fault.CodeEquivocation)
	r.wantActive(point(2, 2))
	r.do(Fresh{Point: point(2, 8)})
	r.wantNack(fault.CodeEquivocation)
}

func TestAnotherViewOfTheSameVersionIsAccepted(t *testing.T) {
	r := kept(t)
	other := point(2, 5)
	other.View = "w"
	r.do(offer(other))
	r.wantActive(other)
}

func TestMissingCapabilitiesAreRefused(t *testing.T) {
	r := kept(t)
	r.do(Offered{Candidate{Point: point(3, 3), Verified: true, Required: []string{"core/v1", "mirror/v1"}}})
	r.wantNack(fault.CodeCapabilityMissing)
}

func TestAPinHoldsAndUnpinMovesOn(t *testing.T) {
	r := kept(t)
	r.do(Pin{Request: 1, Reason: "incident"})
	r.do(offer(point(3, 3)))
	r.wantNack(fault.CodePinned)
	r.wantActive(point(2, 2))
	r.wantPhase(Degraded)
	r.restart(testConfig())
	r.wantActive(point(2, 2))
	if !r.m.d.Pinned {
		t.Fatal("the pin did not survive a restart")
	}
	r.do(offer(point(3, 3)))
	effects := r.do(Unpin{Request: 2})
	if !slices.Contains(names(effects), "Resume") {
		t.Fatalf("effects %v do not ask the hub again", names(effects))
	}
	r.wantActive(point(3, 3))
}

func TestRevertGoesBackPinsAndNeverLowersHighest(t *testing.T) {
	r := kept(t)
	effects := r.do(Revert{Request: 5, Reason: "looks bad"})
	reply := effects[len(effects)-1].(Reply)
	if reply.Request != 5 || reply.Reason != nil || reply.Generation.Point != point(1, 1) {
		t.Fatalf("reply %+v", reply)
	}
	r.wantActive(point(1, 1))
	if !r.stored.Pinned || r.stored.Highest != point(2, 2) {
		t.Fatalf("stored %+v", r.stored)
	}
	r.do(Unpin{Request: 6})
	r.wantActive(point(2, 2))
	r.do(Revert{Request: 7})
	r.do(Revert{Request: 8})
	if reply := r.effects[len(r.effects)-1].(Reply); reply.Reason == nil || reply.Reason.Code != fault.CodeNoFallback {
		t.Fatalf("a revert with nothing before answered %+v", reply)
	}
}

func TestPinningWhatIsNotStoredIsRefused(t *testing.T) {
	r := kept(t)
	r.do(Pin{Request: 1, Version: 77})
	if reply := r.effects[len(r.effects)-1].(Reply); reply.Reason == nil || reply.Reason.Code != fault.CodeGenerationNotFound {
		t.Fatalf("reply %+v", reply)
	}
}

func TestFreshnessOverdueIsStaleAndComesBack(t *testing.T) {
	r := kept(t)
	r.pass(36 * time.Second)
	r.wantPhase(Stale)
	r.do(Fresh{Point: point(2, 2)})
	r.wantPhase(Active)
}

func TestFreshnessForALaterPointOfTheSameContentMovesThePoint(t *testing.T) {
	r := kept(t)
	r.do(Fresh{Point: point(5, 2)})
	r.wantActive(point(5, 2))
	if r.stored.Highest != point(5, 2) {
		t.Fatalf("highest %+v", r.stored.Highest)
	}
	r.do(offer(point(4, 4))) // what lies between was superseded
	r.wantNack(fault.CodeNotNewer)
}

func TestNewerContentWhileOneIsInFlightWaitsAndTheNewestWins(t *testing.T) {
	m := New(testConfig())
	m, _ = m.Step(Start{}, epoch0)
	m, effects := m.Step(offer(point(1, 1)), epoch0)
	flight := effects[0].(Validate).Flight
	for v := uint64(2); v <= 4; v++ {
		if m, effects = m.Step(offer(point(v, byte(v))), epoch0); len(effects) > 0 {
			t.Fatalf("version %d led to %v while one was in flight", v, names(effects))
		}
	}
	m, effects = m.Step(Validated{Flight: flight, Reason: &Reason{Code: fault.CodeContentRefused, Message: "bad"}}, epoch0)
	if got := names(effects); !slices.Equal(got, []string{"Nack", "Validate"}) || effects[1].(Validate).Point != point(4, 4) {
		t.Fatalf("then %v", effects)
	}
	if _, effects = m.Step(Validated{Flight: flight}, epoch0); len(effects) > 0 {
		t.Fatalf("a late answer led to %v", names(effects))
	}
}

func TestInvalidStoredContentGivesWayToTheNextGeneration(t *testing.T) {
	r := kept(t)
	r.do(Stop{})
	r.validate[point(2, 2)] = &Reason{Code: fault.CodeContentRefused, Message: "this build refuses it"}
	r.restart(testConfig())
	r.wantActive(point(1, 1))
	if r.m.d.Highest != point(2, 2) {
		t.Fatalf("highest %+v", r.m.d.Highest)
	}
}

func TestAHookThatFailsAtAStartDoesNotTakeKeptContentAway(t *testing.T) {
	r := kept(t)
	r.do(Stop{})
	r.activate[point(2, 2)] = &Reason{Code: fault.CodeActivationFailed, Message: "hook is gone"}
	r.restart(testConfig())
	r.wantActive(point(2, 2))
	r.wantPhase(Degraded)
}

// TestNothingOlderIsRememberedBetweenPersistAndActivate has the state of the version
// before asked for while that of the next is being written: written behind it, it
// would hide the crashes of the next one's probation.
func TestNothingOlderIsRememberedBetweenPersistAndActivate(t *testing.T) {
	failed := &Reason{Code: fault.CodeLKGWrite, Message: "full"}
	for name, events := range map[string][]Event{
		"a new statement":        {Vouched{}},
		"the retry of a failure": {Remembered{failed}, Tick{}},
	} {
		for outcome, why := range map[string]*Reason{"written": nil, "not written": failed} {
			t.Run(name+", "+outcome, func(t *testing.T) {
				r := kept(t)
				now := r.now
				m, effects := r.m.Step(offer(point(3, 3)), now)
				m, effects = m.Step(Validated{Flight: effects[0].(Validate).Flight}, now)
				flight := effects[0].(Persist).Flight
				for _, ev := range events {
					now = now.Add(6 * time.Second)
					m, effects = m.Step(ev, now)
					if len(effects) > 0 {
						t.Fatalf("%T: %v while the next state is being written", ev, names(effects))
					}
				}
				m, effects = m.Step(Persisted{Flight: flight, Reason: why}, now)
				last, ok := effects[len(effects)-1].(Remember)
				if !ok {
					t.Fatalf("effects %v, want what was put off at the end", names(effects))
				}
				active, _ := m.Active()
				if got := last.Durable.Generations[0].Point; got != active.Point || last.Durable.Running != (why == nil) {
					t.Fatalf("remembered that version %d is active, running %t, while version %d is", got.Version, last.Durable.Running, active.Version)
				}
			})
		}
	}
}

// TestGoingBackIsWrittenWhenTheDiskLetsIt fails the write of a way back, which goes
// ahead all the same, and lets no other event come.
func TestGoingBackIsWrittenWhenTheDiskLetsIt(t *testing.T) {
	r := kept(t)
	r.activate[point(3, 3)] = &Reason{Code: fault.CodeActivationFailed, Message: "no"}
	r.persist[point(2, 2)] = &Reason{Code: fault.CodeLKGWrite, Message: "full"}
	r.do(offer(point(3, 3)))
	r.wantActive(point(2, 2))
	r.pass(6 * time.Second)
	if _, bad := r.stored.quarantined(point(3, 3).Digest); !bad || r.stored.Generations[0].Point != point(2, 2) {
		t.Fatalf("stored is that version %d is active, quarantine %v", r.stored.Generations[0].Version, r.stored.Quarantine)
	}
}

// TestADataPlaneThatRefusesAtOnceIsHeard has the refusal of a version come before
// its activation is known to have ended, and while a newer one is on its way.
func TestADataPlaneThatRefusesAtOnceIsHeard(t *testing.T) {
	refused := DataPlaneNack{Epoch: 1, Version: 3, Message: "cannot bind"}
	activating := func(t *testing.T) (Machine, uint64, time.Time) {
		r := kept(t)
		m, effects := r.m.Step(offer(point(3, 3)), r.now)
		m, effects = m.Step(Validated{Flight: effects[0].(Validate).Flight}, r.now)
		m, effects = m.Step(Persisted{Flight: effects[0].(Persist).Flight}, r.now)
		for _, e := range effects {
			if a, ok := e.(Activate); ok {
				return m, a.Flight, r.now
			}
		}
		t.Fatalf("effects %v, want an activation", names(effects))
		panic("unreachable")
	}
	goesBack := func(t *testing.T, effects []Effect) {
		t.Helper()
		for _, e := range effects {
			if p, ok := e.(Persist); ok && p.Durable.Generations[0].Point == point(2, 2) {
				return
			}
		}
		t.Fatalf("effects %v: the version that the data plane refused stays", names(effects))
	}
	t.Run("before the activation has ended", func(t *testing.T) {
		m, flight, now := activating(t)
		m, effects := m.Step(refused, now)
		if len(effects) > 0 {
			t.Fatalf("effects %v while it is being activated", names(effects))
		}
		_, effects = m.Step(Activated{Flight: flight}, now)
		goesBack(t, effects)
	})
	t.Run("while a newer version is on its way", func(t *testing.T) {
		m, flight, now := activating(t)
		m, _ = m.Step(Activated{Flight: flight}, now)
		m, effects := m.Step(offer(point(4, 4)), now)
		next := effects[0].(Validate).Flight
		m, _ = m.Step(refused, now)
		_, effects = m.Step(Validated{Flight: next, Reason: &Reason{Code: fault.CodeValidateCommand, Message: "no"}}, now)
		goesBack(t, effects)
	})
}
