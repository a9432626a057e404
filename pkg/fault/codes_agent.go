package fault

// Codes of the agent.
const (
	CodeLKGCorrupt    Code = "MK5001"
	CodeLKGUnverified Code = "MK5002"
	CodeLKGWrite      Code = "MK5003"
	CodeLKGSize       Code = "MK5004"
	CodeLKGForeign    Code = "MK5005"

	CodeNotNewer            Code = "MK5010"
	CodeEquivocation        Code = "MK5011"
	CodeQuarantined         Code = "MK5012"
	CodeCapabilityMissing   Code = "MK5013"
	CodeContentRefused      Code = "MK5014"
	CodeValidateCommand     Code = "MK5015"
	CodeActivationFailed    Code = "MK5016"
	CodeProbationFailed     Code = "MK5017"
	CodeCrashLoop           Code = "MK5018"
	CodeDataPlaneRefused    Code = "MK5019"
	CodeNoFallback          Code = "MK5021"
	CodeGenerationNotFound  Code = "MK5022"
	CodeRenewal             Code = "MK5023"
	CodeAgentStopping       Code = "MK5024"
	CodePinned              Code = "MK5025"
	CodeLocalPeer           Code = "MK5030"
	CodeAgentNotReady       Code = "MK5031"
	CodeAgentUnreachable    Code = "MK5032"
	CodeAgentDirectoryInUse Code = "MK5033"
	CodeSocketPath          Code = "MK5034"

	CodeJoinArguments     Code = "MK5040"
	CodeAlreadyJoined     Code = "MK5041"
	CodeNotJoined         Code = "MK5042"
	CodeJoinAnswer        Code = "MK5043"
	CodeJoinOtherTarget   Code = "MK5044"
	CodeFleetIncomplete   Code = "MK5045"
	CodeAgentShutdownSlow Code = "MK5046"
)

