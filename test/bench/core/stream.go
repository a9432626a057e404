package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// desk offers every node one feed.
type desk struct{ offer distribution.Offer }

func (d *desk) Attach(context.Context, distribution.Peer, *controlv1.Hello, func()) (distribution.Session, error) {
	return d, nil
}
func (d *desk) Offer() distribution.Offer  { return d.offer }
func (d *desk) Acked(*controlv1.Ack)       {}
func (d *desk) Nacked(*controlv1.Nack)     {}
func (d *desk) Reported(*controlv1.Status) {}
func (d *desk) Close(error)                {}

// source publishes signed versions of one mesh.
type source struct {
	*viewer
	feed *feed.Feed
}

func newSource(size int) (*source, error) {
	v, err := newViewer(size)
	if err != nil {
		return nil, err
	}
	return &source{viewer: v, feed: feed.New(v.view.Class.ID(), feed.Options{})}, nil
}

// publish signs and publishes the view as it is.
func (s *source) publish(ctx context.Context) (feed.Version, error) {
	root := s.view.Trie.Root()
	m := &trustv1.Manifest{
		Domain: "bench", View: s.view.Class.ID(), Epoch: 1, Version: uint64(s.n + 1), Digest: root[:],
		Count: uint64(s.view.Trie.Len()), TotalBytes: uint64(s.view.Trie.Bytes()), RequiredCapabilities: s.view.Required, KeysetVersion: 1,
		IssuedAt: timestamppb.Now(),
	}
	env, err := trust.SignManifest(ctx, s.signer, m)
	if err != nil {
		return feed.Version{}, err
	}
	v := feed.Version{
		Epoch: m.Epoch, Version: m.Version, View: m.View, Trie: s.view.Trie, Manifest: env, Required: m.RequiredCapabilities, At: time.Now(),
	}
	return v, s.feed.Publish(v)
}

// change publishes a change of the mesh's second resource, always the same one.
func (s *source) change(ctx context.Context) (feed.Version, error) {
	c := touch(s.changes[1], s.n)
	s.n++
	s.graph, _ = s.graph.Update([]graph.Change{c})
	s.view = s.view.Update(s.graph, keysOf(c))
	return s.publish(ctx)
}

// serve runs the feed's server on a Unix socket and gives a connection to it.
func (s *source) serve(b *bench) (*grpc.ClientConn, func(), error) {
	server, err := distribution.NewServer(distribution.ServerConfig{
		Backend:  &desk{offer: distribution.Offer{Accepted: &controlv1.Accepted{Hub: "bench", Domain: "bench"}, Feed: s.feed}},
		Identify: func(context.Context) (distribution.Peer, error) { return distribution.Peer{Address: "bench"}, nil },
	})
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(b.dir, "stream.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, err
	}
	g := grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(local.NewCredentials()))...)
	controlv1.RegisterControlServiceServer(g, server)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+path, append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(local.NewCredentials()))...)
	stop := func() {
		if conn != nil {
			_ = conn.Close()
		}
		server.Close()
		g.Stop()
		<-done
	}
	return conn, stop, err
}

// follow opens a stream for a node that holds v.
func follow(ctx context.Context, conn *grpc.ClientConn, node string, v feed.Version) (controlv1.ControlService_StreamClient, error) {
	stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	root := v.Trie.Root()
	point := &controlv1.ResumePoint{Epoch: v.Epoch, Version: v.Version, Digest: root[:], View: v.View}
	return stream, stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{
		Node: node, Protocols: []string{distribution.Protocol}, Resume: point, Highest: point,
	}}})
}

// nextUpdate receives until an update is complete and gives its bytes.
func nextUpdate(stream controlv1.ControlService_StreamClient) (size int, last *controlv1.Update, err error) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return 0, nil, err
		}
		u := m.GetUpdate()
		if u == nil {
			continue
		}
		size += proto.Size(m)
		if u.GetChunk()+1 == u.GetChunks() {
			return size, u, nil
		}
	}
}

// coalesced compares what a node that kept up received over 100 changes to one
// resource with what a node that was away receives when it comes back.
func coalesced(ctx context.Context, b *bench) (result, error) {
	const changes = 100
	s, err := newSource(1_000)
	if err != nil {
		return result{}, err
	}
	base, err := s.publish(ctx)
	if err != nil {
		return result{}, err
	}
	conn, stop, err := s.serve(b)
	if err != nil {
		return result{}, err
	}
	defer stop()
	present, err := follow(ctx, conn, "present", base)
	if err != nil {
		return result{}, err
	}
	each := 0
	for range changes {
		v, err := s.change(ctx)
		if err != nil {
			return result{}, err
		}
		size, _, err := nextUpdate(present)
		if err != nil {
			return result{}, err
		}
		each += size
		root := v.Trie.Root()
		if err := present.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Epoch: v.Epoch, Version: v.Version, Digest: root[:]}}}); err != nil {
			return result{}, err
		}
	}
	absent, err := follow(ctx, conn, "absent", base)
	if err != nil {
		return result{}, err
	}
	once, update, err := nextUpdate(absent)
	if err != nil {
		return result{}, err
	}
	if len(update.GetBaseDigest()) == 0 || len(update.GetUpserts()) != 1 {
		return result{}, errors.New("the node that was away got no delta of one resource")
	}
	percent := 100 * float64(once) / float64(each)
	return result{
		text: fmt.Sprintf("%.1f %%", percent), met: percent <= 12,
		detail: fmt.Sprintf("%d bytes at once against %d in %d frames", once, each, changes),
	}, nil
}

// trieOf is the content of a mesh.
func trieOf(changes []graph.Change) *digest.Trie {
	var t *digest.Trie
	for _, c := range changes {
		t = t.Set(c.Key.String(), c.Content)
	}
	return t
}
