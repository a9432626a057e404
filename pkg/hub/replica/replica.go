// Package replica is one hub's copy of a domain: it follows the domain's log,
// folds it into a state and a graph that readers use without locks, and, while it
// holds the lease, is the log's only writer.
//
//	r := replica.New(replica.Options{Open: open, Holder: holder, Logger: log})
//	go r.Run(ctx)                          // until ctx ends
//	cur := r.Current()                     // never nil once Ready is closed
//	entry, err := r.Propose(ctx, func(cur *Current, now time.Time) (Proposal, error) { … })
//
// # Writing
//
// Proposals are evaluated one after the other in the log's writer goroutine,
// each on the state that the ones before it will leave (the pending state), so
// a check made in a proposal still holds when its entry is committed. Several
// proposals share one append. When it succeeds, the pending states become
// current before any Propose returns, so a caller reads its own writes; when it
// fails, they are dropped.
//
// # When something is wrong
//
// A store that cannot be written leaves the replica read-only; it probes by
// itself and resumes when the probe succeeds. A snapshot that fails leaves it
// writing: it is tried again, and SnapshotFailed tells. A store whose engine failed is
// closed and opened again. An entry that cannot be applied freezes the replica: it
// serves the last good state, gives up the lease and waits for people. So does a
// log that went back, until it is whole again or an operator accepted the loss.
// Health tells all of this.
//
// All methods are safe for concurrent use.
package replica

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
)

// Options of a replica.
type Options struct {
	// Open opens the domain's log; called again when the engine failed.
	Open func(ctx context.Context) (*store.Log, error)
	// Domain is the name that the log must have.
	Domain string
	// Holder is this hub, as the lease and TermStarted name it.
	Holder store.Holder
	// Aside tells whether, in a state, this hub leaves the lease to others as if it were
	// drained; nil: never. It is asked at every entry, and must be quick.
	Aside func(*state.State) bool
	// Author is this hub's SPIFFE ID, for its own entries.
	Author string
	Logger *slog.Logger
	// Now is the clock; nil means time.Now. Entry times never go back even if
	// it does.
	Now func() time.Time
	// SnapshotEntries and SnapshotBytes say after how much new log a snapshot is
	// taken and the log behind it trimmed. 0 means 10,000 entries and 64 MiB.
	SnapshotEntries uint64
	SnapshotBytes   int64
	// SnapshotRetry is the shortest pause after a failed snapshot; 0 means 1 min.
	SnapshotRetry time.Duration
	// Probe is how often a read-only replica tries to write, and a leader looks
	// whether the log is still the one that it followed; 0 means 2 s.
	Probe time.Duration
	// PositionFile keeps how far this hub has followed the log, so that a store which
	// is put back while the hub is down is noticed; empty: it is not kept.
	PositionFile string
	// Place says where the log is, as far as all hubs of a ring name it alike. What a hub
	// has seen elsewhere is no evidence that the log here was put back; empty: not known.
	Place string
}

// Current is what the log folds into at one point. It is immutable.
type Current struct {
	State *state.State
	Graph *graph.Graph
}

// Commit tells of one entry that moved the config sequence.
type Commit struct {
	Seq, Term uint64
	// At is when this hub learned that the entry is durable.
	At          time.Time
	Traceparent string
}

// commitsKept bounds the ring of Commits.
const commitsKept = 1024

// Replica follows and, as leader, writes one domain's log. Use New and Run.
type Replica struct {
	opt   Options
	log   *slog.Logger
	ready chan struct{} // closed when the first replay is done
	// snapshotting has one place: for the snapshot that is under way.
	snapshotting chan struct{}

	current atomic.Pointer[Current]
	// lostTold is when the log was told last that the lease was lost. Run's.
	lostTold time.Time

	mu         sync.Mutex // guards all below, and stores to current
	changed    chan struct{}
	commits    []Commit // oldest first, at most commitsKept
	pending    []speculation
	tenure     *store.Tenure
	tenureMove chan struct{} // closed and replaced when tenure changes
	logOpen    *store.Log
	frozen     error // no way forward without people
	trouble    error // the store's last refusal to write or read
	// campaignFailed is why this hub cannot stand for the lease.
	campaignFailed error
	backlog        backlog
	// heldUntil is until when this hub leaves the lease to others; holdMove is closed
	// and replaced when it changes.
	heldUntil time.Time
	holdMove  chan struct{}
	// split is why this hub leaves the domain to one that leads on another log; see
	// Split.
	split error
	// snapshotFailed is why the last snapshot was not saved, nil if it was;
	// snapshotAfter is when the next may be tried.
	snapshotFailed error
	snapshotAfter  time.Time
	// position is what the position file says, nil if there is none; positionFailed
	// is why it could not be written. keepPosition is set once the log was found to
	// hold what an earlier run of the hub saw.
	position       *position
	positionFailed error
	keepPosition   bool
}

// backlog is the log that no snapshot covers yet.
type backlog struct {
	entries uint64
	bytes   int64
}

