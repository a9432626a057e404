// Package lkg is an agent's last-known-good store: the content that is active,
// and up to two generations to go back to, on disk, so that the node keeps its
// configuration through the loss of every hub and its own restart.
//
//	store, found, err := lkg.Open(lkg.Options{Dir: dir, Domain: d, Node: n, Verify: verify})
//	…
//	err = store.Save(state, contents) // durable when it returns nil
//
// # Files
//
// The directory holds a journal in segments, "journal-" and 16 hexadecimal digits,
// and the file "highest". A segment is a sequence of frames, "highest" is one:
//
//	offset  size  what
//	0       4     "MKj1"
//	4       1     type: H LkgHeader, C LkgContent, S LkgState, P ResumePoint
//	5       4     length n of the payload, big endian, at most 2 MiB
//	9       4     CRC-32C of type, length and payload, big endian
//	13      n     payload: the protobuf message of package meshkit.agent.v1
//
// The first frame of a segment is H. C gives the content of one digest, whole or as
// what must change in an earlier one. S gives everything else, and ends what one
// Save wrote. Segments are read in order of their numbers. The newest intact S
// counts; content that no later S names is forgotten as the reading goes on. The
// frame of "highest" is P: the highest point that was ever let through to
// activation, which the S records hold as well, so that damage to either does not
// let the agent go back.
//
// # Order of writing, and what a crash after each step leaves
//
//	write "highest" (temporary file, fsync, rename, fsync of the directory)   old state; highest may be ahead, which only makes the agent ask again
//	append C frames, then the S frame, to the segment                          old state, and a torn tail that is skipped
//	fsync the segment                                                         new state
//	(only now the agent activates)
//
// A failed write or fsync leaves a segment in doubt: it is not written to again, and
// the next Save begins another. When the segments outgrow their content they are
// rewritten in the background:
//
//	appends move on to segment n+1          all as before
//	write segment n as temporary file       a left-over, removed at the next start
//	fsync, rename, fsync of the directory   n repeats what the segments before it say
//	remove the segments before n            the same state, smaller
//
// # Trust
//
// The disk is not trusted. Open recomputes the Merkle root of each generation and
// has Verify hold its manifest against the node's anchors. What fails is left out
// and named in Found.Lost; damage is never an error of Open, since an agent without
// last-known-good starts all the same.
//
// A Store is safe for concurrent use; Close waits for the background.
package lkg

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Bounds of a store.
const (
	// DefaultMaxBytes bounds the journal: three generations of the largest bundle
	// that share nothing, and what was written since the last rewrite.
	DefaultMaxBytes = 512 << 20
	// journalSlack is what the journal may hold beyond twice its content.
	journalSlack = 1 << 20
	// maxSegments before a rewrite, however small they are.
	maxSegments = 8
	// partBytes is about where one content record ends and the next begins.
	partBytes = 96 << 10
)

// Content is what belongs to one point: proof and resources. It is immutable.
type Content struct {
	// Manifest names the digest, and was verified at VerifiedAt.
	Manifest   *trustv1.Envelope
	VerifiedAt time.Time
	// Vouch is a freshness statement for the same digest, needed when the point
	// is later than the manifest's, or its key has left the keyset. May be nil.
	Vouch     *trustv1.Envelope
	VouchedAt time.Time
	Trie      *digest.Trie
}

// Options configure a store.
type Options struct {
	// FS; nil is the operating system's.
	FS durable.FS
	// Dir is made if it does not exist.
	Dir string
	// Domain and Node are written into each segment and must match when read.
	Domain, Node string
	// MaxBytes bounds the journal; a rewrite takes as much again for a moment. 0
	// means DefaultMaxBytes.
	MaxBytes int64
	// Verify says whether a stored generation may be trusted. Required.
	Verify func(p activation.Point, c *Content) error
	// Logger; nil discards.
	Logger *slog.Logger
}

// Found is what Open could read and verify.
type Found struct {
	State    activation.Durable
	Contents map[activation.Point]*Content
	// Lost says in words what was damaged or not trusted; empty when all was well.
	Lost []string
	// Damage is the error of the first loss that cost content, or nil.
	Damage error
}

// Store is an open store. Use Open.
type Store struct {
	opts Options
	fs   durable.FS
	log  *slog.Logger

	wg sync.WaitGroup // the rewrite in the background

	mu        sync.Mutex // guards all below, and orders writes
	closed    bool
	rewriting bool
	segments  []segment
	file      durable.File // segment that is appended to; nil: begin another
	nextSeq   uint64
	// state and contents are what was saved last.
	state    activation.Durable
	contents map[activation.Point]*Content
	// bases are the contents that a reader still has after whatever of the failed
	// saves reached the disk: what a delta may stand on.
	bases map[digest.Hash]*digest.Trie
	// onFile is the point in the file "highest".
	onFile activation.Point
	// doubtful is set when the segments hold damage: the next Save rewrites all.
	doubtful bool
}

type segment struct {
	seq  uint64
	size int64
}

func (s *Store) path(seq uint64) string {
	return filepath.Join(s.opts.Dir, fmt.Sprintf("journal-%016x", seq))
}

func (s *Store) highestPath() string { return filepath.Join(s.opts.Dir, "highest") }

// Size gives the bytes of all segments.
func (s *Store) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size()
}

func (s *Store) size() int64 {
	var n int64
	for _, seg := range s.segments {
		n += seg.size
	}
	return n
}

