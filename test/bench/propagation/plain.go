//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
	"github.com/meshkit/meshkit/plugins/builtin"
)

const domain = "bench"

// plain is the hub's path without TLS, which a hub never serves without: a durable
// append, graph, view, digest, signature, distribution server, and the fleet's facts.
// Its methods are called one at a time, but for the backend's.
type plain struct {
	signer  *sign.Signer
	anchors *trust.Anchors
	tenure  *store.Tenure
	fleet   *fleet.Fleet
	feed    *feed.Feed
	accept  *controlv1.Accepted
	graph   *graph.Graph
	view    *view.View
	edited  graph.Change
	version uint64
	before  digest.Hash
}

// plainPart is the process of a plain server.
func plainPart(s serverSpec) (handlers, error) {
	p, err := newPlain(s)
	if err != nil {
		return nil, err
	}
	server, err := distribution.NewServer(distribution.ServerConfig{
		Backend: p, AdmissionRate: 1e6, AdmissionBurst: 1e6,
		Identify: func(ctx context.Context) (distribution.Peer, error) { return distribution.Peer{Address: "bench"}, nil },
	})
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer(wire.ServerOptions(wire.ServerConfig{Streams: 8, ReceiveBytes: wire.MaxControlRequest, Window: 64 << 10})...)
	controlv1.RegisterControlServiceServer(g, server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = g.Serve(l) }() // ends with the process
	return handlers{
		"start": func(json.RawMessage) (any, error) { return started{Address: l.Addr().String()}, nil },
		"change": func(json.RawMessage) (any, error) {
			at := now()
			return changed{At: at}, p.change(context.Background())
		},
		"memory": memory,
	}, nil
}

func newPlain(s serverSpec) (*plain, error) {
	ctx := context.Background()
	p := &plain{fleet: fleet.New(fleet.Options{})}
	if err := p.keys(); err != nil {
		return nil, err
	}
	log, err := builtin.OpenLog(ctx, "bolt", domain, builtin.StoreOptions{Path: filepath.Join(s.Dir, "plain.db"), Create: true})
	if err != nil {
		return nil, err
	}
	if p.tenure, err = log.Campaign(ctx, store.Holder{Name: "hub1"}); err != nil {
		return nil, err
	}
	mesh := graphtest.Mesh(s.Resources, 1)
	p.edited = mesh[1]
	p.graph, _ = graph.New().Update(mesh)
	p.view = view.Build(p.graph, view.ClassOf(p.graph, view.Known(), nil))
	p.feed = feed.New(p.view.Class.ID(), feed.Options{})
	p.accept = &controlv1.Accepted{Hub: "hub1", Domain: domain, View: p.view.Class.ID()}
	return p, p.publish(ctx)
}

// keys makes a domain's keys in memory.
func (p *plain) keys() error {
	var keys [3]*sign.Signer
	for i := range keys {
		k, err := sign.Generate(sign.Ed25519)
		if err != nil {
			return err
		}
		if keys[i], err = sign.New(k); err != nil {
			return err
		}
	}
	expires := time.Now().Add(24 * time.Hour)
	root, err := trust.NewRoot(domain, keys[:1], 1, keys[1:2], expires)
	if err != nil {
		return err
	}
	bundle, err := caBundle(expires)
	if err != nil {
		return err
	}
	keyset, err := trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {keys[2].Public()}}, bundle, expires, keys[1])
	if err != nil {
		return err
	}
	p.signer = keys[2]
	p.anchors, err = trust.Join(domain, &trustv1.Metadata{Roots: [][]byte{root}, Keyset: keyset, CaBundle: bundle}, time.Now())
	return err
}

// caBundle is a CA certificate, which a keyset must name; nothing is issued here.
func caBundle(expires time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, NotBefore: time.Now(), NotAfter: expires,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// change appends a change of one resource to the log and publishes what follows.
func (p *plain) change(ctx context.Context) error {
	c := graphtest.Edit(p.edited, int(p.version))
	if _, err := p.tenure.Submit(ctx, func(store.Position) (store.Draft, error) {
		return store.Draft{Kind: "ChangeSet", Author: "bench", Payload: c.Content}, nil
	}); err != nil {
		return err
	}
	p.graph, _ = p.graph.Update([]graph.Change{c})
	p.view = p.view.Update(p.graph, []resource.Key{c.Key})
	return p.publish(ctx)
}

// publish signs the view as it is and sends it to all.
func (p *plain) publish(ctx context.Context) error {
	p.version++
	root := p.view.Trie.Root()
	m := &trustv1.Manifest{
		Domain: domain, View: p.view.Class.ID(), Epoch: 1, Version: p.version, Digest: root[:],
		Count: uint64(p.view.Trie.Len()), TotalBytes: uint64(p.view.Trie.Bytes()), RequiredCapabilities: p.view.Required,
		IssuedAt: timestamppb.Now(), KeysetVersion: p.anchors.KeysetVersion(),
	}
	if p.version > 1 {
		m.PreviousDigest = p.before[:]
	}
	env, err := trust.SignManifest(ctx, p.signer, m)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	p.before = root
	p.fleet.Offered(m.View, root)
	at := time.Now()
	if err := p.feed.Publish(feed.Version{Epoch: 1, Version: p.version, View: m.View, Trie: p.view.Trie, Manifest: env, Required: m.RequiredCapabilities, At: at}); err != nil {
		return err
	}
	p.fleet.Published(feed.Point{Epoch: 1, Version: p.version}, []string{m.View}, []fleet.Commit{{Version: p.version, At: at}})
	return nil
}

// Attach implements distribution.Backend.
func (p *plain) Attach(_ context.Context, peer distribution.Peer, hello *controlv1.Hello, _ func()) (distribution.Session, error) {
	return &plainSession{p, p.fleet.Connect(hello.GetNode(), nil, peer.Address, p.accept.GetView(), hello)}, nil
}

type plainSession struct {
	*plain
	conn *fleet.Conn
}

func (s *plainSession) Offer() distribution.Offer {
	return distribution.Offer{Accepted: s.accept, Feed: s.feed, Trust: s.anchors}
}
func (s *plainSession) Acked(a *controlv1.Ack)       { s.conn.Acked(a) }
func (s *plainSession) Nacked(n *controlv1.Nack)     { s.conn.Nacked(n) }
func (s *plainSession) Reported(r *controlv1.Status) { s.conn.Reported(r) }
func (s *plainSession) Close(error)                  { s.conn.Close() }
