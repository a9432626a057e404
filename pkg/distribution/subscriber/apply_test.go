package subscriber

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/feed/feedtest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

func TestApplyRefuses(t *testing.T) {
	base := feedtest.Trie(5, 100)
	want := base.Set(feedtest.Key("r00001"), feedtest.Resource("r00001", 1, 100))
	good := func() *Update {
		return &Update{Base: base.Root(), Upserts: []*controlv1.Resource{{Key: feedtest.Key("r00001"), Content: feedtest.Resource("r00001", 1, 100)}}}
	}
	if got, err := Apply(base, feedtest.Manifest(feedtest.At(1, 2), want), good(), distribution.Limits{}); err != nil || got.Root() != want.Root() {
		t.Fatalf("the good update: %v", err)
	}
	for name, tc := range map[string]struct {
		base   *digest.Trie
		edit   func(*Update, *trustv1.Manifest)
		limits distribution.Limits
		want   fault.Code
	}{
		"other base":         {base.Delete(feedtest.Key("r00004")), nil, distribution.Limits{}, fault.CodeDeltaBase},
		"content altered":    {base, func(u *Update, _ *trustv1.Manifest) { u.Upserts[0].Content = feedtest.Resource("r00001", 2, 100) }, distribution.Limits{}, fault.CodeDigestMismatch},
		"removal left out":   {base, func(_ *Update, m *trustv1.Manifest) { m.Count-- }, distribution.Limits{}, fault.CodeCountMismatch},
		"bytes misstated":    {base, func(_ *Update, m *trustv1.Manifest) { m.TotalBytes++ }, distribution.Limits{}, fault.CodeCountMismatch},
		"digest too short":   {base, func(_ *Update, m *trustv1.Manifest) { m.Digest = m.Digest[:5] }, distribution.Limits{}, fault.CodeMalformed},
		"key of another":     {base, func(u *Update, _ *trustv1.Manifest) { u.Upserts[0].Key = feedtest.Key("r00002") }, distribution.Limits{}, fault.CodeKeyMismatch},
		"key without parts":  {base, func(u *Update, _ *trustv1.Manifest) { u.Upserts[0].Key = "Route" }, distribution.Limits{}, fault.CodeKeyMismatch},
		"not JSON":           {base, func(u *Update, _ *trustv1.Manifest) { u.Upserts[0].Content = []byte("x") }, distribution.Limits{}, fault.CodeMalformed},
		"resource too large": {base, nil, distribution.Limits{ResourceBytes: 50}, fault.CodeContentTooLarge},
		"too many resources": {base, nil, distribution.Limits{Resources: 4}, fault.CodeBundleTooLarge},
		"too many bytes":     {base, nil, distribution.Limits{BundleBytes: 400}, fault.CodeBundleTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			u, m := good(), feedtest.Manifest(feedtest.At(1, 2), want)
			if tc.edit != nil {
				tc.edit(u, m)
			}
			before := tc.base.Root()
			got, err := Apply(tc.base, m, u, tc.limits)
			if !errors.Is(err, tc.want) || got != nil {
				t.Errorf("got %v and %v, want nothing and %s", got, err, tc.want)
			}
			if tc.base.Root() != before {
				t.Error("the base was modified")
			}
		})
	}
}

// receive decodes frames as a node does and joins them.
func receive(frames []*wire.Frame, lim distribution.Limits) (*Update, error) {
	a := assembler{limits: lim.WithDefaults()}
	for i, f := range frames {
		var m controlv1.StreamResponse
		if err := proto.Unmarshal(f.Bytes(), &m); err != nil {
			return nil, err
		}
		u, err := a.add(m.GetUpdate())
		if err != nil || u != nil {
			if err == nil && i != len(frames)-1 {
				return nil, fmt.Errorf("complete after %d of %d chunks", i+1, len(frames))
			}
			return u, err
		}
	}
	return nil, fmt.Errorf("not complete after %d chunks", len(frames))
}

// encode gives the step from base to v, a snapshot unless delta.
func encode(v feed.Version, base *digest.Trie, delta bool, chunkBytes int) (*feed.Encoded, error) {
	f := feed.New(v.View, feed.Options{ChunkBytes: chunkBytes})
	if err := f.Publish(feedtest.Version(feedtest.At(v.Epoch, v.Version-1), base)); err != nil {
		return nil, err
	}
	if err := f.Publish(v); err != nil {
		return nil, err
	}
	return f.Update(f.Published(), base.Root(), delta)
}

// TestEncodedUpdatesLeadToTheContent encodes random steps in random chunk sizes and
// applies what arrives.
func TestEncodedUpdatesLeadToTheContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var from, to *digest.Trie
		for i := range rapid.IntRange(0, 30).Draw(t, "resources") {
			name := fmt.Sprintf("r%05d", i)
			size := rapid.SampledFrom([]int{10, 400, 513, 3000}).Draw(t, "size")
			if rapid.Bool().Draw(t, "before") {
				from = from.Set(feedtest.Key(name), feedtest.Resource(name, 0, size))
			}
			if rapid.Bool().Draw(t, "after") {
				to = to.Set(feedtest.Key(name), feedtest.Resource(name, rapid.IntRange(0, 1).Draw(t, "revision"), size))
			}
		}
		delta, chunk := rapid.Bool().Draw(t, "delta"), rapid.SampledFrom([]int{100, 1000, 5000, 1 << 20}).Draw(t, "chunk")
		v := feedtest.Version(feedtest.At(1, 2), to)
		v.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		e, err := encode(v, from, delta, chunk)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range e.Frames {
			if largest := 3000 + 512 + 32; f.Size() > max(chunk, largest) { // a chunk holds one resource, however large
				t.Fatalf("a frame of %d bytes in chunks of %d", f.Size(), chunk)
			}
		}
		u, err := receive(e.Frames, distribution.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if u.Snapshot != e.Snapshot || u.Traceparent != v.Traceparent || !u.Snapshot && u.Base != from.Root() {
			t.Fatalf("arrived as snapshot=%v base=%s", u.Snapshot, u.Base)
		}
		got, err := Apply(from, feedtest.Manifest(feedtest.At(1, 2), to), u, distribution.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Root() != to.Root() {
			t.Fatalf("leads to %s, want %s", got.Root(), to.Root())
		}
	})
}

