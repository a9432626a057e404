// Package state is what a domain's log folds into: resources with their history,
// join tokens, nodes, certificates, trust metadata, hubs and the requests that
// were answered.
//
// A State is immutable. Apply is a pure function from a state and an entry to
// the next state: no clock, no randomness, no I/O; times come in entries. So the
// same log gives the same state, and the same digest, on every hub, and readers
// use a state without locks for as long as they like. Successive states share
// what did not change.
//
//	s := state.New()
//	for _, e := range entries {
//		s, effect, err = s.Apply(e.Entry, e.Hash)
//	}
//
// An entry that is malformed or contradicts the state is refused with a code: a
// hub then serves the last good state and says so, instead of guessing. An entry
// of an unknown kind, from a newer hub, is skipped and counted.
//
// What is kept is bounded, and what is dropped is decided by the log alone: see
// the Max constants.
package state

import (
	"encoding/binary"
	"iter"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/resource"
)

// Bounds of what a state keeps besides the present resources. When one is
// exceeded, the oldest goes.
const (
	// MaxRevisions is how many superseded contents of one resource are kept.
	MaxRevisions = 10
	// MaxRevisionBytes bounds all superseded contents together.
	MaxRevisionBytes = 32 << 20
	// MaxChanges is how many changes the history holds.
	MaxChanges = 1000
	// MaxChangeKeys is how many keys one change record names.
	MaxChangeKeys = 100
	// MaxRequests is how many request ids are remembered.
	MaxRequests = 10_000
	// MaxTokens is above how many tokens the dead ones are dropped, and how many
	// live ones a hub lets operators make.
	MaxTokens = 10_000
	// MaxHubs is how many hubs a domain admits.
	MaxHubs = 64
	// MaxNodes is how many nodes a domain admits.
	MaxNodes = 100_000
	// MaxRoots is how many root versions are kept for nodes that were away.
	MaxRoots = 1024
)

// Entry kinds.
const (
	KindDomainCreated     = "DomainCreated"
	KindTermStarted       = "TermStarted"
	KindChangeSet         = "ChangeSet"
	KindTokenCreated      = "TokenCreated"
	KindTokenRevoked      = "TokenRevoked"
	KindNodeJoined        = "NodeJoined"
	KindHubJoined         = "HubJoined"
	KindHubDrained        = "HubDrained"
	KindHubMoved          = "HubMoved"
	KindDomainHosted      = "DomainHosted"
	KindNodeForgotten     = "NodeForgotten"
	KindCertificateIssued = "CertificateIssued"
	KindTrustUpdated      = "TrustUpdated"
	KindLossAccepted      = "LossAccepted"
	KindLogRestored       = "LogRestored"

	KindLeadershipTransferred = "LeadershipTransferred"
)

// Position names a point of the log.
type Position struct {
	Seq, Term uint64
	// Hash of the entry at Seq; zero in a state that Propose made.
	Hash [32]byte
}

// State is the fold of a log prefix. Use New or ReadSnapshot. All methods are
// safe for concurrent use; what they return must not be modified.
type State struct {
	domain      string
	pos         Position
	time        time.Time
	configSeq   uint64
	configEpoch uint64
	skipped     uint64
	// acceptedSeq and acceptedTerm are what LossAccepted entries gave up at most.
	acceptedSeq, acceptedTerm uint64

	roots    [][]byte
	keyset   []byte
	caBundle []byte

	trie      *digest.Trie // content by key string
	resources *iradix.Tree[*Resource]
	// revisions by key string, 0, seq; evictions by superseding seq, key, 0, seq.
	revisions     *iradix.Tree[*Revision]
	evictions     *iradix.Tree[*Revision]
	revisionBytes int64

	changes      *iradix.Tree[*logv1.ChangeRecord] // by seq
	tokens       *iradix.Tree[*logv1.TokenState]   // by id
	nodes        *iradix.Tree[*logv1.NodeState]    // by name
	certificates *iradix.Tree[*logv1.CertificateIssued]
	hubs         *iradix.Tree[*logv1.HubState]
	requests     *iradix.Tree[*logv1.RequestRecord] // by id
	requestOrder *iradix.Tree[string]               // by seq, id
}

// Resource is a present resource. Content is canonical JSON; Ownership is the
// field ownership after the last write, opaque here.
type Resource struct {
	Key        resource.Key
	Content    []byte
	Ownership  []byte
	Generation uint64
	// Version is the sequence number of the entry that last wrote it.
	Version uint64
	// PreviousSeq is the revision it replaced; 0: there was none.
	PreviousSeq          uint64
	CreatedAt, UpdatedAt time.Time
}

