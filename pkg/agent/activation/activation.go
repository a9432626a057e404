// Package activation decides what an agent does with the content it is offered:
// stage, validate, make durable, activate, watch through probation, then keep it
// or go back, and say why. It is a pure step machine:
//
//	m, effects := m.Step(event, now)
//
// Effects are data; the agent's runtime carries them out in order and answers
// those that have an outcome with an event. The machine holds no content, only
// points that name it: the runtime keeps the content of m.References().
//
// # One activation
//
//	Offered (verified) ─► Validate ─► Validated ─► Persist ─► Persisted ─► Activate ─► Activated ─► probation
//	      │ refused           │ no                    │ no                   │ no            │ unhealthy
//	      ▼                   ▼                       ▼                      ▼               ▼
//	    Nack                Nack               Nack, try later        Nack, quarantine, go back to the
//	                                                                  newest generation that was kept
//
// What always holds:
//
//   - At most one of Validate, Persist and Activate is outstanding.
//   - Activate is never emitted for content that was not verified, nor forward for
//     content whose point was not persisted as Highest before.
//   - Nothing is made durable between the Persist of a version and its Activate that
//     says that another version is active.
//   - Highest never goes down. Content below it is activated only as a stored
//     generation: at a start, after a failure, or because an operator said so.
//   - A digest that was reverted for doing harm is not activated again until an
//     operator unpins the agent or MaxQuarantine other digests did harm since.
//
// A Machine is a value: Step returns a new one and shares nothing that either
// modifies. One goroutine owns the current value.
package activation

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

// MaxGenerations is how many generations an agent stores.
const MaxGenerations = 3

// MaxQuarantine is how many reverted digests an agent remembers.
const MaxQuarantine = 16

// maxWaiting bounds the operator's commands that wait for an activation to end.
const maxWaiting = 8

// Point names one version of one view and the digest of its content.
type Point struct {
	Epoch   uint64
	Version uint64
	View    string
	Digest  digest.Hash
}

// IsZero tells whether p names nothing.
func (p Point) IsZero() bool { return p == Point{} }

// Compare orders points by (epoch, version).
func (p Point) Compare(q Point) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Version, q.Version))
}

// sameVersion tells whether only one content can be right for both.
func (p Point) sameVersion(q Point) bool { return p.Compare(q) == 0 && p.View == q.View }

// Status is what became of a generation.
type Status string

// Statuses of generations. Held and Reverted occur in reports only.
const (
	// Probation: activated, and not yet proven.
	Probation Status = "probation"
	// Kept: it survived its probation.
	Kept Status = "kept"
	// Held: verified, waiting for the operator's pin to be taken off.
	Held Status = "held"
	// Reverted: it did harm and was taken back.
	Reverted Status = "reverted"
)

// Generation is one stored version.
type Generation struct {
	Point
	Status      Status
	ActivatedAt time.Time
	// Reason says in words why it is where it is, when that is not obvious.
	Reason string
}

// Quarantined is a version that did harm here.
type Quarantined struct {
	Point
	Code    fault.Code
	Message string
	Since   time.Time
}

// Durable is what must survive a restart.
type Durable struct {
	// Generations: the active one first, then in the order in which the agent
	// falls back. At most MaxGenerations.
	Generations []Generation
	// Highest is the highest point that was let through to activation.
	Highest    Point
	Quarantine []Quarantined
	Pinned     bool
	PinReason  string
	// Crashes counts the runs in a row that ended, not cleanly, before the
	// active generation had survived its probation.
	Crashes int
	// Running is set from the start of a run, or of an activation, until the
	// probation has passed or the agent stops cleanly.
	Running bool
}

// Active gives the active generation.
func (d Durable) Active() (Generation, bool) {
	if len(d.Generations) == 0 {
		return Generation{}, false
	}
	return d.Generations[0], true
}

// find gives the index of a stored generation, or -1.
func (d Durable) find(p Point) int {
	return slices.IndexFunc(d.Generations, func(g Generation) bool { return g.Point == p })
}

// quarantined gives the record of a digest that did harm.
func (d Durable) quarantined(h digest.Hash) (Quarantined, bool) {
	i := slices.IndexFunc(d.Quarantine, func(q Quarantined) bool { return q.Digest == h })
	if i < 0 {
		return Quarantined{}, false
	}
	return d.Quarantine[i], true
}

// Candidate is content that was offered. Verified says that its manifest's
// signature, domain and digest were checked.
type Candidate struct {
	Point
	Verified bool
	Required []string
	// Signer says whose manifest it is, for people.
	Signer string
}

// Reason says why something was refused or reverted. The zero Reason is none.
type Reason struct {
	Code fault.Code
	// Resource at fault, "Kind/namespace/name", if it is one.
	Resource string
	Message  string
	// Resync asks the hub for a full snapshot.
	Resync bool
}

// ReasonOf makes a Reason of an error; code is used when the error has none.
func ReasonOf(err error, code fault.Code) *Reason {
	if err == nil {
		return nil
	}
	if c := fault.CodeOf(err); c != "" {
		code = c
	}
	return &Reason{Code: code, Message: err.Error()}
}

// Config tunes a machine. The runtime changes it with Configure.
type Config struct {
	// Probation is how long a version must stay healthy before it is kept; 0
	// keeps it at once.
	Probation time.Duration
	// HealthInterval is the time between health checks within the probation; 0:
	// there is no health command.
	HealthInterval time.Duration
	// HealthFailures in a row end the probation badly; at least 1.
	HealthFailures int
	// MaxCrashes is how many runs in a row may end badly within the probation;
	// 0 switches crash-loop detection off.
	MaxCrashes int
	// MaxLost is how many data-plane streams may break within the probation; 0
	// switches that off.
	MaxLost int
	// StaleAfter is how long the last freshness is good for.
	StaleAfter time.Duration
	// RetryPersist is the wait after the store could not be written.
	RetryPersist time.Duration
	// Capabilities of this build, sorted.
	Capabilities []string
}
