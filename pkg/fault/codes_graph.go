package fault

// Codes of digests, expressions, the mesh graph and views.
const (
	CodeHashFormat   Code = "MK2201"
	CodeProofInvalid Code = "MK2202"

	CodeExprSyntax Code = "MK2301"
	CodeExprType   Code = "MK2302"
	CodeExprCost   Code = "MK2303"
	CodeExprSize   Code = "MK2304"
	CodeExprEval   Code = "MK2305"

	CodeRefDangling       Code = "MK2401"
	CodeRefRemoved        Code = "MK2402"
	CodeRefScope          Code = "MK2403"
	CodeCycle             Code = "MK2404"
	CodeRuleUnreachable   Code = "MK2406"
	CodeRouteConflict     Code = "MK2407"
	CodePolicyTarget      Code = "MK2408"
	CodeMeshCount         Code = "MK2409"
	CodeMeshBytes         Code = "MK2410"
	CodeSettingsRange     Code = "MK2411"
	CodeLargeRemoval      Code = "MK2412"
	CodeContentUnreadable Code = "MK2413"
)

var graphCodes = []Entry{
	{CodeHashFormat, Invalid, "not a digest", "A digest is 32 bytes, written as 64 hexadecimal digits.", "Copy the whole digest as MeshKit printed it."},
	{CodeProofInvalid, Corrupt, "proof does not hold", "A proof of inclusion does not lead to the stated root: the content, the key, the proof or the root is not the one that belongs together.", "Fetch content and proof again from a hub; if it persists, the sender is faulty."},

	{CodeExprSyntax, Invalid, "condition is not CEL", "The condition of an authorization rule cannot be parsed as a CEL expression.", "Correct the expression at the named column; `meshctl explain policy.spec.authz.rules.when` shows the variables and an example."},
	{CodeExprType, Invalid, "condition has a type error", "The condition names something that does not exist, mixes types, uses a function that conditions may not use, or does not yield a bool.", "Use only request.service, request.procedure, request.headers, request.caller, request.tenant, request.shard, request.routingKey and source.spiffe, and yield a bool."},
	{CodeExprCost, Invalid, "condition costs too much", "The worst case of the condition, or its evaluation on one request, costs more than 100,000 units: usually a macro within a macro, or a pattern match over every header.", "Name the header instead of searching all of them, compare instead of matching, or split the rule."},
	{CodeExprSize, Invalid, "condition is too long", "A condition has at most 4,096 bytes.", "Split it into several rules: rules of one effect are alternatives."},
	{CodeExprEval, Invalid, "condition cannot be decided", "The evaluation of a condition failed on a request, for example because it reads a header that the request does not carry. Access is then denied.", "Guard the access: `\"x\" in request.headers && request.headers[\"x\"] == \"…\"`."},

	{CodeRefDangling, Invalid, "reference to nothing", "A resource names another one that does not exist.", "Create the resource that is named, in the same change if you like, or correct the name."},
	{CodeRefRemoved, Invalid, "removal leaves a reference", "A change removes a resource that others still name.", "Remove or change the referring resources in the same change."},
	{CodeRefScope, Invalid, "reference out of scope", "A resource names one that some of its own nodes do not receive: the target's scope must hold every node that the referrer's scope holds.", "Widen the target's scope.nodeLabels (fewer labels), or narrow the referrer's (add the target's labels)."},
	{CodeCycle, Invalid, "cycle of references", "Following failover from a cluster leads back to it, so traffic could go round for ever.", "Remove one of the references that the finding shows."},
	{CodeRuleUnreachable, Invalid, "rule can never match", "An earlier rule, or a route that is considered first, matches every request that this rule matches.", "Move the rule before the wider one, raise its route's priority, or narrow the wider match."},
	{CodeRouteConflict, Invalid, "routes conflict", "Two routes of equal priority match the same requests of one service on the same nodes, so only their names would decide.", "Give one of them another priority, or make their matches or scopes exclude each other."},
	{CodePolicyTarget, Invalid, "policy applies to nothing", "No route and no cluster lists the policy, and it names no targets, so it has no effect.", "Name the policy in spec.policies of a Route, a rule or a Cluster, or name routes and clusters in its spec.targets."},
	{CodeMeshCount, Exhausted, "too many resources", "The domain would hold more resources than its DomainSettings allow.", "Remove resources, or raise spec.limits.maxResources of DomainSettings/default/domain."},
	{CodeMeshBytes, Exhausted, "bundle too large", "The contents of all resources together would be larger than the DomainSettings allow.", "Remove or shorten resources, or raise spec.limits.maxBundleBytes of DomainSettings/default/domain."},
	{CodeSettingsRange, Invalid, "setting disables a guard", "A DomainSettings value is permitted, but switches off a protection of the domain.", "Set the named field to a value that keeps the protection; `meshctl explain domainsettings.spec` shows units and defaults."},
	{CodeLargeRemoval, Invalid, "change removes a large share of the mesh", "A change removes more of the mesh, or of one kind, than spec.limits.maxRemovalPercent of the DomainSettings permits. Endpoints count like resources. A resource whose scope was narrowed, so that nodes can lose it, counts as removed. Up to 2 of each kind may always be removed.", "Check the deletions and the scopes in the plan; if they are meant, add --allow-large-change."},
	{CodeContentUnreadable, Corrupt, "resource content cannot be read", "The stored or received content of a resource is not the canonical JSON of a resource with that key.", "Apply the resource again from its source."},
}
