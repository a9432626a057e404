package lkg

import (
	"errors"
	"fmt"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
)

// sink takes frames as they are made.
type sink interface {
	frame(t recordType, m message) error
}

// errNoRoom says that the store has reached its bound.
var errNoRoom = errors.New("no room in the store")

// segmentSink gathers frames and writes them to a file in pieces: a small step is
// one write, and a whole bundle never lies in memory twice.
type segmentSink struct {
	file durable.File
	room int64 // bytes that may be written
	buf  []byte
	size int64 // bytes written, perhaps in part
}

// pieceBytes is what a sink gathers before it writes.
const pieceBytes = 128 << 10

func (f *segmentSink) frame(t recordType, m message) (err error) {
	if f.buf, err = appendFrame(f.buf, t, m); err != nil {
		return err
	}
	if f.size+int64(len(f.buf)) > f.room {
		return errNoRoom
	}
	if len(f.buf) >= pieceBytes {
		return f.flush()
	}
	return nil
}

func (f *segmentSink) flush() error {
	f.size += int64(len(f.buf))
	_, err := f.file.Write(f.buf)
	f.buf = f.buf[:0]
	return err
}

// encodeState writes the contents that state names and held lacks, then state.
func encodeState(out sink, state activation.Durable, contents map[activation.Point]*Content, held map[digest.Hash]*digest.Trie) error {
	for _, g := range state.Generations {
		if _, ok := held[g.Digest]; ok {
			continue
		}
		t := contents[g.Point].Trie
		if err := encodeContent(out, t, nearest(t, held)); err != nil {
			return fmt.Errorf("encode version %d: %w", g.Version, err)
		}
		held[g.Digest] = t
	}
	return out.frame(recordState, stateToProto(state, contents))
}

// nearest gives the held content from which the fewest bytes lead to t, or nil
// when a whole copy is no larger.
func nearest(t *digest.Trie, held map[digest.Hash]*digest.Trie) *digest.Trie {
	var best *digest.Trie
	least := t.Bytes()
	for _, base := range held {
		var cost int64
		for c := range digest.Diff(base, t) {
			cost += int64(len(c.Key))
			if c.After != nil {
				cost += int64(len(c.After.Content))
			}
			if cost >= least {
				break
			}
		}
		if cost < least {
			best, least = base, cost
		}
	}
	return best
}

// encodeContent writes what leads from base (nil: from nothing) to t, in records
// of about partBytes.
func encodeContent(out sink, t, base *digest.Trie) error {
	var parts uint32 = 1
	size := 0
	for c := range digest.Diff(base, t) {
		if size >= partBytes {
			parts, size = parts+1, 0
		}
		size += changeSize(c)
	}
	record := func(part uint32) *agentv1.LkgContent {
		r := &agentv1.LkgContent{Digest: t.Root().Bytes(), Part: part, Parts: parts}
		if base != nil {
			r.BaseDigest = base.Root().Bytes()
		}
		return r
	}
	r, size := record(0), 0
	for c := range digest.Diff(base, t) {
		if size >= partBytes {
			if err := out.frame(recordContent, r); err != nil {
				return err
			}
			r, size = record(r.Part+1), 0
		}
		if c.After == nil {
			r.Removals = append(r.Removals, c.Key)
		} else {
			r.Upserts = append(r.Upserts, &controlv1.Resource{Key: c.Key, Content: c.After.Content})
		}
		size += changeSize(c)
	}
	return out.frame(recordContent, r)
}

func changeSize(c digest.Change) int {
	if c.After == nil {
		return len(c.Key) + 8
	}
	return len(c.Key) + len(c.After.Content) + 16
}