func TestAssemblerRefusesBrokenSequences(t *testing.T) {
	manifest := &trustv1.Envelope{Payload: []byte("m")}
	first := &controlv1.Update{Manifest: manifest, Chunks: 3}
	resource := []*controlv1.Resource{{Key: feedtest.Key("a"), Content: make([]byte, 100)}}
	for name, tc := range map[string]struct {
		chunks []*controlv1.Update
		limits distribution.Limits
		want   fault.Code
	}{
		"no first":          {[]*controlv1.Update{{Chunk: 1, Chunks: 3}}, distribution.Limits{}, fault.CodeChunkOrder},
		"no chunks":         {[]*controlv1.Update{{Manifest: manifest}}, distribution.Limits{}, fault.CodeChunkOrder},
		"too many chunks":   {[]*controlv1.Update{{Manifest: manifest, Chunks: maxChunks + 1}}, distribution.Limits{}, fault.CodeChunkOrder},
		"skipped":           {[]*controlv1.Update{first, {Chunk: 2, Chunks: 3}}, distribution.Limits{}, fault.CodeChunkOrder},
		"repeated":          {[]*controlv1.Update{first, {Chunk: 1, Chunks: 3}, {Chunk: 1, Chunks: 3}}, distribution.Limits{}, fault.CodeChunkOrder},
		"other total":       {[]*controlv1.Update{first, {Chunk: 1, Chunks: 4}}, distribution.Limits{}, fault.CodeChunkOrder},
		"another inside":    {[]*controlv1.Update{first, {Manifest: manifest, Chunks: 1}}, distribution.Limits{}, fault.CodeChunkOrder},
		"second manifest":   {[]*controlv1.Update{first, {Manifest: manifest, Chunk: 1, Chunks: 3}}, distribution.Limits{}, fault.CodeChunkOrder},
		"no manifest":       {[]*controlv1.Update{{Chunks: 1}}, distribution.Limits{}, fault.CodeMalformed},
		"large manifest":    {[]*controlv1.Update{{Manifest: &trustv1.Envelope{Payload: make([]byte, maxManifest+1)}, Chunks: 1}}, distribution.Limits{}, fault.CodeMalformed},
		"base not a digest": {[]*controlv1.Update{{Manifest: manifest, Chunks: 1, BaseDigest: []byte("b")}}, distribution.Limits{}, fault.CodeMalformed},
		"escape in trace":   {[]*controlv1.Update{{Manifest: manifest, Chunks: 1, Traceparent: "\x1b[2J"}}, distribution.Limits{}, fault.CodeMalformed},
		"large resource":    {[]*controlv1.Update{{Manifest: manifest, Chunks: 1, Upserts: resource}}, distribution.Limits{ResourceBytes: 99}, fault.CodeContentTooLarge},
		"long key":          {[]*controlv1.Update{{Manifest: manifest, Chunks: 1, Removals: []string{strings.Repeat("k", maxKey+1)}}}, distribution.Limits{}, fault.CodeMalformed},
		"many resources":    {[]*controlv1.Update{first, {Chunk: 1, Chunks: 3, Upserts: append(resource, resource...)}}, distribution.Limits{Resources: 1}, fault.CodeBundleTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			a := assembler{limits: tc.limits.WithDefaults()}
			var err error
			for _, m := range tc.chunks {
				if err != nil {
					t.Fatalf("refused too early: %v", err)
				}
				_, err = a.add(m)
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

// FuzzFrame feeds arbitrary bytes to the path that a node takes with a message: it
// must not panic, and what comes through must be within limits.
func FuzzFrame(f *testing.F) {
	base := feedtest.Trie(3, 50)
	v := feedtest.Version(feedtest.At(1, 2), base.Delete(feedtest.Key("r00001")).Set(feedtest.Key("r00002"), feedtest.Resource("r00002", 1, 50)))
	for _, delta := range []bool{true, false} {
		e, err := encode(v, base, delta, 1<<20)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Frames[0].Bytes(), e.Frames[0].Bytes())
	}
	lim := distribution.Limits{ResourceBytes: 1000, BundleBytes: 4000, Resources: 10}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		a := assembler{limits: lim.WithDefaults()}
		for _, data := range [][]byte{one, two} {
			var m controlv1.StreamResponse
			if proto.Unmarshal(data, &m) != nil || m.GetUpdate() == nil {
				return
			}
			u, err := a.add(m.GetUpdate())
			if err != nil {
				return
			}
			if u == nil {
				continue
			}
			if len(u.Upserts) > 10 || len(u.Removals) > 10 {
				t.Fatalf("%d upserts, %d removals came through", len(u.Upserts), len(u.Removals))
			}
			var stated trustv1.Manifest
			if proto.Unmarshal(u.Manifest.GetPayload(), &stated) != nil {
				return
			}
			if next, err := Apply(base, &stated, u, lim); err == nil && next.Bytes() > 4000 {
				t.Fatalf("%d bytes were applied", next.Bytes())
			}
		}
	})
}
