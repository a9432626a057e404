package omnirelay

import (
	"strconv"

	"google.golang.org/protobuf/proto"

	bundlev1 "github.com/meshkit/meshkit/pkg/api/meshkit/bundle/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
)

// place is what a client has: a point, the content at it, and the trust metadata that
// came with it. It is what a resume token says. The zero place is nothing.
type place struct {
	point        feed.Point
	view         string
	digest       digest.Hash
	known        bool // digest says something
	root, keyset uint64
}

// token writes p for the client to keep.
func (p place) token(domain string) (*relay.WatchResumeToken, error) {
	opaque, err := proto.MarshalOptions{Deterministic: true}.Marshal(&bundlev1.ResumePoint{
		Domain: domain, View: p.view, Digest: p.digest.Bytes(), RootVersion: p.root, KeysetVersion: p.keyset,
	})
	return &relay.WatchResumeToken{Version: versionText(p.point.Version), Epoch: int64(p.point.Epoch), Opaque: opaque}, err
}

// versionText is how a version travels: decimal.
func versionText(v uint64) string { return strconv.FormatUint(v, 10) }

// parseToken reads what token wrote. No token, and one in which nothing is set, are
// the zero place. So is a token whose opaque part is not a resume point: another
// control plane made it, or it is damaged. A client keeps such a token until it is given
// another and knows no way to do without, so that to refuse it would lock the node out
// for good. The error, of a token that is ours and cannot be followed here, has
// fault.CodeResumeToken.
func parseToken(t *relay.WatchResumeToken, domain string) (_ place, foreign bool, err error) {
	if t.GetVersion() == "" && t.GetEpoch() == 0 && len(t.GetOpaque()) == 0 {
		return place{}, false, nil
	}
	r, h, ok := resumePoint(t.GetOpaque())
	if !ok {
		return place{}, true, nil
	}
	p, err := placeOf(t, r, h, domain)
	return p, false, err
}

// resumePoint reads the opaque part of a token; false if it is not what MeshKit writes.
func resumePoint(opaque []byte) (*bundlev1.ResumePoint, digest.Hash, bool) {
	if n := len(opaque); n == 0 || n > maxOpaque {
		return nil, digest.Hash{}, false
	}
	r := &bundlev1.ResumePoint{}
	if err := proto.Unmarshal(opaque, r); err != nil || r.GetDomain() == "" {
		return nil, digest.Hash{}, false
	}
	// Other messages parse as this one too, but hardly with 32 bytes in field 3.
	h, err := digest.HashOf(r.GetDigest())
	return r, h, err == nil
}

// placeOf is the place that a token names whose opaque part is r, with digest h.
func placeOf(t *relay.WatchResumeToken, r *bundlev1.ResumePoint, h digest.Hash, domain string) (place, error) {
	version, err := strconv.ParseUint(t.GetVersion(), 10, 64)
	if err != nil || versionText(version) != t.GetVersion() {
		return place{}, fault.New(fault.CodeResumeToken, "resume token: version %.40q is not a decimal number", t.GetVersion())
	}
	if t.GetEpoch() < 0 {
		return place{}, fault.New(fault.CodeResumeToken, "resume token: epoch %d is below 0", t.GetEpoch())
	}
	if r.GetDomain() != domain {
		return place{}, fault.New(fault.CodeResumeToken, "resume token is of domain %.80q, not %q", r.GetDomain(), domain)
	}
	return place{
		point: feed.Point{Epoch: uint64(t.GetEpoch()), Version: version}, view: r.GetView(), digest: h, known: true,
		root: r.GetRootVersion(), keyset: r.GetKeysetVersion(),
	}, nil
}
