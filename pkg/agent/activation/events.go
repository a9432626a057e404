package activation

import "time"

// Event is something that happened. The set is closed.
type Event interface{ event() }

type (
	// Start is the first event: what the store holds.
	Start struct{ Durable Durable }
	// Offered: content came from a hub.
	Offered struct{ Candidate Candidate }
	// Refused: what came could not be verified. Point may be what it claimed.
	Refused struct {
		Point  Point
		Reason Reason
	}
	// Validated answers Validate.
	Validated struct {
		Flight uint64
		Reason *Reason // nil: valid
	}
	// Persisted answers Persist.
	Persisted struct {
		Flight uint64
		Reason *Reason // nil: durable
	}
	// Activated answers Activate.
	Activated struct {
		Flight uint64
		Reason *Reason // nil: active
	}
	// Remembered answers Remember when it failed.
	Remembered struct{ Reason *Reason }
	// Health answers CheckHealth.
	Health struct {
		Point  Point
		Reason *Reason // nil: healthy
	}
	// DataPlaneNack: a local process refused a version.
	DataPlaneNack struct {
		Epoch, Version uint64
		Message        string
	}
	// DataPlaneLost: the stream of a local process that had the active version
	// broke.
	DataPlaneLost struct{}
	// Fresh: a hub confirmed that Point is its newest. When Point is later than
	// the active one and names the same content, the active generation takes it
	// on: the runtime must hold that content under Point by then.
	Fresh struct {
		Point Point
		// Signer says whose statement it is, for people.
		Signer string
	}
	// Vouched: the runtime holds a new proof for the active content.
	Vouched struct{}
	// Connected and Disconnected tell of the stream to a hub.
	Connected    struct{ Hub string }
	Disconnected struct{ Reason string }
	// Configure replaces the configuration, from the next step on.
	Configure struct{ Config Config }
	// Tick: a time from Deadline has come.
	Tick struct{}
	// Pin, Unpin and Revert are the operator's break-glass commands; Request
	// comes back in Reply.
	Pin struct {
		Request uint64
		Version uint64 // 0: the active one
		Reason  string
	}
	Unpin  struct{ Request uint64 }
	Revert struct {
		Request uint64
		Reason  string
	}
	// Stop: the agent stops cleanly.
	Stop struct{}
)

func (Start) event()         {}
func (Offered) event()       {}
func (Refused) event()       {}
func (Validated) event()     {}
func (Persisted) event()     {}
func (Activated) event()     {}
func (Remembered) event()    {}
func (Health) event()        {}
func (DataPlaneNack) event() {}
func (DataPlaneLost) event() {}
func (Fresh) event()         {}
func (Vouched) event()       {}
func (Connected) event()     {}
func (Disconnected) event()  {}
func (Configure) event()     {}
func (Tick) event()          {}
func (Pin) event()           {}
func (Unpin) event()         {}
func (Revert) event()        {}
func (Stop) event()          {}

// Effect is something to do. The set is closed.
type Effect interface{ effect() }

type (
	// Validate checks content with the shared engine and the external command.
	// Answer: Validated.
	Validate struct {
		Flight uint64
		Point  Point
	}
	// Persist makes state and the content that it names durable. Answer:
	// Persisted, and nothing may be activated before.
	Persist struct {
		Flight  uint64
		Durable Durable
	}
	// Activate gives content to the data plane in place of From (zero: none
	// before). Answer: Activated.
	Activate struct {
		Flight uint64
		Point  Point
		From   Point
		// Back is set when Point is a stored generation that replaces a newer one.
		Back bool
		// Regardless: Point is served even when the hook fails, because there is
		// nothing better, or because an operator said so.
		Regardless bool
	}
	// Remember makes state durable that nothing waits for. Answer: Remembered,
	// when it failed.
	Remember struct{ Durable Durable }
	// CheckHealth runs the health command. Answer: Health.
	CheckHealth struct{ Point Point }
	// Ack tells the hub that a version is active.
	Ack struct {
		Point       Point
		ActivatedAt time.Time
		Kept        bool
	}
	// Nack tells the hub that a version was refused or reverted.
	Nack struct {
		Point  Point
		Reason Reason
	}
	// WentBack reports that the active generation was replaced by an older one.
	WentBack struct {
		From, To Point
		Reason   Reason
	}
	// Resume asks the hub to send again what it has.
	Resume struct{}
	// Reply answers an operator's command.
	Reply struct {
		Request    uint64
		Generation Generation
		Reason     *Reason // nil: done
	}
)

func (Validate) effect()    {}
func (Persist) effect()     {}
func (Activate) effect()    {}
func (Remember) effect()    {}
func (CheckHealth) effect() {}
func (Ack) effect()         {}
func (Nack) effect()        {}
func (WentBack) effect()    {}
func (Resume) effect()      {}
func (Reply) effect()       {}
