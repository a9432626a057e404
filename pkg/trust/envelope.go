package trust

import (
	"context"
	"crypto"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
)

const (
	// ManifestType and FreshnessType are the payload types of envelopes. The
	// type is under the signature, so one cannot pass for the other.
	ManifestType  = "application/vnd.meshkit.manifest.v1+protobuf"
	FreshnessType = "application/vnd.meshkit.freshness.v1+protobuf"

	// MaxSkew is how far ahead of the verifier's clock a statement may be issued.
	MaxSkew = 5 * time.Minute
	// MaxPayloadBytes limits an envelope's payload.
	MaxPayloadBytes = 64 << 10
	// MaxSignatures limits an envelope's signatures.
	MaxSignatures = 8

	maxSigBytes = 256
	// Beyond any bundle that limits allow; a manifest that claims more is wrong.
	maxCount        = 1 << 20
	maxTotalBytes   = 1 << 40
	maxViewBytes    = 128
	maxCapabilities = 64
	maxCapability   = 64
	digestBytes     = 32
)

// SignManifest signs a manifest as it will travel. It refuses one that no
// verifier would accept, whatever the time: fault.CodeManifestInvalid.
func SignManifest(ctx context.Context, s *sign.Signer, m *trustv1.Manifest) (*trustv1.Envelope, error) {
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	return seal(ctx, s, ManifestType, m)
}

// SignFreshness signs "still at this version", as SignManifest does.
func SignFreshness(ctx context.Context, s *sign.Signer, f *trustv1.Freshness) (*trustv1.Envelope, error) {
	if err := checkFreshness(f); err != nil {
		return nil, err
	}
	return seal(ctx, s, FreshnessType, f)
}

func seal(ctx context.Context, s *sign.Signer, payloadType string, m proto.Message) (*trustv1.Envelope, error) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.CodeManifestInvalid, "marshal payload: %w", err)
	}
	if len(payload) > MaxPayloadBytes {
		return nil, fault.New(fault.CodeManifestInvalid, "payload of %d bytes is larger than %d", len(payload), MaxPayloadBytes)
	}
	sig, err := s.Sign(ctx, dsse.PAE(payloadType, payload))
	if err != nil {
		return nil, err
	}
	return &trustv1.Envelope{
		Payload: payload, PayloadType: payloadType,
		Signatures: []*trustv1.Signature{{KeyId: s.KeyID(), Sig: sig}},
	}, nil
}

// VerifyManifest checks who signed a manifest and that it makes sense here and
// now: one listed hub key signed these very bytes, the domain is ours, the
// keyset that it refers to is not newer than ours, it was not issued more than
// MaxSkew ahead of now, and neither keyset nor root has expired at now. Whether it is
// newer than what is active is the caller's to judge. The HubKey is the signer.
//
// Codes: CodeEnvelopeInvalid, CodeUnknownKey, CodeDroppedKey (names the hub),
// CodeBadSignature (names the hub), CodeTrustBehind (fetch trust metadata and
// try again), CodeForeignDomain, CodeIssuedInFuture, CodeManifestInvalid,
// CodeKeysetExpired, CodeRootExpired, CodeNoKeyset.
func (a *Anchors) VerifyManifest(env *trustv1.Envelope, now time.Time) (*trustv1.Manifest, HubKey, error) {
	m, hub, err := a.VerifyStored(env)
	if err != nil {
		return nil, hub, err
	}
	if err := a.checkTimes(hub, m.IssuedAt, now); err != nil {
		return nil, hub, err
	}
	return m, hub, nil
}

// VerifyStored is VerifyManifest without the questions of time, for manifests
// that were accepted before: an expired keyset or a clock that was set back
// must not take last-known-good away.
func (a *Anchors) VerifyStored(env *trustv1.Envelope) (*trustv1.Manifest, HubKey, error) {
	m := &trustv1.Manifest{}
	hub, err := a.open(env, ManifestType, m)
	if err != nil {
		return nil, hub, err
	}
	if err := a.checkPlace(hub, m.Domain, m.KeysetVersion); err != nil {
		return nil, hub, err
	}
	if err := checkManifest(m); err != nil {
		return nil, hub, err
	}
	return m, hub, nil
}

// VerifyFreshness checks a freshness statement as VerifyManifest checks a
// manifest.
func (a *Anchors) VerifyFreshness(env *trustv1.Envelope, now time.Time) (*trustv1.Freshness, HubKey, error) {
	f := &trustv1.Freshness{}
	hub, err := a.open(env, FreshnessType, f)
	if err != nil {
		return nil, hub, err
	}
	if err := a.checkPlace(hub, f.Domain, f.KeysetVersion); err != nil {
		return nil, hub, err
	}
	if err := checkFreshness(f); err != nil {
		return nil, hub, err
	}
	if err := a.checkTimes(hub, f.IssuedAt, now); err != nil {
		return nil, hub, err
	}
	return f, hub, nil
}

