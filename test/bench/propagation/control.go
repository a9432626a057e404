//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

// controlScript is that of nodes. They come with the current content, as nodes do that
// were away for a moment, and ack each update: all get the same bytes, so one of them
// decodes an update and the others see that theirs is the same.
type controlScript struct {
	clients *clients
	sources []*mtls.Source // by node; nil: no TLS
	resume  *controlv1.ResumePoint
	root    uint64
	keyset  uint64

	newest atomic.Pointer[answered]
	mu     sync.Mutex // held by the client that decodes
}

// answered is an update and the ack to it.
type answered struct{ update, ack []byte }

func newControlScript(ctx context.Context, c *clients) (script, error) {
	s := &controlScript{clients: c}
	if c.spec.Token != "" {
		var err error
		if s.sources, err = joinAll(ctx, c.spec); err != nil {
			return nil, fmt.Errorf("join: %w", err)
		}
	}
	return s, s.learn(ctx)
}

func (s *controlScript) method() string { return controlv1.ControlService_Stream_FullMethodName }

func (s *controlScript) options() []grpc.DialOption { return wire.DialOptions(wire.DialConfig{}) }

func (s *controlScript) credentials(i int) (credentials.TransportCredentials, error) {
	if s.sources == nil {
		return insecure.NewCredentials(), nil
	}
	return credentials.NewTLS(mtls.ClientConfig(s.sources[i], mtls.AnyHub)), nil
}

func node(i int) string { return fmt.Sprintf("node-%05d", i) }

// say is the hello of node i.
func (s *controlScript) say(i int) *controlv1.Hello {
	return &controlv1.Hello{
		Node: node(i), Protocols: []string{distribution.Protocol}, Capabilities: view.Known(), Build: "bench",
		Resume: s.resume, Highest: s.resume, RootVersion: s.root, KeysetVersion: s.keyset, Phase: controlv1.Phase_PHASE_ACTIVE,
	}
}

func (s *controlScript) hello(i int) ([]byte, error) {
	return proto.Marshal(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: s.say(i)}})
}

// learn opens one stream without content, to see what the others resume from.
func (s *controlScript) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	creds, err := s.credentials(0)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+s.clients.spec.Address, append(s.options(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: s.say(0)}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if t := m.GetTrust(); t != nil {
			a, err := trust.Join(domain, t, time.Now())
			if err != nil {
				return err
			}
			s.root, s.keyset = a.RootVersion(), a.KeysetVersion()
		}
		if env := m.GetUpdate().GetManifest(); env != nil {
			var man trustv1.Manifest
			if err := proto.Unmarshal(env.GetPayload(), &man); err != nil {
				return err
			}
			s.resume = &controlv1.ResumePoint{Epoch: man.GetEpoch(), Version: man.GetVersion(), Digest: man.GetDigest(), View: man.GetView()}
			return nil
		}
	}
}

// Tags of the fields of StreamResponse that matter here.
const (
	tagAccepted = 1<<3 | 2
	tagUpdate   = 2<<3 | 2
)

func (s *controlScript) take(b []byte) (event, []byte, error) {
	switch b[0] {
	case tagAccepted:
		return ready, nil, nil
	case tagUpdate:
		a := s.newest.Load()
		if a == nil || !bytes.Equal(a.update, b) {
			var err error
			if a, err = s.decode(b); err != nil {
				return other, nil, err
			}
		}
		return change, a.ack, nil
	}
	return other, nil, nil
}

func (s *controlScript) decode(b []byte) (*answered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.newest.Load(); a != nil && bytes.Equal(a.update, b) {
		return a, nil
	}
	var m controlv1.StreamResponse
	var man trustv1.Manifest
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(m.GetUpdate().GetManifest().GetPayload(), &man); err != nil {
		return nil, err
	}
	if len(m.GetUpdate().GetBaseDigest()) == 0 {
		return nil, fmt.Errorf("a node that has the content got a snapshot")
	}
	ack, err := proto.Marshal(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: ackOf(&man)}})
	if err != nil {
		return nil, err
	}
	a := &answered{bytes.Clone(b), ack}
	s.newest.Store(a)
	return a, nil
}

func ackOf(m *trustv1.Manifest) *controlv1.Ack {
	return &controlv1.Ack{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest(), Kept: true}
}

