package trust

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
)

// RootChange says how the next root differs from the one before. What is left
// zero stays as it is, except Expires, which is required.
type RootChange struct {
	AddRootKeys    []sign.PublicKey
	RemoveRootKeys []string // key ids
	RootThreshold  int

	AddKeysetKeys    []sign.PublicKey
	RemoveKeysetKeys []string // key ids
	KeysetThreshold  int

	Expires time.Time
}

// KeysetEdit says how the next keyset differs from the one before. What is left
// zero stays as it is.
type KeysetEdit struct {
	// Add lists keys by hub; a hub that is not there yet is added.
	Add map[string][]sign.PublicKey
	// DropKeys are key ids. A hub whose last key goes is dropped.
	DropKeys []string
	// DropHubs drops all keys of these hubs.
	DropHubs []string
	CABundle []byte
	Expires  time.Time
}

// NewRoot makes the first root of a domain, signed by all rootKeys, of which
// threshold suffice later. keysetKeys sign keysets, one at a time; only their
// public halves are used. expires is cut to seconds.
func NewRoot(domain string, rootKeys []*sign.Signer, threshold int, keysetKeys []*sign.Signer, expires time.Time) ([]byte, error) {
	if err := identity.ValidDomain(domain); err != nil {
		return nil, err
	}
	meta := metadata.Root(expires.UTC().Truncate(time.Second))
	s := &meta.Signed
	s.UnrecognizedFields = map[string]any{domainField: domain}
	for _, k := range rootKeys {
		if err := addRootKey(s, k.Public(), metadata.ROOT); err != nil {
			return nil, err
		}
	}
	for _, k := range keysetKeys {
		if err := addRootKey(s, k.Public(), metadata.TARGETS); err != nil {
			return nil, err
		}
	}
	s.Roles[metadata.ROOT].Threshold = threshold
	data, err := signMetadata(meta, rootKeys)
	if err != nil {
		return nil, err
	}
	if _, err := pin(domain, data); err != nil {
		return nil, err
	}
	return data, nil
}

// RotateRoot makes the root version after prev. The signers must hold enough
// root keys of both: the error is fault.CodeRootUnsigned otherwise. When the key
// holders do not come together in one place, use ProposeRoot and CosignRoot.
func RotateRoot(prev []byte, change RootChange, signers ...*sign.Signer) ([]byte, error) {
	next, err := ProposeRoot(prev, change, signers...)
	if err != nil {
		return nil, err
	}
	if err := CheckRoot(prev, next); err != nil {
		return nil, err
	}
	return next, nil
}

// ProposeRoot makes the root version after prev with the signatures of these
// signers, which need not suffice yet.
func ProposeRoot(prev []byte, change RootChange, signers ...*sign.Signer) ([]byte, error) {
	r, err := parseRoot(prev)
	if err != nil {
		return nil, err
	}
	if change.Expires.IsZero() {
		return nil, fault.New(fault.CodeMetadataInvalid, "a new root needs an expiry")
	}
	s := &r.meta.Signed
	s.Version++
	s.Expires = change.Expires.UTC().Truncate(time.Second)
	if err := changeRole(s, metadata.ROOT, change.AddRootKeys, change.RemoveRootKeys, change.RootThreshold); err != nil {
		return nil, err
	}
	if err := changeRole(s, metadata.TARGETS, change.AddKeysetKeys, change.RemoveKeysetKeys, change.KeysetThreshold); err != nil {
		return nil, err
	}
	r.meta.ClearSignatures()
	return signMetadata(r.meta, signers)
}

// CosignRoot adds signatures to a proposed root; a signer who has signed before
// is left as is.
func CosignRoot(next []byte, signers ...*sign.Signer) ([]byte, error) {
	r, err := parseRoot(next)
	if err != nil {
		return nil, err
	}
	return signMetadata(r.meta, signers)
}

// CheckRoot tells whether next may follow prev: enough signatures of both, and
// the next version.
func CheckRoot(prev, next []byte) error {
	p, err := parseRoot(prev)
	if err != nil {
		return err
	}
	n, err := parseRoot(next)
	if err != nil {
		return err
	}
	return n.follows(p)
}

func changeRole(s *metadata.RootType, role string, add []sign.PublicKey, remove []string, threshold int) error {
	for _, id := range remove {
		if err := s.RevokeKey(id, role); err != nil {
			return fault.New(fault.CodeMetadataInvalid, "remove key %s from role %q: %w", id, role, err)
		}
	}
	for _, k := range add {
		if err := addRootKey(s, k, role); err != nil {
			return err
		}
	}
	if threshold != 0 {
		s.Roles[role].Threshold = threshold
	}
	return nil
}

