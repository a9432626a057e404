package fault

// Codes of log and store.
const (
	CodeLeaseLost        Code = "MK1001"
	CodeSeqTaken         Code = "MK1002"
	CodeTrimmed          Code = "MK1003"
	CodeChainBroken      Code = "MK1004"
	CodeCorrupt          Code = "MK1005"
	CodeStoreFull        Code = "MK1006"
	CodeStoreUnavailable Code = "MK1007"
	CodeStoreFailed      Code = "MK1008"
	CodeStoreLocked      Code = "MK1009"
	CodeStoreClosed      Code = "MK1010"
	CodeWriteUnknown     Code = "MK1011"
	CodeNoSnapshot       Code = "MK1012"
	CodeNoLeader         Code = "MK1013"
	CodeEntryTooLarge    Code = "MK1014"
	CodeSnapshotForeign  Code = "MK1015"
	CodeBlobMissing      Code = "MK1016"
	CodeStoreFormat      Code = "MK1017"
	CodeStoreMissing     Code = "MK1018"
	CodeTenureOpen       Code = "MK1019"
	CodeLogWentBack      Code = "MK1020"
	CodeLossNotAsStated  Code = "MK1021"
	CodeStoreRemains     Code = "MK6087"
)

var storeCodes = []Entry{
	{CodeLeaseLost, Unavailable, "leadership lost", "This hub no longer holds the lease of the domain's log, so it can append nothing. The write was not done.", "Retry: the request goes to the hub that leads now (`meshctl get hubs` shows it)."},
	{CodeSeqTaken, Conflict, "position taken", "Another entry already stands at the position that an append named. The write was not done.", "Retry with the same request id."},
	{CodeTrimmed, NotFound, "log trimmed", "The entries asked for were dropped behind a snapshot.", "Start from the newest snapshot: it holds the outcome of what was dropped."},
	{CodeChainBroken, Corrupt, "log chain broken", "An entry does not continue the hash chain of the entry before it: the log was altered, or entries are missing.", "Keep the store as evidence, and restore from a copy made before the named sequence number."},
	{CodeCorrupt, Corrupt, "store damaged", "Bytes in the store fail verification: a bit flip, a truncated file, or an edit by another program. Nothing was read from the damaged part.", "Keep a copy of the store for examination, check the disk (smartctl, dmesg), and restore from a backup or from another hub."},
	{CodeStoreFull, Exhausted, "store full", "The store has no space left. The write was not done; what was acknowledged before is safe.", "Free space on the store's file system (df -h) and retry: the store goes on by itself."},
	{CodeStoreUnavailable, Unavailable, "store not reachable", "The store did not answer, or said that it cannot serve now. The write was not done.", "Check that the store runs and can be reached; hubs serve streams from memory meanwhile."},
	{CodeStoreFailed, Unknown, "store stopped after a device error", "The device refused to make a write durable, so nothing read from its cache can be trusted. The write in flight may or may not survive.", "Check the disk (dmesg, smartctl), restart the hub, and retry with the same request id."},
	{CodeStoreLocked, Unavailable, "store held by another process", "Another process has the store's file open; only one may.", "Stop the other process (`fuser FILE` shows it) or use another data directory."},
	{CodeStoreClosed, Unavailable, "store closed", "The store was closed because the program is stopping.", "Retry once the program runs again."},
	{CodeWriteUnknown, Unknown, "outcome of the write not known", "The connection to the store or the caller's deadline ended while a write was in flight: it may have been committed.", "Retry with the same request id: it is applied at most once."},
	{CodeNoSnapshot, NotFound, "no snapshot", "The log has no complete snapshot yet.", "Read the log from its first entry."},
	{CodeNoLeader, Unavailable, "no leader", "No hub holds the lease of the domain's log at this moment.", "Wait for the next leader; check that a hub runs and reaches the store."},
	{CodeEntryTooLarge, Exhausted, "entry too large", "One change is larger than the store takes in one entry.", "Split the change into smaller ones."},
	{CodeSnapshotForeign, Conflict, "snapshot of another log", "A snapshot names a position or hash that this log does not have.", "Restore snapshot and log from the same copy."},
	{CodeBlobMissing, NotFound, "stored object missing", "A chunk of a snapshot is not in the store; it may have been replaced by a newer snapshot meanwhile.", "Read the newest snapshot again."},
	{CodeStoreFormat, Invalid, "store of another format", "The store was written by a MeshKit whose format this build does not know.", "Use the build that wrote it, or a newer one."},
	{CodeStoreMissing, NotFound, "store missing", "The store's file does not exist.", "Correct the data directory, or create a domain with `meshhub init`."},
	{CodeTenureOpen, AlreadyExists, "already leading", "This program already holds the lease, or is asking for it.", "Resign the tenure before campaigning again."},
	{CodeLogWentBack, Corrupt, "log went back", "The store holds an older or another log than a hub has seen: it was restored from a snapshot, or its keys were edited or deleted. Hubs serve the last good state, read-only, and write nothing on top; agents keep what they have.", "Do not restart hubs that still run: they hold what was lost. Restore the newest copy of the store if there is one; otherwise accept the loss with `meshhub store accept --config FILE`. See docs/runbooks/consul.md."},
	{CodeStoreRemains, Conflict, "store has remains of a domain", "A domain of that name was in the store, and its log was emptied while a hub of it ran, which left word of what it had seen. A new domain of that name would be taken for that one after it lost its log, and no hub of it would start.", "If the former domain is given up for good, stop its hubs, remove what is left of it (docs/runbooks/consul.md, Remove a domain), and run the command again; or give another --domain or --store."},
	{CodeLossNotAsStated, Conflict, "loss not confirmed", "`meshhub store accept` gives up entries of the log that hubs have seen. The number that was confirmed is not the number that would be lost.", "Look at what is lost, which the command prints, save what the running hubs still serve, and run it again with the number that it names."},
}