// Revision is a superseded content of a resource, or its deletion.
type Revision struct {
	Key           resource.Key
	Seq           uint64
	Content       []byte
	Ownership     []byte
	Deleted       bool
	PreviousSeq   uint64
	SupersededSeq uint64
}

// cost is what a revision counts towards MaxRevisionBytes.
func (r *Revision) cost() int64 {
	return int64(len(r.Content)+len(r.Ownership)+len(r.Key.Kind)+len(r.Key.Namespace)+len(r.Key.Name)) + 128
}

// New is the state before the first entry.
func New() *State {
	return &State{
		resources:    iradix.New[*Resource](),
		revisions:    iradix.New[*Revision](),
		evictions:    iradix.New[*Revision](),
		changes:      iradix.New[*logv1.ChangeRecord](),
		tokens:       iradix.New[*logv1.TokenState](),
		nodes:        iradix.New[*logv1.NodeState](),
		certificates: iradix.New[*logv1.CertificateIssued](),
		hubs:         iradix.New[*logv1.HubState](),
		requests:     iradix.New[*logv1.RequestRecord](),
		requestOrder: iradix.New[string](),
	}
}

// Domain is the domain's name; empty before the first entry.
func (s *State) Domain() string { return s.domain }

// Position is the newest entry in the state.
func (s *State) Position() Position { return s.pos }

// Seq is the sequence number of the newest entry.
func (s *State) Seq() uint64 { return s.pos.Seq }

// Term is the newest entry's term.
func (s *State) Term() uint64 { return s.pos.Term }

// Time is the largest time of any entry: the state's clock.
func (s *State) Time() time.Time { return s.time }

// ConfigSeq is the sequence number of the last entry that changed what any node
// may be given: the version.
func (s *State) ConfigSeq() uint64 { return s.configSeq }

// ConfigEpoch is the term of the entry at ConfigSeq: the epoch.
func (s *State) ConfigEpoch() uint64 { return s.configEpoch }

// GaveUp tells whether an operator accepted the loss of an entry that hubs have
// seen, and the log has gone on beyond its place and term.
func (s *State) GaveUp(seq, term uint64) bool {
	return seq <= s.acceptedSeq && term <= s.acceptedTerm && s.pos.Seq > seq && s.pos.Term > term
}

// Skipped counts entries of kinds that this build does not know.
func (s *State) Skipped() uint64 { return s.skipped }

// SameResources tells, at once, that two states of one log hold the same
// resources with the same ownership; false may be wrong.
func (s *State) SameResources(o *State) bool { return s.resources == o.resources }

// SameNodes tells, at once, that two states of one log hold the same nodes; false
// may be wrong.
func (s *State) SameNodes(o *State) bool { return s.nodes == o.nodes }

// Trie holds the content of all resources under one digest.
func (s *State) Trie() *digest.Trie { return s.trie }

// Get finds a resource.
func (s *State) Get(k resource.Key) (*Resource, bool) { return s.resources.Get([]byte(k.String())) }

// Len is the number of resources.
func (s *State) Len() int { return s.resources.Len() }

// Resources yields the resources in the order of their keys ("Kind/namespace/name"
// as text), from the first whose key is not below from. kind may be empty.
func (s *State) Resources(kind, from string) iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		var prefix []byte
		if kind != "" {
			prefix = []byte(kind + "/")
		}
		for _, r := range scan(s.resources, prefix, []byte(from)) {
			if !yield(r) {
				return
			}
		}
	}
}

// RevisionAt finds what entry seq wrote to k: its present content, a superseded
// one, or its deletion. False: never, or no longer kept.
func (s *State) RevisionAt(k resource.Key, seq uint64) (Revision, bool) {
	if r, ok := s.Get(k); ok && r.Version == seq {
		return present(r), true
	}
	if r, ok := s.revisions.Get(revisionKey(k, seq)); ok {
		return *r, true
	}
	return Revision{}, false
}

