package hub_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"testing"

	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// Two domains share a port: each is reached by its name and by its pin, and nothing
// else than the first when a hello names none.
func TestAPortServesTheDomainThatTheHelloNames(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := hub.NewPort(l, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- port.Run() }()
	t.Cleanup(func() {
		port.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	// Both call themselves the same: only their CAs tell them apart.
	first, second := hubtest.NewDomain(t), hubtest.NewDomain(t)
	share := func(opt *hub.Options) { opt.Port = port }
	a, b := first.Start(t, share), second.Start(t, share)
	reach := func(config *tls.Config) error {
		config.NextProtos = []string{"h2"}
		conn, err := (&tls.Dialer{Config: config}).DialContext(context.Background(), "tcp", l.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for _, d := range []*hubtest.Domain{first, second} {
		config, _, err := mtls.PinnedClientConfig(d.Authority.Pin())
		if err != nil {
			t.Fatal(err)
		}
		if err := reach(config); err != nil {
			t.Errorf("by its pin: %v", err)
		}
	}
	config, _, err := mtls.PinnedClientConfig(second.Authority.Pin())
	if err != nil {
		t.Fatal(err)
	}
	config.ServerName = "elsewhere"
	if err := reach(config); err == nil {
		t.Error("a hello that names no domain reached the second")
	}
	a.Operator(t) // by name: the first of that name
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	config, _, _ = mtls.PinnedClientConfig(second.Authority.Pin())
	if err := reach(config); err == nil {
		t.Error("a domain that stopped is still reached")
	}
	config, _, _ = mtls.PinnedClientConfig(first.Authority.Pin())
	if err := reach(config); err != nil {
		t.Errorf("the other domain, after one stopped: %v", err)
	}
}
