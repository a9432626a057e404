// Package backup writes and reads backups of a domain's log: what
// `meshctl store export` gives and `meshhub restore` takes.
//
// A backup is one stream. It begins with 10 bytes,
//
//	"MKBACKUP" | 0x01 | 0xfe      name, format, the format's complement
//
// and goes on in frames
//
//	0      1             5
//	| type | length u32  | payload          (big endian)
//
//	1  header    logv1.BackupHeader, once
//	2  entry     a logv1.Entry as its writer marshalled it; one frame for each
//	             entry that the log still holds, in order, to the head
//	3  snapshot  a piece of the state after the head, as state.WriteSnapshot has it
//	4  envelope  a trustv1.Envelope around a trustv1.Backup, once, last
//
// The envelope is signed by the exporting hub's config key and covers, by length and
// SHA-256, every byte before its frame. A stream without it is not a backup, so one
// that was cut short is told. It holds no private key; it does hold everything that
// is in the log: keep it as you would the store.
//
// Both ends hold one frame at a time, and the state once. All functions are for one
// goroutine a call, and start none.
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
)

const (
	magic   = "MKBACKUP"
	version = 0x01

	frameHeader   = 1
	frameEntry    = 2
	frameSnapshot = 3
	frameEnvelope = 4

	// What one frame may hold, in bytes.
	maxHeader   = 64 << 10
	maxSnapshot = 256 << 10
	maxEnvelope = 128 << 10
)

// maxEntry is the largest entry that any store takes.
var maxEntry = store.DefaultLimits().RecordBytes

// Source is what a backup is made of.
type Source struct {
	// Log holds State's entries; what it has beyond them is left out.
	Log   *store.Log
	State *state.State
	// Hub and Build are who makes the backup, at Time.
	Hub, Build string
	Time       time.Time
	// Signer is the hub's config key, which Anchors list.
	Signer  *sign.Signer
	Anchors *trust.Anchors
}

// Write writes a backup. What w got is not one unless Write returns nil.
// CodeExportCut: the log was trimmed meanwhile.
func Write(ctx context.Context, w io.Writer, src Source) error {
	first, err := src.Log.First(ctx)
	if err != nil {
		return fmt.Errorf("find the log's first entry: %w", err)
	}
	pos := src.State.Position()
	sealed := &trustv1.Backup{
		Domain: src.State.Domain(), Hub: src.Hub, CreatedAt: timestamppb.New(src.Time), HeadSeq: pos.Seq, HeadTerm: pos.Term,
		HeadHash: pos.Hash[:], Trimmed: first - 1, KeysetVersion: src.Anchors.KeysetVersion(),
	}
	out := &writer{w: w, sum: sha256.New()}
	out.put([]byte{'M', 'K', 'B', 'A', 'C', 'K', 'U', 'P', version, ^byte(version)})
	out.message(frameHeader, &logv1.BackupHeader{
		Domain: sealed.Domain, Hub: src.Hub, Build: src.Build, Time: sealed.CreatedAt, HeadSeq: pos.Seq, HeadTerm: pos.Term,
		HeadHash: pos.Hash[:], Trimmed: first - 1,
	})
	if sealed.Entries, err = writeEntries(ctx, out, src.Log, first, pos); err != nil {
		return err
	}
	pieces := &pieceWriter{ctx: ctx, out: out}
	if err := src.State.WriteSnapshot(pieces); err != nil {
		return fmt.Errorf("export the state: %w", err)
	}
	pieces.flush()
	if out.err != nil {
		return out.err
	}
	sealed.SnapshotBytes, sealed.Bytes, sealed.Sha256 = pieces.total, out.total, out.sum.Sum(nil)
	env, err := trust.SignBackup(ctx, src.Signer, sealed)
	if err != nil {
		return fmt.Errorf("sign the backup: %w", err)
	}
	out.message(frameEnvelope, env)
	return out.err
}

// writeEntries writes the entries from first on to the one at pos.
func writeEntries(ctx context.Context, out *writer, l *store.Log, first uint64, pos state.Position) (n uint64, err error) {
	last := store.Head{Position: store.Position{Seq: first - 1}}
	for last.Seq < pos.Seq {
		page, err := l.Read(ctx, last.Seq, 0)
		switch {
		case errors.Is(err, fault.CodeTrimmed):
			return n, fault.New(fault.CodeExportCut, "export the log: %w", err)
		case err != nil:
			return n, fmt.Errorf("export the log: %w", err)
		case len(page) == 0:
			return n, fault.New(fault.CodeLogWentBack, "export the log: it ends at entry %d, and this hub has read entry %d", last.Seq, pos.Seq)
		}
		for _, e := range page {
			if e.Seq > pos.Seq {
				break
			}
			out.frame(frameEntry, e.Raw)
			if out.err != nil {
				return n, out.err
			}
			n++
			last = e.Head()
		}
	}
	if last.Hash != pos.Hash {
		return n, fault.New(fault.CodeLogWentBack, "export the log: its entry %d is not the one that this hub has read", pos.Seq)
	}
	return n, nil
}

// writer writes frames, and remembers the first error.
type writer struct {
	w     io.Writer
	sum   hash.Hash
	total uint64
	err   error
}

func (o *writer) put(b []byte) {
	if o.err != nil {
		return
	}
	if _, err := o.w.Write(b); err != nil {
		o.err = err
		return
	}
	o.sum.Write(b)
	o.total += uint64(len(b))
}

func (o *writer) frame(kind byte, payload []byte) {
	o.put(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload))))
	o.put(payload)
}

func (o *writer) message(kind byte, m proto.Message) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil && o.err == nil {
		o.err = fault.New(fault.CodeInternal, "encode a part of the backup: %w", err)
	}
	o.frame(kind, payload)
}

// pieceWriter cuts a snapshot into frames.
type pieceWriter struct {
	ctx   context.Context
	out   *writer
	buf   []byte
	total uint64
}

func (p *pieceWriter) Write(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	p.total += uint64(len(b))
	for rest := b; len(rest) > 0; {
		n := min(len(rest), maxSnapshot-len(p.buf))
		p.buf, rest = append(p.buf, rest[:n]...), rest[n:]
		if len(p.buf) == maxSnapshot {
			p.flush()
		}
	}
	return len(b), p.out.err
}

func (p *pieceWriter) flush() {
	if len(p.buf) > 0 {
		p.out.frame(frameSnapshot, p.buf)
		p.buf = p.buf[:0]
	}
}