func addRootKey(s *metadata.RootType, k sign.PublicKey, role string) error {
	key, err := metadata.KeyFromPublicKey(k.Crypto())
	if err != nil {
		return fault.New(fault.CodeKeyInvalid, "add key to role %q: %w", role, err)
	}
	if err := s.AddKey(key, role); err != nil {
		return fault.New(fault.CodeMetadataInvalid, "add key to role %q: %w", role, err)
	}
	return nil
}

// NewKeyset makes a keyset under a root: which hub signs with which keys, and
// the CA bundle. The signers must hold the root's keyset keys. version is 1 for
// a new domain; use EditKeyset afterwards, which remembers dropped keys.
func NewKeyset(rootBytes []byte, version int, hubs map[string][]sign.PublicKey, caBundle []byte, expires time.Time, signers ...*sign.Signer) ([]byte, error) {
	r, err := parseRoot(rootBytes)
	if err != nil {
		return nil, err
	}
	meta := metadata.Targets(expires.UTC().Truncate(time.Second))
	meta.Signed.Version = int64(version)
	meta.Signed.UnrecognizedFields = map[string]any{domainField: r.domain}
	meta.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	if err := applyEdit(&meta.Signed, nil, KeysetEdit{Add: hubs, CABundle: caBundle}); err != nil {
		return nil, err
	}
	data, err := signMetadata(meta, signers)
	if err != nil {
		return nil, err
	}
	k, err := parseKeyset(data)
	if err != nil {
		return nil, err
	}
	if err := k.checkUnder(r); err != nil {
		return nil, err
	}
	return data, nil
}

// EditKeyset makes the keyset version after prev. It does not know the root:
// apply the result with Anchors.Update before publishing it, together with the
// CA bundle if that changed. A dropped key can never be added again.
func EditKeyset(prev []byte, edit KeysetEdit, signers ...*sign.Signer) ([]byte, error) {
	k, err := edited(prev, edit)
	if err != nil {
		return nil, err
	}
	k.meta.ClearSignatures()
	data, err := signMetadata(k.meta, signers)
	if err != nil {
		return nil, err
	}
	if _, err := parseKeyset(data); err != nil {
		return nil, err
	}
	return data, nil
}

// CheckEdit tells whether next says what EditKeyset makes of prev, and nothing else.
// An edit without an expiry is one that does not shorten prev's. Who signed next is for
// Anchors.Update to check.
func CheckEdit(prev, next []byte, edit KeysetEdit) error {
	n, err := parseKeyset(next)
	if err != nil {
		return err
	}
	if edit.Expires.IsZero() {
		edit.Expires = n.meta.Signed.Expires
		p, err := parseKeyset(prev)
		if err != nil {
			return err
		}
		if edit.Expires.Before(p.meta.Signed.Expires) {
			return fault.New(fault.CodeMetadataInvalid, "keyset version %d expires at %s, before the one that it follows", n.version, stamp(edit.Expires))
		}
	}
	want, err := edited(prev, edit)
	if err != nil {
		return err
	}
	wanted, err := cjson.EncodeCanonical(want.meta.Signed)
	if err != nil {
		return fault.New(fault.CodeMetadataInvalid, "encode keyset: %w", err)
	}
	got, err := cjson.EncodeCanonical(n.meta.Signed)
	if err != nil {
		return fault.New(fault.CodeMetadataInvalid, "encode keyset: %w", err)
	}
	if !bytes.Equal(got, wanted) {
		return fault.New(fault.CodeMetadataInvalid, "keyset version %d changes other things than it is to", n.version)
	}
	return nil
}

// edited is the keyset after prev, with prev's signatures.
func edited(prev []byte, edit KeysetEdit) (*keyset, error) {
	k, err := parseKeyset(prev)
	if err != nil {
		return nil, err
	}
	s := &k.meta.Signed
	s.Version++
	if !edit.Expires.IsZero() {
		s.Expires = edit.Expires.UTC().Truncate(time.Second)
	}
	if err := applyEdit(s, k.retired, edit); err != nil {
		return nil, err
	}
	return k, nil
}

