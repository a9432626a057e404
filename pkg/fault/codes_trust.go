package fault

// Codes of trust and identity: 300x names and certificates, 301x issuing, 302x
// keys, 303x metadata, 304x envelopes, 305x connections.
const (
	CodeIdentityInvalid    Code = "MK3001"
	CodeCertificateInvalid Code = "MK3002"
	CodeForeignCSR         Code = "MK3011"
	CodeCSRInvalid         Code = "MK3012"
	CodeWeakKey            Code = "MK3013"
	CodeIssueRefused       Code = "MK3014"
	CodeIssuerExpired      Code = "MK3015"
	CodeIssuerInvalid      Code = "MK3016"
	CodeKeyInvalid         Code = "MK3020"
	CodeKeyNotFound        Code = "MK3021"
	CodeKeyExists          Code = "MK3022"
	CodeKeyExposed         Code = "MK3023"
	CodeKeyPassphrase      Code = "MK3024"
	CodeSignFailed         Code = "MK3025"
	CodeMetadataInvalid    Code = "MK3030"
	CodeRootUnsigned       Code = "MK3031"
	CodeRootRollback       Code = "MK3032"
	CodeRootSkipped        Code = "MK3033"
	CodeRootExpired        Code = "MK3034"
	CodeRootPin            Code = "MK3035"
	CodeKeysetUnsigned     Code = "MK3036"
	CodeKeysetRollback     Code = "MK3037"
	CodeKeysetExpired      Code = "MK3038"
	CodeCABundleMismatch   Code = "MK3039"
	CodeForeignDomain      Code = "MK3040"
	CodeEnvelopeInvalid    Code = "MK3041"
	CodeUnknownKey         Code = "MK3042"
	CodeDroppedKey         Code = "MK3043"
	CodeBadSignature       Code = "MK3044"
	CodeTrustBehind        Code = "MK3045"
	CodeIssuedInFuture     Code = "MK3046"
	CodeManifestInvalid    Code = "MK3047"
	CodeNoKeyset           Code = "MK3048"
	CodePeerUnverified     Code = "MK3050"
	CodePeerDomain         Code = "MK3051"
	CodePeerRole           Code = "MK3052"
	CodePinMismatch        Code = "MK3053"
	CodePeerNoCertificate  Code = "MK3054"
	CodePeerExpired        Code = "MK3055"
	CodePinInvalid         Code = "MK3056"
)

