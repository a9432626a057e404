package store

import (
	"context"
	"time"
)

// Holder is who holds, or asks for, the lease of a log.
type Holder struct {
	// Name is the hub's name.
	Name string
	// Address is where the hub serves clients (host:port).
	Address string
	// Above is the highest term that a candidate has seen: the term of its lease is
	// higher, also on a store that was put back to before that term. 0 in a Page.
	Above uint64
}

// Position is a place in the log.
type Position struct {
	// Seq is the sequence number, from 1; 0 is before the first entry.
	Seq uint64
	// Term is the fencing term under which that entry was, or will be, written.
	Term uint64
}

// Record is one entry as a driver sees it: opaque bytes at a position.
type Record struct {
	Position
	// Data is kept and given back byte for byte. The receiver of a Record owns
	// its Data: a driver copies what it keeps and hands out copies.
	Data []byte
}

// Batch is one atomic write to the log.
type Batch struct {
	// Term is the term of the lease that the caller believes to hold.
	Term uint64
	// After is the sequence number that must be the log's head.
	After uint64
	// Records are to stand at After+1, After+2, … in order; all have the term
	// Term. Empty for a batch that only trims.
	Records []Record
	// Trim, if not 0, drops all records up to and with that sequence number; it
	// is below After+1, so that the newest record always stays.
	Trim uint64
}

// Page is what one Read saw, all at one moment.
type Page struct {
	// Records follow each other without a gap, from the sequence number after
	// the one asked for. Empty when there is nothing new, or when what was asked
	// for is trimmed (after < Trimmed).
	Records []Record
	// Trimmed is the last sequence number that was dropped, 0 if none.
	Trimmed uint64
	// Head is the newest record's position, zero if the log is empty.
	Head Position
	// Holder and Term tell of the newest lease. Held is false when it was
	// released or has expired; Term is then the last one given.
	Holder Holder
	Term   uint64
	Held   bool
}

// Driver is one domain's log in a storage engine, as one hub sees it. Package
// store's comment says how each engine implements it. A Driver keeps no cache,
// does not retry, does not interpret records, and needs no locking beyond being
// safe for concurrent use: Log does the rest.
//
// Errors carry a code of package fault, which decides what Log does:
//
//	CodeLeaseLost         the lease of that term is over; nothing was written
//	CodeSeqTaken          After is not the head; nothing was written
//	CodeStoreFull         no space; nothing was written, the lease stands
//	CodeStoreUnavailable  not reachable or read-only; nothing was written
//	CodeEntryTooLarge     larger than the engine takes; nothing was written
//	CodeStoreFailed       the engine is unusable until it is opened again; a
//	                      write may or may not have been done
//	CodeCorrupt           stored bytes are damaged; they are never given out
//	CodeStoreClosed       Close was called; nothing was written
//	any other             the outcome of a write is not known
//
// "Nothing was written" is a promise: the batch must not appear later either
// (a request that timed out may still arrive, so a time-out is "any other").
// Every method returns soon after its ctx ends, with the ctx's error wrapped.
type Driver interface {
	// Append writes the batch whole or not at all. It does so only if, in the
	// same atomic step, the lease of b.Term is held by this Driver and the head
	// is b.After. It returns nil only after the batch would survive the loss of
	// power, or of a minority of the engine's servers. Every Read that starts
	// after that sees it; none sees a part of it. Data may not be kept.
	Append(ctx context.Context, b Batch) error

	// Read gives up to limit records that follow the sequence number after, and
	// the state of the log, both as of one moment not before the call: reads are
	// linearizable with Append. It may give fewer than limit, as when they would
	// exceed about 4 MiB, but at least one if there is one. A limit of 0 asks for
	// the state alone.
	Read(ctx context.Context, after uint64, limit int) (Page, error)

	// Wait blocks until the head is beyond after. It does not poll where the
	// engine can tell. It does not return early: nil means that a Read will find
	// something. An engine failure is returned, for the caller to back off. A head
	// that is before after is CodeLogWentBack: after was the head once.
	Wait(ctx context.Context, after uint64) error

	// Campaign blocks until this Driver holds the lease. The term of the lease is
	// higher than that of every lease before it, also if the engine was restored
	// from a backup in between (it is at least the head's term plus one, and
	// holder.Above plus one), and it is durable before Campaign returns. From then on no Append of an older term
	// succeeds. When ctx ends the request is withdrawn. A Driver holds one lease
	// at a time.
	Campaign(ctx context.Context, holder Holder) (Lease, error)

	// Close releases a lease that is held and frees what the Driver uses. Calls in
	// progress end with CodeStoreClosed, as do later ones.
	Close() error
}

