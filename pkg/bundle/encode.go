package bundle

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	bundlev1 "github.com/meshkit/meshkit/pkg/api/meshkit/bundle/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Field numbers of bundle.proto and control.proto that Encode writes by hand, so that
// large content is referred to where it lies.
const (
	fieldResources = 5
	fieldKey       = 1
	fieldContent   = 2
)

const (
	// inlineContent: content up to this is copied, since a reference costs as much.
	inlineContent = 512
	encodeBlock   = 64 << 10
)

// Source is what a bundle is made of.
type Source struct {
	Manifest *trustv1.Envelope
	// Vouch is sent when the manifest's key has left the keyset; nil: none.
	Vouch *trustv1.Envelope
	// Trust is what verifies it: Anchors.Metadata(0, 0), with at most trust.MaxRoots roots.
	Trust   *trustv1.Metadata
	Content *digest.Trie
}

// Encoded is a bundle in its wire form. It is immutable; it refers to the content of
// the trie that it was made from.
type Encoded struct {
	parts [][]byte
	size  int
	own   int
}

// Parts gives the bytes, in pieces that must not be modified.
func (e *Encoded) Parts() [][]byte { return e.parts }

// Size is the number of bytes.
func (e *Encoded) Size() int { return e.size }

// Own is how many of them are held by the encoding alone, and not shared with the trie.
func (e *Encoded) Own() int { return e.own }

// Bytes gives a copy in one piece.
func (e *Encoded) Bytes() []byte {
	out := make([]byte, 0, e.size)
	for _, p := range e.parts {
		out = append(out, p...)
	}
	return out
}

// Encode writes a bundle. The same source gives the same bytes. The error has
// fault.CodeBundleTooLarge when they would be more than MaxBytes.
func Encode(s Source) (*Encoded, error) {
	head, err := proto.MarshalOptions{Deterministic: true}.Marshal(&bundlev1.Bundle{Format: Format, Manifest: s.Manifest, Vouch: s.Vouch, Trust: s.Trust})
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	e := &Encoded{}
	block := head
	flush := func() {
		if len(block) > 0 {
			e.parts, e.size, e.own = append(e.parts, block), e.size+len(block), e.own+len(block)
			block = nil
		}
	}
	for l := range s.Content.All() {
		if cap(block)-len(block) < len(l.Key)+inlineContent+32 {
			flush()
			block = make([]byte, 0, encodeBlock+len(l.Key))
		}
		block = protowire.AppendTag(block, fieldResources, protowire.BytesType)
		block = protowire.AppendVarint(block, uint64(protowire.SizeTag(fieldKey)+protowire.SizeBytes(len(l.Key))+protowire.SizeTag(fieldContent)+protowire.SizeBytes(len(l.Content))))
		block = protowire.AppendTag(block, fieldKey, protowire.BytesType)
		block = protowire.AppendString(block, l.Key)
		block = protowire.AppendTag(block, fieldContent, protowire.BytesType)
		block = protowire.AppendVarint(block, uint64(len(l.Content)))
		if len(l.Content) <= inlineContent {
			block = append(block, l.Content...)
			continue
		}
		rest := block[len(block):cap(block)]
		flush()
		e.parts, e.size = append(e.parts, l.Content), e.size+len(l.Content)
		block = rest[:0]
		if e.size > MaxBytes {
			break
		}
	}
	flush()
	if e.size > MaxBytes {
		return nil, fault.New(fault.CodeBundleTooLarge, "the bundle of %d resources has more than %d bytes", s.Content.Len(), MaxBytes)
	}
	return e, nil
}
