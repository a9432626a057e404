package hub_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/observe"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// A node must have the keyset that lists a key before it is sent what the key
// signed, however the rotation's steps and the views' own loop interleave.
func TestRotationsOneAfterTheOtherNeverShowANodeAnUnknownKey(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", nil)
	a.await(o.apply(t, mesh()...).GetSeq())
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 10 {
			if _, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{}); err != nil {
				t.Error(err)
			}
		}
	})
	last := uint64(0)
	for i := range 40 { // the agent reports every manifest that it cannot verify
		last = o.apply(t, cluster("payments-v1", fmt.Sprintf("10.0.0.1:%d", i+81))).GetSeq()
	}
	wg.Wait()
	a.await(last)
	last = o.apply(t, cluster("payments-v1", "10.0.0.1:9999")).GetSeq()
	a.await(last)
	shown, err := o.trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil || len(shown.GetHubKeys()) != 1 {
		t.Errorf("%v are listed after the rotations (%v), want one key", shown.GetHubKeys(), err)
	}
}

func TestOneRequestRotatesOnce(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	before, err := o.trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]*adminv1.RotateHubKeyResponse, 4)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{RequestId: "rotate-once"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a.GetNewKeyId() != answers[0].GetNewKeyId() || a.GetKeysetVersion() != before.GetKeysetVersion()+2 {
			t.Errorf("answer %v, another %v; the keyset was %d", a, answers[0], before.GetKeysetVersion())
		}
	}
}

// editKeyset makes the next keyset as somebody with the keyset key would, beside
// the hub.
func editKeyset(t *testing.T, d *hubtest.Domain, o operator, edit trust.KeysetEdit) *trustv1.Metadata {
	t.Helper()
	shown, err := o.trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.Open(t.Context(), d.Keys, keyring.KeysetKey)
	if err != nil {
		t.Fatal(err)
	}
	edit.Expires = time.Now().Add(keyring.KeysetLifetime)
	keyset, err := trust.EditKeyset(shown.GetMetadata().GetKeyset(), edit, signer)
	if err != nil {
		t.Fatal(err)
	}
	m := proto.CloneOf(shown.GetMetadata())
	m.Roots, m.Keyset = nil, keyset
	return m
}

// Metadata from elsewhere may list another of the hub's keys in place of the one
// that it signs with: what is published must be signed again at once, or nodes
// that connect are given what they have to refuse.
func TestAKeyReplacedFromElsewhereSignsWhatIsPublished(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", nil)
	seq := o.apply(t, mesh()...).GetSeq()
	a.await(seq)
	fresh, err := sign.Create(t.Context(), d.Keys, "config-2", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	edit := trust.KeysetEdit{Add: map[string][]sign.PublicKey{hubtest.HubName: {fresh.Public()}}, DropKeys: []string{a.signer}}
	if _, err := o.trust.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: editKeyset(t, d, o, edit), Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a manifest signed with the new key", func() bool {
		b := (&agentHost{h}).start(t, "node-"+fmt.Sprint(time.Now().UnixNano()), nil)
		m := b.await(seq)
		b.mu.Lock()
		defer b.mu.Unlock()
		return m.GetCount() == 3 && b.signer == fresh.KeyID()
	})
}

// A crash after the first step leaves both keys listed; the next start signs with
// one that nodes know, and the next rotation drops the others.
func TestARotationThatWasCutShortIsFinishedByTheNext(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	o.apply(t, mesh()...)
	half, err := sign.Create(t.Context(), d.Keys, "config-2", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	edit := trust.KeysetEdit{Add: map[string][]sign.PublicKey{hubtest.HubName: {half.Public()}}}
	if _, err := o.trust.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: editKeyset(t, d, o, edit)}); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil { // in place of the kill: the rest of the rotation never comes
		t.Fatal(err)
	}
	h = d.Start(t)
	o = operate(t, h)
	a := (&agentHost{h}).start(t, "node-a", nil)
	a.await(1)
	rotated, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	a.await(o.apply(t, checkout(50, 50)).GetSeq())
	a.mu.Lock()
	defer a.mu.Unlock()
	if hubs := a.anchors.Hubs(); len(hubs) != 1 || hubs[0].KeyID != rotated.GetNewKeyId() || a.signer != rotated.GetNewKeyId() {
		t.Errorf("the node knows %v and got a manifest of %s, want %s alone", hubs, a.signer, rotated.GetNewKeyId())
	}
}

// The keys of the root are offline: people are told a month before.
func TestARootThatEndsSoonIsAProblem(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	told := func() bool {
		return slices.ContainsFunc(h.Problems(t.Context()), func(p observe.Problem) bool { return p.Code == fault.CodeRootEnding && p.Warning })
	}
	publish := func(ends time.Duration) {
		t.Helper()
		shown, err := o.trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
		if err != nil {
			t.Fatal(err)
		}
		roots := shown.GetMetadata().GetRoots()
		next, err := trust.RotateRoot(roots[len(roots)-1], trust.RootChange{Expires: time.Now().Add(ends)}, d.RootKey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.trust.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: &trustv1.Metadata{Roots: [][]byte{next}}, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	if told() {
		t.Error("told of a root that is good for a year")
	}
	publish(29 * 24 * time.Hour)
	comesAbout(t, "the hub tells of the root's end", told)
	publish(31 * 24 * time.Hour)
	comesAbout(t, "it is well again", func() bool { return !told() })
}

func TestOlderMetadataIsRefused(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t)
	o := operate(t, h)
	shown, err := o.trust.GetTrust(t.Context(), &adminv1.GetTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.trust.RotateHubKey(t.Context(), &adminv1.RotateHubKeyRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = o.trust.PublishTrust(t.Context(), &adminv1.PublishTrustRequest{Metadata: shown.GetMetadata()})
	if err == nil || fault.CodeOf(err) == "" {
		t.Errorf("the keyset before the rotation was taken: %v", err)
	}
}