var trustCodes = []Entry{
	{CodeIdentityInvalid, Invalid, "not a MeshKit identity", "A name, domain or SPIFFE ID does not have the form spiffe://<domain>/<node|hub|operator>/<name>, where domain and name are lower-case letters, digits, '-' and '.'.", "Use a name of at most 63 such characters that starts and ends with a letter or digit."},
	{CodeCertificateInvalid, Unauthenticated, "certificate carries no usable identity", "A certificate must carry exactly one URI name, and that must be a MeshKit SPIFFE ID.", "Issue a new certificate: `meshagent join` for a node, `meshhub credentials issue` for an operator."},
	{CodeForeignCSR, Denied, "certificate request names someone else", "The certificate request holds a name other than the identity that it may be issued for. Either a program is misconfigured, or someone tries to obtain another's certificate.", "Make the request for the caller's own name only; MeshKit puts the names in itself, so the request needs none."},
	{CodeCSRInvalid, Invalid, "certificate request not valid", "The certificate request cannot be parsed, is larger than 16 KiB, is not signed by its own key, or asks to be a CA.", "Make a new PKCS#10 request, DER encoded, with a P-256, P-384 or Ed25519 key."},
	{CodeWeakKey, Invalid, "key type not accepted", "Certificates are issued for P-256, P-384 and Ed25519 keys only.", "Make a new key: `openssl ecparam -name prime256v1 -genkey`, or let the program make it."},
	{CodeIssueRefused, Internal, "issued certificate failed its check", "The CA driver returned a certificate that is not what was asked of it, so it was thrown away and never left the hub.", "Look for a changed CA profile or a defective CA driver in the hub's log; report it if there is none."},
	{CodeIssuerExpired, Unavailable, "issuing CA is outside its lifetime", "The issuing CA's certificate has expired or is not valid yet by this machine's clock, so nothing that it signs would be accepted.", "Check the hub's clock; if it is right, make a new intermediate and publish the CA bundle."},
	{CodeIssuerInvalid, Invalid, "issuing CA cannot be used", "The CA's certificate and key do not belong together, it is not a CA certificate, or its chain does not lead to a root of the bundle.", "Check the files under DIR/ca against each other."},
	{CodeKeyInvalid, Invalid, "key cannot be used", "A private or public key cannot be parsed, or is of a type that MeshKit does not use. Signing keys are Ed25519 or P-256.", "Restore the key file from its backup, or make a new key and publish it in a new keyset."},
	{CodeKeyNotFound, NotFound, "key not found", "There is no key of that name.", "Check the directory and name in the configuration."},
	{CodeKeyExists, AlreadyExists, "key already exists", "There is a key of that name already, and keys are never overwritten.", "Choose another name, or move the old file away first."},
	{CodeKeyExposed, Denied, "private key readable by others", "A private key file, or the directory that holds it, can be read or written by users other than its owner, so the key may have been copied.", "Run `chmod 600 FILE` (`chmod 700` for the directory); if others use this machine, replace the key."},
	{CodeKeyPassphrase, Denied, "passphrase needed or wrong", "The key file is encrypted and the passphrase is missing or wrong.", "Set the passphrase as the configuration says and start again."},
	{CodeSignFailed, Unavailable, "signing did not succeed", "The key's holder (file, HSM) did not sign.", "Check that the device is there and unlocked; it is retried."},
	{CodeMetadataInvalid, Corrupt, "trust metadata not valid", "Root or keyset metadata cannot be parsed, breaks a limit, or is not self-consistent. Nothing of it was used.", "Get the metadata from another hub; if it was made by hand, make it again with meshctl."},
	{CodeRootUnsigned, Denied, "root metadata not signed by enough root keys", "Each root version must be signed by the threshold of the root before it and by its own threshold. This one is not, so it may not come from the holders of the root keys.", "Collect the missing signatures from the root key holders, then publish again."},
	{CodeRootRollback, Denied, "root metadata goes back", "A root with a version that is already known was offered with different content. Root versions never go back.", "Find out who offers it: a hub that does this is faulty or compromised."},
	{CodeRootSkipped, Denied, "root version skipped", "Root versions must follow one by one, so that each is vouched for by the one before it. One or more in between are missing.", "Fetch every root version after the one that is held; hubs send them all."},
	{CodeRootExpired, Denied, "root metadata expired", "The newest root metadata is past its expiry, or the clock is wrong, so neither new trust metadata nor new content is accepted. What is active stays active.", "Check the clock. If it is right, have the root key holders sign the next root version (`meshhub root rotate`) and publish it (`meshctl trust publish`)."},
	{CodeRootPin, Denied, "root metadata is not the pinned one", "The first root is not the one that was pinned when this program joined. The files have been replaced or damaged.", "Restore the trust directory, or join again."},
	{CodeKeysetUnsigned, Denied, "keyset not signed by enough keyset keys", "The keyset is not signed by the keys that the root names for it.", "Sign the keyset with the keys of the present root; publish a root that changes them together with a keyset that they sign."},
	{CodeKeysetRollback, Denied, "keyset goes back", "A keyset was offered that is older than the one held, or differs from it under the same version. Accepting it could bring back a dropped hub key.", "If one hub only offers it, that hub is behind or faulty: look at `meshctl get hubs`."},
	{CodeKeysetExpired, Denied, "keyset expired", "The keyset is past its expiry, or the clock is wrong. New configuration is refused until a newer keyset arrives; what is active stays active.", "Check the clock. If it is right, publish a keyset with a later expiry."},
	{CodeCABundleMismatch, Denied, "CA bundle is not the one in the keyset", "The CA bundle's length or hash differs from what the keyset states.", "Publish the CA bundle and the keyset that describes it together."},
	{CodeForeignDomain, Denied, "made for another domain", "Metadata or a manifest names another domain than the one that is pinned here. Domains never accept each other's configuration.", "Check which hub this program is connected to."},
	{CodeEnvelopeInvalid, Corrupt, "signed envelope not valid", "A signed envelope is malformed: too large, no or too many signatures, two by one key, or of another payload type.", "It is refused and asked for again; if it comes back, look at the hub that sends it."},
	{CodeUnknownKey, Denied, "signed by an unknown key", "No key of the envelope is listed in the keyset.", "Look up the key id in `meshctl trust show`; a hub's key must be published in a keyset before its first use."},
	{CodeDroppedKey, Denied, "signed by a dropped hub key", "The envelope is signed by a key that has been dropped from the keyset. The named hub is using a retired key, or someone else has it.", "Stop that hub if it was dropped on purpose; else give it a new key with `meshctl key rotate`."},
	{CodeBadSignature, Denied, "signature does not match", "A known hub's key id is given, but the signature does not match the content: it was altered, or not signed by that hub.", "Nothing was applied. Look at the named hub and at what lies between it and this program."},
	{CodeTrustBehind, Unavailable, "newer trust metadata is needed first", "The manifest refers to a newer keyset than the one held here, so it cannot be judged yet.", "Trust metadata is fetched, then the manifest is tried again; if this stays, check the connection to the hub."},
	{CodeIssuedInFuture, Denied, "issued in the future", "The statement's time lies more than 5 minutes ahead of this machine's clock.", "Compare the clocks of the named hub and this machine (chronyc tracking, timedatectl)."},
	{CodeManifestInvalid, Corrupt, "manifest not valid", "A correctly signed manifest or freshness statement has fields that make no sense, such as a digest of the wrong length.", "Report it with the name of the hub that signed it."},
	{CodeNoKeyset, Unavailable, "no keyset yet", "Only the root has been pinned, so no hub key is known and nothing can be verified.", "Trust metadata is fetched from the hub at join; join again if it is missing."},
	{CodePeerUnverified, Unauthenticated, "peer's certificate not accepted", "The certificate of the other side does not lead to a CA of this domain's bundle, or may not be used for this purpose.", "Check that both sides belong to the same domain; join the node again if its CA has been replaced."},
	{CodePeerDomain, Denied, "peer belongs to another domain", "The other side proved an identity of another trust domain.", "Check the address: connections stay within one domain."},
	{CodePeerRole, Denied, "peer is not what it must be", "The other side proved an identity of this domain, but of the wrong kind, such as a node where a hub is needed.", "Check the address and which certificate the other side was given."},
	{CodePinMismatch, Denied, "hub's CA is not the pinned one", "The hub's certificate does not lead to a CA with the key that --ca-pin names. Either the pin is of another domain, or someone sits in between.", "Compare the pin with the one that `meshhub init` printed on the hub."},
	{CodePeerNoCertificate, Unauthenticated, "peer presented no certificate", "Everything but joining needs a client certificate, and none was presented.", "Give the program its certificate and key: the context file for meshctl, `meshagent join` for a node."},
	{CodePeerExpired, Unauthenticated, "peer's certificate is outside its lifetime", "The certificate of the other side has expired or is not valid yet, by this machine's clock.", "Compare both clocks. If they are right, the certificate was not renewed in time: a node joins again, an operator gets another with `meshhub credentials issue`."},
	{CodePinInvalid, Invalid, "CA pin not valid", "A CA pin is written sha256: followed by 64 hexadecimal digits.", "Copy the pin that `meshhub init` printed."},
}
