package store

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// A record's data, as given to the driver:
//
//	0       1       2                34
//	| 0x01  | 0xfe  | SHA-256 of raw | raw: a logv1.Entry as its writer marshalled it |
//
// The first byte is the format, the second its complement: a flipped bit is not
// another format. The hash inside the record guards the newest entry, which no
// later entry's previous_hash covers yet. raw is never marshalled again.
const (
	recordVersion = 0x01
	recordHeader  = 2 + sha256.Size
)

// Entry is a committed entry of the log.
type Entry struct {
	*logv1.Entry
	// Hash is the SHA-256 of Raw.
	Hash [32]byte
	// Raw is the entry as stored; the hash chain runs over these bytes.
	Raw []byte
}

// Draft is what a proposal wants to append; Log adds position and chain.
type Draft struct {
	// Kind is the payload's message name, like "ChangeSet".
	Kind string
	// Author is the SPIFFE ID of who caused it.
	Author string
	// RequestID is the caller's idempotency key; empty for the hub's own entries.
	RequestID string
	// Traceparent of the request (W3C), if it was traced.
	Traceparent string
	// Origin is the peer's address and user agent.
	Origin string
	// Time of the entry, as the proposer's clock has it. Zero leaves it out.
	Time time.Time
	// Payload is the marshalled payload message.
	Payload []byte
}

// Head is the end of the log; zero for an empty log.
type Head struct {
	Position
	// Hash is the hash of the entry at Seq.
	Hash [32]byte
}

// encodeEntry makes the entry that follows prev, and its record.
func encodeEntry(prev Head, pos Position, d Draft) (Entry, Record, error) {
	e := &logv1.Entry{
		Seq: pos.Seq, Term: pos.Term, Author: d.Author, RequestId: d.RequestID, Kind: d.Kind,
		Payload: d.Payload, PreviousHash: prev.Hash[:], Traceparent: d.Traceparent, Origin: d.Origin,
	}
	if !d.Time.IsZero() {
		e.Time = timestamppb.New(d.Time)
	}
	data := make([]byte, recordHeader, recordHeader+proto.Size(e))
	data[0], data[1] = recordVersion, ^byte(recordVersion)
	data, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(data, e)
	if err != nil {
		return Entry{}, Record{}, fault.New(fault.CodeInternal, "encode log entry %d of kind %q: %w", pos.Seq, d.Kind, err)
	}
	raw := data[recordHeader:]
	hash := sha256.Sum256(raw)
	copy(data[2:], hash[:])
	return Entry{Entry: e, Hash: hash, Raw: raw}, Record{Position: pos, Data: data}, nil
}

// decodeRecord verifies a record on its own: its hash, and that the entry in it
// belongs to the position at which it was found. Any bytes are safe.
func decodeRecord(r Record) (Entry, error) {
	if len(r.Data) < recordHeader {
		return Entry{}, fault.New(fault.CodeCorrupt, "log entry %d has %d bytes, too few for its header", r.Seq, len(r.Data))
	}
	switch v := r.Data[0]; {
	case v != ^r.Data[1]:
		return Entry{}, fault.New(fault.CodeCorrupt, "log entry %d does not begin as one", r.Seq)
	case v != recordVersion:
		return Entry{}, fault.New(fault.CodeStoreFormat, "log entry %d has format %d, this build knows %d", r.Seq, v, recordVersion)
	}
	raw := r.Data[recordHeader:]
	hash := sha256.Sum256(raw)
	if !bytes.Equal(hash[:], r.Data[2:recordHeader]) {
		return Entry{}, fault.New(fault.CodeCorrupt, "log entry %d does not have the hash that was stored with it", r.Seq)
	}
	e, err := ParseEntry(raw)
	if err != nil {
		return Entry{}, fmt.Errorf("log entry %d: %w", r.Seq, err)
	}
	if e.Seq != r.Seq || e.Term != r.Term {
		return Entry{}, fault.New(fault.CodeChainBroken, "log entry %d of term %d was stored at position %d of term %d", e.Seq, e.Term, r.Seq, r.Term)
	}
	return e, nil
}

// ParseEntry reads the raw bytes of an entry, as Entry.Raw has them, and keeps them.
// Any bytes are safe; CodeCorrupt or CodeChainBroken if they are not an entry.
func ParseEntry(raw []byte) (Entry, error) {
	e := new(logv1.Entry)
	if err := proto.Unmarshal(raw, e); err != nil {
		return Entry{}, fault.New(fault.CodeCorrupt, "it is not a log entry: %w", err)
	}
	if len(e.PreviousHash) != sha256.Size {
		return Entry{}, fault.New(fault.CodeChainBroken, "entry %d names no entry before it", e.Seq)
	}
	return Entry{Entry: e, Hash: sha256.Sum256(raw), Raw: raw}, nil
}

// recordOf makes the record of an entry from its raw bytes.
func recordOf(e Entry) Record {
	data := make([]byte, 0, recordHeader+len(e.Raw))
	data = append(data, recordVersion, ^byte(recordVersion))
	data = append(append(data, e.Hash[:]...), e.Raw...)
	return Record{Position: Position{Seq: e.Seq, Term: e.Term}, Data: data}
}

// head is where the log ends after e.
func (e Entry) head() Head {
	return Head{Position: Position{Seq: e.Seq, Term: e.Term}, Hash: e.Hash}
}

// follows checks that e continues the chain after prev.
func (e Entry) follows(prev Head) error {
	if e.Seq != prev.Seq+1 {
		return fault.New(fault.CodeChainBroken, "log entry %d is missing: after %d comes %d", prev.Seq+1, prev.Seq, e.Seq)
	}
	if e.Term < prev.Term {
		return fault.New(fault.CodeChainBroken, "log entry %d has term %d, the entry before it has %d", e.Seq, e.Term, prev.Term)
	}
	if !bytes.Equal(e.PreviousHash, prev.Hash[:]) {
		return fault.New(fault.CodeChainBroken, "log entry %d does not continue the chain: it names %x as the entry before it, that is %x", e.Seq, e.PreviousHash, prev.Hash)
	}
	return nil
}
