// Package route is the engine that decides where a request goes. A data plane
// embeds it; meshctl simulate asks it; both get the same answer.
//
//	table := route.Compile(g)             // one per version of the mesh; cheap
//	d := table.Pick(request)              // on the path of a request
//	d := table.Decide(request)            // the same with an explanation, d.Steps
//
// # Which rule
//
//  1. Routes of the request's service are considered by priority, highest first.
//     The first priority at which a route has a matching rule decides.
//  2. In a route, the rules are tried in order; the first that matches is the
//     route's candidate. A rule matches when every condition that it sets holds;
//     one without conditions always matches. Of procedures, tenants, shards and
//     routing keys one listed value must be the request's; of headers, all listed
//     conditions must hold. Names of headers are compared without regard to case. An
//     inverted condition holds when the plain one does not, so also when the header
//     is missing. A regular expression must match the whole value.
//  3. Among candidates of one priority, the better match of the procedure wins: an
//     exact name before a prefix, a longer prefix before a shorter one, any prefix
//     before a rule without procedures. Among equals the route whose namespace, then
//     name, comes first wins. (Validation reports routes for which that would decide.)
//
// # Which cluster
//
// A rule's clusters share its requests by weight. With a shard key, or else a
// routing key, the choice is by weighted rendezvous hashing: the same key stays with
// the same cluster, and a change of weights moves no more keys than it must. Without
// a key, Request.Draw decides.
//
// Endpoints come in tiers: a tier is used once the ones before it are lost. The
// tiers are those of failover.priorities, with endpoints that none names last; or
// the endpoints' own priorities; and when a cluster has failover but no priorities,
// endpoints in the caller's zone come before others of its region, and those before
// the rest. Endpoints of weight 0 are left out. When all tiers are lost, the
// clusters of failover.clusters follow, and theirs.
//
// # Which policies
//
// In this order, each once: those that the rule lists, that the route lists, that
// target the route, that the cluster lists, that target the cluster; those that
// target are ordered by namespace and name. Then
//
//   - the request timeout is the rule's own, else the route's, else that of the first
//     policy that sets one, else DefaultTimeout; idle timeout, retry and circuit
//     breaker are those of the first policy that sets them;
//   - every rate limit applies, and every shadow, next to the rule's mirror;
//   - every authorization policy must allow the request. In one policy, a deny rule
//     whose condition holds denies, whatever the order; else an allow rule whose
//     condition holds allows; else the policy's default decides, which is deny. A
//     condition that cannot be decided denies.
//
// A Table is immutable for its callers and safe for concurrent use; what it derives
// when first asked, it keeps, and shares with tables of other versions where the
// resources are the same.
package route
