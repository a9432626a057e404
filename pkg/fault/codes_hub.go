package fault

// Codes of the hub and its admin API.
const (
	CodeBadEntry         Code = "MK6001"
	CodeBadSnapshot      Code = "MK6002"
	CodeReadOnly         Code = "MK6003"
	CodeNotLeader        Code = "MK6004"
	CodeRequestIDReused  Code = "MK6005"
	CodeBaseMoved        Code = "MK6006"
	CodeFieldConflict    Code = "MK6007"
	CodeChangeInvalid    Code = "MK6008"
	CodeNoSuchResource   Code = "MK6009"
	CodeNoSuchChange     Code = "MK6010"
	CodeCannotUndo       Code = "MK6011"
	CodeHistoryGone      Code = "MK6012"
	CodeBadRequest       Code = "MK6013"
	CodeRequestTooLarge  Code = "MK6014"
	CodeHubDraining      Code = "MK6015"
	CodeTokenInvalid     Code = "MK6020"
	CodeTokenExpired     Code = "MK6021"
	CodeTokenUsed        Code = "MK6022"
	CodeTokenRevoked     Code = "MK6023"
	CodeTokenBound       Code = "MK6024"
	CodeNoSuchToken      Code = "MK6025"
	CodeTokenShown       Code = "MK6026"
	CodeNodeExists       Code = "MK6030"
	CodeNodeForgotten    Code = "MK6031"
	CodeNoSuchAgent      Code = "MK6032"
	CodeNoClientCert     Code = "MK6040"
	CodeNotPermitted     Code = "MK6041"
	CodeRateLimited      Code = "MK6042"
	CodeViewLimit        Code = "MK6050"
	CodeSigningStopped   Code = "MK6051"
	CodeOwnKey           Code = "MK6052"
	CodeNoSuchHub        Code = "MK6053"
	CodeHubExists        Code = "MK6055"
	CodeNoHubCA          Code = "MK6056"
	CodeLastHub          Code = "MK6057"
	CodeNotTransferred   Code = "MK6058"
	CodeHubSilent        Code = "MK6059"
	CodeDomainExists     Code = "MK6063"
	CodeNoDomainHost     Code = "MK6064"
	CodeMakerSilent      Code = "MK6074"
	CodeRootEnding       Code = "MK6075"
	CodeHubDropped       Code = "MK6065"
	CodeKeysetEnding     Code = "MK6066"
	CodeRingSplit        Code = "MK6067"
	CodeHubStarting      Code = "MK6086"
	CodeStoreNotShared   Code = "MK6068"
	CodeHubDirectoryUsed Code = "MK6069"
	CodeJoinRefused      Code = "MK6072"
	CodeKeysetMoved      Code = "MK6073"
	CodeRenewalUnproven  Code = "MK6080"
	CodeRotatedElsewhere Code = "MK6081"
	CodeKeysetKeyMissing Code = "MK6054"
	CodeInitNotEmpty     Code = "MK6060"
	CodeInitIncomplete   Code = "MK6061"
	CodeStoreDomain      Code = "MK6062"
)

