package trust

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Evidence is two manifests by one key that say different things of one version
// of one view: proof that the key's holder is faulty or compromised.
type Evidence struct {
	KeyID          string
	Domain, View   string
	Epoch, Version uint64
	// DigestA and DigestB are what A and B say the version holds.
	DigestA, DigestB []byte
	A, B             *trustv1.Envelope
}

// Equivocation compares two manifests that each passed VerifyManifest or
// VerifyStored, and gives the evidence if one key signed different digests for
// one (domain, view, epoch, version). It reads the envelopes without verifying
// them: someone who was given evidence checks it with VerifyEvidence.
func Equivocation(a, b *trustv1.Envelope) (*Evidence, bool) {
	if checkEnvelope(a, ManifestType) != nil || checkEnvelope(b, ManifestType) != nil {
		return nil, false
	}
	ma, mb := &trustv1.Manifest{}, &trustv1.Manifest{}
	if proto.Unmarshal(a.Payload, ma) != nil || proto.Unmarshal(b.Payload, mb) != nil {
		return nil, false
	}
	if ma.Domain != mb.Domain || ma.View != mb.View || ma.Epoch != mb.Epoch || ma.Version != mb.Version || bytes.Equal(ma.Digest, mb.Digest) {
		return nil, false
	}
	for _, sa := range a.Signatures {
		for _, sb := range b.Signatures {
			if sa.KeyId == sb.KeyId {
				return &Evidence{
					KeyID: sa.KeyId, Domain: ma.Domain, View: ma.View, Epoch: ma.Epoch, Version: ma.Version,
					DigestA: ma.Digest, DigestB: mb.Digest, A: a, B: b,
				}, true
			}
		}
	}
	return nil, false
}

// VerifyEvidence checks evidence from scratch: both envelopes are signed by the
// named key, which a lists, and contradict each other. It gives the hub to drop.
func (a *Anchors) VerifyEvidence(e *Evidence) (HubKey, error) {
	if e == nil {
		return HubKey{}, fault.New(fault.CodeEnvelopeInvalid, "no evidence")
	}
	for _, env := range []*trustv1.Envelope{e.A, e.B} {
		// One signature only, so that the key which VerifyStored accepts is the
		// one that is accused.
		alone, err := onlySignature(env, e.KeyID)
		if err != nil {
			return HubKey{}, err
		}
		if _, hub, err := a.VerifyStored(alone); err != nil {
			return hub, err
		}
	}
	if _, ok := Equivocation(e.A, e.B); !ok {
		return HubKey{}, fault.New(fault.CodeEnvelopeInvalid, "the two manifests do not contradict each other")
	}
	return a.keyset.keys[e.KeyID].HubKey, nil
}

func onlySignature(env *trustv1.Envelope, keyID string) (*trustv1.Envelope, error) {
	if err := checkEnvelope(env, ManifestType); err != nil {
		return nil, err
	}
	for _, s := range env.Signatures {
		if s.KeyId == keyID {
			return &trustv1.Envelope{Payload: env.Payload, PayloadType: env.PayloadType, Signatures: []*trustv1.Signature{s}}, nil
		}
	}
	return nil, fault.New(fault.CodeEnvelopeInvalid, "the manifest is not signed by key %s", keyID)
}
