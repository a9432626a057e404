package store

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
)

// A proposal's way: waiting → taken (by the writer) or withdrawn (by Submit).
const (
	waiting int32 = iota
	taken
	withdrawn
)

// proposal is one Submit or Trim on its way through the writer.
type proposal struct {
	propose func(next Position) (Draft, error)
	trim    uint64 // when propose is nil
	state   atomic.Int32
	done    chan outcome // one outcome, buffered
}

// answer tells who waits. The first answer counts: a batch whose outcome was not
// known for too long may still get one, which nobody waits for.
func (p *proposal) answer(o outcome) {
	select {
	case p.done <- o:
	default:
	}
}

type outcome struct {
	entry Entry
	err   error
}

// Submit appends what propose drafts, and returns when it is durable.
//
// The writer's goroutine calls propose, one at a time, in the order in which
// proposals arrived, with the position that the entry would get. Several share
// one append: propose must reckon with the drafts given before it as if they
// were committed, and forget them at OnAbort. It may be asked again after an
// OnAbort. An error of propose rejects this proposal only and is returned, but
// not before the drafts that it may have been judged against are committed.
//
// Errors: CodeLeaseLost, CodeStoreFull, CodeStoreUnavailable, CodeEntryTooLarge,
// CodeCanceled and CodeTimeout: it is not in the log and never will be.
// CodeWriteUnknown and CodeStoreFailed: it may be; retry with the same request
// id. When ctx ends after the writer took the proposal, the answer is
// CodeWriteUnknown and the proposal goes its way.
func (t *Tenure) Submit(ctx context.Context, propose func(next Position) (Draft, error)) (Entry, error) {
	return t.hand(ctx, &proposal{propose: propose, done: make(chan outcome, 1)})
}

func (t *Tenure) hand(ctx context.Context, p *proposal) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, notDone(err)
	}
	select {
	case <-t.ctx.Done():
		return Entry{}, t.lost()
	case <-t.stop:
		return Entry{}, t.lost()
	default:
	}
	stalled := t.stall()
	select {
	case t.queue <- p:
	case <-t.ctx.Done():
		return Entry{}, t.lost()
	case <-t.stop:
		return Entry{}, t.lost()
	case <-stalled:
		return Entry{}, silent()
	case <-ctx.Done():
		return Entry{}, notDone(ctx.Err())
	}
	select {
	case o := <-p.done:
		return o.entry, o.err
	case <-stalled:
		if p.state.CompareAndSwap(waiting, withdrawn) {
			return Entry{}, silent()
		}
		// It was taken, and is told with its batch.
	case <-t.written:
		return t.afterEnd(p)
	case <-ctx.Done():
		return left(ctx, p)
	}
	select {
	case o := <-p.done:
		return o.entry, o.err
	case <-t.written:
		return t.afterEnd(p)
	case <-ctx.Done():
		return left(ctx, p)
	}
}

// left answers a caller who leaves before the answer.
func left(ctx context.Context, p *proposal) (Entry, error) {
	if p.state.CompareAndSwap(waiting, withdrawn) {
		return Entry{}, notDone(ctx.Err())
	}
	return Entry{}, fault.New(fault.CodeWriteUnknown, "append to log: the caller left while the write was in flight: %w", ctx.Err())
}

// silent refuses a write while the store owes an answer.
func silent() error {
	return fault.New(fault.CodeStoreUnavailable, "append to log: the store has not answered an earlier write yet")
}

// afterEnd answers a proposal that the writer, which has ended, may have left
// in the queue.
func (t *Tenure) afterEnd(p *proposal) (Entry, error) {
	if p.state.CompareAndSwap(waiting, withdrawn) {
		return Entry{}, t.lost()
	}
	// What the writer took, it answered before it ended.
	o := <-p.done
	return o.entry, o.err
}

func notDone(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.CodeTimeout, "append to log: the deadline passed before the write began: %w", err)
	}
	return fault.New(fault.CodeCanceled, "append to log: the caller left before the write began: %w", err)
}

