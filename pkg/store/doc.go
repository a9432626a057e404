// Package store keeps a domain's truth: one totally ordered log of entries, with
// snapshots of the state that a prefix of it folds into.
//
// A hub opens the log, campaigns for its lease, and writes through the Tenure it
// gets; every hub reads, and waits for more, through the Log:
//
//	l, err := store.Open(ctx, driver, store.Options{})
//	t, err := l.Campaign(ctx, store.Holder{Name: "hub1", Address: "10.0.0.1:8443"})
//	entry, err := t.Submit(ctx, func(next store.Position) (store.Draft, error) { … })
//
// What holds:
//   - An entry that Submit returned is durable, and no later reader misses it.
//   - One writer: the storage engine itself refuses an append under a lease that
//     is over (fencing), whatever the clocks say.
//   - Entries form a hash chain over their stored bytes. What does not verify is
//     an error that names the entry, never data.
//   - A proposal is in the log once or not at all. When the engine's answer to a
//     write is lost, the writer reads back before it tells anyone.
//   - Group commit without delay: proposals that come in while an append is under
//     way share the next one. Queue and batches are bounded.
//
// Log, Tenure and Snapshot are concrete; engines implement Driver, which sees
// positions and opaque bytes only. Hashing, verification, batching, retries,
// doubt about outcomes and the timing of the lease live here, once.
//
// # Concurrency
//
// Log and Tenure are safe for concurrent use. A tenure has two goroutines: the
// writer, which alone calls the propose functions and the hooks, and the keeper
// of the lease. Both have ended when Resign or Log.Close returns.
//
// # How an engine implements Driver
//
// bolt (embedded). One file, one bucket for each domain; Append is one
// transaction, durable by fsync. Wait: a channel that is closed and replaced at
// each commit. Lease: the lock on the file keeps other processes out, a mutex
// other campaigns in the process; it does not expire (Renew gives 0). Term: a
// counter in the bucket, raised by a transaction of its own in Campaign.
//
// Consul. Keys under one prefix: entry/<seq>, head {seq, term}, trimmed, leader
// (locked by a session), term. Append is one KV transaction: check-session on
// leader, check-index on head, create (CAS 0) of the entries, CAS of the head;
// limited to 64–128 operations and 512 KiB, stated through Limited. A record
// that is larger goes into chunk keys first, named by the record's hash, and the
// entry names them. A transaction that is answered with "rolled back" is
// CodeLeaseLost or CodeSeqTaken by the operation that failed; a time-out or a
// 500 is an unknown outcome. Read: consistent mode. Wait: a blocking query on
// head, repeated while it returns early, its index set to 0 when it goes back.
// Lease: session with behaviour release and lock-delay 0 (safe because every
// append is fenced); Renew renews the session and gives its TTL. Term:
// max(stored term, LockIndex, Holder.Above) + 1, stored in the transaction that begins the
// tenure, because LockIndex goes back after a restore. Trim moves the mark
// trimmed in the fenced transaction; deleting the keys may follow.
//
// etcd. Append is one Txn: compare the create revision of the leader key and the
// head's value, then put; limits as etcd's (128 operations, 1.5 MiB). Wait: a
// watch on head. Lease: lease and election; Renew is KeepAliveOnce. Term: the
// leader key's create revision, folded with the stored term after a restore.
//
// SQL (PostgreSQL). Table entry(domain, seq, term, data) with primary key
// (domain, seq); row lease(domain, holder, term, expires). Append: one
// transaction that locks the lease row (SELECT … FOR UPDATE), checks term and
// that expires > now() by the database's clock, and inserts; a duplicate key is
// CodeSeqTaken. Commit with synchronous_commit at least on. A connection that
// breaks during COMMIT is an unknown outcome. Wait: LISTEN, polling as
// fall-back. Term: a column, raised by the campaign's UPDATE.
//
// Document databases (MongoDB API). As SQL, with _id = {domain, seq}, writes and
// reads of majority concern, and a change stream for Wait; one transaction
// touches lease and entries. Large records go into chunk documents.
package store