// open verifies an envelope's signatures and parses its payload into m.
func (a *Anchors) open(env *trustv1.Envelope, payloadType string, m proto.Message) (HubKey, error) {
	if err := checkEnvelope(env, payloadType); err != nil {
		return HubKey{}, err
	}
	if a == nil || a.keyset == nil {
		return HubKey{}, fault.New(fault.CodeNoKeyset, "no keyset is held, so no signature can be judged")
	}
	var listed HubKey
	for _, s := range env.Signatures {
		if k, ok := a.keyset.keys[s.KeyId]; ok {
			listed = k.HubKey
			break
		}
	}
	if listed == (HubKey{}) {
		return HubKey{}, a.refuseSigner(env)
	}
	accepted, err := a.verifier.Verify(context.Background(), toDSSE(env))
	if err != nil {
		return listed, fault.New(fault.CodeBadSignature, "signature of hub %q (key %s) does not match the %s that carries it", listed.Hub, listed.KeyID, kindOf(payloadType))
	}
	hub := a.keyset.keys[accepted[0].KeyID].HubKey
	if err := proto.Unmarshal(env.Payload, m); err != nil {
		return hub, fault.New(fault.CodeManifestInvalid, "parse %s signed by hub %q: %w", kindOf(payloadType), hub.Hub, err)
	}
	return hub, nil
}

// refuseSigner says why none of an envelope's keys is believed. The payload is
// unverified here; that it claims a newer keyset is reason to ask for trust
// metadata, and for nothing else.
func (a *Anchors) refuseSigner(env *trustv1.Envelope) error {
	for _, s := range env.Signatures {
		for _, r := range a.keyset.retired {
			if r.id == s.KeyId {
				return fault.New(fault.CodeDroppedKey, "signed by key %s of hub %q, which keyset version %d lists as dropped", r.id, r.hub, a.keyset.version)
			}
		}
	}
	var claimed uint64
	switch env.PayloadType {
	case ManifestType:
		m := &trustv1.Manifest{}
		if proto.Unmarshal(env.Payload, m) == nil {
			claimed = m.KeysetVersion
		}
	case FreshnessType:
		f := &trustv1.Freshness{}
		if proto.Unmarshal(env.Payload, f) == nil {
			claimed = f.KeysetVersion
		}
	}
	id := env.Signatures[0].KeyId
	if claimed > a.keyset.version {
		return fault.New(fault.CodeTrustBehind, "signed by key %s, which keyset version %d does not list; it claims keyset version %d", id, a.keyset.version, claimed)
	}
	return fault.New(fault.CodeUnknownKey, "signed by key %s, which keyset version %d does not list", id, a.keyset.version)
}

// checkPlace checks that a statement is made for this domain, under a keyset
// that is held.
func (a *Anchors) checkPlace(hub HubKey, domain string, keysetVersion uint64) error {
	if domain != a.domain {
		return fault.New(fault.CodeForeignDomain, "hub %q signed for domain %q, not %q", hub.Hub, domain, a.domain)
	}
	if keysetVersion > a.keyset.version {
		return fault.New(fault.CodeTrustBehind, "hub %q signed under keyset version %d, and version %d is held", hub.Hub, keysetVersion, a.keyset.version)
	}
	return nil
}

func (a *Anchors) checkTimes(hub HubKey, issuedAt *timestamppb.Timestamp, now time.Time) error {
	if issued := issuedAt.AsTime(); issued.After(now.Add(MaxSkew)) {
		return fault.New(fault.CodeIssuedInFuture, "hub %q (key %s) signed at %s, and it is %s here", hub.Hub, hub.KeyID, stamp(issued), stamp(now))
	}
	if expires := a.keyset.meta.Signed.Expires; now.After(expires) {
		return fault.New(fault.CodeKeysetExpired, "keyset version %d expired at %s, and it is %s here: nothing new is accepted from hub %q", a.keyset.version, stamp(expires), stamp(now), hub.Hub)
	}
	if r := a.root(); r.meta.Signed.IsExpired(now) {
		return fault.New(fault.CodeRootExpired, "root version %d expired at %s, and it is %s here: nothing new is accepted from hub %q", r.version, stamp(r.meta.Signed.Expires), stamp(now), hub.Hub)
	}
	return nil
}

func kindOf(payloadType string) string {
	switch payloadType {
	case FreshnessType:
		return "freshness statement"
	case BackupType:
		return "backup"
	}
	return "manifest"
}

