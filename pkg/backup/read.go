package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// Reader reads a backup in its order: Header, Next until io.EOF, Snapshot to its end,
// Seal. Any bytes are safe: memory is bounded by the largest frame that is really
// there. Nothing it gives is believed before Seal's sums and its envelope are
// verified, which Verify does.
//
// Errors are CodeBackupDamaged, CodeBackupFormat, and those of the reader below.
type Reader struct {
	in     io.Reader
	sum    hash.Hash
	offset uint64
	header *logv1.BackupHeader
	head   store.Head // of the entries so far
	count  uint64
	// frame is the head of the frame that comes next, once it was read.
	frame  frame
	pieces uint64 // bytes of the snapshot so far
	// before is the sum of all bytes before frame.
	before [32]byte
}

type frame struct {
	kind   byte
	length int
	known  bool
	at     uint64
}

// Sealed is the end of a backup. Only Envelope is signed; the rest was counted here.
type Sealed struct {
	Envelope *trustv1.Envelope
	// Sum and Bytes are of all before the envelope's frame.
	Sum            [32]byte
	Bytes          uint64
	Entries        uint64
	SnapshotBytes  uint64
	Head           store.Head
	Trimmed        uint64
	envelopeLength int
}

// Size of the whole backup, in bytes.
func (s Sealed) Size() uint64 { return s.Bytes + 5 + uint64(s.envelopeLength) }

// NewReader reads the beginning of a backup.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: in, sum: sha256.New()}
	begin := make([]byte, len(magic)+2)
	if err := r.full(begin); err != nil {
		return nil, err
	}
	switch v := begin[len(magic)]; {
	case string(begin[:len(magic)]) != magic, v != ^begin[len(magic)+1]:
		return nil, fault.New(fault.CodeBackupDamaged, "it does not begin as a backup")
	case v != version:
		return nil, fault.New(fault.CodeBackupFormat, "the backup has format %d, this build knows %d", v, version)
	}
	h := &logv1.BackupHeader{}
	if err := r.message(frameHeader, maxHeader, h); err != nil {
		return nil, err
	}
	if h.GetDomain() == "" || len(h.GetHeadHash()) != sha256.Size || h.GetTrimmed() >= h.GetHeadSeq() || h.GetTime().CheckValid() != nil {
		return nil, r.damaged("its header is incomplete")
	}
	r.header, r.head = h, store.Head{Position: store.Position{Seq: h.GetTrimmed()}}
	return r, nil
}

// Header says whose backup this is and where its log ends.
func (r *Reader) Header() *logv1.BackupHeader { return r.header }

func (r *Reader) damaged(format string, args ...any) error {
	return fault.New(fault.CodeBackupDamaged, "the backup is damaged at byte %d: %s", r.offset, fmt.Sprintf(format, args...))
}

// broken gives an error of the reader below its meaning.
func (r *Reader) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.New(fault.CodeBackupDamaged, "the backup was cut short: it ends at byte %d, without its signature", r.offset)
	}
	return fmt.Errorf("read the backup: %w", err)
}

func (r *Reader) full(b []byte) error {
	n, err := io.ReadFull(r.in, b)
	r.sum.Write(b[:n])
	r.offset += uint64(n)
	if err != nil {
		return r.broken(err)
	}
	return nil
}

// peek reads the head of the next frame.
func (r *Reader) peek() (frame, error) {
	if r.frame.known {
		return r.frame, nil
	}
	copy(r.before[:], r.sum.Sum(nil))
	at := r.offset
	var b [5]byte
	if err := r.full(b[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: b[0], length: int(binary.BigEndian.Uint32(b[1:])), known: true, at: at}
	limits := map[byte]int{frameHeader: maxHeader, frameEntry: maxEntry, frameSnapshot: maxSnapshot, frameEnvelope: maxEnvelope}
	most, ok := limits[f.kind]
	switch {
	case !ok:
		return frame{}, r.damaged("a part of the unknown type %d", f.kind)
	case f.length == 0 || f.length > most:
		return frame{}, r.damaged("a part of type %d has %d bytes, want 1 to %d", f.kind, f.length, most)
	}
	r.frame = f
	return f, nil
}

// payload reads what the peeked frame holds. It grows as bytes arrive: a damaged
// length allocates nothing.
func (r *Reader) payload() ([]byte, error) {
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, r.in, int64(r.frame.length))
	r.sum.Write(buf.Bytes())
	r.offset += uint64(n)
	r.frame = frame{}
	if err != nil {
		return nil, r.broken(err)
	}
	return buf.Bytes(), nil
}

