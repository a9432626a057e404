package feed

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/wire"
)

// DefaultChunkBytes bounds one message of an update.
const DefaultChunkBytes = 1 << 20

// Field numbers of control.proto that the encoder writes by hand, so that content
// is referred to where it lies instead of being copied into each frame.
const (
	fieldResponseUpdate = 2
	fieldManifest       = 1
	fieldBase           = 2
	fieldUpsert         = 3
	fieldRemoval        = 4
	fieldChunk          = 5
	fieldChunks         = 6
	fieldTraceparent    = 7
	fieldKey            = 1
	fieldContent        = 2
)

const (
	// inlineContent: content below this is copied, since a reference costs as much.
	inlineContent = 512
	// chunkEnvelope is more than what the outer tag, the outer length and the two chunk
	// numbers take.
	chunkEnvelope = 32
	encodeBlock   = 4 << 10
	// snapshotSlack: a delta may be this much larger than the content before a snapshot
	// is sent instead.
	snapshotSlack = 1 << 10
)

// Encoded is an update in its wire form, as one frame per chunk. Immutable.
type Encoded struct {
	Frames   []*wire.Frame
	Snapshot bool
	size     int // bytes on the wire, all frames
	own      int // bytes that the frames hold themselves, not shared with a trie
}

// encodeUpdate encodes the step from base to v's content; a nil base gives a
// snapshot. A delta that would be no smaller than a snapshot becomes one.
func encodeUpdate(v *Version, base *digest.Trie, delta bool, chunkBytes int) (*Encoded, error) {
	manifest, err := proto.MarshalOptions{Deterministic: true}.Marshal(manifestOf(v))
	if err != nil {
		return nil, err
	}
	e := &encoder{limit: chunkBytes - chunkEnvelope}
	e.head(manifest, base, delta, v.Traceparent)
	if !delta {
		for l := range v.Trie.All() {
			e.upsert(l.Key, l.Content)
		}
		return e.finish(true), nil
	}
	var bytes int64
	for c := range digest.Diff(base, v.Trie) {
		if c.After == nil {
			e.remove(c.Key)
			bytes += int64(len(c.Key))
			continue
		}
		bytes += int64(len(c.After.Content))
		if bytes > v.Trie.Bytes()+snapshotSlack {
			return encodeUpdate(v, nil, false, chunkBytes)
		}
		e.upsert(c.Key, c.After.Content)
	}
	return e.finish(false), nil
}

func manifestOf(v *Version) *trustv1.Envelope {
	if v.Manifest == nil {
		return &trustv1.Envelope{}
	}
	return v.Manifest
}

// encoder builds the chunks of one update. It is used by one goroutine.
type encoder struct {
	limit  int
	chunks []chunk
	now    chunk
	block  []byte // current block; from start on it belongs to now
	start  int
	own    int
}

// chunk is the body of one Update message, without its chunk numbers.
type chunk struct {
	parts [][]byte
	size  int
}

func (e *encoder) head(manifest []byte, base *digest.Trie, delta bool, traceparent string) {
	e.reserve(len(manifest) + len(traceparent) + 64)
	e.bytes(fieldManifest, manifest)
	if delta {
		root := base.Root()
		e.bytes(fieldBase, root[:])
	}
	if traceparent != "" {
		e.bytes(fieldTraceparent, []byte(traceparent))
	}
}

func (e *encoder) upsert(key string, content []byte) {
	body := sizeBytes(fieldKey, len(key)) + sizeBytes(fieldContent, len(content))
	e.room(sizeBytes(fieldUpsert, body))
	header := sizeBytes(fieldUpsert, body) - len(content)
	e.reserve(header + min(len(content), inlineContent))
	b := e.block
	b = protowire.AppendTag(b, fieldUpsert, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(body))
	b = protowire.AppendTag(b, fieldKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, fieldContent, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(content)))
	if len(content) <= inlineContent {
		e.block = append(b, content...)
		return
	}
	e.block = b
	e.flush()
	e.now.parts = append(e.now.parts, content)
	e.now.size += len(content)
}

func (e *encoder) remove(key string) {
	e.room(sizeBytes(fieldRemoval, len(key)))
	e.reserve(sizeBytes(fieldRemoval, len(key)))
	e.bytes(fieldRemoval, []byte(key))
}

// bytes appends a length-delimited field to the block, which has room for it.
func (e *encoder) bytes(field protowire.Number, v []byte) {
	e.block = protowire.AppendTag(e.block, field, protowire.BytesType)
	e.block = protowire.AppendBytes(e.block, v)
}

// room closes the chunk when n more bytes would take it over the limit. A chunk
// holds at least one resource, however large.
func (e *encoder) room(n int) {
	if size := e.size(); size > 0 && size+n > e.limit {
		e.flush()
		e.chunks = append(e.chunks, e.now)
		e.now = chunk{}
	}
}

func (e *encoder) size() int { return e.now.size + len(e.block) - e.start }

// reserve makes sure that the block takes n more bytes without moving: parts
// refer into it.
func (e *encoder) reserve(n int) {
	if cap(e.block)-len(e.block) >= n {
		return
	}
	e.flush()
	e.block = make([]byte, 0, max(n, encodeBlock))
	e.start = 0
}

// flush makes what the block has for this chunk a part of it.
func (e *encoder) flush() {
	if part := e.block[e.start:len(e.block):len(e.block)]; len(part) > 0 {
		e.now.parts = append(e.now.parts, part)
		e.now.size += len(part)
		e.own += len(part)
	}
	e.start = len(e.block)
}

// finish puts the chunk numbers and the outer message around each chunk.
func (e *encoder) finish(snapshot bool) *Encoded {
	e.flush()
	if e.now.size > 0 {
		e.chunks = append(e.chunks, e.now)
	}
	out := &Encoded{own: e.own, Snapshot: snapshot, Frames: make([]*wire.Frame, 0, len(e.chunks))}
	for i, c := range e.chunks {
		var tail []byte
		if i > 0 {
			tail = protowire.AppendTag(tail, fieldChunk, protowire.VarintType)
			tail = protowire.AppendVarint(tail, uint64(i))
		}
		tail = protowire.AppendTag(tail, fieldChunks, protowire.VarintType)
		tail = protowire.AppendVarint(tail, uint64(len(e.chunks)))
		head := protowire.AppendTag(nil, fieldResponseUpdate, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(c.size+len(tail)))
		parts := make([][]byte, 0, len(c.parts)+2)
		parts = append(append(append(parts, head), c.parts...), tail)
		if len(c.parts) == 1 { // the usual delta: one buffer is cheaper to send than three
			parts = [][]byte{append(append(head, c.parts[0]...), tail...)}
		}
		f := wire.NewFrame(parts...)
		out.Frames = append(out.Frames, f)
		out.size += f.Size()
	}
	return out
}

// sizeBytes is the size of a length-delimited field with n bytes of content.
func sizeBytes(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}
