package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
)

// HubKey is one key that a hub signs configuration with.
type HubKey struct {
	Hub       string
	KeyID     string
	Algorithm sign.Algorithm
}

// RootInfo describes the newest root.
type RootInfo struct {
	Version   uint64
	Expires   time.Time
	Threshold int
	// KeyIDs are the root keys, sorted.
	KeyIDs []string
	// KeysetKeyIDs are the keys that sign keysets, sorted.
	KeysetKeyIDs    []string
	KeysetThreshold int
}

// Anchors is the verified trust metadata of one domain. It is immutable and
// safe for concurrent use; methods that read it accept nil, which trusts no one.
type Anchors struct {
	domain string
	roots  []*root // never empty; each follows the one before; the first is pinned
	keyset *keyset // nil until there was one
	bundle []byte  // what the keyset's target describes
	// verifier holds the keyset's keys; nil without a keyset or when it lists none.
	verifier *dsse.EnvelopeVerifier
}

// Pin trusts a first root because the caller does. It must be made for domain,
// signed by its own keys, and not expired at now. Without a keyset the result
// verifies nothing yet.
func Pin(domain string, first []byte, now time.Time) (*Anchors, error) {
	a, err := pin(domain, first)
	if err != nil {
		return nil, err
	}
	if err := a.checkExpiry(now); err != nil {
		return nil, err
	}
	return a, nil
}

// Join pins the first root of m and applies the rest, as a node does that has
// nothing yet and reached the hub through the CA pin. The first root may have
// expired; the last one and the keyset must not have.
func Join(domain string, m *trustv1.Metadata, now time.Time) (*Anchors, error) {
	if len(m.GetRoots()) > MaxRoots {
		return nil, fault.New(fault.CodeMetadataInvalid, "%d roots in one message are more than %d", len(m.GetRoots()), MaxRoots)
	}
	a, err := FromMetadata(domain, m)
	if err != nil {
		return nil, err
	}
	if a.keyset == nil {
		return nil, fault.New(fault.CodeNoKeyset, "trust metadata for domain %q holds no keyset", domain)
	}
	if err := a.checkExpiry(now); err != nil {
		return nil, err
	}
	return a, nil
}

// FromMetadata rebuilds anchors from a whole chain that the caller keeps in a
// place that it can rely on, such as a hub's verified log. The first root is
// trusted as given; everything after it is verified against it, except expiry.
func FromMetadata(domain string, m *trustv1.Metadata) (*Anchors, error) {
	if len(m.GetRoots()) == 0 {
		return nil, fault.New(fault.CodeMetadataInvalid, "trust metadata for domain %q holds no root", domain)
	}
	a, err := pin(domain, m.Roots[0])
	if err != nil {
		return nil, err
	}
	return a.advance(m.Roots[1:], m.Keyset, m.CaBundle)
}

func pin(domain string, first []byte) (*Anchors, error) {
	r, err := parseRoot(first)
	if err != nil {
		return nil, err
	}
	if r.domain != domain {
		return nil, fault.New(fault.CodeForeignDomain, "root version %d is made for domain %q, not %q", r.version, r.domain, domain)
	}
	if err := r.checkSelf(); err != nil {
		return nil, err
	}
	return &Anchors{domain: domain, roots: []*root{r}}, nil
}

// Update applies newer metadata by the rules of a TUF client: each new root is
// signed by the threshold of the one before it and by its own, versions step by
// one, the final root and the keyset are not expired at now, the keyset's
// version grows. When a root replaces all keyset keys at once, keyset versions
// start anew: who had a keyset key may have signed the highest version that there
// is, and nothing that the old keys signed counts under the new root. What is held
// already may be repeated. It returns a itself when
// m brings nothing new, and an error, with a still good, when anything in m is
// refused. A root that takes the keyset keys away must come together with a
// keyset that the new ones signed.
func (a *Anchors) Update(m *trustv1.Metadata, now time.Time) (*Anchors, error) {
	if len(m.GetRoots()) > MaxRoots {
		return nil, fault.New(fault.CodeMetadataInvalid, "%d roots in one message are more than %d", len(m.GetRoots()), MaxRoots)
	}
	next, err := a.advance(m.GetRoots(), m.GetKeyset(), m.GetCaBundle())
	if err != nil || next == a {
		return next, err
	}
	if err := next.checkExpiry(now); err != nil {
		return nil, err
	}
	return next, nil
}

