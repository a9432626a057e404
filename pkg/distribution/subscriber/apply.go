package subscriber

import (
	"encoding/json"
	"strings"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Apply gives the content that u leads to from base, and proves that it is what m
// states. m is the verified manifest of u; base is what the node holds, ignored for
// a snapshot. Zero fields of lim mean the defaults.
//
// It returns nothing unless all holds: base is the one that the delta was made for
// (CodeDeltaBase), each resource is within its limit (CodeContentTooLarge) and is the
// one that its key names (CodeKeyMismatch), the bundle is within its limits
// (CodeBundleTooLarge), count and bytes are the manifest's (CodeCountMismatch), and
// so is the digest (CodeDigestMismatch). After a failure of a delta the node asks for
// a snapshot: Nack with resync. base is never modified.
func Apply(base *digest.Trie, m *trustv1.Manifest, u *Update, lim distribution.Limits) (*digest.Trie, error) {
	lim = lim.WithDefaults()
	if m.GetCount() > uint64(lim.Resources) || m.GetTotalBytes() > uint64(lim.BundleBytes) {
		return nil, fault.New(fault.CodeBundleTooLarge, "view %s at %d.%d has %d resources of %d bytes; at most %d of %d are taken",
			m.GetView(), m.GetEpoch(), m.GetVersion(), m.GetCount(), m.GetTotalBytes(), lim.Resources, lim.BundleBytes)
	}
	next := base
	switch {
	case u.Snapshot:
		next = nil
	case base.Root() != u.Base:
		return nil, fault.New(fault.CodeDeltaBase, "delta applies to %s, the node holds %s", short(u.Base), short(base.Root()))
	}
	for _, key := range u.Removals {
		next = next.Delete(key)
	}
	for _, r := range u.Upserts {
		if len(r.GetContent()) > lim.ResourceBytes {
			return nil, fault.New(fault.CodeContentTooLarge, "%s has %d bytes, more than %d", quoteKey(r.GetKey()), len(r.GetContent()), lim.ResourceBytes)
		}
		if err := checkKey(r.GetKey(), r.GetContent()); err != nil {
			return nil, err
		}
		next = next.Set(r.GetKey(), r.GetContent())
	}
	if next.Len() > lim.Resources || next.Bytes() > lim.BundleBytes {
		return nil, fault.New(fault.CodeBundleTooLarge, "the update leads to %d resources of %d bytes; at most %d of %d are taken", next.Len(), next.Bytes(), lim.Resources, lim.BundleBytes)
	}
	want, err := digest.HashOf(m.GetDigest())
	if err != nil {
		return nil, fault.New(fault.CodeMalformed, "manifest of view %s: %w", m.GetView(), err)
	}
	if uint64(next.Len()) != m.GetCount() || uint64(next.Bytes()) != m.GetTotalBytes() {
		return nil, fault.New(fault.CodeCountMismatch, "the update leads to %d resources of %d bytes, the manifest states %d of %d", next.Len(), next.Bytes(), m.GetCount(), m.GetTotalBytes())
	}
	if got := next.Root(); got != want {
		return nil, fault.New(fault.CodeDigestMismatch, "the update leads to %s, the manifest states %s", short(got), short(want))
	}
	return next, nil
}

// checkKey holds a key against the content's own kind, namespace and name.
func checkKey(key string, content []byte) error {
	var r struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return fault.New(fault.CodeMalformed, "%s: content: %w", quoteKey(key), err)
	}
	kind, rest, ok := strings.Cut(key, "/")
	namespace, name, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || kind == "" || name == "" || r.Kind != kind || r.Metadata.Name != name || r.Metadata.Namespace != namespace {
		return fault.New(fault.CodeKeyMismatch, "%s holds %s", quoteKey(key), quoteKey(r.Kind+"/"+r.Metadata.Namespace+"/"+r.Metadata.Name))
	}
	return nil
}
