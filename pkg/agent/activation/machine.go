package activation

import (
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// stage is how far a flight has come.
type stage uint8

const (
	validating stage = iota
	persisting
	activating
)

// purpose is why a flight was started; it decides what a failure means.
type purpose uint8

const (
	// forward: newer content, or newer stored content after a pin.
	forward purpose = iota
	// restore: the active generation, at a start.
	restore
	// back: a stored generation instead of one that did harm.
	back
	// command: a stored generation that an operator named.
	command
)

// flight is the activation in progress. It is replaced, never modified.
type flight struct {
	id      uint64
	target  Candidate
	purpose purpose
	stage   stage
	// next is the durable state from persisting on.
	next Durable
	// why is the reason of a flight back.
	why Reason
	// request is the operator's command to answer, if answer is set.
	request uint64
	answer  bool
}

// watch is the probation of the active generation; the zero watch is none.
type watch struct {
	until      time.Time
	nextHealth time.Time
	checking   bool
	bad        int // failed health checks in a row
	lost       int // data-plane streams that broke
}

func (w watch) on() bool { return !w.until.IsZero() }

// objection is what a data plane said of a version.
type objection struct {
	point Point
	why   Reason
}

// Refusal is the newest version that was not kept, and why.
type Refusal struct {
	Point  Point
	Reason Reason
	At     time.Time
}

// Machine is the state; see the package comment. Use New.
type Machine struct {
	cfg      Config
	d        Durable
	started  bool
	stopping bool
	flights  uint64

	flight  *flight
	served  Point      // what the data plane was given last; zero: nothing in this run
	pending *Candidate // newest verified content, waiting for the flight to end
	held    *Candidate // newest verified content, waiting for the pin to go
	retry   *Candidate // could not be made durable
	retryAt time.Time
	unsaved bool    // a write failed, and nothing was made durable since
	owed    bool    // a Remember waits for the outcome of a Persist; see remember
	waiting []Event // operator's commands, waiting for the flight to end
	watch   watch
	// objection is a data plane's refusal of the active version that came while a
	// flight was under way; it counts when the flight has ended.
	objection *objection

	refusal   *Refusal
	message   string
	hub       string
	connected bool
	severed   string // why there is no stream to a hub
	freshAt   time.Time
}

// New makes a machine that waits for Start.
func New(cfg Config) Machine { return Machine{cfg: cfg.normal()} }

func (c Config) normal() Config {
	c.HealthFailures = max(c.HealthFailures, 1)
	if c.HealthInterval > 0 && c.Probation > 0 {
		c.HealthInterval = min(c.HealthInterval, max(c.Probation/2, time.Millisecond))
	}
	if c.RetryPersist <= 0 {
		c.RetryPersist = 5 * time.Second
	}
	return c
}

// step is one call of Step under way.
type step struct {
	Machine
	now     time.Time
	effects []Effect
}

// Step takes in one event. The effects are to be carried out in order.
func (m Machine) Step(ev Event, now time.Time) (Machine, []Effect) {
	s := &step{Machine: m, now: now}
	s.dispatch(ev)
	if s.owed {
		s.remember()
	}
	s.object()
	s.advance()
	return s.Machine, s.effects
}

func (s *step) emit(e Effect) { s.effects = append(s.effects, e) }

func (s *step) dispatch(ev Event) {
	if s.stopping {
		if request := requestOf(ev); request != 0 {
			s.reject(request, fault.CodeAgentStopping, "the agent is stopping")
		}
		return
	}
	switch ev := ev.(type) {
	case Start:
		s.start(ev.Durable)
	case Offered:
		s.consider(ev.Candidate)
	case Refused:
		s.refuse(ev.Point, ev.Reason)
	case Validated:
		if s.awaits(ev.Flight, validating) {
			s.validated(ev.Reason)
		}
	case Persisted:
		if s.awaits(ev.Flight, persisting) {
			s.persisted(ev.Reason)
		}
	case Activated:
		if s.awaits(ev.Flight, activating) {
			s.activated(ev.Reason)
		}
	case Remembered:
		if ev.Reason != nil {
			s.message = ev.Reason.Message
			s.unsaved, s.retryAt = true, s.now.Add(s.cfg.RetryPersist)
		}
	case Health:
		s.health(ev)
	case DataPlaneNack:
		s.dataPlaneNack(ev)
	case DataPlaneLost:
		s.dataPlaneLost()
	case Fresh:
		s.fresh(ev)
	case Vouched:
		s.remember()
	case Connected:
		s.connected, s.hub, s.severed = true, ev.Hub, ""
	case Disconnected:
		s.connected, s.severed = false, ev.Reason
	case Configure:
		s.cfg = ev.Config.normal()
	case Tick:
		s.tick()
	case Pin, Unpin, Revert:
		s.command(ev)
	case Stop:
		s.stopping = true
		s.d.Running = false
		s.remember()
	}
}

// remember has the present state made durable. While a Persist is outstanding it
// waits for the outcome: the present state is that of the version before, and
// written behind the Persist it would stay on disk all through the probation of the
// new one, whose crashes would then not be counted. The flight's next state cannot
// be written in its place, because it is none if the Persist fails. Once the outcome
// is known the present state is right again, before Activate has ended as well.
//
// A stop does not wait: nobody hears the outcome, and the new version is not activated.
func (s *step) remember() {
	s.owed = s.flight != nil && s.flight.stage == persisting && !s.stopping
	s.unsaved = false
	if !s.owed {
		s.emit(Remember{s.d})
	}
}

func (s *step) awaits(id uint64, at stage) bool {
	return s.flight != nil && s.flight.id == id && s.flight.stage == at
}

// advance starts what waited, once nothing is in flight.
func (s *step) advance() {
	for s.started && !s.stopping && s.flight == nil {
		switch {
		case len(s.waiting) > 0:
			ev := s.waiting[0]
			s.waiting = slices.Clone(s.waiting[1:])
			s.command(ev)
		case s.pending != nil:
			c := *s.pending
			s.pending = nil
			s.consider(c)
		default:
			return
		}
	}
}

func (s *step) start(d Durable) {
	if s.started {
		return
	}
	s.started = true
	s.freshAt = s.now
	if d.Running {
		d.Crashes++
	}
	d.Generations = slices.Clone(d.Generations)
	for i := range d.Generations {
		// What was superseded within its probation is not proven by downtime.
		if i > 0 && d.Generations[i].Status == Probation {
			d.Generations[i].ActivatedAt = s.now
		}
	}
	active, ok := d.Active()
	if ok && s.cfg.MaxCrashes > 0 && d.Crashes >= s.cfg.MaxCrashes && !d.Pinned {
		why := Reason{Code: fault.CodeCrashLoop, Message: crashMessage(d.Crashes, active.Point)}
		if next, found := d.withdraw(active, why, s.now); found {
			s.emit(Nack{active.Point, why})
			s.emit(WentBack{active.Point, next.Generations[0].Point, why})
			s.note(active.Point, why)
			d = next
		} else {
			s.message = why.Message + "; no earlier generation is stored"
		}
		d.Crashes = 0
	}
	active, d.Running = d.Active()
	s.d = d
	s.emit(Remember{d})
	if d.Running {
		s.fly(flight{target: Candidate{Point: active.Point, Verified: true}, purpose: restore, stage: validating})
	}
}

// fly starts a flight at its stage.
func (s *step) fly(f flight) {
	s.flights++
	f.id = s.flights
	s.flight = &f
	switch f.stage {
	case validating:
		s.emit(Validate{f.id, f.target.Point})
	case persisting:
		s.emit(Persist{f.id, f.next})
	case activating:
		s.emitActivate(f, Point{})
	}
}

// proceed moves the flight to its next stage.
func (s *step) proceed(change func(*flight)) flight {
	f := *s.flight
	change(&f)
	s.flight = &f
	return f
}

func (s *step) emitActivate(f flight, from Point) {
	s.emit(Activate{Flight: f.id, Point: f.target.Point, From: from, Back: f.target.Compare(from) < 0 && !from.IsZero(), Regardless: s.regardless(f)})
}

// regardless tells whether the target is served even when its hook fails: when
// there is nothing better, or someone said so.
func (s *step) regardless(f flight) bool {
	if f.purpose == back || f.purpose == command {
		return true
	}
	if f.purpose == restore {
		g, ok := s.d.Active()
		_, other := s.d.fallback()
		return ok && (g.Status == Kept || !other)
	}
	return false
}

// consider decides on verified content: refuse it, hold it, let it wait, or
// start its activation.
func (s *step) consider(c Candidate) {
	if !s.started {
		return
	}
	if why := s.unacceptable(c); why != nil {
		s.refuse(c.Point, *why)
		return
	}
	if active, ok := s.d.Active(); ok && active.Point == c.Point {
		if s.flight == nil {
			s.emit(Ack{c.Point, active.ActivatedAt, active.Status == Kept})
		}
		return
	}
	for _, other := range s.ahead() {
		if other.Point == c.Point || other.Compare(c.Point) > 0 {
			return // coalesced: this, or something newer, is on its way already
		}
	}
	switch {
	case s.d.Pinned:
		s.held = &c
		s.emit(Nack{c.Point, Reason{Code: fault.CodePinned, Message: pinMessage(s.d.PinReason)}})
	case s.flight != nil:
		s.pending = &c
	default:
		s.retry = nil
		s.fly(flight{target: c, purpose: forward, stage: validating})
	}
}

// unacceptable says why content may not even be tried, or nil.
func (s *step) unacceptable(c Candidate) *Reason {
	if !c.Verified {
		return &Reason{Code: fault.CodeInternal, Message: "content was offered without being verified"}
	}
	for _, cap := range c.Required {
		if _, ok := slices.BinarySearch(s.cfg.Capabilities, cap); !ok {
			return &Reason{Code: fault.CodeCapabilityMissing, Message: "this build does not have the capability " + cap + " that the content requires"}
		}
	}
	if c.Compare(s.d.Highest) < 0 {
		return &Reason{Code: fault.CodeNotNewer, Message: olderMessage(c.Point, s.d.Highest)}
	}
	for _, known := range s.known() {
		if known.sameVersion(c.Point) && known.Digest != c.Digest {
			return &Reason{Code: fault.CodeEquivocation, Message: equivocationMessage(c.Point, known, c.Signer)}
		}
	}
	if q, bad := s.d.quarantined(c.Digest); bad {
		return &Reason{Code: fault.CodeQuarantined, Message: quarantineMessage(q)}
	}
	return nil
}

// ahead lists the content that was offered and is not active yet.
func (s *step) ahead() []Candidate {
	var out []Candidate
	for _, c := range []*Candidate{s.pending, s.held} {
		if c != nil {
			out = append(out, *c)
		}
	}
	if s.flight != nil && s.flight.purpose == forward {
		out = append(out, s.flight.target)
	}
	return out
}

// known lists the points whose digests are known to be signed.
func (s *step) known() []Point {
	out := []Point{s.d.Highest}
	for _, g := range s.d.Generations {
		out = append(out, g.Point)
	}
	for _, c := range []*Candidate{s.pending, s.held, s.retry} {
		if c != nil {
			out = append(out, c.Point)
		}
	}
	if s.flight != nil {
		out = append(out, s.flight.target.Point)
	}
	return out
}

// refuse tells the hub, and remembers what a person should see.
func (s *step) refuse(p Point, why Reason) {
	s.emit(Nack{p, why})
	if why.Code != fault.CodeNotNewer && !why.Resync {
		s.note(p, why)
	}
}

// note keeps a refusal for the status.
func (s *step) note(p Point, why Reason) {
	s.refusal = &Refusal{Point: p, Reason: why, At: s.now}
	s.message = why.Message
}

func (s *step) validated(why *Reason) {
	f := *s.flight
	if why == nil {
		switch f.purpose {
		case restore:
			f = s.proceed(func(f *flight) { f.stage = activating })
			s.emitActivate(f, Point{})
		default:
			f = s.proceed(func(f *flight) {
				f.stage = persisting
				f.next = s.d.accept(f.target.Point, s.now)
			})
			s.emit(Persist{f.id, f.next})
		}
		return
	}
	s.flight = nil
	s.refuse(f.target.Point, *why)
	if f.purpose != restore {
		return
	}
	// The stored active generation is not valid for this build: try the others.
	s.d.Generations = slices.Clone(s.d.Generations[1:])
	s.d.Running = len(s.d.Generations) > 0
	s.remember()
	if g, ok := s.d.Active(); ok {
		s.fly(flight{target: Candidate{Point: g.Point, Verified: true}, purpose: restore, stage: validating})
	}
}

func (s *step) persisted(why *Reason) {
	if why != nil {
		s.message = why.Message
		if s.flight.purpose == forward {
			c := s.flight.target
			s.flight = nil
			s.retry, s.retryAt = &c, s.now.Add(s.cfg.RetryPersist)
			s.refuse(c.Point, *why)
			return
		}
		// Going back, or an operator's word, does not wait for a disk: it is
		// written when the disk lets it.
		s.retryAt = s.now.Add(s.cfg.RetryPersist)
	}
	s.unsaved = why != nil
	from, _ := s.d.Active()
	f := s.proceed(func(f *flight) { f.stage = activating })
	s.d = f.next
	s.emitActivate(f, from.Point)
	s.watch = watch{}
}
