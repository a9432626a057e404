package store

import (
	"cmp"
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Options of a Log. The zero value has usable defaults.
type Options struct {
	// Blobs keeps snapshots; nil means the driver itself, which must then
	// implement Blobs.
	Blobs Blobs
	// Retain is how many entries Trim keeps before the oldest kept snapshot, at
	// least 1; 0 means 1024.
	Retain uint64
	// ChunkSize of snapshots in bytes, at most MaxBlob; 0 means MaxBlob.
	ChunkSize int
	// QueueSize bounds the proposals that wait for the writer; Submit blocks while
	// the queue is full. 0 means 1024.
	QueueSize int
}

func (o Options) withDefaults() Options {
	if o.Retain == 0 {
		o.Retain = 1024
	}
	if o.ChunkSize <= 0 || o.ChunkSize > MaxBlob {
		o.ChunkSize = MaxBlob
	}
	if o.QueueSize <= 0 {
		o.QueueSize = 1024
	}
	return o
}

// readLimit is how many entries one Read of the driver is asked for.
const readLimit = 512

// closeTimeout bounds what Close and the end of a tenure still ask of the store.
const closeTimeout = 5 * time.Second

// stopGrace is how long a call of the driver may take to return after its ctx
// ended, before it counts as one that hangs.
const stopGrace = time.Second

// Log is one domain's log. Use Open. Safe for concurrent use.
type Log struct {
	driver  Driver
	blobs   Blobs
	opts    Options
	limits  Limits
	metrics *metrics

	mu sync.Mutex
	// anchor is the last entry that Read verified: one that goes on reading there
	// need not fetch that entry again for its hash. Guarded by mu.
	anchor Head
	// tenure is the present or the last one. Guarded by mu.
	tenure *Tenure
	// campaigning is true while Campaign waits for the lease. Guarded by mu.
	campaigning bool
	// onCampaign is told when a campaign begins, for a driver that does not report.
	// Guarded by mu.
	onCampaign func(error)
	// closed is set by Close. Guarded by mu.
	closed bool
}

// Open gives the log that d stores, after verifying its hash chain from the
// newest snapshot, or from the first entry if there is none. The Log owns d and
// closes it; after an error d is still the caller's.
func Open(ctx context.Context, d Driver, opts Options) (*Log, error) {
	l := &Log{driver: d, blobs: opts.Blobs, opts: opts.withDefaults(), limits: DefaultLimits()}
	l.metrics = newMetrics(l.Queued)
	if l.blobs == nil {
		b, ok := d.(Blobs)
		if !ok {
			return nil, fault.New(fault.CodeConfig, "open log: the store's driver keeps no snapshots and no other place for them is set")
		}
		l.blobs = b
	}
	if m, ok := d.(Limited); ok {
		l.limits = narrower(l.limits, m.Limits())
	}
	// A snapshot taken by another hub meanwhile may trim what is being verified.
	var err error
	for range 3 {
		if err = l.verify(ctx); !errors.Is(err, fault.CodeTrimmed) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if p, ok := d.(Probed); ok {
		p.Probe(l.alive)
	}
	return l, nil
}

// alive says whether the loop that writes runs, if there is one.
func (l *Log) alive(ctx context.Context) error {
	l.mu.Lock()
	t := l.tenure
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	return t.alive(ctx)
}

func narrower(a, b Limits) Limits {
	pick := func(def, own int) int {
		if own > 0 && own < def {
			return own
		}
		return def
	}
	return Limits{
		BatchRecords: pick(a.BatchRecords, b.BatchRecords),
		BatchBytes:   pick(a.BatchBytes, b.BatchBytes),
		RecordBytes:  pick(a.RecordBytes, b.RecordBytes),
	}
}

// verify walks the chain. It catches what the drivers cannot know: a log that
// ends before its snapshot, or that was trimmed without one.
func (l *Log) verify(ctx context.Context) error {
	state, err := l.driver.Read(ctx, math.MaxUint64, 0)
	if err != nil {
		return err
	}
	prev, err := l.verifyStart(ctx, state)
	if err != nil {
		return err
	}
	for prev.Seq < state.Head.Seq {
		entries, err := l.readFrom(ctx, prev, readLimit)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fault.New(fault.CodeChainBroken, "log entry %d is missing: the log should end at %d", prev.Seq+1, state.Head.Seq)
		}
		prev = entries[len(entries)-1].head()
	}
	l.setAnchor(prev)
	return nil
}

func (l *Log) verifyStart(ctx context.Context, state Page) (Head, error) {
	snap, err := l.LatestSnapshot(ctx)
	switch {
	case errors.Is(err, fault.CodeNoSnapshot) && state.Trimmed == 0:
		return Head{}, nil
	case errors.Is(err, fault.CodeNoSnapshot):
		return Head{}, fault.New(fault.CodeCorrupt, "the log is trimmed up to entry %d, but there is no complete snapshot", state.Trimmed)
	case err != nil:
		return Head{}, err
	case snap.Seq > state.Head.Seq:
		return Head{}, fault.New(fault.CodeChainBroken, "log entry %d is missing: there is a snapshot of entry %d, but the log ends at %d", state.Head.Seq+1, snap.Seq, state.Head.Seq)
	}
	e, err := l.entryAt(ctx, snap.Seq)
	if err != nil {
		return Head{}, err
	}
	if e.Hash != snap.Hash {
		return Head{}, fault.New(fault.CodeChainBroken, "log entry %d has hash %x, its snapshot says %x", snap.Seq, e.Hash, snap.Hash)
	}
	return e.head(), nil
}

// Close ends the tenure, waits for its goroutines, and closes the driver. A store
// that hangs is left behind after a few seconds, with CodeTimeout.
func (l *Log) Close() error {
	l.mu.Lock()
	t, was := l.tenure, l.closed
	l.closed = true
	l.mu.Unlock()
	if was {
		return nil
	}
	var hung error
	if t != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// The driver's Close releases what Resign could not.
		if err := t.Resign(ctx); errors.Is(err, fault.CodeTimeout) {
			hung = err
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- l.driver.Close() }()
	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	select {
	case err := <-closed:
		return cmp.Or(hung, err)
	case <-limit.C:
		if hung == nil {
			hung = fault.New(fault.CodeTimeout, "close log: the store does not answer, its call is left behind")
		}
		return hung
	}
}

// Collectors gives the log's metrics.
func (l *Log) Collectors() []prometheus.Collector { return l.metrics.collectors() }

// Queued gives the number of proposals that wait for the writer.
func (l *Log) Queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tenure == nil {
		return 0
	}
	return len(l.tenure.queue)
}

