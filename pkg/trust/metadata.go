package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
)

const (
	// MaxMetadataBytes limits one root or keyset.
	MaxMetadataBytes = 1 << 20
	// MaxBundleBytes limits the CA bundle.
	MaxBundleBytes = 256 << 10
	// MaxRoots limits the roots in one message.
	MaxRoots = 64

	maxStoredRoots = 4096
	maxKeys        = 64
	maxHubs        = 1024
	maxHubKeys     = 8
	maxRetired     = 256
	maxBundleCerts = 64
	// maxVersion keeps versions exact in JSON numbers.
	maxVersion = 1 << 31

	bundleTarget = "ca-bundle.pem"
	hubRole      = "hub/"

	// Fields of ours in TUF's signed part, which TUF keeps and signs like its own.
	domainField  = "x-meshkit-domain"
	retiredField = "x-meshkit-retired"
)

type (
	rootMetadata   = metadata.Metadata[metadata.RootType]
	keysetMetadata = metadata.Metadata[metadata.TargetsType]
)

// root is parsed root metadata that is sound in itself; who signed it is checked
// by follows and signedByItself.
type root struct {
	bytes   []byte
	meta    *rootMetadata
	domain  string
	version uint64
}

// parseRoot reads a root and checks everything that go-tuf takes for granted:
// it would dereference a null role or key, and an Ed25519 key of a wrong length
// makes the standard library panic.
func parseRoot(data []byte) (*root, error) {
	if len(data) > MaxMetadataBytes {
		return nil, fault.New(fault.CodeMetadataInvalid, "root metadata of %d bytes is larger than %d", len(data), MaxMetadataBytes)
	}
	meta, err := (&rootMetadata{}).FromBytes(data)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "parse root metadata: %w", err)
	}
	s := &meta.Signed
	domain, err := checkSigned(s.SpecVersion, s.Version, s.Expires, s.UnrecognizedFields)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "root metadata: %w", err)
	}
	if len(s.Keys) > maxKeys || len(meta.Signatures) > maxKeys {
		return nil, fault.New(fault.CodeMetadataInvalid, "root metadata has %d keys and %d signatures; at most %d of each", len(s.Keys), len(meta.Signatures), maxKeys)
	}
	for id, key := range s.Keys {
		if _, err := publicKey(id, key); err != nil {
			return nil, fault.New(fault.CodeMetadataInvalid, "root metadata: %w", err)
		}
	}
	for name, role := range s.Roles {
		if role == nil {
			return nil, fault.New(fault.CodeMetadataInvalid, "root metadata: role %q is null", name)
		}
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS} {
		role := s.Roles[name]
		if role == nil {
			return nil, fault.New(fault.CodeMetadataInvalid, "root metadata: role %q is missing", name)
		}
		known := func(id string) bool { return s.Keys[id] != nil }
		if err := checkRole(name, role.KeyIDs, role.Threshold, known); err != nil {
			return nil, fault.New(fault.CodeMetadataInvalid, "root metadata: %w", err)
		}
	}
	return &root{bytes: bytes.Clone(data), meta: meta, domain: domain, version: uint64(s.Version)}, nil
}

func checkSigned(spec string, version int64, expires time.Time, extra map[string]any) (domain string, err error) {
	if !strings.HasPrefix(spec, "1.") {
		return "", fmt.Errorf("TUF specification version %q is not 1.x", spec)
	}
	if version < 1 || version > maxVersion {
		return "", fmt.Errorf("version %d is not between 1 and %d", version, maxVersion)
	}
	if expires.IsZero() {
		return "", fmt.Errorf("no expiry")
	}
	domain, _ = extra[domainField].(string)
	if err := identity.ValidDomain(domain); err != nil {
		return "", fmt.Errorf("field %s: %w", domainField, err)
	}
	return domain, nil
}

func checkRole(name string, keyIDs []string, threshold int, known func(id string) bool) error {
	for i, id := range keyIDs {
		if !known(id) {
			return fmt.Errorf("role %q lists key %q, which is not among the keys", name, id)
		}
		if slices.Contains(keyIDs[:i], id) {
			return fmt.Errorf("role %q lists key %s twice", name, id)
		}
	}
	if threshold < 1 || threshold > len(keyIDs) {
		return fmt.Errorf("role %q needs %d signatures of %d keys", name, threshold, len(keyIDs))
	}
	return nil
}