// verifying implements verifier: a whole client without a data plane.
func (s *controlScript) verifying(ctx context.Context, i int) error {
	creds, err := s.credentials(i)
	if err != nil {
		return err
	}
	n := &verifyingNode{script: s, i: i, up: make(chan struct{})}
	n.client, err = subscriber.New(subscriber.Config{
		Hubs: []string{s.clients.spec.Address}, DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(creds)}, Handler: n,
	})
	if err != nil {
		return err
	}
	go func() { _ = n.client.Run(context.WithoutCancel(ctx)) }() // until the process ends
	select {
	case <-n.up:
		return nil
	case err := <-s.clients.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// verifyingNode verifies and applies everything. The client's goroutine owns it.
type verifyingNode struct {
	script  *controlScript
	client  *subscriber.Client
	i       int
	anchors *trust.Anchors
	trie    *digest.Trie
	up      chan struct{} // closed with the first content
}

// Hello implements subscriber.Handler: it has nothing yet.
func (n *verifyingNode) Hello() *controlv1.Hello {
	h := n.script.say(n.i)
	h.Resume, h.RootVersion, h.KeysetVersion, h.Phase = nil, 0, 0, controlv1.Phase_PHASE_CONNECTING
	return h
}

func (n *verifyingNode) Accepted(context.Context, string, *controlv1.Accepted) {}

// Update implements subscriber.Handler.
func (n *verifyingNode) Update(_ context.Context, u *subscriber.Update) {
	man, err := n.apply(u)
	if err != nil {
		n.script.clients.fail(fmt.Errorf("node %d: %w", n.i, err))
		return
	}
	if u.Snapshot {
		n.client.Ack(ackOf(man))
		close(n.up)
		return
	}
	n.client.Ack(ackOf(man))
	n.script.clients.got(n.i)
}

func (n *verifyingNode) apply(u *subscriber.Update) (*trustv1.Manifest, error) {
	man, _, err := n.anchors.VerifyManifest(u.Manifest, time.Now())
	if err != nil {
		return nil, err
	}
	n.trie, err = subscriber.Apply(n.trie, man, u, distribution.Limits{})
	return man, err
}

func (n *verifyingNode) Freshness(context.Context, *trustv1.Envelope) {}

// Trust implements subscriber.Handler.
func (n *verifyingNode) Trust(_ context.Context, m *trustv1.Metadata) {
	a, err := trust.Join(domain, m, time.Now())
	if err != nil {
		n.script.clients.fail(fmt.Errorf("node %d: trust: %w", n.i, err))
		return
	}
	n.anchors = a
}

func (n *verifyingNode) Notice(context.Context, *controlv1.Notice) {}

// Disconnected implements subscriber.Handler: nobody disconnects here.
func (n *verifyingNode) Disconnected(_ string, err error, _ time.Duration) {
	n.script.clients.fail(fmt.Errorf("node %d: disconnected: %w", n.i, err))
}

// joinsPerHost is how many joins a hub takes at once from one address.
const joinsPerHost = 400

// joinAll joins the nodes with one token and one key, each few hundred from another
// address of the loopback network, since a hub takes so many from one at a time.
func joinAll(ctx context.Context, spec clientSpec) ([]*mtls.Source, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	config, _, err := mtls.PinnedClientConfig(spec.Pin)
	if err != nil {
		return nil, err
	}
	out := make([]*mtls.Source, spec.Count)
	errs := make(chan error, spec.Count/joinsPerHost+1)
	var wg sync.WaitGroup
	for first := 0; first < spec.Count; first += joinsPerHost {
		wg.Go(func() {
			from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+first/joinsPerHost))}}
			conn, err := grpc.NewClient("passthrough:///"+spec.Address, append(wire.DialOptions(wire.DialConfig{}),
				grpc.WithTransportCredentials(credentials.NewTLS(config)),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return from.DialContext(ctx, "tcp", addr) }))...)
			if err != nil {
				errs <- err
				return
			}
			defer func() { _ = conn.Close() }()
			for i := first; i < min(first+joinsPerHost, spec.Count); i++ {
				if out[i], err = join(ctx, conn, spec.Token, key, i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return out, nil
	}
}

func join(ctx context.Context, conn *grpc.ClientConn, token string, key *ecdsa.PrivateKey, i int) (*mtls.Source, error) {
	id, err := identity.New(domain, identity.Node, node(i))
	if err != nil {
		return nil, err
	}
	csr, err := ca.NewCSR(key, id)
	if err != nil {
		return nil, err
	}
	resp, err := identityv1.NewIdentityServiceClient(conn).Join(ctx, &identityv1.JoinRequest{Token: token, Node: node(i), Csr: csr, RequestId: rand.Text()})
	if err != nil {
		return nil, err
	}
	return mtls.NewSource(tls.Certificate{Certificate: resp.GetCertificateChain(), PrivateKey: key}, resp.GetTrust().GetCaBundle())
}
