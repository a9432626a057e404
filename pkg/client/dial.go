package client

import (
	"cmp"
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Config says which hub, and who is calling.
type Config struct {
	// Hub is host:port, or several of hubs of one domain, separated by commas: the first
	// that a connection comes about to is asked, and when it is lost, or that hub is starting,
	// they are tried again in that order.
	Hub string
	// Domain, when set, is the one that the hub's certificate must be of;
	// otherwise it is the domain of the client certificate.
	Domain string
	// PEM files: the CA bundle, the operator's certificate and its key.
	CAFile, CertFile, KeyFile string
	// Consistency is how new the answers of reads must be; "" is the default.
	Consistency wire.Consistency
	// OnStale, if set, is told when an answer of default consistency may be old, and
	// why: the text is the hub's.
	OnStale func(why string)
}

// Dial makes a client. It reads the credentials but connects with the first
// call.
func Dial(cfg Config) (*Client, error) {
	hubs, err := Addresses(cfg.Hub)
	if err != nil {
		return nil, err
	}
	source, err := LoadCredentials(cfg)
	if err != nil {
		return nil, err
	}
	chosen := &choice{addresses: hubs, passed: make(map[string]bool)}
	want := func(id identity.ID) error {
		if err := mtls.AnyHub(id); err != nil {
			return err
		}
		if domain := cmp.Or(cfg.Domain, source.ID().Domain); id.Domain != domain {
			return fault.New(fault.CodeHandshake, "spiffe id %s is not of domain %q", id, domain)
		}
		return chosen.want(id)
	}
	limit := resource.DefaultLimits().AdminMessageBytes
	options := append(wire.DialOptions(wire.DialConfig{ReceiveBytes: limit, SendBytes: limit, UserAgent: "meshctl/" + version.Version()}),
		grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(source, want))), grpc.WithStatsHandler(StatsHandler()),
		grpc.WithChainUnaryInterceptor(cfg.consistentUnary, chosen.unary), grpc.WithChainStreamInterceptor(cfg.consistentStream, chosen.stream))
	conn, err := grpc.NewClient(hubScheme+":///"+hubs[0], append(options, grpc.WithResolvers(chosen))...)
	if err != nil {
		return nil, fault.New(fault.CodeConfig, "hub address %q: %w", cfg.Hub, err)
	}
	c := New(cfg.Hub, conn)
	c.closeConn = conn.Close
	return c, nil
}

// LoadCredentials reads the files of a configuration, for callers that speak to
// a hub's other ports.
func LoadCredentials(cfg Config) (*mtls.Source, error) {
	source, err := mtls.LoadFiles(mtls.Files{Cert: cfg.CertFile, Key: cfg.KeyFile, CA: cfg.CAFile})
	if err != nil {
		return nil, fault.New(fault.CodeCredentials, "credentials for hub %s: %w", cfg.Hub, err)
	}
	return source, nil
}

// asking adds the consistency that the caller wants.
func (cfg Config) asking(ctx context.Context) context.Context {
	if cfg.Consistency == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, wire.ConsistencyHeader, string(cfg.Consistency))
}

func (cfg Config) told(header metadata.MD) {
	if why := header.Get(wire.StaleHeader); len(why) > 0 && cfg.OnStale != nil {
		cfg.OnStale(why[0])
	}
}

func (cfg Config) consistentUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header metadata.MD
	err := invoke(cfg.asking(ctx), method, req, reply, cc, append(opts, grpc.Header(&header))...)
	cfg.told(header)
	return err
}

func (cfg Config) consistentStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(cfg.asking(ctx), desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &tellingStream{ClientStream: s, told: sync.OnceFunc(func() {
		if header, err := s.Header(); err == nil {
			cfg.told(header)
		}
	})}, nil
}

// tellingStream looks at the headers once the first message is there.
type tellingStream struct {
	grpc.ClientStream
	told func()
}

func (s *tellingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.told()
	}
	return err
}
