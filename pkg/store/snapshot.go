package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Snapshots lie in Blobs:
//
//	snapshot/00000000000000004711/<hex SHA-256>   a chunk, named by its content
//	snapshot/00000000000000004711/manifest        written last, deleted first
//
// where the number is the sequence number of the last entry that the snapshot
// holds. Without a manifest the chunks are not a snapshot: one that was cut
// short is never seen. Its chunks go when the save fails, and what a crash left
// goes before the next save. Each snapshot has its own chunks, so that dropping
// one cannot take a chunk from another that is being written. The manifest is
//
//	0               32
//	| SHA-256 of J  | J: JSON of type manifest |
const (
	snapshotPrefix = "snapshot/"
	manifestName   = "manifest"
	keptSnapshots  = 2
)

type manifest struct {
	Format    int      `json:"format"`
	Seq       uint64   `json:"seq"`
	Hash      string   `json:"hash"`
	Size      int64    `json:"size"`
	ChunkSize int      `json:"chunkSize"`
	Chunks    []string `json:"chunks"`
}

// Snapshot is a complete snapshot of the state after an entry.
type Snapshot struct {
	// Seq is the last entry that it holds, Hash that entry's hash.
	Seq  uint64
	Hash [32]byte
	// Size of the content in bytes.
	Size int64

	blobs    Blobs
	manifest manifest
}

func snapshotKey(seq uint64, name string) string {
	return fmt.Sprintf("%s%020d/%s", snapshotPrefix, seq, name)
}

// SaveSnapshot stores the state after the entry seq, whose hash is hash, as r
// gives it, and then drops snapshots older than the two newest. When a snapshot
// of that entry or a later one is there already, nothing is done. It stops when
// the tenure ends. What it stored is removed when it fails, so that on a full
// disk it leaves no less room than there was. CodeSnapshotForeign: the log has
// no such entry.
func (l *Log) SaveSnapshot(ctx context.Context, t *Tenure, seq uint64, hash [32]byte, r io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(context.Cause(t.ctx)) })()
	if t.ctx.Err() != nil {
		return t.lost()
	}
	switch latest, err := l.LatestSnapshot(ctx); {
	case err == nil && latest.Seq >= seq:
		return nil
	case err != nil && !errors.Is(err, fault.CodeNoSnapshot) && !errors.Is(err, fault.CodeCorrupt):
		return err // in place of a damaged one, a new one is what is needed
	}
	if err := l.agrees(ctx, seq, hash); err != nil {
		return err
	}
	if err := l.sweepTorn(ctx, seq); err != nil {
		return err
	}
	m := manifest{Format: 1, Seq: seq, Hash: hex.EncodeToString(hash[:]), ChunkSize: l.opts.ChunkSize}
	if err := l.putSnapshot(ctx, &m, r); err != nil {
		l.takeBack(t, m)
		return fmt.Errorf("save snapshot of entry %d: %w", seq, err)
	}
	return l.dropSnapshots(ctx)
}

func (l *Log) putSnapshot(ctx context.Context, m *manifest, r io.Reader) error {
	if err := l.putChunks(ctx, m, r); err != nil {
		return err
	}
	data, err := encodeManifest(*m)
	if err != nil {
		return err
	}
	return l.blobs.Put(ctx, snapshotKey(m.Seq, manifestName), data)
}

// takeBack removes what a failed save stored. It has a time of its own, because
// the caller's may be what ended. It ends with the tenure: the next holder may be
// writing the same chunks, and sweeps what it does not need. What is left
// because the store refuses this as well, the next save sweeps.
func (l *Log) takeBack(t *Tenure, m manifest) {
	ctx, cancel := context.WithTimeout(t.ctx, closeTimeout)
	defer cancel()
	// The manifest may be there although its Put failed, and must not outlive a chunk.
	_ = l.drop(ctx, m.Seq, m.keys())
}