func applyEdit(s *metadata.TargetsType, retired []retiredKey, edit KeysetEdit) error {
	if edit.CABundle != nil {
		if err := checkBundle(edit.CABundle); err != nil {
			return err
		}
		target, err := metadata.TargetFile().FromBytes(bundleTarget, edit.CABundle, "sha256")
		if err != nil {
			return fault.New(fault.CodeMetadataInvalid, "describe CA bundle: %w", err)
		}
		s.Targets = map[string]*metadata.TargetFiles{bundleTarget: target}
	}
	retired, err := dropKeys(s.Delegations, retired, edit)
	if err != nil {
		return err
	}
	for _, hub := range slices.Sorted(maps.Keys(edit.Add)) {
		if err := addHubKeys(s.Delegations, retired, hub, edit.Add[hub]); err != nil {
			return err
		}
	}
	slices.SortFunc(s.Delegations.Roles, func(a, b metadata.DelegatedRole) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	if len(retired) > maxRetired {
		retired = retired[len(retired)-maxRetired:]
	}
	if len(retired) > 0 {
		list := make([]any, len(retired))
		for i, r := range retired {
			list[i] = map[string]any{"keyid": r.id, "hub": r.hub}
		}
		s.UnrecognizedFields[retiredField] = list
	}
	return nil
}

// dropKeys takes keys out and returns retired with them appended.
func dropKeys(d *metadata.Delegations, retired []retiredKey, edit KeysetEdit) ([]retiredKey, error) {
	found := map[string]bool{}
	roles := d.Roles[:0:0]
	for _, role := range d.Roles {
		hub := role.Name[len(hubRole):]
		whole := slices.Contains(edit.DropHubs, hub)
		found[hub] = found[hub] || whole
		var keep []string
		for _, id := range role.KeyIDs {
			named := slices.Contains(edit.DropKeys, id)
			found[id] = found[id] || named
			if !whole && !named {
				keep = append(keep, id)
				continue
			}
			retired = append(retired, retiredKey{id, hub})
			delete(d.Keys, id)
		}
		if len(keep) > 0 {
			role.KeyIDs = keep
			roles = append(roles, role)
		}
	}
	d.Roles = roles
	for _, name := range slices.Concat(edit.DropHubs, edit.DropKeys) {
		if !found[name] {
			return nil, fault.New(fault.CodeMetadataInvalid, "%q is not in the keyset, so it cannot be dropped", name)
		}
	}
	return retired, nil
}

func addHubKeys(d *metadata.Delegations, retired []retiredKey, hub string, keys []sign.PublicKey) error {
	if err := identity.ValidName(hub); err != nil {
		return err
	}
	if len(keys) == 0 {
		return fault.New(fault.CodeMetadataInvalid, "no key for hub %q", hub)
	}
	name := hubRole + hub
	i := slices.IndexFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == name })
	if i < 0 {
		d.Roles = append(d.Roles, metadata.DelegatedRole{Name: name, Threshold: 1, Terminating: true, Paths: []string{name + "/*"}})
		i = len(d.Roles) - 1
	}
	for _, k := range keys {
		if slices.ContainsFunc(retired, func(r retiredKey) bool { return r.id == k.KeyID() }) {
			return fault.New(fault.CodeDroppedKey, "key %s was dropped from the keyset and cannot come back as hub %q's", k.KeyID(), hub)
		}
		if d.Keys[k.KeyID()] != nil {
			return fault.New(fault.CodeKeyExists, "key %s is in the keyset already", k.KeyID())
		}
		key, err := metadata.KeyFromPublicKey(k.Crypto())
		if err != nil {
			return fault.New(fault.CodeKeyInvalid, "add key of hub %q: %w", hub, err)
		}
		d.Keys[k.KeyID()] = key
		d.Roles[i].KeyIDs = append(d.Roles[i].KeyIDs, k.KeyID())
	}
	return nil
}

// signMetadata adds signatures over the canonical JSON of the signed part.
func signMetadata[T metadata.RootType | metadata.TargetsType](meta *metadata.Metadata[T], signers []*sign.Signer) ([]byte, error) {
	payload, err := cjson.EncodeCanonical(meta.Signed)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "encode metadata: %w", err)
	}
	for _, s := range signers {
		if slices.ContainsFunc(meta.Signatures, func(sig metadata.Signature) bool { return sig.KeyID == s.KeyID() }) {
			continue
		}
		sig, err := s.Sign(context.Background(), payload)
		if err != nil {
			return nil, err
		}
		meta.Signatures = append(meta.Signatures, metadata.Signature{KeyID: s.KeyID(), Signature: sig})
	}
	data, err := meta.ToBytes(false)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "encode metadata: %w", err)
	}
	return data, nil
}
