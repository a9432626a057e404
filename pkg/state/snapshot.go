package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// snapshotFormat is the number in the header; maxRecord bounds one record, so
// that a damaged length cannot exhaust memory.
const (
	snapshotFormat = 1
	maxRecord      = 64 << 20
)

// Digest identifies the whole state: SHA-256 of its snapshot. Equal logs give
// equal digests. It costs as much as writing a snapshot.
func (s *State) Digest() [32]byte {
	h := sha256.New()
	_ = s.WriteSnapshot(h) // a hash does not fail
	return [32]byte(h.Sum(nil))
}

// WriteSnapshot writes the state as a stream of SnapshotRecord messages, each
// preceded by its length as a varint: the header, then every table in the order
// of its keys. The same state gives the same bytes. It keeps the state alive but
// stops nobody.
func (s *State) WriteSnapshot(w io.Writer) error {
	out := recordWriter{w: bufio.NewWriterSize(w, 64<<10)}
	out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Header{Header: s.header()}})
	for _, r := range scan(s.resources, nil, nil) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Resource{Resource: &logv1.ResourceState{
			Kind: r.Key.Kind, Namespace: r.Key.Namespace, Name: r.Key.Name, Content: r.Content, Ownership: r.Ownership,
			Generation: r.Generation, ResourceVersion: r.Version, PreviousSeq: r.PreviousSeq,
			CreatedAt: timestamppb.New(r.CreatedAt), UpdatedAt: timestamppb.New(r.UpdatedAt),
		}}})
	}
	for _, r := range scan(s.revisions, nil, nil) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Revision{Revision: &logv1.Revision{
			Kind: r.Key.Kind, Namespace: r.Key.Namespace, Name: r.Key.Name, Seq: r.Seq, Content: r.Content,
			Ownership: r.Ownership, Deleted: r.Deleted, PreviousSeq: r.PreviousSeq, SupersededSeq: r.SupersededSeq,
		}}})
	}
	for c := range values(s.changes) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Change{Change: c}})
	}
	for t := range values(s.tokens) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Token{Token: t}})
	}
	for n := range values(s.nodes) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Node{Node: n}})
	}
	for c := range values(s.certificates) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Certificate{Certificate: c}})
	}
	for r := range values(s.requests) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Request{Request: r}})
	}
	for h := range values(s.hubs) {
		out.put(&logv1.SnapshotRecord{Record: &logv1.SnapshotRecord_Hub{Hub: h}})
	}
	return out.flush()
}

func (s *State) header() *logv1.SnapshotHeader {
	records := s.resources.Len() + s.revisions.Len() + s.changes.Len() + s.tokens.Len() + s.nodes.Len() +
		s.certificates.Len() + s.requests.Len() + s.hubs.Len()
	return &logv1.SnapshotHeader{
		Format: snapshotFormat, Domain: s.domain, Seq: s.pos.Seq, Term: s.pos.Term, Hash: s.pos.Hash[:],
		ConfigSeq: s.configSeq, ConfigEpoch: s.configEpoch, Time: timestamppb.New(s.time), Roots: s.roots,
		Keyset: s.keyset, CaBundle: s.caBundle, Records: uint64(records), Skipped: s.skipped,
		AcceptedSeq: s.acceptedSeq, AcceptedTerm: s.acceptedTerm,
	}
}

// recordWriter writes length-prefixed records and remembers the first error.
type recordWriter struct {
	w   *bufio.Writer
	buf []byte
	err error
}

func (o *recordWriter) put(r *logv1.SnapshotRecord) {
	if o.err != nil {
		return
	}
	opts := proto.MarshalOptions{Deterministic: true}
	o.buf = protowire.AppendVarint(o.buf[:0], uint64(opts.Size(r)))
	if o.buf, o.err = opts.MarshalAppend(o.buf, r); o.err == nil {
		_, o.err = o.w.Write(o.buf)
	}
}

func (o *recordWriter) flush() error {
	if o.err != nil {
		return o.err
	}
	return o.w.Flush()
}

// ReadSnapshot reads what WriteSnapshot wrote. Anything else is refused with
// fault.CodeBadSnapshot: a truncated, damaged or unordered stream, or a record
// of a newer format.
func ReadSnapshot(r io.Reader) (*State, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	first, err := readRecord(in)
	if err != nil {
		return nil, fault.New(fault.CodeBadSnapshot, "read snapshot header: %w", err)
	}
	h := first.GetHeader()
	if h == nil || h.GetFormat() != snapshotFormat || len(h.GetHash()) != 32 {
		return nil, fault.New(fault.CodeBadSnapshot, "snapshot has no header of format %d", snapshotFormat)
	}
	l := newLoader(h)
	for i := range h.GetRecords() {
		rec, err := readRecord(in)
		if err == nil {
			err = l.add(rec)
		}
		if err != nil {
			return nil, fault.New(fault.CodeBadSnapshot, "read snapshot of entry %d, record %d of %d: %w", h.GetSeq(), i+1, h.GetRecords(), err)
		}
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.CodeBadSnapshot, "snapshot of entry %d goes on after its last record", h.GetSeq())
	}
	return l.finish(), nil
}

func readRecord(in *bufio.Reader) (*logv1.SnapshotRecord, error) {
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, noEOF(err)
	}
	if n > maxRecord {
		return nil, errors.New("a record is longer than 64 MiB")
	}
	var buf bytes.Buffer // grows as bytes arrive: a damaged length allocates nothing
	if m, err := io.CopyN(&buf, in, int64(n)); err != nil || m != int64(n) {
		return nil, noEOF(err)
	}
	rec := new(logv1.SnapshotRecord)
	if err := proto.Unmarshal(buf.Bytes(), rec); err != nil {
		return nil, err
	}
	return rec, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// loader fills the trees of a state in transactions. One goroutine uses it.