func (r *Reader) message(kind byte, most int, into proto.Message) error {
	f, err := r.peek()
	if err != nil {
		return err
	}
	if f.kind != kind {
		return r.damaged("a part of type %d where one of type %d belongs", f.kind, kind)
	}
	data, err := r.payload()
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(data, into); err != nil {
		return r.damaged("a part of type %d is not readable", kind)
	}
	return nil
}

// Next gives the next entry, whose place in the hash chain is verified, and io.EOF
// after the one that the header names as the last.
func (r *Reader) Next() (store.Entry, error) {
	if r.head.Seq == r.header.GetHeadSeq() {
		return store.Entry{}, io.EOF
	}
	f, err := r.peek()
	if err != nil {
		return store.Entry{}, err
	}
	if f.kind != frameEntry {
		return store.Entry{}, r.damaged("entry %d is missing", r.head.Seq+1)
	}
	raw, err := r.payload()
	if err != nil {
		return store.Entry{}, err
	}
	e, err := store.ParseEntry(raw)
	if err != nil {
		return store.Entry{}, r.damaged("entry %d: %v", r.head.Seq+1, err)
	}
	if r.count == 0 && r.head.Seq > 0 { // the one before is trimmed: nothing else tells its hash
		r.head.Hash = [32]byte(e.PreviousHash)
	}
	if err := e.Follows(r.head); err != nil {
		return store.Entry{}, r.damaged("%v", err)
	}
	r.head = e.Head()
	r.count++
	if h := r.header; e.Seq == h.GetHeadSeq() && (e.Term != h.GetHeadTerm() || !bytes.Equal(e.Hash[:], h.GetHeadHash())) {
		return store.Entry{}, r.damaged("its last entry is not the one that its header names")
	}
	return e, nil
}

// Snapshot gives the state after the last entry, once Next gave io.EOF.
func (r *Reader) Snapshot() io.Reader { return &snapshotReader{r: r} }

type snapshotReader struct {
	r    *Reader
	rest []byte
	err  error // the first but io.EOF
}

func (s *snapshotReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		f, err := s.r.peek()
		if err == nil && f.kind != frameSnapshot {
			return 0, io.EOF
		}
		if err == nil {
			s.rest, err = s.r.payload()
		}
		if err != nil {
			s.err = err
			return 0, err
		}
		s.r.pieces += uint64(len(s.rest))
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Seal reads the envelope, and that nothing follows it.
func (r *Reader) Seal() (Sealed, error) {
	f, err := r.peek()
	if err != nil {
		return Sealed{}, err
	}
	s := Sealed{
		Envelope: &trustv1.Envelope{}, Sum: r.before, Bytes: f.at, Entries: r.count, SnapshotBytes: r.pieces,
		Head: r.head, Trimmed: r.header.GetTrimmed(), envelopeLength: f.length,
	}
	if err := r.message(frameEnvelope, maxEnvelope, s.Envelope); err != nil {
		return Sealed{}, err
	}
	var more [1]byte
	if n, err := r.in.Read(more[:]); n > 0 || !errors.Is(err, io.EOF) {
		if n == 0 && err != nil {
			return Sealed{}, fmt.Errorf("read the backup: %w", err)
		}
		return Sealed{}, r.damaged("it goes on after its signature")
	}
	return s, nil
}
