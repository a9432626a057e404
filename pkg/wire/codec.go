package wire

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	protobuf "google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// MaxControlRequest bounds one message from a node on the control stream, in
// bytes. A hello with every field at its limit fits.
const MaxControlRequest = 128 << 10

// Frame is one message in its encoded form. Its bytes are shared by every stream
// that it is sent on, are never modified, and live until the last one is done
// with them: they are owned by the garbage collector, not by a pool, since
// nobody knows when the slowest reader is done.
type Frame struct {
	parts mem.BufferSlice
	size  int
}

// NewFrame makes a frame of parts, which it keeps and which must not be modified.
// Parts let a frame refer to content that exists already, without a copy.
func NewFrame(parts ...[]byte) *Frame {
	f := &Frame{parts: make(mem.BufferSlice, 0, len(parts))}
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		f.parts = append(f.parts, mem.SliceBuffer(p))
		f.size += len(p)
	}
	return f
}

// Encode makes a frame of a message.
func Encode(m protobuf.Message) (*Frame, error) {
	data, err := protobuf.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	return NewFrame(data), nil
}

// Size is the number of bytes of the frame on the wire, without gRPC's header of 5.
func (f *Frame) Size() int { return f.size }

// Bytes gives a copy of the frame's bytes.
func (f *Frame) Bytes() []byte { return f.parts.Materialize() }

// Backlog counts what gRPC has taken to send on one stream and has not written to the
// connection yet. gRPC takes up to 64 KiB and then blocks in SendMsg; nothing else
// tells beforehand that it would, and what a peer says does not count: it may lie. The
// zero value is usable, and safe for concurrent use.
//
// When the connection is lost, gRPC may drop what it has taken without a word: who waits
// for a Backlog waits for the call's context too.
type Backlog struct {
	n     atomic.Int64
	empty chan struct{} // has room for one; nil: nobody asks
}

// NewBacklog makes a Backlog that tells when it becomes empty.
func NewBacklog() *Backlog { return &Backlog{empty: make(chan struct{}, 1)} }

// Emptied is told each time that Len becomes 0. Look at Len again afterwards: it may be
// about an earlier time. Only one may wait.
func (b *Backlog) Emptied() <-chan struct{} { return b.empty }

// Message gives what to pass to SendMsg for f, so that it is counted.
func (b *Backlog) Message(f *Frame) any { return &queued{f, b} }

// Len is the number of messages that are not written. It is 0 only when gRPC has
// given back all room that messages took.
func (b *Backlog) Len() int { return int(b.n.Load()) }

// queued is a frame on its way on one stream.
type queued struct {
	frame   *Frame
	backlog *Backlog
}

// written is an empty buffer that goes at the end of each counted message: gRPC gives
// it back when the message is written, or dropped. It is large enough for gRPC to give
// back buffers of its size at all.
var written = make([]byte, 0, 4<<10)

// returned is the pool that gRPC gives written back to.
type returned Backlog

// Get implements mem.BufferPool; nobody takes buffers from here.
func (*returned) Get(n int) *[]byte { b := make([]byte, n); return &b }

// Put implements mem.BufferPool.
func (r *returned) Put(*[]byte) {
	if r.n.Add(-1) > 0 {
		return
	}
	select {
	case r.empty <- struct{}{}: // nil is never ready
	default:
	}
}

// Codec encodes protobuf messages as gRPC's own codec does, and passes a *Frame
// through as it is, so that a message for a thousand streams is encoded once. On
// the way in it fills messages, and refuses control requests above
// MaxControlRequest before they are decoded; into a *Frame it copies the bytes.
//
// Use it on both ends: ServerOptions and DialOptions include it. The bytes on the
// wire are those of the "proto" codec, so a peer without it notices nothing.
type Codec struct{ proto encoding.CodecV2 }

// NewCodec makes a Codec. It is stateless and safe for concurrent use.
func NewCodec() Codec { return Codec{proto: encoding.GetCodecV2(proto.Name)} }

// Name is "proto".
func (Codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *Frame:
		return v.parts, nil // buffers without reference counts: gRPC's Ref and Free do nothing
	case *queued:
		v.backlog.n.Add(1)
		parts := make(mem.BufferSlice, 0, len(v.frame.parts)+1)
		return append(append(parts, v.frame.parts...), mem.NewBuffer(&written, (*returned)(v.backlog))), nil
	}
	return c.proto.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *Frame:
		*v = *NewFrame(data.Materialize())
		return nil
	case *controlv1.StreamRequest:
		if n := data.Len(); n > MaxControlRequest {
			return fault.New(fault.CodeMessageTooLarge, "control request has %d bytes, more than %d", n, MaxControlRequest)
		}
	}
	return c.proto.Unmarshal(data, v)
}
