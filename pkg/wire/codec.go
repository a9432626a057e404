package wire

import (
	"fmt"

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
	if f, ok := v.(*Frame); ok {
		return f.parts, nil // buffers without reference counts: gRPC's Ref and Free do nothing
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