// Leader gives the present holder of the lease and its term; CodeNoLeader if
// nobody holds it.
func (l *Log) Leader(ctx context.Context) (Holder, uint64, error) {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	if err != nil {
		return Holder{}, 0, err
	}
	if !p.Held {
		return Holder{}, p.Term, fault.New(fault.CodeNoLeader, "no hub holds the lease of the log; the last term was %d", p.Term)
	}
	return p.Holder, p.Term, nil
}

// End gives the sequence number of the newest entry, 0 if there is none: what was
// committed before the call is at or before it. It costs one small read.
func (l *Log) End(ctx context.Context) (uint64, error) {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	return p.Head.Seq, err
}

// Head gives the end of the log: what was committed before the call is at or
// before it.
func (l *Log) Head(ctx context.Context) (Head, error) {
	for {
		p, err := l.driver.Read(ctx, math.MaxUint64, 0)
		if err != nil {
			return Head{}, err
		}
		if p.Head.Seq == 0 {
			return Head{}, nil
		}
		if h, ok := l.anchorAt(p.Head.Seq); ok {
			return h, nil
		}
		e, err := l.entryAt(ctx, p.Head.Seq)
		if errors.Is(err, fault.CodeTrimmed) {
			continue // the log moved on and was trimmed in between
		}
		if err != nil {
			return Head{}, err
		}
		return e.head(), nil
	}
}

// Read gives up to limit entries that follow the sequence number after, in
// order and verified; none if there is nothing newer. It may give fewer than
// limit; only an empty answer means the end. A limit of 0 or less means 512.
// CodeTrimmed: they are behind a snapshot. CodeChainBroken and CodeCorrupt name
// the entry, and nothing from it on is given.
func (l *Log) Read(ctx context.Context, after uint64, limit int) ([]Entry, error) {
	if limit <= 0 {
		limit = readLimit
	}
	prev, ok := l.anchorAt(after)
	if !ok {
		var err error
		if prev, err = l.headAt(ctx, after); err != nil {
			return nil, err
		}
	}
	entries, err := l.readFrom(ctx, prev, limit)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		l.setAnchor(entries[len(entries)-1].head())
	}
	return entries, nil
}

