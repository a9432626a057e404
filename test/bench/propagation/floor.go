//go:build linux

package main

import (
	"encoding/json"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// floor is the least that a grpc-go server can do: it sends the same bytes on every
// stream, from one goroutine. With acked it takes an answer on each stream, and does
// nothing with it.
type floor struct {
	acked   bool
	mu      sync.Mutex // guards all below
	streams []grpc.ServerStream
	content []byte
}

// message is what the bench's own streams carry: bytes as they are.
type message struct{ b []byte }

// bytesCodec passes messages through as they are. What is received is copied into the
// message's own buffer, which is reused.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*message).b)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m := v.(*message)
	m.b = m.b[:0]
	for _, part := range data {
		m.b = append(m.b, part.ReadOnlyData()...)
	}
	return nil
}

const (
	floorService = "bench.Floor"
	floorMethod  = "/bench.Floor/Watch"
)

func (f *floor) register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: floorService, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, ClientStreams: f.acked, Handler: f.watch}},
	}, f)
}

// watch serves one stream: it answers the request, and then takes acks or waits.
func (f *floor) watch(_ any, s grpc.ServerStream) error {
	var m message
	if err := s.RecvMsg(&m); err != nil {
		return err
	}
	if err := s.SendMsg(&m); err != nil {
		return err
	}
	f.mu.Lock()
	f.streams = append(f.streams, s)
	f.mu.Unlock()
	for f.acked {
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return nil
}

// change broadcasts one message.
func (f *floor) change(c changeRequest) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.content) < c.Bytes {
		f.content = append(f.content, byte(len(f.content)))
	}
	m := &message{f.content[:c.Bytes]}
	at := now()
	for _, s := range f.streams {
		if err := s.SendMsg(m); err != nil {
			return nil, err
		}
	}
	return changed{At: at}, nil
}

// floorPart is the process of a floor.
func floorPart(s serverSpec) (handlers, error) {
	f := &floor{acked: s.Acked}
	opts := []grpc.ServerOption{grpc.ForceServerCodecV2(bytesCodec{})}
	if s.Tuned {
		opts = append(wire.ServerOptions(wire.ServerConfig{}), opts...)
	}
	if s.Files.Cert != "" {
		source, err := mtls.LoadFiles(s.Files)
		if err != nil {
			return nil, err
		}
		config := mtls.ServerConfig(source, mtls.ServerOptions{})
		config.NextProtos = []string{"h2"}
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	g := grpc.NewServer(opts...)
	f.register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = g.Serve(l) }() // ends with the process
	return handlers{
		"start":  func(json.RawMessage) (any, error) { return started{Address: l.Addr().String()}, nil },
		"change": with(f.change),
		"memory": memory,
	}, nil
}