// lost is the error of a write that came too late.
func (t *Tenure) lost() error {
	if cause := context.Cause(t.ctx); cause != nil {
		return fault.New(fault.CodeLeaseLost, "append to log: %w", cause)
	}
	return fault.New(fault.CodeLeaseLost, "append to log: this hub is resigning leadership of term %d", t.Term())
}

// write is the writer's goroutine. While an append is in flight proposals
// gather in the queue; what is there when it ends is the next batch.
func (t *Tenure) write() {
	defer close(t.written)
	for {
		// First, so that a queue that is never empty does not hide the end.
		select {
		case <-t.ctx.Done():
			return
		case <-t.stop:
			return
		default:
		}
		select {
		case <-t.ctx.Done():
			return
		case <-t.stop:
			return
		case seen := <-t.pings:
			close(seen)
		case p := <-t.queue:
			t.round(p)
		}
	}
}

// alive answers when the writer's loop runs, or waits for the store, which is
// not its fault; ctx bounds the wait for it.
func (t *Tenure) alive(ctx context.Context) error {
	seen := make(chan struct{})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if t.storing.Load() {
			return nil
		}
		select {
		case t.pings <- seen:
			<-seen
			return nil
		case <-t.written:
			return nil // the tenure is over, which the lease tells of
		case <-tick.C:
		case <-ctx.Done():
			return fault.New(fault.CodeTimeout, "the loop of the leader of term %d does not run: %w", t.Term(), context.Cause(ctx))
		}
	}
}

const (
	// stallAfter is how long the store may take for a small write before who waits
	// for it is told that the outcome is not known; a large one gets a second more
	// for each stallBytes.
	stallAfter = 3 * time.Second
	stallBytes = 1 << 20
)

// stall gives a channel that is closed once the store owes an answer for too long.
func (t *Tenure) stall() <-chan struct{} {
	t.stallMu.Lock()
	defer t.stallMu.Unlock()
	return t.stalled
}

// watchful runs a write of some bytes. When it takes too long, those who asked for
// it are told so, and proposals are refused until it has ended.
func (t *Tenure) watchful(bytes int, asked []*proposal, write func() error) error {
	limit := stallAfter + time.Duration(bytes/stallBytes)*time.Second
	ended := false // guarded by stallMu
	timer := time.AfterFunc(limit, func() {
		t.stallMu.Lock()
		defer t.stallMu.Unlock()
		if ended {
			return
		}
		t.stalls = true
		t.onStall(fault.New(fault.CodeStoreUnavailable, "the store has not answered a write for %s", limit))
		err := fault.New(fault.CodeWriteUnknown, "append to log: the store has not answered for %s: the write may be done yet", limit)
		for _, p := range asked {
			p.answer(outcome{err: err})
		}
		close(t.stalled)
	})
	err := write()
	timer.Stop()
	t.stallMu.Lock()
	defer t.stallMu.Unlock()
	ended = true
	if t.stalls {
		t.stalls, t.stalled = false, make(chan struct{})
	}
	return err
}

// gatherMost bounds how long a batch waits for company.
const gatherMost = 5 * time.Millisecond

// round takes one batch from the queue and appends it. Who was answered with the
// last batch and writes again is on its way: a batch waits for as many as that, and
// as came while it was appended, for half of what that took. One writer never
// waits, and with many the store is asked less often.
func (t *Tenure) round(p *proposal) {
	b := batch{prev: t.head}
	gather := time.NewTimer(min(t.took/2, gatherMost))
	defer gather.Stop()
	for p != nil {
		if p.state.CompareAndSwap(waiting, taken) {
			if p.propose == nil {
				t.flush(&b)
				t.applyTrim(p)
				return
			}
			t.add(&b, p)
		}
		if b.full(t.log.limits) {
			break
		}
		select {
		case p = <-t.queue:
			continue
		default:
			p = nil
		}
		if len(b.asked) < t.expected {
			select {
			case p = <-t.queue:
			case <-gather.C:
			case <-t.ctx.Done():
			case <-t.stop:
			}
		}
	}
	t.flush(&b)
}

