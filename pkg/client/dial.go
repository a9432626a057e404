package client

import (
	"cmp"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Config says which hub, and who is calling.
type Config struct {
	// Hub is host:port.
	Hub string
	// Domain, when set, is the one that the hub's certificate must be of;
	// otherwise it is the domain of the client certificate.
	Domain string
	// PEM files: the CA bundle, the operator's certificate and its key.
	CAFile, CertFile, KeyFile string
}

// Dial makes a client. It reads the credentials but connects with the first
// call.
func Dial(cfg Config) (*Client, error) {
	if _, _, err := net.SplitHostPort(cfg.Hub); err != nil {
		return nil, fault.New(fault.CodeConfig, "hub address %q is not host:port", cfg.Hub)
	}
	source, err := LoadCredentials(cfg)
	if err != nil {
		return nil, err
	}
	want := func(id identity.ID) error {
		if err := mtls.AnyHub(id); err != nil {
			return err
		}
		if domain := cmp.Or(cfg.Domain, source.ID().Domain); id.Domain != domain {
			return fault.New(fault.CodeHandshake, "spiffe id %s is not of domain %q", id, domain)
		}
		return nil
	}
	limit := resource.DefaultLimits().AdminMessageBytes
	options := append(wire.DialOptions(wire.DialConfig{ReceiveBytes: limit, SendBytes: limit, UserAgent: "meshctl/" + version.Version()}),
		grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(source, want))), grpc.WithStatsHandler(StatsHandler()))
	conn, err := grpc.NewClient("dns:///"+cfg.Hub, options...)
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
