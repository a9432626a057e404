// Package bundle writes and reads a node's whole configuration as one message with
// all that is needed to verify it: meshkit.bundle.v1, the payload of the OmniRelay
// protocol. It knows no hub and no agent: a data plane needs it, the root that was
// pinned when its node joined, and nothing else.
//
//	anchors, err := bundle.Pin(payload, "eu-west", pin, time.Now())   // the first time
//	b, err := bundle.Open(payload, anchors, time.Now())
//	for leaf := range b.Content.All() { … }                           // leaf.Key, leaf.Content
//	save(payload, b.Trust)                                            // newer roots and keysets, if there were any
//
// Open believes nothing in the payload: it brings the pinned trust up to date by the
// rules of a TUF client, verifies the manifest's signature and domain, and computes
// the Merkle root of the resources. OpenStored does the same for a payload that was
// accepted before, without asking what time it is: an expired keyset must not take
// last-known-good away.
//
// Two things are the caller's to judge. Whether a bundle is newer than what it has, by
// Epoch and Version: Open takes an older one too. And whether it is meant for this node: a
// bundle is of a domain and a view, names no node, and Open accepts that of any view. Who
// has the channel to a hub or an agent, with the certificate at its end, got it from there.
//
// What Open gives is immutable. All functions are safe for concurrent use.
package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	bundlev1 "github.com/meshkit/meshkit/pkg/api/meshkit/bundle/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Format is the number of the format that this package writes and reads.
const Format = 1

// MaxBytes bounds an encoded bundle: content up to the default limit of a view
// (128 MiB), and 32 MiB for keys and trust metadata.
const MaxBytes = 160 << 20

// Bundle is a verified configuration.
type Bundle struct {
	// Domain, View, Epoch and Version name it. (Epoch, Version) only grows in a domain.
	Domain, View   string
	Epoch, Version uint64
	// Content is the resources, by "Kind/namespace/name": RFC 8785 canonical JSON.
	Content *digest.Trie
	// Required lists the capabilities that a node needs for it, sorted.
	Required []string
	// Signer is the hub's key that signed the manifest, or vouches for it.
	Signer trust.HubKey
	// Issued is when the manifest was signed, or what vouches for it, by the hub's clock.
	Issued time.Time
	// Trust is the caller's trust, brought up to date: keep it, and pass it to the
	// next Open. It is the caller's own value if the bundle brought nothing new.
	Trust *trust.Anchors
}

// Digest is the Merkle root of the content.
func (b *Bundle) Digest() digest.Hash { return b.Content.Root() }

// Open verifies a payload against trust at now, and gives what it holds. The payload
// must not be modified afterwards: the content refers to it.
//
// The error has fault.CodeBundleTooLarge, CodeContentTooLarge (limits),
// CodeBundleInvalid (no bundle), CodeBundleFormat (a later format), CodeForeignDomain,
// CodeDigestMismatch, CodeCountMismatch, CodeKeyMismatch, one of
// trust.Anchors.Update (the metadata does not follow from what is pinned) or one of
// trust.Anchors.VerifyManifest (who signed it, and when).
func Open(payload []byte, pinned *trust.Anchors, now time.Time) (*Bundle, error) {
	return open(payload, pinned, &now)
}

// OpenStored is Open without the questions of time, for a payload that Open accepted
// before.
func OpenStored(payload []byte, pinned *trust.Anchors) (*Bundle, error) {
	return open(payload, pinned, nil)
}

// Pin gives the trust that a payload brings, for a caller who has only the pin of the
// first root that it trusts ("sha256:" and 64 hex digits, as `meshagent join` writes it
// into trustPin). The payload's chain may begin earlier: what comes before the pinned
// root is not looked at. The error has fault.CodeRootPin when the pinned root is not in
// the chain, also because the sender's has more than trust.MaxRoots roots since.
func Pin(payload []byte, domain, pin string, now time.Time) (*trust.Anchors, error) {
	m, err := decode(payload)
	if err != nil {
		return nil, err
	}
	roots := m.GetTrust().GetRoots()
	at := slices.IndexFunc(roots, func(root []byte) bool { return pinOf(root) == pin })
	if at < 0 {
		return nil, fault.New(fault.CodeRootPin, "none of the %d roots in the bundle is the pinned one (%s)", len(roots), pin)
	}
	return trust.Join(domain, &trustv1.Metadata{Roots: roots[at:], Keyset: m.GetTrust().GetKeyset(), CaBundle: m.GetTrust().GetCaBundle()}, now)
}