// Follow is Read for one who has followed the log up to known: it gives what is
// after that entry, and whether that is all. CodeLogWentBack: the log ends before known, or holds another
// entry in its place: it was put back, or rewritten.
func (l *Log) Follow(ctx context.Context, known Head, limit int) (entries []Entry, all bool, err error) {
	if limit <= 0 {
		limit = readLimit
	}
	p, err := l.driver.Read(ctx, known.Seq, limit)
	if err != nil {
		return nil, false, err
	}
	if err := wentBack(known, p); err != nil {
		return nil, false, err
	}
	entries, err = l.verified(known, p)
	if errors.Is(err, fault.CodeChainBroken) {
		if other := l.Holds(ctx, known); errors.Is(other, fault.CodeLogWentBack) {
			return nil, false, other
		}
	}
	if err != nil {
		return nil, false, err
	}
	if len(entries) > 0 {
		known = entries[len(entries)-1].head()
		l.setAnchor(known)
	}
	return entries, known.Seq >= p.Head.Seq, nil
}

// EndPosition is End with the newest entry's term.
func (l *Log) EndPosition(ctx context.Context) (Position, error) {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	return p.Head, err
}

// EndsNotBefore is a cheap look whether the log still reaches to known:
// CodeLogWentBack if it does not.
func (l *Log) EndsNotBefore(ctx context.Context, known Head) error {
	p, err := l.driver.Read(ctx, math.MaxUint64, 0)
	if err != nil {
		return err
	}
	return wentBack(known, p)
}

// emptiedRemedy is for a log of which nothing is left: there is no loss to accept, since
// nothing is kept.
const emptiedRemedy = "Remove nothing: the hubs' directories hold the domain's keys, and hubs that still run hold what was lost. Put the store back from its newest snapshot; or stop all hubs and fill it from a backup: `meshhub restore --from BACKUP --data DIR --accept-loss`. See docs/runbooks/consul.md, \"The log is gone\"."

// wentBack holds the end of the log against an entry that it had.
func wentBack(known Head, p Page) error {
	if p.Head.Seq == 0 && known.Seq > 0 {
		return fault.New(fault.CodeLogWentBack, "the log went back to nothing: it is empty, after it had entry %d of term %d", known.Seq, known.Term).
			WithRemedy("%s", emptiedRemedy)
	}
	if p.Head.Seq < known.Seq || p.Head.Seq == known.Seq && p.Head.Term != known.Term {
		return fault.New(fault.CodeLogWentBack, "the log went back: it ends at entry %d of term %d, after it had entry %d of term %d", p.Head.Seq, p.Head.Term, known.Seq, known.Term)
	}
	return nil
}

// Holds tells whether the log has exactly that entry: nil if it has, or if it is
// behind a snapshot of a log that goes on under the same or a later term.
// CodeLogWentBack if it has not.
func (l *Log) Holds(ctx context.Context, known Head) error {
	if known.Seq == 0 {
		return nil
	}
	p, err := l.driver.Read(ctx, known.Seq-1, 1)
	if err != nil {
		return err
	}
	if err := wentBack(known, p); err != nil {
		return err
	}
	if known.Seq <= p.Trimmed {
		if p.Head.Term < known.Term {
			return fault.New(fault.CodeLogWentBack, "the log went back: it ends in term %d, after it had entry %d of term %d", p.Head.Term, known.Seq, known.Term)
		}
		return nil
	}
	if len(p.Records) == 0 {
		return fault.New(fault.CodeChainBroken, "log entry %d is missing: the log ends at %d", known.Seq, p.Head.Seq)
	}
	e, err := l.decode(p.Records[0], known.Seq)
	if err != nil {
		return err
	}
	if e.Hash != known.Hash {
		return fault.New(fault.CodeLogWentBack, "the log went back and was written on: its entry %d, of term %d, is not the one of term %d that it had", known.Seq, e.Term, known.Term)
	}
	return nil
}

