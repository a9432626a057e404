package trust

import (
	"context"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/sign"
)

// The library that counts votes must not count one key's twice, whatever
// threshold is used one day.
func TestDSSEThresholdCountsKeysNotVotes(t *testing.T) {
	keys := map[string]hubKey{}
	var signers []*sign.Signer
	for range 2 {
		key, err := sign.Generate(sign.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sign.New(key)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
		keys[s.KeyID()] = hubKey{HubKey{KeyID: s.KeyID()}, s.Public()}
	}
	v, err := newVerifier(2, keys)
	if err != nil {
		t.Fatal(err)
	}
	vote := func(s *sign.Signer) *trustv1.Signature {
		sig, err := s.Sign(context.Background(), dsse.PAE(ManifestType, []byte("p")))
		if err != nil {
			t.Fatal(err)
		}
		return &trustv1.Signature{KeyId: s.KeyID(), Sig: sig}
	}
	verify := func(votes ...*trustv1.Signature) error {
		_, err := v.Verify(context.Background(), toDSSE(&trustv1.Envelope{Payload: []byte("p"), PayloadType: ManifestType, Signatures: votes}))
		return err
	}
	if err := verify(vote(signers[0]), vote(signers[1])); err != nil {
		t.Errorf("two keys: %v", err)
	}
	if err := verify(vote(signers[0]), vote(signers[0])); err == nil {
		t.Error("two votes of one key reached a threshold of two")
	}
}