var hubCodes = []Entry{
	{CodeBadEntry, Corrupt, "log entry cannot be applied", "An entry of the log is malformed, or says something that contradicts the entries before it. The hub serves the state before that entry, read-only, rather than guess.", "Compare the log with another hub's or a backup; a hub of a newer release may be able to read it (`meshhub --version`)."},
	{CodeBadSnapshot, Corrupt, "snapshot cannot be read", "A stored snapshot of the state is truncated or damaged. The log behind it may have been trimmed.", "Restore the data directory from a backup, or from another hub of the domain."},
	{CodeReadOnly, Unavailable, "hub is read-only", "The hub serves reads and streams, and cannot write to its store: the disk is full or failing, the store is away, or the log has an entry that cannot be applied. /readyz says which.", "`meshctl get hubs` says what is wrong with each hub: free space, or mend the store. Writing resumes by itself, except after damage to the log (MK1004, MK1005, MK6001): then restart the hub once that is mended."},
	{CodeHubStarting, Unavailable, "hub is starting", "The hub was started and has not read the domain's log yet: it cannot answer for the domain. Nothing was done.", "Wait: it serves once it has read the log, as a rule within seconds. The other hubs of the domain serve meanwhile: name them too (--hub HOST:PORT,HOST:PORT; `meshctl context sync`), and the next one is asked. If it lasts, /readyz and the hub's log say what it waits for."},
	{CodeNotLeader, Unavailable, "hub is not the leader", "This hub does not hold the domain's lease at the moment, so it can commit nothing.", "Retry in a moment with the same request id; `meshctl get hubs` shows the leader."},
	{CodeRequestIDReused, Invalid, "request id used for another request", "A request id names one request. This one was committed before with other content or by another caller.", "Use a fresh request id (a UUID) for a new request."},
	{CodeBaseMoved, Conflict, "the mesh has moved since it was planned", "The change was planned against an older version of the mesh; another change was committed in between.", "Run `meshctl plan` again, look at the difference, and apply the new plan."},
	{CodeFieldConflict, Invalid, "another manager owns a field", "Server-side apply keeps who manages each field. The change sets fields that another field manager set to other values.", "Leave the named fields out, agree with their manager, or take them with --force-conflicts."},
	{CodeChangeInvalid, Invalid, "change refused by validation", "The mesh would not be valid after the change. Nothing was changed: a set of resources is applied whole or not at all.", "Mend the findings; `meshctl validate` checks files without a hub, and `meshctl explain CODE` explains each code."},
	{CodeNoSuchResource, NotFound, "no such resource", "No resource of that kind, namespace and name exists in the domain.", "List them with `meshctl get KIND`; mind the namespace (-n)."},
	{CodeNoSuchChange, NotFound, "no such change", "No change with that sequence number is in the history that the hub keeps (the newest 1,000).", "List the changes with `meshctl history`."},
	{CodeCannotUndo, Conflict, "change cannot be undone as it stands", "A later change altered the same resource, so taking back only the earlier one would lose the later one.", "Undo the later changes first, newest first, or apply the files that you want."},
	{CodeHistoryGone, NotFound, "history no longer kept", "What the change replaced is not kept any more: the hub keeps 10 revisions of a resource and 32 MiB in all.", "Apply the files of the version that you want."},
	{CodeBadRequest, Invalid, "request not valid", "A field of the request has a value that cannot be used.", "Correct the named field."},
	{CodeRequestTooLarge, Exhausted, "request too large", "A request holds at most 10,000 resources and 64 MiB.", "Split the change into several."},
	{CodeHubDraining, Unavailable, "hub is shutting down", "The hub is ending its streams and gives up its lease.", "Connect to another hub, or to this one once it is back."},
	{CodeTokenInvalid, Unauthenticated, "join token not valid", "The token does not exist in the domain that was asked, or was mistyped. Hubs of several domains share a port, and --ca-pin says which of them is meant.", "Take token and --ca-pin from one output of `meshctl token create`: with the pin of another domain, no token of this one is known. Or make a token with it."},
	{CodeTokenExpired, Unauthenticated, "join token expired", "The token's time to live has passed, judged by the hub's log.", "Make a new token with `meshctl token create --ttl DURATION`."},
	{CodeTokenUsed, Unauthenticated, "join token used up", "The token was good for a number of joins, and all have been made. If you did not make them, someone else had the token.", "Check `meshctl get agents`; make a new token with `meshctl token create`."},
	{CodeTokenRevoked, Unauthenticated, "join token revoked", "An operator revoked the token.", "Make a new token with `meshctl token create`."},
	{CodeTokenBound, Denied, "join token is for another node", "The token is bound to one node name, and this node has another.", "Join with the name that the token is for, or make a token for this one."},
	{CodeNoSuchToken, NotFound, "no such token", "No join token has that id.", "List the tokens with `meshctl token list`."},
	{CodeTokenShown, AlreadyExists, "token was made by an earlier try", "A request with this id made the token already. Its secret was shown then; only its hash is kept.", "Revoke that token and make another with a fresh request id."},
	{CodeNodeExists, AlreadyExists, "node name is taken", "A node of that name has joined, and the token is not bound to the name.", "Choose another --node name; or free the name with `meshctl agent forget NODE`; or make a token for it: `meshctl token create --node NODE`."},
	{CodeNodeForgotten, Denied, "node is not a member", "The node was forgotten, or never joined this domain: its certificate is refused.", "Join it again with a new token, into a new directory: `meshctl token create`, then `meshagent join --data NEWDIR`. Until it runs from there, the old one goes on serving what it kept."},
	{CodeNoSuchAgent, NotFound, "no such agent", "No node of that name has joined the domain.", "List the agents with `meshctl get agents`."},
	{CodeNoClientCert, Unauthenticated, "client certificate required", "Every call but a join needs a client certificate of the domain.", "Use the context that `meshhub init` wrote, or join the node first."},
	{CodeNotPermitted, Denied, "caller may not call this", "The caller's certificate is valid, but its role is not allowed this method.", "Use an operator's certificate for administration; a node's certificate is for its own stream and renewal, a hub's for what hubs ask each other."},
	{CodeRateLimited, Exhausted, "too many requests", "One caller may make only so many requests in a time.", "Wait as long as the answer says, then retry."},
	{CodeViewLimit, Exhausted, "too many views", "The agents' capabilities and scope labels make more different views than the domain allows.", "Raise spec.limits.maxViews of DomainSettings, or use fewer label keys in scopes."},
	{CodeSigningStopped, Unavailable, "hub cannot sign", "The hub's config key is not in the keyset that is in force, so agents would refuse what it signs.", "End the hub if it was dropped, or if another has its place. Otherwise run `meshctl key rotate` against it if it holds the keyset key, or have it join again: `meshctl token create --hub --node NAME`, `meshhub join` into a new directory."},
	{CodeOwnKey, Invalid, "hub will not drop its own key", "The key is the one that the answering hub signs with; without it the hub could publish nothing.", "Drop it through another hub, or rotate it with `meshctl key rotate`."},
	{CodeHubExists, AlreadyExists, "hub name is taken", "A hub of that name is in the domain, or was and has been dropped, and the token is not bound to the name.", "Choose another --name; or, if that hub is lost, make a token for it: `meshctl token create --hub --node HUB`."},
	{CodeNoHubCA, Unavailable, "no hub that answers can admit hubs", "Admitting a hub takes the keyset key and the key of the hub CA. The hub that was asked lacks one of them, and hands the join on to the hub that has both: no hub that answers does. The join spent no use of the token.", "Start the hub that `meshhub init` made, and run the same join again. Or give another hub keys/keyset.key, ca/hubs.key and ca/hubs.pem from its directory or your safe, and restart that one."},
	{CodeNoSuchHub, NotFound, "no such hub", "The domain has no hub of that name, or the keyset lists no key for it: it was dropped already.", "See `meshctl get hubs`; `meshctl key list` shows whose keys are listed."},
	{CodeKeysetKeyMissing, Unavailable, "keyset key is not here", "This hub does not hold the key that signs the keyset, so it cannot make a new one.", "Ask the hub that holds keys/keyset.key, as a rule the one that `meshhub init` made (--hub ADDRESS), or sign the keyset offline and publish it with `meshctl trust publish`."},
	{CodeLastHub, Conflict, "the last hub cannot be drained", "A domain needs one hub that serves streams and can lead. All others are drained or dropped already, do not answer, or there are none.", "Take another hub into use first with `meshctl hub undrain NAME`, or add one with `meshhub join`."},
	{CodeNotTransferred, Conflict, "leadership was not handed over as asked", "The hub that was to lead cannot, or another took the lease. The domain is led all the same, or will be in a moment.", "Look at `meshctl get hubs` and try again; a hub that is drained, behind or without its store cannot lead."},
	{CodeHubSilent, Unavailable, "hub does not answer", "Another hub of the domain had to be asked and did not answer in time.", "See with `meshctl get hubs` whether it runs; mend it or the network between the hubs."},
	{CodeDomainExists, AlreadyExists, "domain exists", "The hubs have a domain of that name already, or another request made it.", "Choose another name; to go on with a `meshctl domain create` whose answer was lost, repeat it as it was printed, with --request-id and the same --out."},
	{CodeNoDomainHost, Invalid, "domain cannot host others", "Domains that were made with `meshctl domain create` are served by the hubs of another one; further ones are made there.", "Use the context of the domain that the hubs were initialised with (`meshctl context list`)."},
	{CodeMakerSilent, Unavailable, "hub that made the domain does not answer", "A domain of that name is in the store, and none of the hubs that answer made it. The one that did has its keys, without which nobody goes on with it.", "Start the hub that does not answer, and repeat the `meshctl domain create` as it was printed; or choose another name."},
	{CodeHubDropped, Denied, "hub was dropped", "The keyset lists no key of the hub whose certificate this is, or of the one whose issuing CA signed it: it was dropped (`meshctl key drop`). Or another hub has joined under its name and has its place. Such a certificate counts only if it was recorded in the log.", "A hub that is to come back joins again (`meshctl token create --hub --node NAME`, `meshhub join`). An operator gets another certificate on a hub's machine with `meshhub credentials issue`."},
	{CodeRootEnding, Unavailable, "root of trust is about to expire", "The newest root metadata expires within 30 days. Agents refuse new content when it has expired; what is active stays active.", "Where the root keys are kept: `meshhub root rotate --data DIR --keep-keys`, then `meshctl trust publish --root FILE`."},
	{CodeKeysetEnding, Unavailable, "keyset is about to expire", "A hub that holds the keyset key extends the keyset four months before it ends, whether it leads or not. None did: agents will refuse new content when it has expired.", "Start the hub that holds keys/keyset.key and look at its log for \"keyset not extended\"; without that key, see `meshhub root rotate --new-keyset-key`."},
	{CodeRingSplit, Unavailable, "ring is split", "Another hub of the domain leads under a term that this hub's store does not have: they use different logs, as when a restore put the domain into another store and this hub was started with its old configuration. What this hub would write, no agent would take. It serves reads and streams, and writes nothing.", "Stop this hub, write the store that the other hub uses into its meshhub.yaml (store.driver, store.url), and start it again. See docs/runbooks/ring.md, \"The ring is split\"."},
	{CodeInitNotEmpty, AlreadyExists, "directory is not empty", "`meshhub init` writes a new domain into an empty or absent directory and changes nothing else.", "Give another --data directory, or remove this one if it holds nothing you need."},
	{CodeInitIncomplete, Invalid, "directory holds no complete hub", "The directory has no meshhub.yaml, or an interrupted `meshhub init` left parts behind.", "Repeat the `meshhub init` with the same flags: it goes on, or says what to do. If no hub ever ran from it, it can be moved away. If one did, keep it: it holds the domain's keys; write meshhub.yaml again or restore it (docs/runbooks/hub.md)."},
	{CodeStoreNotShared, Conflict, "the domain's store cannot be shared", "The hubs of a domain share its log. This domain's is in a file of one hub, which others cannot reach.", "Move the log to Consul: `meshctl store export -o backup.mk`, stop the hub, `meshhub restore --from backup.mk --data DIR --store consul://HOST:PORT/PREFIX?dc=NAME`, start it, and join again. A refused join spends no use of the token."},
	{CodeHubDirectoryUsed, Conflict, "hub directory in use", "Another hub runs from this directory. Two under one name would answer for each other and take the lease in turn.", "End the other process. A further hub gets a directory of its own with `meshhub join`; one is never a copy of another's."},
	{CodeRenewalUnproven, Denied, "a hub did not ask for this certificate itself", "The leader issues a hub's next certificate when the hub has signed the request with a config key that the keyset lists for it. A certificate in the hub's name is not enough: every hub's issuing CA can make one.", "Update the hub that warns of it, if it runs an older release: those do not sign the request. Else see with `meshctl key list` that its key is listed, and find out who uses a certificate in its name."},
	{CodeRotatedElsewhere, Conflict, "key of another hub was rotated", "A request to rotate a hub's config key is for the hub that answers. This one was answered by another hub, whose key it rotated; nothing was done here.", "Name the hub that is meant with --hub; leave --request-id away to rotate another hub's key."},
	{CodeJoinRefused, Denied, "leader refuses a join as it was prepared", "The hub with the keys prepares a join, and the leader commits it after it has checked all of it: the certificates, and the keyset, which may list one key more and change nothing else. One of them is something else. The join spent no use of the token.", "See with `meshctl get hubs` that all hubs run the same release and that their clocks agree, and run the same join again. If they do, find out who uses the certificate of a hub."},
	{CodeKeysetMoved, Conflict, "keyset changed meanwhile", "Another change of the keyset was committed after this one was prepared. The hub prepares it again by itself, for some seconds.", "Run the same command again; a join spends no second use of the token."},
	{CodeStoreDomain, Invalid, "store belongs to another domain", "The log in the store names another domain than the configuration.", "Give the --data directory and configuration of one domain."},
}
