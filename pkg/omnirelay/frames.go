package omnirelay

import (
	"cmp"
	"container/list"
	"fmt"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// DefaultFrameBytes bounds the encoded bundles that are kept for the next client.
const DefaultFrameBytes = 256 << 20

// maxFrames bounds their number.
const maxFrames = 256

// Field numbers of control.proto that are written by hand around a bundle.
const (
	fieldVersion = 1
	fieldEpoch   = 2
	fieldPayload = 3
)

// Frames are encoded bundles, one for each view and one more with earlier trust metadata, made by the first client that needs
// it. They are bounded in number and bytes; those that were not asked for the longest
// go first, and the newest always stays. Streams that send a frame keep it until they
// are through.
type Frames struct {
	limit int64

	mu    sync.Mutex // guards all below
	views map[frameView]*list.Element
	order *list.List // of *frame, the one asked for last at the back
	bytes int64
}

// frameView is what a newer frame takes the place of.
type frameView struct {
	domain, view string
	earlier      bool // with trust metadata from before the present
}

// NewFrames makes frames that keep at most limit bytes; 0 means DefaultFrameBytes.
func NewFrames(limit int64) *Frames {
	if limit <= 0 {
		limit = DefaultFrameBytes
	}
	return &Frames{limit: limit, views: make(map[frameView]*list.Element), order: list.New()}
}

// frame is one bundle in the forms in which it travels. What is below once is set
// within it.
type frame struct {
	key      frameView
	manifest *trustv1.Envelope // immutable values, compared by identity
	vouch    *trustv1.Envelope
	trust    distribution.Trust

	once     sync.Once
	err      error
	at       place // what the bundle brings a client to
	watch    *wire.Frame
	snapshot *wire.Frame
	size     int64 // Frames.mu
}

// of gives the frame of a version, kept under key, with the trust metadata that belongs
// to it, or why there is none: fault.CodeBundleTooLarge, or what keeps the metadata from
// verifying the manifest, which passes.
func (f *Frames) of(key frameView, v feed.Version, t distribution.Trust, encoded func(bytes int)) (*frame, error) {
	e := f.entry(key, v, t)
	e.once.Do(func() {
		if e.err = e.encode(v); e.err != nil {
			return
		}
		encoded(e.watch.Size())
		f.charge(e)
	})
	return e, e.err
}

func (f *Frames) entry(key frameView, v feed.Version, t distribution.Trust) *frame {
	f.mu.Lock()
	defer f.mu.Unlock()
	if el, ok := f.views[key]; ok {
		e := el.Value.(*frame)
		if e.manifest == v.Manifest && e.vouch == v.Vouch && (e.trust == t || key.earlier && sameTrust(e.trust, t)) {
			f.order.MoveToBack(el)
			return e
		}
		f.drop(el)
	}
	e := &frame{key: key, manifest: v.Manifest, vouch: v.Vouch, trust: t}
	f.views[key] = f.order.PushBack(e)
	f.trim(e)
	return e
}

// sameTrust compares metadata that is read from disk each time, of one chain.
func sameTrust(a, b distribution.Trust) bool {
	return a.RootVersion() == b.RootVersion() && a.KeysetVersion() == b.KeysetVersion()
}

// charge accounts for a frame that was encoded, if it is still kept.
func (f *Frames) charge(e *frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if el, ok := f.views[e.key]; ok && el.Value.(*frame) == e {
		e.size = int64(e.watch.Size())
		f.bytes += e.size
		f.trim(e)
	}
}

// trim drops the oldest, but for keep. f.mu is held.
func (f *Frames) trim(keep *frame) {
	for el := f.order.Front(); el != nil && (f.order.Len() > maxFrames || f.bytes > f.limit); {
		next := el.Next()
		if el.Value.(*frame) != keep {
			f.drop(el)
		}
		el = next
	}
}

// drop forgets one. f.mu is held.
func (f *Frames) drop(el *list.Element) {
	e := f.order.Remove(el).(*frame)
	delete(f.views, e.key)
	f.bytes -= e.size
}

// encode makes the frames. e.once is running.
func (e *frame) encode(v feed.Version) error {
	vouch, err := e.prove()
	if err != nil {
		return err
	}
	var m trustv1.Manifest
	if err := proto.Unmarshal(v.Manifest.GetPayload(), &m); err != nil {
		return fmt.Errorf("parse the manifest of view %s: %w", v.View, err)
	}
	e.at = place{
		point: feed.Point{Epoch: m.GetEpoch(), Version: m.GetVersion()}, view: m.GetView(), known: true,
		root: e.trust.RootVersion(), keyset: e.trust.KeysetVersion(),
	}
	if vouch != nil {
		var f trustv1.Freshness
		if err := proto.Unmarshal(vouch.GetPayload(), &f); err != nil {
			return fmt.Errorf("parse what vouches for view %s: %w", v.View, err)
		}
		e.at.point = feed.Point{Epoch: f.GetEpoch(), Version: f.GetVersion()}
	}
	if e.at.digest, err = digest.HashOf(m.GetDigest()); err != nil {
		return err
	}
	if e.at.point.Epoch > math.MaxInt64 {
		return fault.New(fault.CodeInternal, "epoch %d does not fit the OmniRelay protocol", e.at.point.Epoch)
	}
	b, err := bundle.Encode(bundle.Source{Manifest: v.Manifest, Vouch: vouch, Trust: e.trust.Metadata(0, 0), Content: v.Trie})
	if err != nil {
		return err
	}
	token, err := e.at.token(e.key.domain)
	if err != nil {
		return err
	}
	required := needs(m.GetRequiredCapabilities())
	var head []byte
	head = protowire.AppendTag(head, fieldVersion, protowire.BytesType)
	head = protowire.AppendString(head, versionText(e.at.point.Version))
	head = protowire.AppendTag(head, fieldEpoch, protowire.VarintType)
	head = protowire.AppendVarint(head, e.at.point.Epoch)
	head = protowire.AppendTag(head, fieldPayload, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(b.Size()))
	if e.watch, err = around(head, b, &relay.ControlWatchResponse{FullSnapshot: true, ResumeToken: token, RequiredCapabilities: required}); err != nil {
		return err
	}
	e.snapshot, err = around(head, b, &relay.ControlSnapshotResponse{RequiredCapabilities: required})
	return err
}

// around puts a message's other fields before and after the payload.
func around(head []byte, b *bundle.Encoded, rest proto.Message) (*wire.Frame, error) {
	tail, err := proto.MarshalOptions{Deterministic: true}.Marshal(rest)
	if err != nil {
		return nil, err
	}
	return wire.NewFrame(slices.Concat([][]byte{head}, b.Parts(), [][]byte{tail})...), nil
}

// prove holds the manifest against the trust metadata that will travel with it, as the
// client will, and gives the freshness statement if that is what proves it.
func (e *frame) prove() (vouch *trustv1.Envelope, err error) {
	anchors, ok := e.trust.(*trust.Anchors)
	if !ok {
		return nil, fault.New(fault.CodeNoKeyset, "no trust metadata to send with view %s", e.key.view)
	}
	_, _, err = anchors.VerifyStored(e.manifest)
	if err == nil || e.vouch == nil {
		return nil, err
	}
	var f trustv1.Freshness
	if proto.Unmarshal(e.vouch.GetPayload(), &f) != nil {
		return nil, err
	}
	if _, _, vouchErr := anchors.VerifyFreshness(e.vouch, f.GetIssuedAt().AsTime()); vouchErr != nil {
		return nil, err
	}
	return e.vouch, nil
}

// needs lists the capabilities that content needs: what its manifest requires, and
// core/v1, without which a client can read none.
func needs(required []string) []string {
	out := append([]string{Core}, required...)
	slices.SortFunc(out, cmp.Compare[string])
	return slices.Compact(out)
}
