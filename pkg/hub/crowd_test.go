package hub_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

// crowd is many nodes that take and acknowledge whatever they are sent: the load
// of a fleet without the work that its agents do.
type crowd struct {
	connected atomic.Int64
	mu        sync.Mutex     // guards versions
	versions  map[uint64]int // acknowledgements by version
	wg        sync.WaitGroup // nodes
	stop      context.CancelFunc
}

// crowdSize is how many nodes a crowd has; a larger one is for measuring by hand.
func crowdSize(t testing.TB, usual int) int {
	n, err := strconv.Atoi(os.Getenv("MESHKIT_CROWD"))
	if err != nil {
		return usual
	}
	t.Logf("a crowd of %d", n)
	return n
}

func gather(t testing.TB, h *hubtest.Running, n int) *crowd {
	t.Helper()
	token := h.Token(t, &adminv1.CreateTokenRequest{Uses: uint32(n)})
	stranger := identityv1.NewIdentityServiceClient(h.Dial(t, nil))
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{versions: make(map[uint64]int), stop: cancel}
	limit := make(chan struct{}, 8)
	for i := range n {
		limit <- struct{}{}
		c.wg.Go(func() {
			name := fmt.Sprintf("crowd-%04d", i)
			key := hubtest.Key(t)
			resp, err := stranger.Join(ctx, &identityv1.JoinRequest{Token: token, Node: name, Csr: hubtest.CSR(t, key, name)})
			<-limit
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			source, err := mtls.NewSource(tls.Certificate{Certificate: resp.GetCertificateChain(), PrivateKey: key}, resp.GetTrust().GetCaBundle())
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.live(ctx, h.Address, name, source); err != nil && fault.CodeOf(err) != fault.CodeDraining && ctx.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	t.Cleanup(c.leave)
	comesAbout(t, "all nodes connected", func() bool { return c.connected.Load() == int64(n) })
	return c
}

// leave ends all nodes.
func (c *crowd) leave() {
	c.stop()
	c.wg.Wait()
}

// live is one node's stream, until the hub or the crowd ends it.
func (c *crowd) live(ctx context.Context, address, name string, source *mtls.Source) error {
	opts := wire.DialOptions(wire.DialConfig{ReceiveBytes: 8 << 20, SendBytes: 1 << 20, UserAgent: "crowd"})
	conn, err := grpc.NewClient(address, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(mtls.ClientConfig(source, mtls.AnyHub))))...)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: name, Protocols: []string{"v1"}, Capabilities: view.Known()}}}); err != nil {
		return err
	}
	var m trustv1.Manifest
	for {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		if n := in.GetNotice(); n.GetClosing() {
			_ = stream.CloseSend()
			continue
		}
		if in.GetAccepted() != nil {
			c.connected.Add(1)
		}
		u := in.GetUpdate()
		if u == nil {
			continue
		}
		if env := u.GetManifest(); env != nil {
			if err := proto.Unmarshal(env.GetPayload(), &m); err != nil {
				return err
			}
		}
		if u.GetChunk()+1 != u.GetChunks() {
			continue
		}
		ack := &controlv1.Ack{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest()}
		if err := stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: ack}}); err != nil {
			return err
		}
		c.mu.Lock()
		c.versions[m.GetVersion()]++
		c.mu.Unlock()
	}
}

// have counts the nodes that acknowledged version.
func (c *crowd) have(version uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.versions[version]
}

func comesAbout(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s did not come about", what)
		}
	}
}

func TestStoppingWithNodesConnectedTakesAtMostFiveSeconds(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t, func(opt *hub.Options) { opt.Drain = 0 })
	gather(t, h, crowdSize(t, 150))
	begin := time.Now()
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
}

// A hub that ends gives the lease up before it waits for its streams.
func TestAHubThatEndsHandsTheLeaseOverFirst(t *testing.T) {
	d := hubtest.NewDomain(t)
	h := d.Start(t, func(opt *hub.Options) { opt.Drain = 3 * time.Second })
	source, _ := h.Join(t, h.Token(t, &adminv1.CreateTokenRequest{}), "node1")
	stream, err := controlv1.NewControlServiceClient(h.Dial(t, source)).Stream(t.Context())
	if err == nil {
		err = stream.Send(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "node1", Protocols: []string{"v1"}, Capabilities: view.Known()}}})
	}
	if err == nil {
		_, err = stream.Recv() // and then it does not leave
	}
	if err != nil {
		t.Fatal(err)
	}
	// The next leader is a replica alone. It is listed and has led, so the hub knows of it.
	list(t, h, "hub2")
	next := replica.New(replica.Options{
		Domain: hubtest.Name, Holder: store.Holder{Name: "hub2", Address: "127.0.0.1:1"}, Author: "spiffe://" + hubtest.Name + "/hub/hub2",
		Open: func(ctx context.Context) (*store.Log, error) {
			return store.Open(ctx, d.Store.Driver(), store.Options{})
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- next.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-next.Ready()
	leads := func(hub string) func() bool { // and has read all that was before
		return func() bool { return next.Current().State.Leader().GetHub() == hub }
	}
	d.Store.Expire()
	comesAbout(t, "another leader", leads("hub2"))
	next.Hold(time.Hour)
	comesAbout(t, "the hub's leadership", leads(hubtest.HubName))
	next.Hold(0)

	stopped := make(chan time.Time, 1)
	began := time.Now()
	go func() { _ = h.Stop(); stopped <- time.Now() }()
	comesAbout(t, "another leader", leads("hub2"))
	took := time.Since(began)
	if whole := (<-stopped).Sub(began); took > whole/2 {
		t.Errorf("another hub leads after %v, the hub has ended after %v", took, whole)
	}
}

// rewrite is a change of every one of n resources.
func rewrite(n, port int) *adminv1.ApplyRequest {
	req := &adminv1.ApplyRequest{Change: &adminv1.Change{}}
	for i := range n {
		req.Change.Resources = append(req.Change.Resources, cluster(fmt.Sprintf("c%04d", i), fmt.Sprintf("10.0.0.1:%d", port)))
	}
	return req
}

// An answer that waited for the fan-out would never find a node without the change.
func TestTheAnswerToALargeChangeComesBeforeItsFanOutIsDone(t *testing.T) {
	h := hubtest.NewDomain(t).Start(t)
	o := operate(t, h)
	n := crowdSize(t, 100)
	c := gather(t, h, n)
	first := 0
	for port := 0; port < 8 && first == 0; port++ {
		resp, err := o.resources.Apply(t.Context(), rewrite(1000, 1080+port))
		if err != nil {
			t.Fatal(err)
		}
		if have := c.have(resp.GetSeq()); have < n {
			t.Logf("answered with the change on %d of %d nodes", have, n)
			first++
		}
		comesAbout(t, "the change on every node", func() bool { return c.have(resp.GetSeq()) == n })
	}
	if first == 0 {
		t.Error("each answer came when every node had the change already")
	}
}
