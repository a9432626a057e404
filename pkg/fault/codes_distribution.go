package fault

// Codes of distribution: the wire (MK400x–MK401x), the hub's side of a stream
// (MK402x–MK404x), what a node finds wrong with an update (MK405x), and bundles and
// the OmniRelay services (MK406x).
const (
	CodeNoConnection    Code = "MK4001"
	CodeNotOffered      Code = "MK4002"
	CodeUnauthenticated Code = "MK4003"
	CodeDenied          Code = "MK4004"
	CodeRemoteLimit     Code = "MK4005"
	CodeRemoteRefused   Code = "MK4006"
	CodeMessageTooLarge Code = "MK4007"
	CodeNoHubs          Code = "MK4008"

	CodeHello           Code = "MK4020"
	CodeHelloNode       Code = "MK4021"
	CodeProtocolVersion Code = "MK4022"
	CodeHelloTimeout    Code = "MK4023"
	CodeMessageOrder    Code = "MK4024"
	CodeAdmission       Code = "MK4025"
	CodeStreamLimit     Code = "MK4026"
	CodeReplaced        Code = "MK4027"
	CodeBehind          Code = "MK4028"
	CodeDraining        Code = "MK4029"
	CodeFlood           Code = "MK4030"
	CodeStalled         Code = "MK4031"
	CodeNodeMessage     Code = "MK4032"
	CodeVersionBack     Code = "MK4040"
	CodeTwoContents     Code = "MK4041"
	CodeFreshnessFor    Code = "MK4042"

	CodeMalformed       Code = "MK4050"
	CodeChunkOrder      Code = "MK4051"
	CodeDeltaBase       Code = "MK4052"
	CodeDigestMismatch  Code = "MK4053"
	CodeCountMismatch   Code = "MK4054"
	CodeBundleTooLarge  Code = "MK4055"
	CodeContentTooLarge Code = "MK4056"
	CodeKeyMismatch     Code = "MK4057"

	CodeBundleInvalid Code = "MK4060"
	CodeBundleFormat  Code = "MK4061"
	CodeResumeToken   Code = "MK4062"
	CodeCapability    Code = "MK4063"
	CodeNoSuchScope   Code = "MK4064"
)