// keys gives the keys of the chunks, each once.
func (m manifest) keys() []string {
	keys := make([]string, 0, len(m.Chunks))
	for _, name := range m.Chunks {
		keys = append(keys, snapshotKey(m.Seq, name))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// sweepTorn removes the torn snapshots that a crash left. Only the holder of the
// lease saves snapshots, one at a time, so none of them is still being written
// but the one of seq, whose chunks the caller is about to store again.
func (l *Log) sweepTorn(ctx context.Context, seq uint64) error {
	all, err := l.snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.complete || s.seq == seq {
			continue
		}
		if err := l.blobs.Delete(ctx, s.chunks...); err != nil {
			return fmt.Errorf("sweep torn snapshot %d: %w", s.seq, err)
		}
	}
	return nil
}

// agrees checks that the log has an entry seq of that hash.
func (l *Log) agrees(ctx context.Context, seq uint64, hash [32]byte) error {
	if seq == 0 {
		return fault.New(fault.CodeSnapshotForeign, "save snapshot: it holds no entry")
	}
	e, err := l.entryAt(ctx, seq)
	switch {
	case errors.Is(err, fault.CodeTrimmed), errors.Is(err, fault.CodeChainBroken):
		return fault.New(fault.CodeSnapshotForeign, "save snapshot: the log has no entry %d: %w", seq, err)
	case err != nil:
		return err
	case e.Hash != hash:
		return fault.New(fault.CodeSnapshotForeign, "save snapshot: entry %d of the log has hash %x, not %x", seq, e.Hash, hash)
	}
	return nil
}

// putChunks stores the content. m names each chunk before it is stored: one
// whose Put failed may be there.
func (l *Log) putChunks(ctx context.Context, m *manifest, r io.Reader) error {
	stored := make(map[string]bool)
	buf := make([]byte, m.ChunkSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			sum := sha256.Sum256(buf[:n])
			name := hex.EncodeToString(sum[:])
			m.Chunks = append(m.Chunks, name)
			m.Size += int64(n)
			if ctx.Err() != nil { // Put may not look
				return context.Cause(ctx)
			}
			if !stored[name] {
				if err := l.blobs.Put(ctx, snapshotKey(m.Seq, name), buf[:n]); err != nil {
					return err
				}
				stored[name] = true
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func encodeManifest(m manifest) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "encode manifest of snapshot %d: %w", m.Seq, err)
	}
	if len(body)+sha256.Size > MaxBlob {
		return nil, fault.New(fault.CodeEntryTooLarge, "a snapshot of %d bytes is too large: its %d chunks do not fit one manifest", m.Size, len(m.Chunks))
	}
	sum := sha256.Sum256(body)
	return append(sum[:], body...), nil
}

func decodeManifest(seq uint64, data []byte) (manifest, error) {
	damaged := func(why string) (manifest, error) {
		return manifest{}, fault.New(fault.CodeCorrupt, "the manifest of snapshot %d is damaged: %s", seq, why)
	}
	if len(data) < sha256.Size {
		return damaged("it is too short")
	}
	sum := sha256.Sum256(data[sha256.Size:])
	if !bytes.Equal(sum[:], data[:sha256.Size]) {
		return damaged("it does not have the hash that was stored with it")
	}
	var m manifest
	if err := json.Unmarshal(data[sha256.Size:], &m); err != nil {
		return damaged(err.Error())
	}
	if m.Format != 1 {
		return manifest{}, fault.New(fault.CodeStoreFormat, "snapshot %d has format %d, this build knows 1", seq, m.Format)
	}
	if m.Seq != seq || len(m.Hash) != 64 || m.ChunkSize <= 0 || m.ChunkSize > MaxBlob || m.Size < 0 ||
		int64(len(m.Chunks)) != (m.Size+int64(m.ChunkSize)-1)/int64(m.ChunkSize) {
		return damaged("its fields contradict each other")
	}
	return m, nil
}

// stored is what the keys of one snapshot say.
type stored struct {
	seq      uint64
	complete bool
	chunks   []string
}

// snapshots lists what is there, newest first, torn ones included.
func (l *Log) snapshots(ctx context.Context) ([]*stored, error) {
	keys, err := l.blobs.List(ctx, snapshotPrefix)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	bySeq := make(map[uint64]*stored)
	for _, k := range keys {
		number, name, _ := strings.Cut(strings.TrimPrefix(k, snapshotPrefix), "/")
		seq, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return nil, fault.New(fault.CodeCorrupt, "%q is not the name of a part of a snapshot", k)
		}
		s := bySeq[seq]
		if s == nil {
			s = &stored{seq: seq}
			bySeq[seq] = s
		}
		if name == manifestName {
			s.complete = true
			continue
		}
		s.chunks = append(s.chunks, k)
	}
	all := make([]*stored, 0, len(bySeq))
	for _, s := range bySeq {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *stored) int { return cmp.Compare(b.seq, a.seq) })
	return all, nil
}