func checkEnvelope(env *trustv1.Envelope, payloadType string) error {
	if env == nil {
		return fault.New(fault.CodeEnvelopeInvalid, "no envelope")
	}
	if env.PayloadType != payloadType {
		return fault.New(fault.CodeEnvelopeInvalid, "payload type %.80q is not %q", env.PayloadType, payloadType)
	}
	if len(env.Payload) == 0 || len(env.Payload) > MaxPayloadBytes {
		return fault.New(fault.CodeEnvelopeInvalid, "payload of %d bytes is not between 1 and %d", len(env.Payload), MaxPayloadBytes)
	}
	if n := len(env.Signatures); n == 0 || n > MaxSignatures {
		return fault.New(fault.CodeEnvelopeInvalid, "%d signatures are not between 1 and %d", n, MaxSignatures)
	}
	for i, s := range env.Signatures {
		// An empty key id would make DSSE try every key.
		if s == nil || !validKeyID(s.KeyId) || len(s.Sig) == 0 || len(s.Sig) > maxSigBytes {
			return fault.New(fault.CodeEnvelopeInvalid, "signature %d has no proper key id or length", i+1)
		}
		for _, other := range env.Signatures[:i] {
			if other.KeyId == s.KeyId {
				return fault.New(fault.CodeEnvelopeInvalid, "two signatures by key %s", s.KeyId)
			}
		}
	}
	return nil
}

func validKeyID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

func checkManifest(m *trustv1.Manifest) error {
	if err := checkStatement(m.GetView(), m.GetDigest(), m.GetIssuedAt()); err != nil {
		return err
	}
	if n := len(m.PreviousDigest); n != 0 && n != digestBytes {
		return fault.New(fault.CodeManifestInvalid, "manifest's previous digest has %d bytes, not %d", n, digestBytes)
	}
	empty := string(m.Digest) == string(make([]byte, digestBytes))
	if m.Count > maxCount || m.TotalBytes > maxTotalBytes || (m.Count == 0) != empty || (m.Count == 0) != (m.TotalBytes == 0) {
		return fault.New(fault.CodeManifestInvalid, "manifest's count %d, total of %d bytes and digest %x do not go together", m.Count, m.TotalBytes, m.Digest)
	}
	return checkRequired(m.GetRequiredCapabilities())
}

func checkRequired(capabilities []string) error {
	if len(capabilities) > maxCapabilities {
		return fault.New(fault.CodeManifestInvalid, "%d capabilities are required, more than %d", len(capabilities), maxCapabilities)
	}
	for i, c := range capabilities {
		if c == "" || len(c) > maxCapability || i > 0 && capabilities[i-1] >= c {
			return fault.New(fault.CodeManifestInvalid, "required capabilities are not distinct, sorted and at most %d bytes each", maxCapability)
		}
	}
	return nil
}

func checkFreshness(f *trustv1.Freshness) error {
	if err := checkStatement(f.GetView(), f.GetDigest(), f.GetIssuedAt()); err != nil {
		return err
	}
	return checkRequired(f.GetRequiredCapabilities())
}

func checkStatement(view string, digest []byte, issuedAt *timestamppb.Timestamp) error {
	if view == "" || len(view) > maxViewBytes {
		return fault.New(fault.CodeManifestInvalid, "view name of %d bytes is not between 1 and %d", len(view), maxViewBytes)
	}
	if len(digest) != digestBytes {
		return fault.New(fault.CodeManifestInvalid, "digest of view %q has %d bytes, not %d", view, len(digest), digestBytes)
	}
	if err := issuedAt.CheckValid(); err != nil {
		return fault.New(fault.CodeManifestInvalid, "issue time of view %q: %w", view, err)
	}
	return nil
}

// toDSSE gives an envelope the base64 form that the library reads. Payload and
// signatures are the bytes as received.
func toDSSE(env *trustv1.Envelope) *dsse.Envelope {
	out := &dsse.Envelope{PayloadType: env.PayloadType, Payload: base64.StdEncoding.EncodeToString(env.Payload)}
	for _, s := range env.Signatures {
		out.Signatures = append(out.Signatures, dsse.Signature{KeyID: s.KeyId, Sig: base64.StdEncoding.EncodeToString(s.Sig)})
	}
	return out
}

// newVerifier makes a DSSE verifier over distinct keys. (Given one key twice the
// library would print to standard output; a map of them cannot.)
func newVerifier(threshold int, keys map[string]hubKey) (*dsse.EnvelopeVerifier, error) {
	list := make([]dsse.Verifier, 0, len(keys))
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		list = append(list, keyVerifier{keys[id].public})
	}
	v, err := dsse.NewMultiEnvelopeVerifier(threshold, list...)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "verify with %d hub keys: %w", len(keys), err)
	}
	return v, nil
}

type keyVerifier struct{ key sign.PublicKey }

func (v keyVerifier) Verify(_ context.Context, data, sig []byte) error {
	return v.key.Verify(data, sig)
}
func (v keyVerifier) KeyID() (string, error)   { return v.key.KeyID(), nil }
func (v keyVerifier) Public() crypto.PublicKey { return v.key.Crypto() }
