package hub_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// patience is less than a siege of silent connections would last if each kept its
// place until its time for a handshake is over.
const patience = 15 * time.Second

// besiege keeps n connections open that say nothing more once open has made them,
// until the test ends, and with reopen opens each again when the hub closes it. It
// returns when each has been open once.
func besiege(t *testing.T, n int, reopen bool, open func(context.Context) (net.Conn, error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	var opened atomic.Int64
	for range n {
		wg.Go(func() {
			for first := true; ctx.Err() == nil && (first || reopen); {
				conn, err := open(ctx)
				if err != nil {
					continue // the hub hung up: again
				}
				if first {
					opened.Add(1)
					first = false
				}
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				_, _ = io.Copy(io.Discard, conn)
				stop()
				_ = conn.Close()
			}
		})
	}
	comesAbout(t, "all connections opened", func() bool { return opened.Load() == int64(n) })
}

// othersGetIn makes an operator's call and a join on connections of their own, from
// the address of the besiegers, where it is hardest. They dial again when they are
// cut, as meshctl and agents do: this process may be too busy with the siege to send
// its hello in time.
func othersGetIn(t *testing.T, h *hubtest.Running, token string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := operate(t, h).resources.List(ctx, &adminv1.ListRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("an operator's call: %v", err)
	}
	key := hubtest.Key(t)
	req := &identityv1.JoinRequest{Token: token, Node: "node-a", Csr: hubtest.CSR(t, key, "node-a")}
	if _, err := identityv1.NewIdentityServiceClient(h.Dial(t, nil)).Join(ctx, req, grpc.WaitForReady(true)); err != nil {
		t.Errorf("a join: %v", err)
	}
}

func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	token := h.Token(t, &adminv1.CreateTokenRequest{})
	besiege(t, 2048, true, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", h.Address)
	})
	othersGetIn(t, h, token)
}

func TestIdleStrangersKeepNobodyOut(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	token := h.Token(t, &adminv1.CreateTokenRequest{})
	config, _, err := mtls.PinnedClientConfig(h.Domain.Authority.Pin())
	if err != nil {
		t.Fatal(err)
	}
	// They do not come back: a thousand handshakes at once would leave this process
	// no time for those of others.
	besiege(t, 1100, false, func(ctx context.Context) (net.Conn, error) {
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", h.Address)
	})
	othersGetIn(t, h, token)
}
