package subscriber

import (
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
)

const (
	maxChunks   = 1 << 14
	maxKey      = 512
	maxManifest = 64 << 10
	// maxTraceparent is more than a W3C trace context takes.
	maxTraceparent = 128
)

// Update is one update as it arrived: chunks joined, sizes within limits, nothing
// verified.
type Update struct {
	Manifest *trustv1.Envelope
	// Base is the digest that the update applies to. Snapshot: it replaces everything.
	Base     digest.Hash
	Snapshot bool
	Upserts  []*controlv1.Resource
	Removals []string
	// Traceparent of the change, or "".
	Traceparent string
	// Bytes is what the update took on the wire, Received when its last chunk came.
	Bytes    int
	Received time.Time
}

// assembler joins the chunks of updates, within limits: what it holds is bounded by
// the bundle limit whatever is sent. It belongs to the goroutine that receives.
type assembler struct {
	limits distribution.Limits
	update *Update // under way; nil between updates
	next   uint32
	chunks uint32
	bytes  int64 // of content and keys so far
}

// add takes a chunk and gives the update when it is the last.
func (a *assembler) add(m *controlv1.Update) (*Update, error) {
	if a.update == nil {
		if err := a.first(m); err != nil {
			return nil, err
		}
	} else if err := a.further(m); err != nil {
		return nil, err
	}
	u := a.update
	u.Bytes += proto.Size(m)
	if err := a.contents(m); err != nil {
		return nil, err
	}
	if a.next++; a.next < a.chunks {
		return nil, nil
	}
	a.update = nil
	u.Received = time.Now()
	return u, nil
}

func (a *assembler) first(m *controlv1.Update) error {
	switch n := len(m.GetManifest().GetPayload()); {
	case m.GetChunk() != 0:
		return fault.New(fault.CodeChunkOrder, "chunk %d comes first", m.GetChunk())
	case m.GetChunks() < 1 || m.GetChunks() > maxChunks:
		return fault.New(fault.CodeChunkOrder, "update of %d chunks", m.GetChunks())
	case n == 0 || n > maxManifest:
		return fault.New(fault.CodeMalformed, "update with a manifest of %d bytes", n)
	case !distribution.Plain(m.GetTraceparent(), maxTraceparent):
		return fault.New(fault.CodeMalformed, "update with a traceparent that is none")
	}
	u := &Update{Manifest: m.GetManifest(), Snapshot: len(m.GetBaseDigest()) == 0, Traceparent: m.GetTraceparent()}
	if !u.Snapshot {
		base, err := digest.HashOf(m.GetBaseDigest())
		if err != nil {
			return fault.New(fault.CodeMalformed, "update: base: %w", err)
		}
		u.Base = base
	}
	a.update, a.next, a.chunks, a.bytes = u, 0, m.GetChunks(), 0
	return nil
}

func (a *assembler) further(m *controlv1.Update) error {
	switch {
	case m.GetChunk() != a.next || m.GetChunks() != a.chunks:
		return fault.New(fault.CodeChunkOrder, "chunk %d of %d instead of %d of %d", m.GetChunk(), m.GetChunks(), a.next, a.chunks)
	case m.Manifest != nil || len(m.GetBaseDigest()) > 0:
		return fault.New(fault.CodeChunkOrder, "chunk %d carries a manifest or a base of its own", m.GetChunk())
	}
	return nil
}

func (a *assembler) contents(m *controlv1.Update) error {
	u := a.update
	for _, r := range m.GetUpserts() {
		if n := len(r.GetContent()); n > a.limits.ResourceBytes {
			return fault.New(fault.CodeContentTooLarge, "%s has %d bytes, more than %d", quoteKey(r.GetKey()), n, a.limits.ResourceBytes)
		}
		if len(r.GetKey()) > maxKey {
			return fault.New(fault.CodeMalformed, "key of %d bytes", len(r.GetKey()))
		}
		a.bytes += int64(len(r.GetContent()) + len(r.GetKey()))
	}
	for _, key := range m.GetRemovals() {
		if len(key) > maxKey {
			return fault.New(fault.CodeMalformed, "key of %d bytes", len(key))
		}
		a.bytes += int64(len(key))
	}
	u.Upserts = append(u.Upserts, m.GetUpserts()...)
	u.Removals = append(u.Removals, m.GetRemovals()...)
	// Keys come on top of the content that the bundle limit is about.
	if n := max(len(u.Upserts), len(u.Removals)); n > a.limits.Resources || a.bytes > a.limits.BundleBytes+int64(a.limits.Resources)*maxKey {
		return fault.New(fault.CodeBundleTooLarge, "update with %d upserts, %d removals and %d bytes; at most %d resources of %d bytes are taken",
			len(u.Upserts), len(u.Removals), a.bytes, a.limits.Resources, a.limits.BundleBytes)
	}
	return nil
}
