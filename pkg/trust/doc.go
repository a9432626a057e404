// Package trust decides whose configuration is believed.
//
// A domain's root of trust is TUF root metadata: threshold keys, versions that
// step by one, an expiry. The root delegates to the keyset, which is TUF targets
// metadata whose delegations are one role "hub/<name>" for each hub, with the
// keys that this hub signs configuration with, and whose one target,
// "ca-bundle.pem", fixes the CA bundle by length and hash. There is no snapshot
// or timestamp role: the keyset is the only file, its version never goes back,
// and signed freshness statements do what a timestamp does. What hubs sign are
// DSSE envelopes around protobuf payloads; verifiers check the payload's bytes
// as sent and never marshal them again.
//
// Anchors is what a verifier holds: the chain of roots from the pinned one, the
// keyset, the CA bundle, all verified. It is immutable: Update returns a new
// value, and the old one stays good if the update was refused. A program makes
// its first Anchors with Join (from a hub that it reached through the CA pin),
// keeps Marshal's bytes and the Pin, and comes back with Load. A hub, whose
// metadata lies in its own verified log, uses FromMetadata.
//
// # Time
//
// All functions that judge time take it. Expired metadata brings nothing new in:
// Join, Pin and Update refuse a final root or keyset that is past its expiry, and
// VerifyManifest and VerifyFreshness refuse everything under an expired keyset
// (fault.CodeKeysetExpired). It never takes anything away: Load, FromMetadata and
// VerifyStored ignore expiry, so that an agent that restarts under an expired
// keyset still finds its last-known-good, and a hub can still publish the next
// keyset. A statement may be issued at most MaxSkew ahead of the verifier's
// clock; one from the past is as good as new, because replay is answered by
// (epoch, version), which never go back, and not by clocks.
//
// # Dropped keys
//
// A keyset remembers the ids of the keys that were dropped and whose they were
// (the last 256), so that what such a key signs is refused by name, and the key
// cannot come back. A generation that was accepted while its key was listed is
// verified with the Anchors of that time: keep their Marshal beside it.
//
// # Recovery
//
// Versions of roots and keysets end at 2^31. Who has stolen a keyset key can sign
// a keyset with the last version, and no later one can follow it: make a root that
// replaces all keyset keys in one step, under which versions start anew.
//
// All types are safe for concurrent use; nothing here starts a goroutine or does
// I/O.
package trust