// Lease is held leadership, as a driver gives it. Its methods may be called
// from several goroutines.
type Lease interface {
	// Term is the fencing term.
	Term() uint64

	// Renew prolongs the lease and says for how long: it holds for at least that
	// long, counted from when Renew was called (the caller takes the time before
	// the request, so that no delay of the answer can make it believe too long).
	// 0 means that the lease does not expire by itself; Renew is then called only
	// once. CodeLeaseLost means that it is over; other errors leave it as it was.
	Renew(ctx context.Context) (time.Duration, error)

	// Release gives the lease up, so that the next campaign succeeds at once.
	// Releasing a lease that is over does nothing.
	Release(ctx context.Context) error
}

// Watched is what a Lease implements whose engine can tell of its loss.
type Watched interface {
	// Lost is closed when the lease is over, at the latest when it is released.
	Lost() <-chan struct{}
}

// Limits bound one Append.
type Limits struct {
	// BatchRecords is the highest number of records.
	BatchRecords int
	// BatchBytes ends a batch: a record that passes it is the batch's last.
	BatchBytes int
	// RecordBytes is the size of the largest record.
	RecordBytes int
}

// Limited is what a Driver implements whose engine takes less in one write than
// DefaultLimits. Zero fields mean the default.
type Limited interface {
	Limits() Limits
}

// DefaultLimits are used with drivers that state none.
func DefaultLimits() Limits {
	return Limits{BatchRecords: 512, BatchBytes: 4 << 20, RecordBytes: 160 << 20}
}

// Blobs keeps values of at most MaxBlob bytes beside the log: the chunks and
// manifests of snapshots. Nothing here is fenced and nothing needs to be: a
// chunk is named by its content, and a manifest names an entry of the log that
// it must agree with. A driver may implement Blobs itself, or Options.Blobs
// gives another place. Safe for concurrent use.
type Blobs interface {
	// Put stores data under key, whole or not at all, replacing what was there.
	// It is durable when Put returns nil; after an error the old or the new value
	// is there. Keys are of the form [a-z0-9/]+, at most 128 bytes.
	Put(ctx context.Context, key string, data []byte) error
	// Get gives a copy of the value, or CodeBlobMissing.
	Get(ctx context.Context, key string) ([]byte, error)
	// List gives the keys that start with prefix, in byte order.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes keys; those that do not exist are no error. After an error
	// any of them may be left.
	Delete(ctx context.Context, keys ...string) error
}

// MaxBlob is the size of the largest value that Blobs must take, in bytes: half
// of what Consul takes, so that its base64 fits as well.
const MaxBlob = 256 << 10

// Probed is what a Driver implements whose engine asks the holder of a lease
// whether it is alive. Probe is called once, before Campaign; alive returns nil
// when the loop that writes runs, and an error at the latest when its ctx ends.
type Probed interface {
	Probe(alive func(context.Context) error)
}

// Reporting is what a Driver implements whose Campaign goes on when the engine
// refuses or fails it. OnCampaign is called before Campaign; f is told why this hub
// cannot stand for the lease, at once if it was refused, and after some seconds if it
// fails in another way; nil once it stands. f must not call the driver.
type Reporting interface {
	OnCampaign(f func(error))
}

// Placed is what a Driver implements whose engine has a better word for the place of an
// entry than its number, and a remedy of its own for damage to it.
type Placed interface {
	// Place tells people where entry seq lies, and what to do when it is damaged.
	Place(seq uint64) (where, remedy string)
}

// Removable is what a Driver implements whose engine is shared, and keeps what it has of a
// domain until somebody removes it.
type Removable interface {
	// Removal is the command by which a person removes all of this domain for good.
	Removal() string
}
