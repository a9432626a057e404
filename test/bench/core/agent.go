package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

func keysOf(changes ...graph.Change) []resource.Key {
	out := make([]resource.Key, len(changes))
	for i, c := range changes {
		out[i] = c.Key
	}
	return out
}

// authority is a domain's keys in memory.
type authority struct {
	signer  *sign.Signer
	anchors *trust.Anchors
}

func newAuthority() (*authority, error) {
	var keys [3]*sign.Signer
	for i := range keys {
		k, err := sign.Generate(sign.Ed25519)
		if err != nil {
			return nil, err
		}
		if keys[i], err = sign.New(k); err != nil {
			return nil, err
		}
	}
	expires := time.Now().Add(24 * time.Hour)
	root, err := trust.NewRoot("bench", keys[:1], 1, keys[1:2], expires)
	if err != nil {
		return nil, err
	}
	bundle, err := caBundle(expires)
	if err != nil {
		return nil, err
	}
	keyset, err := trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {keys[2].Public()}}, bundle, expires, keys[1])
	if err != nil {
		return nil, err
	}
	anchors, err := trust.Join("bench", &trustv1.Metadata{Roots: [][]byte{root}, Keyset: keyset, CaBundle: bundle}, time.Now())
	return &authority{signer: keys[2], anchors: anchors}, err
}

// caBundle is a CA certificate, which a keyset must name; nothing is issued here.
func caBundle(expires time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now(), NotAfter: expires,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// node does what an agent does with an update, with the agent's own parts: the
// runtime around them only passes messages.
type node struct {
	*authority
	store   *lkg.Store
	feed    *feed.Feed
	trie    *digest.Trie
	graph   *graph.Graph
	durable activation.Durable
	held    map[activation.Point]*lkg.Content
	n       uint64
}

// update is a signed delta that changes one resource.
func (nd *node) update(ctx context.Context, c graph.Change) (*subscriber.Update, error) {
	nd.n++
	next := nd.trie.Set(c.Key.String(), c.Content)
	root := next.Root()
	env, err := trust.SignManifest(ctx, nd.signer, &trustv1.Manifest{
		Domain: "bench", View: "all", Epoch: 1, Version: nd.n, Digest: root[:], Count: uint64(next.Len()), TotalBytes: uint64(next.Bytes()),
		IssuedAt: timestamppb.Now(), KeysetVersion: 1,
	})
	return &subscriber.Update{
		Manifest: env, Base: nd.trie.Root(), Snapshot: nd.trie.Len() == 0,
		Upserts: []*controlv1.Resource{{Key: c.Key.String(), Content: c.Content}},
	}, err
}

// take verifies, validates, persists and activates an update.
func (nd *node) take(u *subscriber.Update, changes []graph.Change) error {
	m, _, err := nd.anchors.VerifyManifest(u.Manifest, time.Now())
	if err != nil {
		return err
	}
	next, err := subscriber.Apply(nd.trie, m, u, distribution.DefaultLimits())
	if err != nil {
		return err
	}
	g, findings := nd.graph.Update(changes)
	for _, f := range findings {
		if f.Severity == resource.Error {
			return errors.New(f.String())
		}
	}
	root := next.Root()
	p := activation.Point{Epoch: m.GetEpoch(), Version: m.GetVersion(), View: m.GetView(), Digest: root}
	nd.held[p] = &lkg.Content{Manifest: u.Manifest, VerifiedAt: time.Now(), Trie: next}
	d := nd.durable
	d.Generations = append([]activation.Generation{{Point: p, Status: activation.Probation, ActivatedAt: time.Now()}}, d.Generations...)
	for len(d.Generations) > activation.MaxGenerations {
		last := len(d.Generations) - 1
		delete(nd.held, d.Generations[last].Point)
		d.Generations = d.Generations[:last]
	}
	d.Highest = p
	if err := nd.store.Save(d, nd.held); err != nil {
		return err
	}
	nd.trie, nd.graph, nd.durable = next, g, d
	return nd.feed.Publish(feed.Version{Epoch: p.Epoch, Version: p.Version, View: p.View, Trie: next, Manifest: u.Manifest, At: time.Now()})
}

func newNode(ctx context.Context, b *bench, size int) (*node, []graph.Change, error) {
	auth, err := newAuthority()
	if err != nil {
		return nil, nil, err
	}
	dir, err := b.temp("lkg")
	if err != nil {
		return nil, nil, err
	}
	store, _, err := lkg.Open(lkg.Options{
		Dir: dir, Domain: "bench", Node: "node-1", Logger: slog.New(slog.DiscardHandler),
		Verify: func(_ activation.Point, c *lkg.Content) error {
			_, _, err := auth.anchors.VerifyStored(c.Manifest)
			return err
		},
	})
	if err != nil {
		return nil, nil, err
	}
	b.cleanup = append(b.cleanup, func() { _ = store.Close() })
	nd := &node{
		authority: auth, store: store, graph: graph.New(), held: make(map[activation.Point]*lkg.Content),
		feed: feed.New("all", feed.Options{}),
	}
	mesh := touched(size)
	trie := trieOf(mesh)
	root := trie.Root()
	env, err := trust.SignManifest(ctx, auth.signer, &trustv1.Manifest{
		Domain: "bench", View: "all", Epoch: 1, Version: 1, Digest: root[:], Count: uint64(trie.Len()), TotalBytes: uint64(trie.Bytes()),
		IssuedAt: timestamppb.Now(), KeysetVersion: 1,
	})
	if err != nil {
		return nil, nil, err
	}
	nd.n = 1
	first := &subscriber.Update{Manifest: env, Snapshot: true}
	for _, c := range mesh {
		first.Upserts = append(first.Upserts, &controlv1.Resource{Key: c.Key.String(), Content: c.Content})
	}
	return nd, mesh, nd.take(first, mesh)
}

func agentDelta(ctx context.Context, b *bench) (result, error) {
	const rounds = 300
	nd, mesh, err := newNode(ctx, b, 10_000)
	if err != nil {
		return result{}, err
	}
	var took []time.Duration
	for i := range rounds {
		c := touch(mesh[(i*37)%len(mesh)], i+1)
		u, err := nd.update(ctx, c)
		if err != nil {
			return result{}, err
		}
		begin := time.Now()
		if err := nd.take(u, []graph.Change{c}); err != nil {
			return result{}, err
		}
		took = append(took, time.Since(begin))
	}
	m := median(took)
	return result{
		text: millis(m), met: m <= 5*time.Millisecond,
		detail: fmt.Sprintf("%d deltas: signature, digest, graph, journal with fsync, local feed", rounds),
	}, nil
}