// batch is what one append carries. Only the writer's goroutine uses it.
type batch struct {
	prev    Head
	asked   []*proposal
	results []outcome // of asked, if the batch is committed
	entries []Entry
	records []Record
	bytes   int
}

func (b *batch) full(lim Limits) bool {
	return len(b.asked) >= lim.BatchRecords || b.bytes >= lim.BatchBytes
}

// add asks a proposal for its draft.
func (t *Tenure) add(b *batch, p *proposal) {
	pos := Position{Seq: b.prev.Seq + 1, Term: t.Term()}
	draft, err := p.propose(pos)
	if err != nil {
		b.asked = append(b.asked, p)
		b.results = append(b.results, outcome{err: err})
		return
	}
	e, r, err := encodeEntry(b.prev, pos, draft)
	if err == nil && len(r.Data) > t.log.limits.RecordBytes {
		err = fault.New(fault.CodeEntryTooLarge, "append to log: the entry of kind %q has %d bytes, the store takes %d", draft.Kind, len(r.Data), t.log.limits.RecordBytes)
	}
	if err != nil {
		p.answer(outcome{err: err})
		t.reask(b)
		return
	}
	b.asked = append(b.asked, p)
	b.results = append(b.results, outcome{entry: e})
	b.entries = append(b.entries, e)
	b.records = append(b.records, r)
	b.bytes += len(r.Data)
	b.prev = e.head()
}

// reask starts the batch anew without a draft that cannot be written: the
// speculative state holds that draft, and only OnAbort gets it out again.
func (t *Tenure) reask(b *batch) {
	t.onAbort()
	again := b.asked
	*b = batch{prev: t.head}
	for _, p := range again {
		t.add(b, p)
	}
}

// flush appends the batch and answers its proposals.
func (t *Tenure) flush(b *batch) {
	if len(b.records) == 0 {
		t.expected = len(b.asked) + len(t.queue)
		for i, p := range b.asked { // all rejected, judged by committed state alone
			p.answer(b.results[i])
		}
		return
	}
	began := time.Now()
	err := t.watchful(b.bytes, b.asked, func() error {
		return t.commit(Batch{Term: t.Term(), After: t.head.Seq, Records: b.records})
	})
	t.took, t.expected = time.Since(began), len(b.asked)+len(t.queue)
	m := t.log.metrics
	m.duration.Observe(t.took.Seconds())
	m.batches.WithLabelValues(outcomeName(err)).Inc()
	if err != nil {
		t.onAbort()
		for _, p := range b.asked {
			p.answer(outcome{err: err})
		}
		return
	}
	m.entries.Add(float64(len(b.entries)))
	t.head = b.prev
	t.onCommit(b.entries)
	for i, p := range b.asked {
		p.answer(b.results[i])
	}
}

func outcomeName(err error) string {
	switch {
	case err == nil:
		return "committed"
	case errors.Is(err, fault.CodeWriteUnknown), errors.Is(err, fault.CodeStoreFailed):
		return "unknown"
	case errors.Is(err, fault.CodeLeaseLost):
		return "lost"
	default:
		return "failed"
	}
}

