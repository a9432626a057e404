package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
)

// viewer updates and signs one view over a mesh of some size.
type viewer struct {
	signer  *sign.Signer
	graph   *graph.Graph
	view    *view.View
	changes []graph.Change
	n       int
}

func newViewer(size int) (*viewer, error) {
	key, err := sign.Generate(sign.Ed25519)
	if err != nil {
		return nil, err
	}
	signer, err := sign.New(key)
	if err != nil {
		return nil, err
	}
	v := &viewer{signer: signer, changes: graphtest.Mesh(size, 1)}
	v.graph, _ = graph.New().Update(v.changes)
	v.view = view.Build(v.graph, view.ClassOf(v.graph, view.Known(), map[string]string{"region": "eu-west"}))
	return v, nil
}

// step changes one resource and times digest and signature; the graph is
// updated once for all views and is not part of it.
func (v *viewer) step(ctx context.Context) (time.Duration, error) {
	c := touch(v.changes[v.n%len(v.changes)], v.n)
	v.n++
	g, _ := v.graph.Update([]graph.Change{c})
	begin := time.Now()
	next := v.view.Update(g, []resource.Key{c.Key})
	root := next.Trie.Root()
	_, err := trust.SignManifest(ctx, v.signer, &trustv1.Manifest{
		Domain: "bench", View: next.Class.ID(), Epoch: 1, Version: uint64(v.n), Digest: root[:], Count: uint64(next.Trie.Len()),
		TotalBytes: uint64(next.Trie.Bytes()), RequiredCapabilities: next.Required, IssuedAt: timestamppb.Now(), KeysetVersion: 1,
	})
	took := time.Since(begin)
	if root == v.view.Trie.Root() {
		return 0, fmt.Errorf("the change of %s left the digest as it was", c.Key)
	}
	v.graph, v.view = g, next
	return took, err
}

// touch changes a resource's labels, so that its content differs and stays valid.
func touch(c graph.Change, n int) graph.Change {
	r, err := resource.ParseCanonical(c.Content)
	if err != nil {
		panic(err)
	}
	r.Metadata.Annotations = map[string]string{"bench": fmt.Sprint(n)}
	content, err := r.Canonical()
	if err != nil {
		panic(err)
	}
	if bytes.Equal(content, c.Content) {
		panic("touch changed nothing")
	}
	return graph.Change{Key: c.Key, Content: content}
}

func hubView(ctx context.Context, _ *bench) (result, error) {
	const rounds = 300
	small, err := newViewer(1_000)
	if err != nil {
		return result{}, err
	}
	large, err := newViewer(10_000)
	if err != nil {
		return result{}, err
	}
	var ofSmall, ofLarge []time.Duration
	for range rounds {
		s, err := small.step(ctx)
		if err != nil {
			return result{}, err
		}
		l, err := large.step(ctx)
		if err != nil {
			return result{}, err
		}
		ofSmall, ofLarge = append(ofSmall, s), append(ofLarge, l)
	}
	s, l := median(ofSmall), median(ofLarge)
	ratio := float64(l) / float64(s)
	return result{
		text: fmt.Sprintf("%s, %.2f ×", millis(l), ratio), met: l <= time.Millisecond && ratio <= 2,
		detail: fmt.Sprintf("%s on 1,000; %d changes each, interleaved", millis(s), rounds),
	}, nil
}

// touched is a sample mesh as it is before the first round.
func touched(n int) []graph.Change {
	mesh := graphtest.Mesh(n, 1)
	for i, c := range mesh {
		mesh[i] = touch(c, 0)
	}
	return mesh
}
