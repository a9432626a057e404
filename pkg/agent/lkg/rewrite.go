package lkg

import (
	"errors"
	"io/fs"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
)

// maybeRewrite starts a rewrite when the journal has outgrown its content. s.mu is
// held.
func (s *Store) maybeRewrite() {
	if s.rewriting || s.closed {
		return
	}
	var largest int64
	for _, c := range s.contents {
		largest = max(largest, c.Trie.Bytes())
	}
	if s.size() <= 2*largest+journalSlack && len(s.segments) < maxSegments {
		return
	}
	// Appends move on to a later segment; this number is the rewrite's.
	if s.file != nil {
		_ = s.file.Close() // synced by the append
		s.file = nil
	}
	seq := s.nextSeq
	s.nextSeq++
	s.rewriting = true
	state, contents := s.state, s.contents
	s.wg.Go(func() {
		size, err := s.writeWhole(seq, state, contents)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rewriting = false
		if err != nil {
			s.log.Warn("rewrite of the last-known-good journal put off", "err", err)
			return
		}
		s.dropBefore(segment{seq, size})
	})
}

// replaceAll rewrites the store at once. s.mu is held.
func (s *Store) replaceAll(state activation.Durable, contents map[activation.Point]*Content) error {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	seq := s.nextSeq
	s.nextSeq++
	size, err := s.writeWhole(seq, state, contents)
	if err != nil {
		return s.writeFailure(err)
	}
	s.dropBefore(segment{seq, size})
	s.doubtful = false
	return nil
}

// writeWhole makes a segment that needs none before it.
func (s *Store) writeWhole(seq uint64, state activation.Durable, contents map[activation.Point]*Content) (size int64, err error) {
	path := s.path(seq)
	tmp := path + durable.TempSuffix
	if err := s.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	f, err := s.fs.Create(tmp, 0o600)
	if err != nil {
		return 0, err
	}
	out := &segmentSink{file: f, room: s.limit()}
	err = out.frame(recordHeader, s.header())
	if err == nil {
		err = encodeState(out, state, contents, make(map[digest.Hash]*digest.Trie))
	}
	if err == nil {
		err = out.flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = durable.Rename(s.fs, tmp, path)
	}
	if err != nil {
		_ = s.fs.Remove(tmp)
		return 0, err
	}
	return out.size, nil
}

// dropBefore removes the segments that whole repeats. One that cannot be removed
// does no harm but for its size. s.mu is held.
func (s *Store) dropBefore(whole segment) {
	kept := []segment{whole}
	for _, seg := range s.segments {
		if seg.seq > whole.seq {
			kept = append(kept, seg)
			continue
		}
		if err := s.fs.Remove(s.path(seg.seq)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("old last-known-good segment not removed", "segment", seg.seq, "err", err)
			kept = append([]segment{seg}, kept...)
		}
	}
	s.segments = kept
	if err := s.fs.SyncDir(s.opts.Dir); err != nil {
		s.log.Warn("last-known-good directory not synced", "err", err)
	}
}