var agentCodes = []Entry{
	{CodeLKGCorrupt, Corrupt, "last-known-good store damaged", "Records of the agent's last-known-good journal do not match their checksums or their digests. What can still be verified is used; what cannot is named and left out.", "Nothing needs to be done while a hub is reachable: the agent fetches the content again and rewrites the store. Check the disk (dmesg, smartctl) when it happens again."},
	{CodeLKGUnverified, Corrupt, "last-known-good content not trusted", "The stored content is intact, but no key of the present keyset vouches for it: its signing key was dropped, or the store was changed by someone else. It is not activated.", "Let the agent reach a hub, which sends content signed with a present key."},
	{CodeLKGWrite, Unavailable, "last-known-good store cannot be written", "The new version could not be made durable, so it was not activated; the old one stays active. Usually the disk is full or failing.", "Free space on the agent's data directory (df -h DIR); the agent retries by itself."},
	{CodeLKGSize, Exhausted, "last-known-good store too large", "Keeping this version would let the store grow past its limit (lkg.maxBytes).", "Raise lkg.maxBytes in meshagent.yaml, or make the bundle smaller with scopes."},
	{CodeLKGForeign, Corrupt, "last-known-good store of another node", "The journal's header names another domain or node than this agent's, as after copying a data directory.", "Give each agent its own --data directory; remove the lkg directory of the copy."},

	{CodeNotNewer, Conflict, "version not newer", "A hub or someone in between offered content at or below the highest (epoch, version) that this agent ever accepted. It was refused: agents never go back.", "None when it comes from a hub that was behind for a moment. Otherwise compare `meshctl get hubs` with `meshagent status`: a restored store can lie behind its agents."},
	{CodeEquivocation, Corrupt, "two contents for one version", "Two manifests with valid signatures name the same view and version but different digests. A hub is faulty or compromised; the first content stays.", "Find the signing key in the message, and drop that hub with `meshctl key drop HUB`."},
	{CodeQuarantined, Denied, "content quarantined on this node", "This content was activated here before, did harm, and was reverted. The same digest is not activated again, whatever version it travels under.", "Publish different content. To try the same content again on this node, run `meshagent unpin`, which empties its quarantine."},
	{CodeCapabilityMissing, Invalid, "capability missing", "The manifest requires a capability that this agent's build does not have.", "Upgrade the agent, or remove the resource that needs the capability."},
	{CodeContentRefused, Invalid, "content failed validation on the agent", "The agent validates with the same engine as the hub, and this content has an error. Hub and agent builds may differ.", "Read the named resource and finding; compare builds with `meshctl get agents -o wide`."},
	{CodeValidateCommand, Invalid, "external validation refused the content", "The command set as validate.command in meshagent.yaml ended with an error or ran past its timeout.", "Run the command by hand on the staged bundle; its output is in the message."},
	{CodeActivationFailed, Internal, "activation failed", "The bundle file could not be written, or the hook set as bundle.hook failed or ran past its timeout. The agent went back to the generation before.", "Run the hook by hand; its output is in the message."},
	{CodeProbationFailed, Internal, "probation failed", "The content was active, and within its probation the health command failed. The agent went back to the generation before.", "Look at the data plane's own logs for the time of the change; then publish a correction."},
	{CodeCrashLoop, Internal, "crash loop", "The agent started several times without the active generation surviving its probation. It started from the generation before.", "Look at the logs of the earlier starts; then publish a correction."},
	{CodeDataPlaneRefused, Invalid, "data plane refused the content", "A process that streams from this agent refused the content, or kept losing its stream, within the probation.", "Read the data plane's message; then publish a correction."},
	{CodeNoFallback, NotFound, "no generation to go back to", "The active generation did harm or was to be reverted, and no earlier one is stored. It stays active.", "Publish a correction; `meshagent status` shows the stored generations."},
	{CodeGenerationNotFound, NotFound, "generation not stored", "The version named is none of the (at most three) generations stored on this node.", "Choose one that `meshagent status` lists."},
	{CodeRenewal, Unavailable, "certificate not renewed", "No hub renewed the agent's certificate yet. The present one stays in use until it expires.", "Check that a hub is reachable; after expiry the node must join again with a new token."},
	{CodeAgentStopping, Unavailable, "agent is stopping", "The agent is shutting down and takes no new work.", "Retry once it runs again."},
	{CodePinned, Denied, "held: the agent is pinned", "An operator pinned a generation on this node. Newer content is received and verified, and not activated until the pin is taken off.", "Run `meshagent unpin` on the node."},
	{CodeLocalPeer, Denied, "local peer not allowed", "The process at the other end of the Unix socket runs as another user than the agent, and is not root.", "Run it as the agent's user."},
	{CodeAgentNotReady, Unavailable, "agent has no content yet", "The agent has not activated any content: no last-known-good is stored and no hub has sent any.", "Wait, or see why with `meshagent status`."},
	{CodeAgentUnreachable, Unavailable, "no agent answers", "Nothing answers on the agent's Unix socket.", "Start it with `meshagent run --config DIR/meshagent.yaml`, or name the socket with --socket or MESHKIT_AGENT_SOCKET."},
	{CodeAgentDirectoryInUse, Conflict, "data directory in use", "Another agent process holds the lock of this data directory.", "Stop that process, or give each agent its own --data directory."},
	{CodeSocketPath, Invalid, "socket path not usable", "The Unix socket cannot be made: the path is longer than the system allows (about 100 bytes), or something that is not a socket is in its place.", "Choose a shorter path with `socket:` in meshagent.yaml, like /run/meshagent.sock."},

	{CodeJoinArguments, Invalid, "join arguments not valid", "A value needed to join is missing or malformed.", "Copy the command that `meshctl token create` prints."},
	{CodeAlreadyJoined, AlreadyExists, "already joined", "The data directory already holds a node's identity and configuration.", "Start it with `meshagent run --config DIR/meshagent.yaml`, or choose another --data directory to join as another node."},
	{CodeNotJoined, NotFound, "not joined", "The data directory holds no node identity.", "Join first: `meshagent join --hub HUB --token TOKEN --ca-pin PIN --data DIR`."},
	{CodeJoinAnswer, Corrupt, "join answer not usable", "The hub's answer to the join request does not fit the request: another domain, node or key, or metadata that does not verify. Nothing was stored.", "Check --hub and --ca-pin; the hub may be misconfigured."},
	{CodeJoinOtherTarget, Conflict, "unfinished join to elsewhere", "The data directory holds an unfinished join with another hub, node name or CA pin.", "Repeat the earlier command to finish it, or remove `joining` in the data directory to give it up."},
	{CodeFleetIncomplete, Unavailable, "fleet incomplete", "Not every agent of the fleet could join or start.", "Read the first reason in the message; a token needs as many uses as there are agents to join."},
	{CodeAgentShutdownSlow, Timeout, "shutdown took too long", "Parts of the agent did not stop in time and were abandoned.", "Report it with the log lines around it; the store is safe."},
}