// Wait blocks until the log is longer than after; CodeLogWentBack if it ends
// before that. A failure of the store is
// returned: back off and call again.
func (l *Log) Wait(ctx context.Context, after uint64) error {
	return l.driver.Wait(ctx, after)
}

// headAt gives what the entry after seq must continue: the hash of the entry at
// seq. When that entry is gone (the one after it is the first that is left), or
// not there yet, only the number is known.
func (l *Log) headAt(ctx context.Context, seq uint64) (Head, error) {
	p, err := l.driver.Read(ctx, seq-1, 1)
	if err != nil {
		return Head{}, err
	}
	if seq <= p.Trimmed || len(p.Records) == 0 {
		return Head{Position: Position{Seq: seq}}, nil
	}
	e, err := l.decode(p.Records[0], seq)
	return e.head(), err
}

// readFrom reads and verifies what follows prev.
func (l *Log) readFrom(ctx context.Context, prev Head, limit int) ([]Entry, error) {
	p, err := l.driver.Read(ctx, prev.Seq, limit)
	if err != nil {
		return nil, err
	}
	return l.verified(prev, p)
}

// verified gives the entries of a page, which must continue prev.
func (l *Log) verified(prev Head, p Page) ([]Entry, error) {
	if prev.Seq < p.Trimmed {
		return nil, fault.New(fault.CodeTrimmed, "read log after %d: entries up to %d were trimmed", prev.Seq, p.Trimmed)
	}
	if len(p.Records) == 0 && prev.Seq < p.Head.Seq {
		return nil, fault.New(fault.CodeChainBroken, "log entry %d is missing: the log ends at %d", prev.Seq+1, p.Head.Seq)
	}
	entries := make([]Entry, 0, len(p.Records))
	for _, r := range p.Records {
		e, err := decodeRecord(r)
		if err != nil {
			return nil, l.placed(r.Seq, err)
		}
		// A zero hash after the first entry: the one before is not there to tell.
		unknown := prev.Seq > 0 && prev.Hash == [32]byte{}
		if unknown && e.Seq == prev.Seq+1 {
			prev = Head{Position: prev.Position, Hash: [32]byte(e.PreviousHash)}
		}
		if err := e.follows(prev); err != nil {
			return nil, l.placed(r.Seq, err)
		}
		entries = append(entries, e)
		prev = e.head()
	}
	return entries, nil
}

// placed says where in the engine an entry lies that does not verify.
func (l *Log) placed(seq uint64, err error) error {
	d, ok := l.driver.(Placed)
	if !ok {
		return err
	}
	where, remedy := d.Place(seq)
	return fault.New(fault.CodeOf(err), "%s: %w", where, err).WithRemedy("%s", remedy)
}

// entryAt reads one entry that must be there.
func (l *Log) entryAt(ctx context.Context, seq uint64) (Entry, error) {
	p, err := l.driver.Read(ctx, seq-1, 1)
	if err != nil {
		return Entry{}, err
	}
	if seq <= p.Trimmed {
		return Entry{}, fault.New(fault.CodeTrimmed, "read log entry %d: entries up to %d were trimmed", seq, p.Trimmed)
	}
	if len(p.Records) == 0 {
		return Entry{}, fault.New(fault.CodeChainBroken, "log entry %d is missing: the log ends at %d", seq, p.Head.Seq)
	}
	return l.decode(p.Records[0], seq)
}

// decode decodes a record that must be entry seq, or says where it lies.
func (l *Log) decode(r Record, seq uint64) (Entry, error) {
	e, err := decodeAt(r, seq)
	if err != nil {
		return Entry{}, l.placed(seq, err)
	}
	return e, nil
}

func decodeAt(r Record, seq uint64) (Entry, error) {
	if r.Seq != seq {
		return Entry{}, fault.New(fault.CodeChainBroken, "log entry %d is missing: entry %d stands in its place", seq, r.Seq)
	}
	return decodeRecord(r)
}

func (l *Log) anchorAt(seq uint64) (Head, bool) {
	if seq == 0 {
		return Head{}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.anchor, l.anchor.Seq == seq
}

func (l *Log) setAnchor(h Head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anchor = h
}
