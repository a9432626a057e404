package hub_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
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

// holding is a connection whose first write goes out at once and whose others wait.
type holding struct {
	net.Conn
	first   sync.Once
	waiting chan struct{} // has room for one; a write waits
	let     chan struct{} // closed: all go out
}

func (h *holding) Write(b []byte) (int, error) {
	first := false
	h.first.Do(func() { first = true })
	if !first {
		select {
		case h.waiting <- struct{}{}:
		default:
		}
		<-h.let
	}
	return h.Conn.Write(b)
}

// An operator of one domain says in the hello that another is meant, before that
// exists: the certificate is judged by the first. Until the handshake ends, the other
// may be there, and it is not the other's operator who comes.
func TestAConnectionStaysWithTheDomainThatJudgedIt(t *testing.T) {
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
	first, second := hubtest.NewDomain(t), hubtest.NewDomain(t)
	share := func(opt *hub.Options) { opt.Port = port }
	first.Start(t, share)
	config := mtls.ClientConfig(first.Source(t, identity.Operator, "admin"), mtls.AnyHub)
	config.ServerName = mtls.PinServerName(second.Authority.Pin())
	h := &holding{waiting: make(chan struct{}, 1), let: make(chan struct{})}
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		h.Conn = conn
		return h, err
	})
	conn, err := grpc.NewClient("passthrough:///port", grpc.WithTransportCredentials(credentials.NewTLS(config)), dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	conn.Connect()
	<-h.waiting
	second.Start(t, share)
	close(h.let)
	got, err := adminv1.NewTrustServiceClient(conn).GetTrust(t.Context(), &adminv1.GetTrustRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if got.GetCaPin() != first.Authority.Pin() {
		t.Error("the other domain answers")
	}
}
