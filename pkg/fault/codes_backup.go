package fault

// Codes of backups and their restore.
const (
	CodeBackupDamaged     Code = "MK6090"
	CodeBackupUntrusted   Code = "MK6091"
	CodeBackupDomain      Code = "MK6092"
	CodeRestoreNotEmpty   Code = "MK6093"
	CodeRestoreUnfinished Code = "MK6094"
	CodeRestoreLoss       Code = "MK6095"
	CodeTermFloor         Code = "MK6096"
	CodeExportCut         Code = "MK6097"
	CodeNoRootPin         Code = "MK6098"
	CodeBackupFormat      Code = "MK6099"
)

var backupCodes = []Entry{
	{CodeBackupDamaged, Invalid, "backup damaged", "The file is not a whole backup: it was cut short, or bytes of it changed. Nothing was written.", "Take another copy of it, or an earlier backup; `meshctl store verify FILE` checks one."},
	{CodeBackupUntrusted, Denied, "backup not believed", "The backup does not lead back to the domain's root of trust: its chain begins elsewhere, or a key signed it that its keyset does not list. Nothing was written.", "Use a backup of this domain. If the root on this machine is the wrong one, name the right file with --root: `meshctl trust show --save DIR` wrote it."},
	{CodeBackupDomain, Invalid, "backup of another domain", "The backup is of another domain than the hub in the directory. Nothing was written.", "Give the backup and the directory of one domain."},
	{CodeRestoreNotEmpty, AlreadyExists, "store holds a log", "A backup is restored into an empty store only. Nothing was written.", "Move the old log away first: rename the file of a bolt store, or give a Consul store another prefix in --store."},
	{CodeRestoreUnfinished, Corrupt, "store holds half a restore", "A restore into this store was begun and did not get to its end. What lies there is not a log, and no hub takes it for one.", "Run the same `meshhub restore` again: it begins anew."},
	{CodeRestoreLoss, Conflict, "changes after the backup would be lost", "Something on this machine or in the store tells of changes that were made after the backup. Nothing was written.", "Use a newer backup, if there is one. Otherwise run it again with --accept-loss: those changes are lost."},
	{CodeTermFloor, Invalid, "term floor too low", "After a restore, the domain goes on in a term that no agent has seen. The term given with --term-floor is not above those that are known.", "Leave --term-floor out: the default is above all of them."},
	{CodeExportCut, Unavailable, "export was cut short", "The log was trimmed while it was sent, the hub is shutting down, or it sends a backup to someone else. The file is not a backup.", "Run the export again."},
	{CodeNoRootPin, NotFound, "no root of trust to hold the backup against", "The hub's directory has no root metadata, so nothing says whose backup is to be believed.", "Give the domain's root metadata with --root: root/root-1.json of the hub that `meshhub init` made, or what `meshctl trust show --save DIR` wrote."},
	{CodeBackupFormat, Invalid, "backup of another format", "The backup was written by a MeshKit whose format this build does not know.", "Use the build that wrote it, or a newer one."},
}