// dropSnapshots removes all but the newest complete ones, and what was cut
// short before the newest.
func (l *Log) dropSnapshots(ctx context.Context) error {
	all, err := l.snapshots(ctx)
	if err != nil {
		return err
	}
	kept := 0
	for _, s := range all {
		if kept == 0 && !s.complete {
			continue // the next holder may be writing it, if this one lost the lease meanwhile
		}
		if s.complete && kept < keptSnapshots {
			kept++
			continue
		}
		if err := l.drop(ctx, s.seq, s.chunks); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the manifest first: what is left by a crash in between is a torn
// snapshot.
func (l *Log) drop(ctx context.Context, seq uint64, chunks []string) error {
	if err := l.blobs.Delete(ctx, snapshotKey(seq, manifestName)); err != nil {
		return fmt.Errorf("drop snapshot %d: %w", seq, err)
	}
	if err := l.blobs.Delete(ctx, chunks...); err != nil {
		return fmt.Errorf("drop snapshot %d: %w", seq, err)
	}
	return nil
}

// dropTries is how often snapshots may be dropped while they are looked for.
const dropTries = 5

// LatestSnapshot gives the newest complete snapshot, or CodeNoSnapshot. If its
// manifest is damaged and the log still reaches back to the one before, it gives
// that one. A manifest that is listed and cannot be had, again and again, is
// CodeCorrupt.
func (l *Log) LatestSnapshot(ctx context.Context) (Snapshot, error) {
	for try := 1; ; try++ {
		snap, err := l.newestIntact(ctx)
		// All that were listed were dropped before they were read: newer ones are there.
		if !errors.Is(err, fault.CodeBlobMissing) {
			return snap, err
		}
		if try == dropTries {
			return Snapshot{}, fault.New(fault.CodeCorrupt, "the store lists a snapshot that it does not have: %v", err)
		}
		if ctx.Err() != nil {
			return Snapshot{}, fmt.Errorf("find the newest snapshot: %w", context.Cause(ctx))
		}
	}
}

func (l *Log) newestIntact(ctx context.Context) (Snapshot, error) {
	all, err := l.snapshots(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	var damaged, dropped error
	for _, s := range all {
		if !s.complete {
			continue
		}
		snap, err := l.loadSnapshot(ctx, s.seq)
		if err == nil && damaged != nil {
			err = l.reachesBack(ctx, s.seq)
		}
		switch {
		case err == nil:
			return snap, nil
		case errors.Is(err, fault.CodeBlobMissing):
			dropped = err
		case errors.Is(err, fault.CodeCorrupt):
			damaged = cmp.Or(damaged, err)
		default:
			return Snapshot{}, err
		}
	}
	if err := cmp.Or(damaged, dropped); err != nil {
		return Snapshot{}, err
	}
	return Snapshot{}, fault.New(fault.CodeNoSnapshot, "the log has no complete snapshot")
}

func (l *Log) loadSnapshot(ctx context.Context, seq uint64) (Snapshot, error) {
	data, err := l.blobs.Get(ctx, snapshotKey(seq, manifestName))
	if err != nil {
		return Snapshot{}, err
	}
	m, err := decodeManifest(seq, data)
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{Seq: seq, Size: m.Size, blobs: l.blobs, manifest: m}
	if _, err := hex.Decode(s.Hash[:], []byte(m.Hash)); err != nil {
		return Snapshot{}, fault.New(fault.CodeCorrupt, "the manifest of snapshot %d has a hash that is not one: %w", seq, err)
	}
	return s, nil
}

func (l *Log) reachesBack(ctx context.Context, seq uint64) error {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	if err != nil {
		return err
	}
	if seq < p.Trimmed {
		return fault.New(fault.CodeCorrupt, "snapshot %d is too old: the log is trimmed up to %d", seq, p.Trimmed)
	}
	return nil
}

// oldestSnapshot gives the oldest one whose manifest is intact.
func (l *Log) oldestSnapshot(ctx context.Context) (Snapshot, error) {
	all, err := l.snapshots(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	for _, s := range slices.Backward(all) {
		if !s.complete {
			continue
		}
		snap, err := l.loadSnapshot(ctx, s.seq)
		if errors.Is(err, fault.CodeCorrupt) || errors.Is(err, fault.CodeBlobMissing) {
			continue
		}
		return snap, err
	}
	return Snapshot{}, fault.New(fault.CodeNoSnapshot, "the log has no complete snapshot")
}

// Open gives the content. Each chunk is verified before any byte of it is given
// out. CodeBlobMissing: the snapshot was dropped meanwhile, take the newest.
// CodeCorrupt: a chunk is damaged or gone. The reader is for one goroutine.
func (s Snapshot) Open(ctx context.Context) io.ReadCloser {
	return &snapshotReader{ctx: ctx, snap: s}
}

type snapshotReader struct {
	ctx   context.Context
	snap  Snapshot
	next  int    // index of the next chunk
	chunk []byte // the rest of the present one
	err   error
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 && r.err == nil {
		r.chunk, r.err = r.fetch()
	}
	if len(r.chunk) == 0 {
		return 0, r.err
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

func (r *snapshotReader) fetch() ([]byte, error) {
	m := r.snap.manifest
	if r.next == len(m.Chunks) {
		return nil, io.EOF
	}
	name := m.Chunks[r.next]
	data, err := r.snap.blobs.Get(r.ctx, snapshotKey(m.Seq, name))
	if errors.Is(err, fault.CodeBlobMissing) {
		return nil, r.missing(err)
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot %d: %w", m.Seq, err)
	}
	want := m.ChunkSize
	if r.next == len(m.Chunks)-1 {
		want = int(m.Size - int64(m.ChunkSize)*int64(r.next))
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != name || len(data) != want {
		return nil, fault.New(fault.CodeCorrupt, "chunk %d of snapshot %d does not have the content that its manifest names", r.next, m.Seq)
	}
	r.next++
	return data, nil
}

// missing tells a snapshot that was dropped from one that was damaged.
func (r *snapshotReader) missing(err error) error {
	seq := r.snap.manifest.Seq
	if _, merr := r.snap.blobs.Get(r.ctx, snapshotKey(seq, manifestName)); merr == nil {
		return fault.New(fault.CodeCorrupt, "chunk %d of snapshot %d is not in the store", r.next, seq)
	}
	return fmt.Errorf("read snapshot %d: it was dropped meanwhile: %w", seq, err)
}

// Close implements io.Closer.
func (r *snapshotReader) Close() error {
	r.chunk, r.err = nil, io.ErrClosedPipe
	return nil
}