// Save makes state, and the content of each generation that it names, durable. On
// an error nothing may be activated on the strength of it: the store still holds
// what it held before, or, after a failed fsync, possibly the new. The error has
// fault.CodeLKGWrite (full or failing disk) or fault.CodeLKGSize. Contents are not
// modified and may be shared with the store.
func (s *Store) Save(state activation.Durable, contents map[activation.Point]*Content) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fault.New(fault.CodeLKGWrite, "save last-known-good: the store is closed")
	}
	for _, g := range state.Generations {
		if contents[g.Point] == nil {
			return fault.New(fault.CodeInternal, "save last-known-good: no content for version %d", g.Version)
		}
	}
	if state.Highest.Compare(s.state.Highest) < 0 {
		state.Highest = s.state.Highest
	}
	if err := s.saveHighest(state.Highest); err != nil {
		return s.writeFailure(err)
	}
	if s.doubtful {
		if err := s.replaceAll(state, contents); err != nil {
			return err
		}
		s.remember(state, contents)
		return nil
	}
	err := s.appendStep(state, contents)
	if fault.CodeOf(err) == fault.CodeLKGSize {
		// Without what it no longer needs the store may be small enough.
		err = s.replaceAll(state, contents)
	}
	if err != nil {
		return err
	}
	s.remember(state, contents)
	s.maybeRewrite()
	return nil
}

// writeFailure is err with the code that says what to do about it.
func (s *Store) writeFailure(err error) error {
	if errors.Is(err, errNoRoom) {
		return fault.New(fault.CodeLKGSize, "the last-known-good store would grow beyond %d bytes", s.limit())
	}
	if durable.IsFull(err) {
		return fault.New(fault.CodeLKGWrite, "no space to save last-known-good: %w", err)
	}
	return fault.New(fault.CodeLKGWrite, "save last-known-good: %w", err)
}

func (s *Store) limit() int64 {
	if s.opts.MaxBytes > 0 {
		return s.opts.MaxBytes
	}
	return DefaultMaxBytes
}

// remember keeps what the disk holds now: the bases of the next step. s.mu is held.
func (s *Store) remember(state activation.Durable, contents map[activation.Point]*Content) {
	s.state = state
	s.contents = make(map[activation.Point]*Content, len(state.Generations))
	for _, g := range state.Generations {
		s.contents[g.Point] = contents[g.Point]
	}
	s.bases = make(map[digest.Hash]*digest.Trie, len(s.contents))
	for p, c := range s.contents {
		s.bases[p.Digest] = c.Trie
	}
}

// saveHighest writes the small file if the point is new. s.mu is held.
func (s *Store) saveHighest(p activation.Point) error {
	if p == s.onFile || p.IsZero() {
		return nil
	}
	frame, err := appendFrame(nil, recordHighest, pointToProto(p))
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.fs, s.highestPath(), frame, 0o600); err != nil {
		return err
	}
	s.onFile = p
	return nil
}

// appendStep writes what leads to state to the present segment, or to a new one, and
// syncs. s.mu is held.
func (s *Store) appendStep(state activation.Durable, contents map[activation.Point]*Content) error {
	// Only what the new state still names may be a base: a reader may have
	// forgotten the rest.
	held := make(map[digest.Hash]*digest.Trie)
	for _, g := range state.Generations {
		if t, ok := s.bases[g.Digest]; ok {
			held[g.Digest] = t
		}
	}
	if s.file == nil {
		if err := s.beginSegment(); err != nil {
			return s.writeFailure(err)
		}
	}
	out := &segmentSink{file: s.file, room: s.limit() - s.size()}
	err := encodeState(out, state, contents, held)
	if err == nil {
		err = out.flush()
	}
	if err == nil {
		err = s.file.Sync()
	}
	last := &s.segments[len(s.segments)-1]
	last.size += out.size
	if err == nil {
		return nil
	}
	if out.size > 0 {
		// A reader that finds this state forgets what it does not name.
		maps.DeleteFunc(s.bases, func(h digest.Hash, _ *digest.Trie) bool {
			return !slices.ContainsFunc(state.Generations, func(g activation.Generation) bool { return g.Digest == h })
		})
		// What the segment holds now is unknown: never write to it again.
		_ = s.file.Close()
		s.file = nil
	}
	return s.writeFailure(err)
}

// beginSegment makes the next segment. s.mu is held.
func (s *Store) beginSegment() error {
	head, err := appendFrame(nil, recordHeader, s.header())
	if err != nil {
		return err
	}
	seq := s.nextSeq
	s.nextSeq++ // also after a failure: a name is used once
	f, err := s.fs.Create(s.path(seq), 0o600)
	if err != nil {
		return err
	}
	s.segments = append(s.segments, segment{seq, int64(len(head))})
	_, err = f.Write(head)
	if err == nil {
		err = s.fs.SyncDir(s.opts.Dir)
	}
	if err != nil {
		_ = f.Close()
		if s.fs.Remove(s.path(seq)) == nil {
			s.segments = s.segments[:len(s.segments)-1]
		}
		return err
	}
	s.file = f
	return nil
}

func (s *Store) header() *agentv1.LkgHeader {
	return &agentv1.LkgHeader{Format: 1, Domain: s.opts.Domain, Node: s.opts.Node}
}

// Close waits for the background and closes the files. Saved state needs no Close.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	if err != nil {
		return fault.New(fault.CodeLKGWrite, "close last-known-good: %w", err)
	}
	return nil
}