// commit appends a batch, and does not answer before it knows the outcome: nil
// means durable; other errors than CodeWriteUnknown and CodeStoreFailed mean
// that the batch is not in the log and never will be.
//
// After an attempt of unknown outcome the log is read. Our own bytes there:
// committed. Another's: the lease was lost before the attempt. Nothing: the
// attempt may still be under way, so "not written" could prove wrong; the same
// bytes are tried again at the same place, where only one of the two can land.
func (t *Tenure) commit(b Batch) error {
	if t.ctx.Err() != nil {
		return t.lost()
	}
	t.storing.Store(true)
	defer t.storing.Store(false)
	retry := backoff.New(backoff.Policy{Base: 10 * time.Millisecond, Cap: 2 * time.Second})
	doubt := false // an attempt's outcome is open
	for {
		err := t.log.driver.Append(t.ctx, b)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fault.CodeStoreFailed):
			t.end(err)
			return err
		case errors.Is(err, fault.CodeLeaseLost):
			t.end(err)
		case errors.Is(err, fault.CodeSeqTaken):
			// Ours, from an attempt in doubt, or another's: reading tells.
		case !writtenNot(err):
			doubt = true
		}
		if !doubt && writtenNot(err) {
			return err
		}
		switch t.readBack(b) {
		case ours:
			return nil
		case others:
			return t.overtaken(b, err)
		}
		if t.ctx.Err() != nil {
			return fault.New(fault.CodeWriteUnknown, "append to log: leadership ended before the store told whether entry %d was written: %v", b.After+1, err)
		}
		// When leadership ends meanwhile, the append says so and is read back.
		_ = retry.Wait(t.ctx)
	}
}

// writtenNot tells whether the driver promised that this attempt wrote nothing.
func writtenNot(err error) bool {
	for _, c := range []fault.Code{
		fault.CodeLeaseLost, fault.CodeStoreFull, fault.CodeStoreUnavailable, fault.CodeEntryTooLarge, fault.CodeStoreClosed,
	} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// overtaken ends the tenure: an entry that is not ours stands where only the
// holder of the lease can write.
func (t *Tenure) overtaken(b Batch, cause error) error {
	err := fault.New(fault.CodeLeaseLost, "append to log: entry %d was written by another hub: %v", b.After+1, cause)
	t.end(err)
	return err
}

// finding is what reading back shows at the place of a batch.
type finding uint8

const (
	nothing finding = iota // the log ends before it, or cannot be read
	ours
	others
)

// readBack looks for the batch in the log.
func (t *Tenure) readBack(b Batch) finding {
	// Also after leadership ended: the answer is still worth having.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), closeTimeout)
	defer cancel()
	p, err := t.log.driver.Read(ctx, b.After, 1)
	switch {
	case err != nil:
		return nothing
	case len(p.Records) > 0 && bytes.Equal(p.Records[0].Data, b.Records[0].Data):
		return ours // a batch is in the log whole or not at all: its first record tells
	case len(p.Records) > 0, b.After < p.Trimmed:
		return others // who trimmed it wrote a later entry before
	case p.Head.Seq < b.After:
		return others // the log was put back to an older state: not the one we lead
	}
	return nothing
}

// Trim drops entries up to and with upTo, but only what lies behind the oldest
// kept snapshot by more than Options.Retain entries: that much is done, the rest
// is not an error. With no snapshot nothing is done.
func (t *Tenure) Trim(ctx context.Context, upTo uint64) error {
	oldest, err := t.log.oldestSnapshot(ctx)
	if errors.Is(err, fault.CodeNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	if oldest.Seq <= t.log.opts.Retain {
		return nil
	}
	upTo = min(upTo, oldest.Seq-t.log.opts.Retain)
	state, err := t.log.driver.Read(ctx, math.MaxUint64, 0)
	if err != nil {
		return err
	}
	if upTo <= state.Trimmed {
		return nil
	}
	_, err = t.hand(ctx, &proposal{trim: upTo, done: make(chan outcome, 1)})
	return err
}

// applyTrim moves the start of the log. An unknown outcome is reported as it
// is: trimming again does no harm.
func (t *Tenure) applyTrim(p *proposal) {
	t.storing.Store(true)
	err := t.watchful(0, []*proposal{p}, func() error {
		return t.log.driver.Append(t.ctx, Batch{Term: t.Term(), After: t.head.Seq, Trim: p.trim})
	})
	t.storing.Store(false)
	if errors.Is(err, fault.CodeLeaseLost) || errors.Is(err, fault.CodeSeqTaken) || errors.Is(err, fault.CodeStoreFailed) {
		t.end(err)
	}
	p.answer(outcome{err: err})
}