// New makes a replica that has read nothing yet.
func New(opt Options) *Replica {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.SnapshotEntries == 0 {
		opt.SnapshotEntries = 10_000
	}
	if opt.SnapshotBytes == 0 {
		opt.SnapshotBytes = 64 << 20
	}
	if opt.SnapshotRetry == 0 {
		opt.SnapshotRetry = time.Minute
	}
	if opt.Probe == 0 {
		opt.Probe = 2 * time.Second
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return &Replica{
		opt: opt, log: opt.Logger, ready: make(chan struct{}), snapshotting: make(chan struct{}, 1),
		changed: make(chan struct{}), tenureMove: make(chan struct{}), holdMove: make(chan struct{}),
	}
}

// Ready is closed once the log has been replayed and Current may be used.
func (r *Replica) Ready() <-chan struct{} { return r.ready }

// Current is the newest state; nil before Ready: what has been read until then is
// older than what this hub, or another, has shown before.
func (r *Replica) Current() *Current {
	if !r.isReady() {
		return nil
	}
	return r.current.Load()
}

// Watch gives the newest state, as Current does, and a channel that is closed when
// there is a newer one.
func (r *Replica) Watch() (*Current, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Current(), r.changed
}

// CommitsAfter lists the entries after seq that moved the config sequence, oldest
// first; at most the newest 1,024 are known.
func (r *Replica) CommitsAfter(seq uint64) []Commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.commits)
	for i > 0 && r.commits[i-1].Seq > seq {
		i--
	}
	return append([]Commit(nil), r.commits[i:]...)
}

// Leading tells whether this hub holds the lease, and its term.
func (r *Replica) Leading() (term uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenure == nil {
		return 0, false
	}
	return r.tenure.Term(), true
}

// Leader tells who holds the lease. The answer may be out of date when it
// arrives.
func (r *Replica) Leader(ctx context.Context) (store.Holder, uint64, error) {
	r.mu.Lock()
	l := r.logOpen
	r.mu.Unlock()
	if l == nil {
		return store.Holder{}, 0, fault.New(fault.CodeReadOnly, "the log is not open")
	}
	return l.Leader(ctx)
}

// Health tells why the replica cannot write, or nil. A follower whose leader is
// elsewhere is healthy, unless it could not take over.
func (r *Replica) Health() error {
	if err := r.Away(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.campaignFailed != nil {
		return cannotLead(r.campaignFailed)
	}
	return nil
}

func cannotLead(cause error) error { return readOnly("this hub cannot lead", cause) }

// readOnly is what a hub answers that cannot write for cause, which knows what mends it.
func readOnly(why string, cause error) error {
	return fault.New(fault.CodeReadOnly, "%s: %w", why, cause).WithRemedy("%s", fault.RemedyOf(cause))
}

// Away tells why the replica does not follow the log, or nil.
func (r *Replica) Away() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.frozen != nil:
		return r.frozenError(r.frozen)
	case r.split != nil:
		return r.split
	case r.trouble != nil:
		return readOnly("the store cannot be used", r.trouble)
	case !r.isReady():
		return fault.New(fault.CodeHubStarting, "hub %s is still reading its log", r.opt.Holder.Name)
	}
	return nil
}

// frozenError is what a frozen replica answers. From a log that went back it goes on by
// itself once that is mended; what else it found, it does not look at again.
func (r *Replica) frozenError(cause error) error {
	if wentBack(cause) {
		return r.cannotWrite(cause)
	}
	return fault.New(fault.CodeReadOnly, "hub %s is read-only until it is restarted: %w", r.opt.Holder.Name, cause).
		WithRemedy("%s Then restart hub %s: it does not look again by itself.", fault.RemedyOf(cause), r.opt.Holder.Name)
}

// cannotWrite names the hub: the answer may go to who asked another.
func (r *Replica) cannotWrite(cause error) error {
	return readOnly(fmt.Sprintf("hub %s is read-only", r.opt.Holder.Name), cause)
}

// Frozen tells whether the replica stopped until people, or a log that is whole
// again, let it go on; or a ring that is split no more.
func (r *Replica) Frozen() bool { return r.isFrozen() || r.splitBy() != nil }

// SnapshotFailed tells why the last snapshot of this hub was not saved, or nil.
// The hub goes on writing meanwhile, and the log grows.
func (r *Replica) SnapshotFailed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotFailed
}

// graphOf builds the graph of a whole state.
func graphOf(s *state.State) *graph.Graph {
	changes := make([]graph.Change, 0, s.Len())
	for res := range s.Resources("", "") {
		changes = append(changes, graph.Change{Key: res.Key, Content: res.Content})
	}
	g, _ := graph.New().Update(changes)
	return g
}

// changesOf gives what the keys hold in s, as changes of a graph.
func changesOf(s *state.State, keys []resource.Key) []graph.Change {
	out := make([]graph.Change, len(keys))
	for i, k := range keys {
		out[i].Key = k
		if res, ok := s.Get(k); ok {
			out[i].Content = res.Content
		}
	}
	return out
}