// Revisions lists what is known of k's past and present, newest first.
func (s *State) Revisions(k resource.Key) []Revision {
	var out []Revision
	for _, r := range scan(s.revisions, revisionPrefix(k), nil) {
		out = append(out, *r)
	}
	if r, ok := s.Get(k); ok {
		out = append(out, present(r))
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// WrittenBy lists what the entry at seq wrote or deleted, as far as it is kept,
// in the order of keys within present and superseded ones. It costs a walk over
// all resources.
func (s *State) WrittenBy(seq uint64) []Revision {
	var out []Revision
	for _, r := range scan(s.resources, nil, nil) {
		if r.Version == seq {
			out = append(out, present(r))
		}
	}
	for _, r := range scan(s.revisions, nil, nil) {
		if r.Seq == seq {
			out = append(out, *r)
		}
	}
	return out
}

func present(r *Resource) Revision {
	return Revision{Key: r.Key, Seq: r.Version, Content: r.Content, Ownership: r.Ownership, PreviousSeq: r.PreviousSeq}
}

// Change finds the record of one change.
func (s *State) Change(seq uint64) (*logv1.ChangeRecord, bool) { return s.changes.Get(seqKey(seq)) }

// Changes yields the change records, newest first.
func (s *State) Changes() iter.Seq[*logv1.ChangeRecord] {
	return func(yield func(*logv1.ChangeRecord) bool) {
		it := s.changes.Root().ReverseIterator()
		for {
			_, c, ok := it.Previous()
			if !ok || !yield(c) {
				return
			}
		}
	}
}

// UndoneBy tells which change took back the one at seq and still stands; 0 when
// none does.
func (s *State) UndoneBy(seq uint64) uint64 {
	standing := make(map[uint64]uint64)
	for c := range s.Changes() { // newest first: an undo's own fate is known before its target's
		if _, undone := standing[c.Seq]; !undone && c.Undoes != 0 {
			if _, taken := standing[c.Undoes]; !taken {
				standing[c.Undoes] = c.Seq
			}
		}
	}
	return standing[seq]
}

// Token finds a join token by its public id.
func (s *State) Token(id string) (*logv1.TokenState, bool) { return s.tokens.Get([]byte(id)) }

// Tokens yields the join tokens by id.
func (s *State) Tokens() iter.Seq[*logv1.TokenState] { return values(s.tokens) }

// Node finds a joined node by name.
func (s *State) Node(name string) (*logv1.NodeState, bool) { return s.nodes.Get([]byte(name)) }

// Nodes yields the joined nodes by name, from the first that is not below from.
func (s *State) Nodes(from string) iter.Seq[*logv1.NodeState] {
	return func(yield func(*logv1.NodeState) bool) {
		for _, n := range scan(s.nodes, nil, []byte(from)) {
			if !yield(n) {
				return
			}
		}
	}
}

// NodeCount is the number of joined nodes.
func (s *State) NodeCount() int { return s.nodes.Len() }

// TokenCount is the number of tokens kept, dead ones included.
func (s *State) TokenCount() int { return s.tokens.Len() }

// Certificate is the newest certificate of a SPIFFE ID.
func (s *State) Certificate(identity string) (*logv1.CertificateIssued, bool) {
	return s.certificates.Get([]byte(identity))
}

// Hub gives the hub of a name that joined or led a term.
func (s *State) Hub(name string) (*logv1.HubState, bool) { return s.hubs.Get([]byte(name)) }

// Leader gives the hub that began the newest term; nil before the first.
func (s *State) Leader() *logv1.HubState {
	var newest *logv1.HubState
	for h := range s.Hubs() {
		if h.GetLastTerm() > newest.GetLastTerm() {
			newest = h
		}
	}
	return newest
}

// Hubs yields the hubs that joined or led a term, by name.
func (s *State) Hubs() iter.Seq[*logv1.HubState] { return values(s.hubs) }

// Request finds the outcome of a request id.
func (s *State) Request(id string) (*logv1.RequestRecord, bool) { return s.requests.Get([]byte(id)) }

// Roots is the TUF root chain, oldest kept first; Keyset and CABundle are the
// newest ones.
func (s *State) Roots() [][]byte { return s.roots }

// Keyset is the newest keyset metadata.
func (s *State) Keyset() []byte { return s.keyset }

// CABundle is the CA bundle that the keyset's target describes, PEM.
func (s *State) CABundle() []byte { return s.caBundle }

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func revisionPrefix(k resource.Key) []byte { return append([]byte(k.String()), 0) }

func revisionKey(k resource.Key, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(revisionPrefix(k), seq)
}

func evictionKey(r *Revision) []byte {
	return append(seqKey(r.SupersededSeq), revisionKey(r.Key, r.Seq)...)
}

func values[T any](t *iradix.Tree[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, v := range scan(t, nil, nil) {
			if !yield(v) {
				return
			}
		}
	}
}

// scan yields what lies under prefix and is not below from, in order.
func scan[T any](t *iradix.Tree[T], prefix, from []byte) iter.Seq2[[]byte, T] {
	return func(yield func([]byte, T) bool) {
		it := t.Root().Iterator()
		if string(from) > string(prefix) {
			it.SeekLowerBound(from)
		} else {
			it.SeekPrefix(prefix)
		}
		for {
			k, v, ok := it.Next()
			if !ok || len(k) < len(prefix) || string(k[:len(prefix)]) != string(prefix) || !yield(k, v) {
				return
			}
		}
	}
}
