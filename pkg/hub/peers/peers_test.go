package peers_test

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/identity"
)

// A hub that was away is reached at once when it is back, however long it was away: it
// may lead.
func TestAHubThatIsBackIsReachedAtOnce(t *testing.T) {
	tried := make(chan struct{}, 100)
	dial := func(context.Context, string) (net.Conn, error) {
		tried <- struct{}{}
		return nil, syscall.ECONNREFUSED
	}
	set := peers.New(peers.Options{
		Domain: hubtest.Name, Hub: "hub1", TLS: hubtest.NewDomain(t).Source(t, identity.Hub, "hub1"), MessageBytes: 1 << 20,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	})
	defer set.Close()
	conn, err := set.Conn(peers.Peer{Hub: "hub2", Address: "10.0.0.2:8443"})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(3 * time.Second)
	for tries := 0; tries < 8; {
		select {
		case <-tried:
			tries++
		case <-tick.C:
			conn.Connect()
		case <-limit:
			t.Fatalf("it was tried %d times in 3 s", tries)
		}
	}
}