func pinOf(root []byte) string {
	sum := sha256.Sum256(root)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// decode parses a payload, within its bounds.
func decode(payload []byte) (*bundlev1.Bundle, error) {
	if len(payload) > MaxBytes {
		return nil, fault.New(fault.CodeBundleTooLarge, "the bundle has %d bytes, more than %d", len(payload), MaxBytes)
	}
	m := &bundlev1.Bundle{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, m); err != nil {
		return nil, fault.New(fault.CodeBundleInvalid, "parse bundle of %d bytes: %w", len(payload), err)
	}
	switch f := m.GetFormat(); {
	case f == 0:
		return nil, fault.New(fault.CodeBundleInvalid, "the %d bytes do not say which bundle format they have", len(payload))
	case f != Format:
		return nil, fault.New(fault.CodeBundleFormat, "the bundle has format %d, and this reader knows format %d", f, Format)
	}
	return m, nil
}

func open(payload []byte, pinned *trust.Anchors, now *time.Time) (*Bundle, error) {
	if pinned == nil {
		return nil, fault.New(fault.CodeNoKeyset, "no root is pinned, so no bundle can be judged")
	}
	m, err := decode(payload)
	if err != nil {
		return nil, err
	}
	anchors, err := advance(pinned, m.GetTrust(), now)
	if err != nil {
		return nil, err
	}
	manifest, signer, err := verify(anchors, m, now)
	if err != nil {
		return nil, err
	}
	content, err := subscriber.Apply(nil, manifest, &subscriber.Update{Snapshot: true, Upserts: m.GetResources()}, distribution.Limits{})
	if err != nil {
		return nil, err
	}
	if content.Len() != len(m.GetResources()) {
		return nil, fault.New(fault.CodeBundleInvalid, "the bundle holds %d resources under %d keys", len(m.GetResources()), content.Len())
	}
	return &Bundle{
		Domain: manifest.GetDomain(), View: manifest.GetView(), Epoch: manifest.GetEpoch(), Version: manifest.GetVersion(),
		Content: content, Required: manifest.GetRequiredCapabilities(), Signer: signer, Issued: manifest.GetIssuedAt().AsTime(), Trust: anchors,
	}, nil
}

// advance brings trust up to date with what a bundle carries. Metadata that is older
// than what is pinned is not used, and no error: the manifest is judged by the newer.
func advance(pinned *trust.Anchors, m *trustv1.Metadata, now *time.Time) (*trust.Anchors, error) {
	var at time.Time // nothing has expired at the zero time
	if now != nil {
		at = *now
	}
	next, err := pinned.Update(&trustv1.Metadata{Roots: since(pinned, m.GetRoots()), Keyset: m.GetKeyset(), CaBundle: m.GetCaBundle()}, at)
	if errors.Is(err, fault.CodeKeysetRollback) {
		return pinned, nil
	}
	return next, err
}

// since leaves out the roots before those that are pinned: the sender's chain may
// begin earlier.
func since(pinned *trust.Anchors, roots [][]byte) [][]byte {
	held := pinned.Metadata(0, 0).GetRoots()
	for i, r := range roots {
		if slices.ContainsFunc(held, func(h []byte) bool { return bytes.Equal(h, r) }) {
			return roots[i:]
		}
	}
	return roots
}

// verify gives the manifest, once who signed it is known.
func verify(a *trust.Anchors, m *bundlev1.Bundle, now *time.Time) (*trustv1.Manifest, trust.HubKey, error) {
	var manifest *trustv1.Manifest
	var signer trust.HubKey
	var err error
	if now != nil {
		manifest, signer, err = a.VerifyManifest(m.GetManifest(), *now)
	} else {
		manifest, signer, err = a.VerifyStored(m.GetManifest())
	}
	if m.GetVouch() == nil || !errors.Is(err, fault.CodeDroppedKey) && !errors.Is(err, fault.CodeUnknownKey) {
		return manifest, signer, err
	}
	return vouched(a, m, err, now)
}

// vouched judges a manifest whose key has left the keyset (refused says so) by the
// freshness statement of a newer key for the same content. That key's word is what
// counts, and nothing that the manifest says: the result has point, time and
// capabilities of the statement. Count and size are the manifest's; the content's digest,
// which is the statement's too, leaves no choice of them.
func vouched(a *trust.Anchors, m *bundlev1.Bundle, refused error, now *time.Time) (*trustv1.Manifest, trust.HubKey, error) {
	var stated trustv1.Manifest
	var claimed trustv1.Freshness
	if proto.Unmarshal(m.GetManifest().GetPayload(), &stated) != nil || proto.Unmarshal(m.GetVouch().GetPayload(), &claimed) != nil {
		return nil, trust.HubKey{}, refused
	}
	at := claimed.GetIssuedAt().AsTime() // no question of time
	if now != nil {
		at = *now
	}
	fresh, signer, err := a.VerifyFreshness(m.GetVouch(), at)
	if err != nil {
		return nil, signer, fmt.Errorf("verify what vouches for the manifest: %w", err)
	}
	same := fresh.GetView() == stated.GetView() && bytes.Equal(fresh.GetDigest(), stated.GetDigest()) && stated.GetDomain() == a.Domain()
	if order := cmp.Or(cmp.Compare(fresh.GetEpoch(), stated.GetEpoch()), cmp.Compare(fresh.GetVersion(), stated.GetVersion())); !same || order < 0 {
		return nil, signer, refused
	}
	return &trustv1.Manifest{
		Domain: fresh.GetDomain(), View: fresh.GetView(), Epoch: fresh.GetEpoch(), Version: fresh.GetVersion(), Digest: fresh.GetDigest(),
		Count: stated.GetCount(), TotalBytes: stated.GetTotalBytes(), RequiredCapabilities: fresh.GetRequiredCapabilities(),
		IssuedAt: fresh.GetIssuedAt(), KeysetVersion: fresh.GetKeysetVersion(),
	}, signer, nil
}