var distributionCodes = []Entry{
	{CodeNoConnection, Unavailable, "peer not reachable", "No connection to the hub (or agent) could be made or kept: nothing listens there, the network is cut, or the TLS handshake failed.", "Check the address and that the hub runs (`curl -k https://METRICS/healthz`), then the certificates; nodes keep their last-known-good configuration and retry by themselves."},
	{CodeNotOffered, Invalid, "call not offered", "The peer does not offer this call: it is an older build, or another kind of program.", "Check that the address is a hub's gRPC port and that both builds are at most one version apart (`meshctl version`)."},
	{CodeUnauthenticated, Unauthenticated, "identity not proven", "The peer wants a client certificate of its domain and got none that it accepts.", "Check that the certificate is of this domain and not expired (`meshctl context show`), or join again."},
	{CodeDenied, Denied, "not allowed", "The peer knows the caller and does not let it do this.", "Ask an operator of the domain for a role that permits it."},
	{CodeRemoteLimit, Exhausted, "limit of the peer reached", "The peer refused because one of its limits is reached.", "Wait for the stated time and retry; make the request smaller if it names a size."},
	{CodeRemoteRefused, Internal, "peer failed", "The peer answered with an error that carries no MeshKit code.", "Look at the peer's log at the time of the call."},
	{CodeMessageTooLarge, Exhausted, "message too large", "One message is larger than its kind may be on this connection.", "Split the request; limits are listed in docs/protocol.md."},
	{CodeNoHubs, Invalid, "no hub address", "There is no hub address to connect to.", "Set the hub address in the configuration (key hubs)."},

	{CodeHello, Invalid, "hello not valid", "The first message of a control stream must be a hello within its limits: a node name, at most 64 capabilities, labels within bounds, digests of 32 bytes.", "Correct the client that sent it; docs/protocol.md lists the limits."},
	{CodeHelloNode, Denied, "hello for another node", "The node name in the hello, or the node_id of an OmniRelay client, is not the one in the client certificate.", "Join the node under its own name; a certificate cannot be used for another node."},
	{CodeProtocolVersion, Invalid, "no common protocol revision", "The client speaks no revision of the control protocol that this hub speaks.", "Bring hub and agent to builds at most one version apart."},
	{CodeHelloTimeout, Timeout, "no hello", "The client opened a control stream and sent no hello in time.", "Correct the client; the hub closes such streams to protect the others."},
	{CodeMessageOrder, Invalid, "message out of order", "A control stream carries one hello, first, and then acks, nacks and status.", "Correct the client that sent it; see docs/protocol.md."},
	{CodeAdmission, Exhausted, "reconnects limited", "More streams want to open than the hub admits per second, as after a restart. The answer says when to come back.", "Nothing: clients return at the stated time. Raise agents.admissionRate in meshhub.yaml if the hub has CPU to spare."},
	{CodeStreamLimit, Exhausted, "stream limit reached", "The hub serves as many control streams as it is configured to.", "Add a hub, or raise agents.maxStreams in meshhub.yaml."},
	{CodeReplaced, Conflict, "stream replaced", "The same node opened a newer stream; a node has one.", "If this repeats, two processes use one node's certificate: join the second one under its own name."},
	{CodeBehind, Unavailable, "hub is behind the node", "The node has accepted a version that this hub has not reached. A hub never serves content older than what a node has.", "Nothing: an agent tries another hub, and an OmniRelay client comes back after the stated time. If all hubs are behind for long, the store was restored from an old copy: see docs/runbooks/hub.md."},
	{CodeDraining, Unavailable, "hub is draining", "The hub shuts down in an orderly way and sends its streams elsewhere.", "Nothing: agents move to another hub, or return at the stated time; OmniRelay clients return to this one."},
	{CodeFlood, Exhausted, "too many messages", "The client sends more messages per second than a stream may, beside its answers to what the hub sends.", "Correct the client: acks are cumulative, one per version is enough."},
	{CodeStalled, Timeout, "client does not read", "The stream could not take bytes for longer than the limit.", "Check the node's network and load; the client reconnects and resumes by itself."},
	{CodeNodeMessage, Invalid, "message from node not valid", "An ack, nack or status has a digest that is not 32 bytes, or a field over its limit, or could not be decoded.", "Correct the client that sent it; only its own stream was ended."},
	{CodeVersionBack, Conflict, "version would go back", "A view was to be published at an (epoch, version) below the one it has.", "Report it with the log lines around it: no view ever goes back."},
	{CodeTwoContents, Corrupt, "two contents for one version", "A view was to be published twice at one (epoch, version) with different digests.", "Compare the hubs' digests (`meshctl get hubs -o wide`) and drop the hub that differs."},
	{CodeFreshnessFor, Conflict, "freshness for other content", "A freshness statement names another view, version or digest than the one published.", "Nothing if it happens once around a change; otherwise report it."},

	{CodeMalformed, Corrupt, "update malformed", "An update lacks its manifest, carries an invalid key or digest, or cannot be decoded.", "An agent drops the stream and resumes at another hub, a reader of bundles keeps what it has; look at the log of the hub that sent it."},
	{CodeChunkOrder, Corrupt, "chunk out of order", "The chunks of an update must come in order, complete, and not mixed with those of another update.", "The node drops the stream and resumes; look at the log of the hub that sent it."},
	{CodeDeltaBase, Conflict, "delta for another base", "The delta applies to content that the node does not hold.", "Nothing: the node asks for a full snapshot."},
	{CodeDigestMismatch, Corrupt, "digest mismatch", "The content that the update leads to does not have the digest that the signed manifest states.", "Nothing: the node keeps what it has and asks for a full snapshot. If a snapshot fails too, inspect the hub that sent it."},
	{CodeCountMismatch, Corrupt, "resource count or size mismatch", "The content that the update leads to has another number of resources or bytes than the signed manifest states.", "Nothing: the node keeps what it has and asks for a full snapshot."},
	{CodeBundleTooLarge, Exhausted, "bundle too large", "The update would take the bundle over a limit on resources or bytes.", "Reduce what the node's scope covers, or raise DomainSettings limits and the agent's."},
	{CodeContentTooLarge, Exhausted, "resource too large", "One resource of the update is larger than the limit.", "Split the resource; the limit is 256 KiB."},
	{CodeKeyMismatch, Corrupt, "resource under another's key", "A resource of the update does not have the kind, namespace and name of the key that it is sent under.", "The node refuses the update; inspect the hub that signed it."},

	{CodeBundleInvalid, Corrupt, "not a bundle", "The bytes are not a bundle (meshkit.bundle.v1): they cannot be decoded, are cut off, or hold one resource twice.", "Keep what is active and fetch the bundle again; if it was stored, the file is damaged."},
	{CodeBundleFormat, Invalid, "bundle of a later format", "The bundle has a format that this reader does not know: hub or agent are newer than the reader.", "Bring the data plane's MeshKit reader to the release of its hub or agent."},
	{CodeResumeToken, Invalid, "resume token not usable", "The resume token of an OmniRelay client is of another domain, or its version or epoch cannot be. A token that no MeshKit hub or agent made is not refused: it counts as none.", "Remove the node's stored last-known-good (LKG) file and let it start again: it then gets the whole bundle."},
	{CodeCapability, Invalid, "capability missing", "The node's configuration needs a capability that the OmniRelay client did not advertise. Such a bundle is never sent.", "Run an OmniRelay build that has the capability, or watch the hub instead of the agent: a hub leaves out what a client cannot do, as far as that is safe."},
	{CodeNoSuchScope, NotFound, "no such leadership scope", "A leadership subscription names a scope that is not served here. A scope is a domain's name.", "Name the domain, or leave the scope empty to get every one."},
}
