package lkg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// message is what a frame holds.
type message = proto.Message

// maxLosses bounds what is said of damage; the rest is counted.
const maxLosses = 20

// Open reads the store in o.Dir, or begins one. Damage is described in Found; an
// error means that the directory cannot be used at all (fault.CodeIO), or belongs
// to another node (fault.CodeLKGForeign).
func Open(o Options) (*Store, *Found, error) {
	s := &Store{opts: o, fs: o.FS, log: o.Logger, nextSeq: 1}
	if s.fs == nil {
		s.fs = durable.OS
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := durable.MkdirAll(s.fs, o.Dir, 0o700); err != nil {
		return nil, nil, fault.New(fault.CodeIO, "make last-known-good directory: %w", err)
	}
	if err := s.list(); err != nil {
		return nil, nil, fault.New(fault.CodeIO, "list last-known-good directory: %w", err)
	}
	l := newLoader(o)
	for _, seg := range s.segments {
		if err := s.readSegment(l, seg); err != nil {
			return nil, nil, err
		}
	}
	s.readHighest(l)
	found := l.result()
	s.onFile = l.onFile
	s.doubtful = len(found.Lost) > 0
	s.remember(found.State, found.Contents)
	return s, found, nil
}

// list finds the segments, and removes left-overs of a rewrite.
func (s *Store) list() error {
	entries, err := s.fs.ReadDir(s.opts.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "journal-")
		if !ok {
			continue
		}
		if rest, tmp := strings.CutSuffix(digits, durable.TempSuffix); tmp {
			if seq, err := strconv.ParseUint(rest, 16, 64); err == nil {
				_ = s.fs.Remove(s.path(seq) + durable.TempSuffix)
			}
			continue
		}
		seq, err := strconv.ParseUint(digits, 16, 64)
		if err != nil || len(digits) != 16 || seq == 1<<64-1 {
			continue
		}
		var size int64
		if info, err := e.Info(); err == nil {
			size = info.Size()
		}
		s.segments = append(s.segments, segment{seq, size})
		s.nextSeq = max(s.nextSeq, seq+1)
	}
	slices.SortFunc(s.segments, func(a, b segment) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return nil
}

func (s *Store) readSegment(l *loader, seg segment) error {
	name := fmt.Sprintf("journal-%016x", seg.seq)
	f, err := s.fs.Open(s.path(seg.seq))
	if err != nil {
		l.lose("%s: %v", name, err)
		return nil
	}
	defer f.Close()
	return l.read(name, f, seg.size)
}

func (s *Store) readHighest(l *loader) {
	data, err := durable.ReadFile(s.fs, s.highestPath(), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		if l.newest != nil && l.newest.GetHighest() != nil {
			l.lose("the file highest is missing")
		}
		return
	}
	if err != nil {
		l.lose("%v", err)
		return
	}
	t, payload, skipped, err := newScanner(strings.NewReader(string(data)), int64(len(data))).next()
	var msg controlv1.ResumePoint
	if err != nil || skipped > 0 || t != recordHighest || len(payload)+headerSize != len(data) || proto.Unmarshal(payload, &msg) != nil {
		l.lose("the file highest is damaged")
		return
	}
	p, err := pointFromProto(&msg)
	if err != nil {
		l.lose("the file highest is damaged")
		return
	}
	l.onFile = p
	l.raise(p)
}

// loader folds records into what they leave. It belongs to one goroutine.
type loader struct {
	opts    Options
	tries   map[digest.Hash]*digest.Trie
	open    *agentv1.LkgContent // content whose parts are being read, without them
	growing *digest.Trie
	newest  *agentv1.LkgState // newest intact state
	best    *agentv1.LkgState // newest state of which some content is intact
	highest activation.Point
	onFile  activation.Point
	lost    []string
	more    int
}

func newLoader(o Options) *loader {
	return &loader{opts: o, tries: make(map[digest.Hash]*digest.Trie)}
}

func (l *loader) lose(format string, args ...any) {
	if len(l.lost) >= maxLosses {
		l.more++
		return
	}
	l.lost = append(l.lost, fmt.Sprintf(format, args...))
}

func (l *loader) raise(p activation.Point) {
	if l.highest.IsZero() || p.Compare(l.highest) >= 0 {
		l.highest = p
	}
}

// read folds one segment in. The error is fault.CodeLKGForeign.
func (l *loader) read(name string, r io.Reader, size int64) error {
	sc := newScanner(r, size)
	first := true
	for {
		at := sc.offset
		t, payload, skipped, err := sc.next()
		if skipped > 0 {
			l.lose("%s: %d bytes at offset %d are no intact record", name, skipped, at)
			l.open = nil
		}
		if errors.Is(err, io.EOF) {
			l.open = nil
			return nil
		}
		if err != nil {
			l.lose("%s: read at offset %d: %v", name, sc.offset, err)
			l.open = nil
			return nil
		}
		if first && t != recordHeader {
			l.lose("%s: does not begin with a header", name)
		}
		first = false
		if err := l.record(name, t, payload); err != nil {
			return err
		}
	}
}

func (l *loader) record(name string, t recordType, payload []byte) error {
	switch t {
	case recordHeader:
		var h agentv1.LkgHeader
		if err := proto.Unmarshal(payload, &h); err != nil || h.GetFormat() != 1 {
			l.lose("%s: header of format %d is not known", name, h.GetFormat())
			return nil
		}
		if h.GetDomain() != l.opts.Domain || h.GetNode() != l.opts.Node {
			return fault.New(fault.CodeLKGForeign, "%s in %s belongs to node %q of domain %q, and this is node %q of domain %q", name, l.opts.Dir, h.GetNode(), h.GetDomain(), l.opts.Node, l.opts.Domain)
		}
	case recordContent:
		var c agentv1.LkgContent
		if err := proto.Unmarshal(payload, &c); err != nil {
			l.lose("%s: content record: %v", name, err)
			l.open = nil
			return nil
		}
		l.content(name, &c)
	case recordState:
		var st agentv1.LkgState
		if err := proto.Unmarshal(payload, &st); err != nil {
			l.lose("%s: state record: %v", name, err)
			return nil
		}
		l.state(&st)
	default:
		l.lose("%s: record of unknown type %q", name, byte(t))
	}
	return nil
}

// content grows the content that a run of records describes.
func (l *loader) content(name string, c *agentv1.LkgContent) {
	want, err := digest.HashOf(c.GetDigest())
	if err != nil {
		l.lose("%s: content record: %v", name, err)
		l.open = nil
		return
	}
	if c.GetPart() == 0 {
		l.growing = nil
		if len(c.GetBaseDigest()) > 0 {
			base, err := digest.HashOf(c.GetBaseDigest())
			t, ok := l.tries[base]
			if err != nil || !ok {
				l.lose("%s: content %s needs content %x, which is lost", name, want, c.GetBaseDigest())
				l.open = nil
				return
			}
			l.growing = t
		}
		l.open = &agentv1.LkgContent{Digest: c.Digest, Parts: c.Parts}
	}
	if l.open == nil || string(l.open.Digest) != string(c.Digest) || l.open.Part != c.Part || l.open.Parts != c.Parts {
		if l.open != nil || c.GetPart() != 0 {
			l.lose("%s: content %s is not complete", name, want)
		}
		l.open = nil
		return
	}
	for _, key := range c.GetRemovals() {
		l.growing = l.growing.Delete(key)
	}
	for _, r := range c.GetUpserts() {
		l.growing = l.growing.Set(r.GetKey(), r.GetContent())
	}
	l.open.Part++
	if l.open.Part < l.open.Parts {
		return
	}
	l.open = nil
	if got := l.growing.Root(); got != want {
		l.lose("%s: content has digest %s, and its record says %s", name, got, want)
		return
	}
	l.tries[want] = l.growing
	l.growing = nil
}

// state takes a state in, and forgets the content that it does not name.
func (l *loader) state(st *agentv1.LkgState) {
	l.newest = st
	if p, err := pointFromProto(st.GetHighest()); err == nil && !p.IsZero() {
		l.raise(p)
	}
	named := make(map[digest.Hash]*digest.Trie)
	for _, g := range st.GetGenerations() {
		if p, err := pointFromProto(g.GetPoint()); err == nil {
			l.raise(p)
			if t, ok := l.tries[p.Digest]; ok {
				named[p.Digest] = t
			}
		}
	}
	if len(named) > 0 || len(st.GetGenerations()) == 0 {
		l.best, l.tries = st, named
	}
}

// result verifies what was read.
func (l *loader) result() *Found {
	f := &Found{Contents: make(map[activation.Point]*Content)}
	if l.newest != nil {
		f.State = marksFromProto(l.newest)
	}
	f.State.Highest = l.highest
	bad := make(map[digest.Hash]bool)
	for _, q := range f.State.Quarantine {
		bad[q.Digest] = true
	}
	older := l.best != l.newest
	if older {
		l.lose("the content of the newest state is lost")
	}
	for _, g := range l.best.GetGenerations() {
		if err := l.generation(f, g, older && bad[digestOf(g)]); err != nil {
			l.lose("%v", err)
			if f.Damage == nil {
				f.Damage = err
			}
		}
	}
	if l.more > 0 {
		l.lost = append(l.lost, fmt.Sprintf("and %d more", l.more))
	}
	f.Lost = l.lost
	if f.Damage == nil && len(l.lost) > 0 {
		f.Damage = fault.New(fault.CodeLKGCorrupt, "the last-known-good store in %s is damaged: %s", l.opts.Dir, l.lost[0])
	}
	return f
}

func digestOf(g *agentv1.LkgGeneration) digest.Hash {
	h, _ := digest.HashOf(g.GetPoint().GetDigest())
	return h
}

// generation adds one stored generation if it can be trusted.
func (l *loader) generation(f *Found, g *agentv1.LkgGeneration, quarantined bool) error {
	p, err := pointFromProto(g.GetPoint())
	if err != nil || p.IsZero() {
		return fault.New(fault.CodeLKGCorrupt, "a stored generation has no valid point")
	}
	t, ok := l.tries[p.Digest]
	if !ok {
		return fault.New(fault.CodeLKGCorrupt, "the content of version %d is lost", p.Version)
	}
	if quarantined {
		return fault.New(fault.CodeLKGCorrupt, "version %d is in quarantine, and the generation that replaced it is lost", p.Version)
	}
	if len(f.State.Generations) == activation.MaxGenerations || f.Contents[p] != nil {
		return nil
	}
	c := &Content{
		Manifest: g.GetManifest(), VerifiedAt: timeFromProto(g.GetVerifiedAt()),
		Vouch: g.GetVouch(), VouchedAt: timeFromProto(g.GetVouchedAt()), Trie: t,
	}
	if err := l.opts.Verify(p, c); err != nil {
		return fault.New(fault.CodeLKGUnverified, "version %d as stored is not trusted: %w", p.Version, err)
	}
	f.Contents[p] = c
	f.State.Generations = append(f.State.Generations, activation.Generation{
		Point: p, Status: activation.Status(g.GetState()), ActivatedAt: timeFromProto(g.GetActivatedAt()), Reason: g.GetReason(),
	})
	return nil
}