type loader struct {
	s            *State
	trie         *digest.Trie
	resources    *iradix.Txn[*Resource]
	revisions    *iradix.Txn[*Revision]
	evictions    *iradix.Txn[*Revision]
	changes      *iradix.Txn[*logv1.ChangeRecord]
	tokens       *iradix.Txn[*logv1.TokenState]
	nodes        *iradix.Txn[*logv1.NodeState]
	certificates *iradix.Txn[*logv1.CertificateIssued]
	hubs         *iradix.Txn[*logv1.HubState]
	requests     *iradix.Txn[*logv1.RequestRecord]
	requestOrder *iradix.Txn[string]
}

func newLoader(h *logv1.SnapshotHeader) *loader {
	s := New()
	s.domain, s.configSeq, s.configEpoch, s.skipped = h.GetDomain(), h.GetConfigSeq(), h.GetConfigEpoch(), h.GetSkipped()
	s.pos = Position{Seq: h.GetSeq(), Term: h.GetTerm(), Hash: [32]byte(h.GetHash())}
	s.acceptedSeq, s.acceptedTerm = h.GetAcceptedSeq(), h.GetAcceptedTerm()
	s.time = instant(h.GetTime())
	s.roots, s.keyset, s.caBundle = h.GetRoots(), h.GetKeyset(), h.GetCaBundle()
	return &loader{
		s: s, resources: s.resources.Txn(), revisions: s.revisions.Txn(), evictions: s.evictions.Txn(),
		changes: s.changes.Txn(), tokens: s.tokens.Txn(), nodes: s.nodes.Txn(), certificates: s.certificates.Txn(),
		hubs: s.hubs.Txn(), requests: s.requests.Txn(), requestOrder: s.requestOrder.Txn(),
	}
}

func (l *loader) add(rec *logv1.SnapshotRecord) error {
	dup := false
	switch r := rec.GetRecord().(type) {
	case *logv1.SnapshotRecord_Resource:
		k := resource.Key{Kind: r.Resource.GetKind(), Namespace: r.Resource.GetNamespace(), Name: r.Resource.GetName()}
		l.trie = l.trie.Set(k.String(), r.Resource.GetContent())
		_, dup = l.resources.Insert([]byte(k.String()), &Resource{
			Key: k, Content: r.Resource.GetContent(), Ownership: r.Resource.GetOwnership(), Generation: r.Resource.GetGeneration(),
			Version: r.Resource.GetResourceVersion(), PreviousSeq: r.Resource.GetPreviousSeq(),
			CreatedAt: instant(r.Resource.GetCreatedAt()), UpdatedAt: instant(r.Resource.GetUpdatedAt()),
		})
	case *logv1.SnapshotRecord_Revision:
		v := &Revision{
			Key: resource.Key{Kind: r.Revision.GetKind(), Namespace: r.Revision.GetNamespace(), Name: r.Revision.GetName()},
			Seq: r.Revision.GetSeq(), Content: r.Revision.GetContent(), Ownership: r.Revision.GetOwnership(),
			Deleted: r.Revision.GetDeleted(), PreviousSeq: r.Revision.GetPreviousSeq(), SupersededSeq: r.Revision.GetSupersededSeq(),
		}
		_, dup = l.revisions.Insert(revisionKey(v.Key, v.Seq), v)
		l.evictions.Insert(evictionKey(v), v)
		l.s.revisionBytes += v.cost()
	case *logv1.SnapshotRecord_Change:
		_, dup = l.changes.Insert(seqKey(r.Change.GetSeq()), r.Change)
	case *logv1.SnapshotRecord_Token:
		_, dup = l.tokens.Insert([]byte(r.Token.GetToken().GetId()), r.Token)
	case *logv1.SnapshotRecord_Node:
		_, dup = l.nodes.Insert([]byte(r.Node.GetNode()), r.Node)
	case *logv1.SnapshotRecord_Certificate:
		_, dup = l.certificates.Insert([]byte(r.Certificate.GetIdentity()), r.Certificate)
	case *logv1.SnapshotRecord_Request:
		_, dup = l.requests.Insert([]byte(r.Request.GetRequestId()), r.Request)
		l.requestOrder.Insert(append(seqKey(r.Request.GetSeq()), r.Request.GetRequestId()...), r.Request.GetRequestId())
	case *logv1.SnapshotRecord_Hub:
		_, dup = l.hubs.Insert([]byte(r.Hub.GetHub()), r.Hub)
	default:
		return errors.New("it is of a kind that this build does not know")
	}
	if dup {
		return errors.New("it occurs twice")
	}
	return nil
}

func (l *loader) finish() *State {
	s := l.s
	s.trie = l.trie
	s.resources, s.revisions, s.evictions = l.resources.Commit(), l.revisions.Commit(), l.evictions.Commit()
	s.changes, s.tokens, s.nodes = l.changes.Commit(), l.tokens.Commit(), l.nodes.Commit()
	s.certificates, s.hubs = l.certificates.Commit(), l.hubs.Commit()
	s.requests, s.requestOrder = l.requests.Commit(), l.requestOrder.Commit()
	return s
}

// instant is a time in UTC; absent and zero are the zero time.
func instant(t *timestamppb.Timestamp) time.Time {
	if at := t.AsTime(); t != nil && !at.IsZero() {
		return at
	}
	return time.Time{}
}