// publicKey converts a TUF key whose id must be its own: an id that lies would
// let one key stand for another in what people read.
func publicKey(id string, key *metadata.Key) (sign.PublicKey, error) {
	if key == nil {
		return sign.PublicKey{}, fmt.Errorf("key %q is null", id)
	}
	if key.Type != metadata.KeyTypeEd25519 && key.Type != metadata.KeyTypeECDSA_SHA2_P256 {
		return sign.PublicKey{}, fmt.Errorf("key %q has type %q, which is not used here", id, key.Type)
	}
	if len(key.UnrecognizedFields) > 0 || len(key.Value.UnrecognizedFields) > 0 {
		return sign.PublicKey{}, fmt.Errorf("key %q has fields that are not known", id)
	}
	raw, err := key.ToPublicKey()
	if err != nil {
		return sign.PublicKey{}, fmt.Errorf("read key %q: %w", id, err)
	}
	pub, err := sign.NewPublicKey(raw)
	if err != nil {
		return sign.PublicKey{}, fmt.Errorf("read key %q: %w", id, err)
	}
	if pub.KeyID() != id {
		return sign.PublicKey{}, fmt.Errorf("key %q is listed under an id that is not its own", id)
	}
	if own, err := key.ID(); err != nil || own != id {
		return sign.PublicKey{}, fmt.Errorf("key %q is listed under an id that is not its own", id)
	}
	return pub, nil
}

// signedBy checks that next carries the signatures that r asks for in role.
func (r *root) signedBy(role string, next any) error { return r.meta.VerifyDelegate(role, next) }

// checkSelf checks the root's signatures by its own keys.
func (r *root) checkSelf() error {
	if err := r.signedBy(metadata.ROOT, r.meta); err != nil {
		return fault.New(fault.CodeRootUnsigned, "root version %d is not signed by its own keys: %w", r.version, err)
	}
	return nil
}

// follows checks that r may take the place of prev: TUF 5.3.4 to 5.3.6.
func (r *root) follows(prev *root) error {
	if r.domain != prev.domain {
		return fault.New(fault.CodeForeignDomain, "root version %d is made for domain %q, not %q", r.version, r.domain, prev.domain)
	}
	if r.version <= prev.version {
		return fault.New(fault.CodeRootRollback, "root version %d was offered, and version %d is held", r.version, prev.version)
	}
	if r.version != prev.version+1 {
		return fault.New(fault.CodeRootSkipped, "root version %d was offered, and version %d is held: what lies between is missing", r.version, prev.version)
	}
	if err := prev.signedBy(metadata.ROOT, r.meta); err != nil {
		return fault.New(fault.CodeRootUnsigned, "root version %d is not signed by the keys of version %d: %w", r.version, prev.version, err)
	}
	return r.checkSelf()
}

// sharesNoKeysetKey tells whether r and next name entirely different keyset keys.
func (r *root) sharesNoKeysetKey(next *root) bool {
	held := r.meta.Signed.Roles[metadata.TARGETS].KeyIDs
	return !slices.ContainsFunc(next.meta.Signed.Roles[metadata.TARGETS].KeyIDs, func(id string) bool { return slices.Contains(held, id) })
}

// keyset is parsed keyset metadata that is sound in itself; who signed it is
// checked by checkUnder.
type keyset struct {
	bytes   []byte
	meta    *keysetMetadata
	domain  string
	version uint64
	keys    map[string]hubKey // by key id
	retired []retiredKey      // oldest first
}

type hubKey struct {
	HubKey
	public sign.PublicKey
}

type retiredKey struct{ id, hub string }

func parseKeyset(data []byte) (*keyset, error) {
	if len(data) > MaxMetadataBytes {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset of %d bytes is larger than %d", len(data), MaxMetadataBytes)
	}
	meta, err := (&keysetMetadata{}).FromBytes(data)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "parse keyset: %w", err)
	}
	s := &meta.Signed
	domain, err := checkSigned(s.SpecVersion, s.Version, s.Expires, s.UnrecognizedFields)
	if err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset: %w", err)
	}
	k := &keyset{bytes: bytes.Clone(data), meta: meta, domain: domain, version: uint64(s.Version)}
	if len(meta.Signatures) > maxKeys {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset has %d signatures, more than %d", len(meta.Signatures), maxKeys)
	}
	if k.retired, err = readRetired(s.UnrecognizedFields[retiredField]); err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset: %w", err)
	}
	if k.keys, err = readHubs(s.Delegations); err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset: %w", err)
	}
	for _, r := range k.retired {
		if _, listed := k.keys[r.id]; listed {
			return nil, fault.New(fault.CodeMetadataInvalid, "keyset lists key %s both as dropped and as hub %q's", r.id, r.hub)
		}
	}
	if s.Targets[bundleTarget] == nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "keyset has no target %q", bundleTarget)
	}
	return k, nil
}