// advance does all of Update but expiry.
func (a *Anchors) advance(roots [][]byte, keysetBytes, bundle []byte) (*Anchors, error) {
	next := &Anchors{domain: a.domain, roots: slices.Clip(a.roots), keyset: a.keyset, bundle: a.bundle, verifier: a.verifier}
	for _, data := range roots {
		if err := next.addRoot(data); err != nil {
			return nil, err
		}
	}
	replaced, err := next.replaceKeyset(keysetBytes, bundle, a.root().sharesNoKeysetKey(next.root()))
	if err != nil {
		return nil, err
	}
	grown := len(next.roots) > len(a.roots)
	if !grown && !replaced {
		return a, nil
	}
	if grown && !replaced && next.keyset != nil {
		if err := next.keyset.checkUnder(next.root()); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// addRoot appends one root; only advance calls it, before a is shared.
func (a *Anchors) addRoot(data []byte) error {
	r, err := parseRoot(data)
	if err != nil {
		return err
	}
	for _, held := range a.roots {
		if held.version == r.version && bytes.Equal(held.bytes, data) {
			return nil
		}
	}
	if err := r.follows(a.root()); err != nil {
		return err
	}
	if len(a.roots) >= maxStoredRoots {
		return fault.New(fault.CodeMetadataInvalid, "a chain of more than %d roots", maxStoredRoots)
	}
	a.roots = append(a.roots, r)
	return nil
}

// replaceKeyset installs a keyset and bundle if they are new; only advance
// calls it, before a is shared. anew: versions count from the start again.
func (a *Anchors) replaceKeyset(data, bundle []byte, anew bool) (replaced bool, err error) {
	if len(data) == 0 || a.keyset != nil && bytes.Equal(data, a.keyset.bytes) {
		if len(bundle) > 0 && !bytes.Equal(bundle, a.bundle) {
			return false, fault.New(fault.CodeCABundleMismatch, "a CA bundle of %d bytes was offered without the keyset that describes it", len(bundle))
		}
		return false, nil
	}
	k, err := parseKeyset(data)
	if err != nil {
		return false, err
	}
	if k.domain != a.domain {
		return false, fault.New(fault.CodeForeignDomain, "keyset version %d is made for domain %q, not %q", k.version, k.domain, a.domain)
	}
	if a.keyset != nil && k.version < a.keyset.version && !anew {
		return false, fault.New(fault.CodeKeysetRollback, "keyset version %d was offered, and version %d is held", k.version, a.keyset.version)
	}
	if err := k.checkUnder(a.root()); err != nil {
		return false, err
	}
	if a.keyset != nil && k.version == a.keyset.version && !anew {
		return false, fault.New(fault.CodeKeysetRollback, "keyset version %d was offered with other content than the one held", k.version)
	}
	if len(bundle) == 0 {
		bundle = a.bundle
	}
	if err := k.checkBundle(bundle); err != nil {
		return false, err
	}
	a.keyset, a.bundle, a.verifier = k, bytes.Clone(bundle), nil
	if len(k.keys) > 0 {
		if a.verifier, err = newVerifier(1, k.keys); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (a *Anchors) root() *root { return a.roots[len(a.roots)-1] }

func (a *Anchors) checkExpiry(now time.Time) error {
	r := a.root()
	if r.meta.Signed.IsExpired(now) {
		return fault.New(fault.CodeRootExpired, "root version %d of domain %q expired at %s, and it is %s here", r.version, a.domain, stamp(r.meta.Signed.Expires), stamp(now))
	}
	if a.keyset != nil && a.keyset.meta.Signed.IsExpired(now) {
		return fault.New(fault.CodeKeysetExpired, "keyset version %d of domain %q expired at %s, and it is %s here", a.keyset.version, a.domain, stamp(a.keyset.meta.Signed.Expires), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Expired tells whether the root or the keyset is past its expiry at now, for
// health checks: nil, or an error with fault.CodeRootExpired or
// fault.CodeKeysetExpired.
func (a *Anchors) Expired(now time.Time) error {
	if a == nil {
		return fault.New(fault.CodeNoKeyset, "no trust metadata")
	}
	return a.checkExpiry(now)
}

// Metadata gives what someone lacks who holds root version sinceRoot and keyset
// version sinceKeyset; 0, 0 gives everything. It is nil when nothing is newer.
// At most MaxRoots roots are given: the newest to someone who has none and will
// pin the first of them, else the oldest that are missing, without the keyset
// that they do not reach.
func (a *Anchors) Metadata(sinceRoot, sinceKeyset uint64) *trustv1.Metadata {
	if a == nil {
		return nil
	}
	m := &trustv1.Metadata{}
	for _, r := range a.roots {
		if r.version > sinceRoot {
			m.Roots = append(m.Roots, r.bytes)
		}
	}
	complete := true
	if len(m.Roots) > MaxRoots {
		if sinceRoot == 0 {
			m.Roots = m.Roots[len(m.Roots)-MaxRoots:]
		} else {
			m.Roots, complete = m.Roots[:MaxRoots], false
		}
	}
	if complete && a.keyset != nil && (a.keyset.version > sinceKeyset || a.renewsKeyset(sinceRoot)) {
		m.Keyset, m.CaBundle = a.keyset.bytes, a.bundle
	}
	if len(m.Roots) == 0 && len(m.Keyset) == 0 {
		return nil
	}
	return m
}

// renewsKeyset tells whether the newest root names other keyset keys than the one
// of this version, so that who holds that one needs the keyset again, whatever
// version of it they have.
func (a *Anchors) renewsKeyset(sinceRoot uint64) bool {
	for _, r := range a.roots {
		if r.version == sinceRoot {
			return r.sharesNoKeysetKey(a.root())
		}
	}
	return false
}

// fileMagic opens a file of anchors. The file is this line, the SHA-256 of what
// follows it, and a trustv1.Metadata message with the whole chain. The hash
// catches truncation and rot; forgery is caught by the signatures and the pin.
const fileMagic = "meshkit-trust-1\n"

// Marshal writes the anchors for Load.
func (a *Anchors) Marshal() ([]byte, error) {
	m := &trustv1.Metadata{}
	for _, r := range a.roots {
		m.Roots = append(m.Roots, r.bytes)
	}
	if a.keyset != nil {
		m.Keyset, m.CaBundle = a.keyset.bytes, a.bundle
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "marshal trust metadata: %w", err)
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(fileMagic), sum[:], body), nil
}

// Load reads what Marshal wrote and verifies all of it again, from the first
// root, whose Pin must be pin. It does not judge expiry. The error has
// fault.CodeMetadataInvalid for damaged bytes, and fault.CodeRootPin for a
// chain that starts elsewhere.
func Load(domain, pin string, data []byte) (*Anchors, error) {
	rest, ok := bytes.CutPrefix(data, []byte(fileMagic))
	if !ok || len(rest) < sha256.Size {
		return nil, fault.New(fault.CodeMetadataInvalid, "stored trust metadata is truncated or not trust metadata (%d bytes)", len(data))
	}
	want, body := rest[:sha256.Size], rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], want) {
		return nil, fault.New(fault.CodeMetadataInvalid, "stored trust metadata is damaged: its hash does not match (%d bytes)", len(data))
	}
	m := &trustv1.Metadata{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fault.New(fault.CodeMetadataInvalid, "parse stored trust metadata: %w", err)
	}
	if len(m.Roots) == 0 || pinOf(m.Roots[0]) != pin {
		return nil, fault.New(fault.CodeRootPin, "the first root in the stored trust metadata of domain %q is not the pinned one (%q)", domain, pin)
	}
	return FromMetadata(domain, m)
}

func pinOf(root []byte) string {
	sum := sha256.Sum256(root)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Pin names the first root: "sha256:" and the hex hash of its bytes. Keep it
// where the Marshal bytes are not.
func (a *Anchors) Pin() string { return pinOf(a.roots[0].bytes) }

// Domain is the domain that everything here is made for.
func (a *Anchors) Domain() string { return a.domain }

// Root describes the newest root.
func (a *Anchors) Root() RootInfo {
	s := a.root().meta.Signed
	roots, keysets := s.Roles[metadata.ROOT], s.Roles[metadata.TARGETS]
	return RootInfo{
		Version: a.root().version, Expires: s.Expires,
		Threshold: roots.Threshold, KeyIDs: slices.Sorted(slices.Values(roots.KeyIDs)),
		KeysetThreshold: keysets.Threshold, KeysetKeyIDs: slices.Sorted(slices.Values(keysets.KeyIDs)),
	}
}

// RootVersion is the version of the newest root; 0 for nil.
func (a *Anchors) RootVersion() uint64 {
	if a == nil {
		return 0
	}
	return a.root().version
}

// KeysetVersion is the version of the keyset; 0 if there is none.
func (a *Anchors) KeysetVersion() uint64 {
	if a == nil || a.keyset == nil {
		return 0
	}
	return a.keyset.version
}

// KeysetExpires is when the keyset expires; the zero time if there is none.
func (a *Anchors) KeysetExpires() time.Time {
	if a == nil || a.keyset == nil {
		return time.Time{}
	}
	return a.keyset.meta.Signed.Expires
}

// KeysetBytes is the keyset as signed, nil if there is none; do not modify it.
func (a *Anchors) KeysetBytes() []byte {
	if a == nil || a.keyset == nil {
		return nil
	}
	return a.keyset.bytes
}

// Hubs lists the keys that may sign configuration, by hub and key id.
func (a *Anchors) Hubs() []HubKey {
	if a == nil || a.keyset == nil {
		return nil
	}
	out := make([]HubKey, 0, len(a.keyset.keys))
	for _, k := range a.keyset.keys {
		out = append(out, k.HubKey)
	}
	slices.SortFunc(out, func(x, y HubKey) int {
		return cmp.Or(cmp.Compare(x.Hub, y.Hub), cmp.Compare(x.KeyID, y.KeyID))
	})
	return out
}

// VerifyHub checks that a listed key of a hub signed message, of whatever kind. The error
// has fault.CodeBadSignature.
func (a *Anchors) VerifyHub(hub string, message, sig []byte) error {
	if a != nil && a.keyset != nil {
		for _, k := range a.keyset.keys {
			if k.Hub == hub && k.public.Verify(message, sig) == nil {
				return nil
			}
		}
	}
	return fault.New(fault.CodeBadSignature, "signature does not match a key that the keyset lists for hub %q", hub)
}

// CABundle is the CA bundle (PEM) that the keyset fixes; do not modify it.
func (a *Anchors) CABundle() []byte {
	if a == nil {
		return nil
	}
	return a.bundle
}
