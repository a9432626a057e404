package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	leaders "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/omnirelay/omnirelaytest"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/test/harness"
)

// relayConns gives a node's ways to its control plane as OmniRelay finds them: the hub
// with the node's certificate, and the agent's socket.
func relayConns(t *testing.T, hub *harness.Hub, a *harness.Agent) (toHub, toAgent *grpc.ClientConn) {
	t.Helper()
	file := func(name string) string { return filepath.Join(a.Data, "tls", name) }
	source, err := mtls.LoadFiles(mtls.Files{Cert: file("node.pem"), Key: file("node.key"), CA: file("ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(target string, creds credentials.TransportCredentials) *grpc.ClientConn {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	return dial(hub.Address, credentials.NewTLS(mtls.ClientConfig(source, mtls.AnyHub))), dial("unix:"+filepath.Join(a.Data, "agent.sock"), insecure.NewCredentials())
}

// relayClient gives a data plane that has nothing but the pin in the agent's
// configuration.
func relayClient(t *testing.T, a *harness.Agent, conn *grpc.ClientConn) *omnirelaytest.Client {
	t.Helper()
	config, err := os.ReadFile(a.Config())
	if err != nil {
		t.Fatal(err)
	}
	pin := regexp.MustCompile(`(?m)^trustPin: "?(sha256:[0-9a-f]{64})"?$`).FindSubmatch(config)
	if pin == nil {
		t.Fatalf("%s names no pin", a.Config())
	}
	m, err := relay.NewControlPlaneWatchClient(conn).Snapshot(limited(t), &relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: view.Known()}})
	if err != nil {
		t.Fatal(err)
	}
	anchors, err := bundle.Pin(m.GetPayload(), "eu-west", string(pin[1]), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := omnirelaytest.New(t, conn, "", anchors)
	c.Capabilities = view.Known()
	return c
}

// awaitCluster waits until a client applies a bundle in which a cluster has an address.
func awaitCluster(t *testing.T, c *omnirelaytest.Client, name, address string) {
	t.Helper()
	for {
		b := c.Next().Bundle
		if b == nil {
			continue
		}
		if leaf, ok := b.Content.Get("Cluster/default/" + name); ok && strings.Contains(string(leaf.Content), address) {
			return
		}
	}
}

// TestOmniRelayDataPlanesFollowHubAndAgent has a data plane on the hub and one on the
// agent's socket follow a change; with the hub gone, the agent gives a new one what it
// has; when the hub is back, both go on.
func TestOmniRelayDataPlanesFollowHubAndAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.NewAgent(s.hub, "relay-1")
	toHub, toAgent := relayConns(t, s.hub, a)
	s.Ctl("apply", "-f", s.write(t, "relay.yaml", clusterYAML("relayed", "10.4.0.1:80")), "--wait")
	direct, local := relayClient(t, a, toHub), relayClient(t, a, toAgent)
	for _, c := range []*omnirelaytest.Client{direct, local} {
		c.Start()
		awaitCluster(t, c, "relayed", "10.4.0.1:80")
	}
	led, err := leaders.NewLeadershipControlServiceClient(toAgent).Subscribe(t.Context(), &leaders.LeadershipSubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := led.Recv(); err != nil || e.GetToken().GetLeaderId() == "" {
		t.Errorf("the agent names no leader: %v (%v)", e, err)
	}

	s.hub.Kill()
	orphan := relayClient(t, a, toAgent)
	orphan.Start()
	awaitCluster(t, orphan, "relayed", "10.4.0.1:80")

	s.hub.Start()
	s.Ctl("apply", "-f", s.write(t, "relay.yaml", clusterYAML("relayed", "10.4.0.2:80")), "--wait")
	for _, c := range []*omnirelaytest.Client{direct, local, orphan} {
		awaitCluster(t, c, "relayed", "10.4.0.2:80")
	}
}