func readHubs(d *metadata.Delegations) (map[string]hubKey, error) {
	if d == nil || d.SuccinctRoles != nil {
		return nil, fmt.Errorf("no list of hubs")
	}
	if len(d.Roles) > maxHubs {
		return nil, fmt.Errorf("%d hubs are more than %d", len(d.Roles), maxHubs)
	}
	keys := make(map[string]hubKey, len(d.Keys))
	var seen []string
	for _, role := range d.Roles {
		hub, ok := strings.CutPrefix(role.Name, hubRole)
		if !ok || identity.ValidName(hub) != nil {
			return nil, fmt.Errorf("role %q is not named hub/<name>", role.Name)
		}
		if slices.Contains(seen, hub) {
			return nil, fmt.Errorf("hub %q is listed twice", hub)
		}
		seen = append(seen, hub)
		if len(role.KeyIDs) > maxHubKeys {
			return nil, fmt.Errorf("hub %q has %d keys, more than %d", hub, len(role.KeyIDs), maxHubKeys)
		}
		if role.Threshold != 1 {
			return nil, fmt.Errorf("hub %q has threshold %d, not 1", hub, role.Threshold)
		}
		known := func(id string) bool { return d.Keys[id] != nil }
		if err := checkRole(role.Name, role.KeyIDs, role.Threshold, known); err != nil {
			return nil, err
		}
		for _, id := range role.KeyIDs {
			if other, taken := keys[id]; taken {
				return nil, fmt.Errorf("key %s belongs to both hub %q and hub %q", id, other.Hub, hub)
			}
			pub, err := publicKey(id, d.Keys[id])
			if err != nil {
				return nil, err
			}
			keys[id] = hubKey{HubKey{Hub: hub, KeyID: id, Algorithm: pub.Algorithm()}, pub}
		}
	}
	if len(keys) != len(d.Keys) {
		return nil, fmt.Errorf("%d keys belong to no hub", len(d.Keys)-len(keys))
	}
	return keys, nil
}

func readRetired(field any) ([]retiredKey, error) {
	if field == nil {
		return nil, nil
	}
	list, ok := field.([]any)
	if !ok || len(list) > maxRetired {
		return nil, fmt.Errorf("field %s is not a list of at most %d", retiredField, maxRetired)
	}
	out := make([]retiredKey, 0, len(list))
	for _, item := range list {
		m, _ := item.(map[string]any)
		id, _ := m["keyid"].(string)
		hub, _ := m["hub"].(string)
		if len(id) != 64 || identity.ValidName(hub) != nil {
			return nil, fmt.Errorf("field %s holds something else than {keyid, hub}", retiredField)
		}
		out = append(out, retiredKey{id, hub})
	}
	return out, nil
}

// checkUnder checks the keyset's domain and its signatures by the keys that r
// names for it.
func (k *keyset) checkUnder(r *root) error {
	if k.domain != r.domain {
		return fault.New(fault.CodeForeignDomain, "keyset version %d is made for domain %q, not %q", k.version, k.domain, r.domain)
	}
	if err := r.signedBy(metadata.TARGETS, k.meta); err != nil {
		return fault.New(fault.CodeKeysetUnsigned, "keyset version %d is not signed by the keys that root version %d names for it: %w", k.version, r.version, err)
	}
	return nil
}

// checkBundle holds a CA bundle against the keyset's target.
func (k *keyset) checkBundle(bundle []byte) error {
	if err := k.meta.Signed.Targets[bundleTarget].VerifyLengthHashes(bundle); err != nil {
		return fault.New(fault.CodeCABundleMismatch, "CA bundle of %d bytes is not the one of keyset version %d: %w", len(bundle), k.version, err)
	}
	return checkBundle(bundle)
}

// checkBundle checks that a bundle is nothing but CA certificates.
func checkBundle(bundle []byte) error {
	if len(bundle) > MaxBundleBytes {
		return fault.New(fault.CodeMetadataInvalid, "CA bundle of %d bytes is larger than %d", len(bundle), MaxBundleBytes)
	}
	n, rest := 0, bundle
	for len(bytes.TrimSpace(rest)) > 0 {
		block, next := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return fault.New(fault.CodeMetadataInvalid, "CA bundle holds something that is not a PEM certificate")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fault.New(fault.CodeMetadataInvalid, "parse certificate %d of the CA bundle: %w", n+1, err)
		}
		if !cert.IsCA {
			return fault.New(fault.CodeMetadataInvalid, "certificate %d of the CA bundle is not a CA's", n+1)
		}
		n, rest = n+1, next
	}
	if n == 0 || n > maxBundleCerts {
		return fault.New(fault.CodeMetadataInvalid, "CA bundle holds %d certificates, not 1 to %d", n, maxBundleCerts)
	}
	return nil
}
