package cli_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/cli"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// now is the time of every test.
var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// fakeHub answers with the functions that a test sets; other calls are not
// implemented. It speaks gRPC with the product's own interceptors.
type fakeHub struct {
	adminv1.UnimplementedResourceServiceServer
	adminv1.UnimplementedFleetServiceServer
	adminv1.UnimplementedTrustServiceServer
	adminv1.UnimplementedDomainServiceServer
	adminv1.UnimplementedRingServiceServer

	guest     string // domain of the tokens that it makes
	get       func(*adminv1.GetRequest) (*adminv1.GetResponse, error)
	list      func(*adminv1.ListRequest) (*adminv1.ListResponse, error)
	plan      func(*adminv1.PlanRequest) (*adminv1.PlanResponse, error)
	apply     func(context.Context, *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error)
	history   func(*adminv1.HistoryRequest) (*adminv1.HistoryResponse, error)
	propagate func(*adminv1.WatchPropagationRequest, grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error
	watch     func(*adminv1.WatchRequest, grpc.ServerStreamingServer[adminv1.WatchResponse]) error
	agents    func(context.Context, *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error)
	agent     func(*adminv1.GetAgentRequest) (*adminv1.GetAgentResponse, error)
	hubs      []*adminv1.Hub
	create    func(*adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error)
	guests    []*adminv1.ServedDomain
	store     string // of the domain
	trust     *trustv1.Metadata
}

// PublishTrust takes nothing that is new.
func (h *fakeHub) PublishTrust(context.Context, *adminv1.PublishTrustRequest) (*adminv1.PublishTrustResponse, error) {
	return nil, fault.New(fault.CodeBadRequest, "the metadata brings nothing new")
}
func (h *fakeHub) GetTrust(context.Context, *adminv1.GetTrustRequest) (*adminv1.GetTrustResponse, error) {
	return &adminv1.GetTrustResponse{Metadata: h.trust, RootVersion: 2, KeysetVersion: 3}, nil
}

func (h *fakeHub) CreateDomain(_ context.Context, r *adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
	return h.create(r)
}

func (h *fakeHub) Get(_ context.Context, r *adminv1.GetRequest) (*adminv1.GetResponse, error) {
	return h.get(r)
}
func (h *fakeHub) List(_ context.Context, r *adminv1.ListRequest) (*adminv1.ListResponse, error) {
	return h.list(r)
}
func (h *fakeHub) Plan(_ context.Context, r *adminv1.PlanRequest) (*adminv1.PlanResponse, error) {
	return h.plan(r)
}
func (h *fakeHub) Apply(ctx context.Context, r *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	return h.apply(ctx, r)
}
func (h *fakeHub) History(_ context.Context, r *adminv1.HistoryRequest) (*adminv1.HistoryResponse, error) {
	return h.history(r)
}
func (h *fakeHub) WatchPropagation(r *adminv1.WatchPropagationRequest, s grpc.ServerStreamingServer[adminv1.WatchPropagationResponse]) error {
	return h.propagate(r, s)
}
func (h *fakeHub) Watch(r *adminv1.WatchRequest, s grpc.ServerStreamingServer[adminv1.WatchResponse]) error {
	return h.watch(r, s)
}
func (h *fakeHub) ListAgents(ctx context.Context, r *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	return h.agents(ctx, r)
}
func (h *fakeHub) GetAgent(_ context.Context, r *adminv1.GetAgentRequest) (*adminv1.GetAgentResponse, error) {
	return h.agent(r)
}
func (h *fakeHub) ListHubs(context.Context, *adminv1.ListHubsRequest) (*adminv1.ListHubsResponse, error) {
	return &adminv1.ListHubsResponse{Hubs: h.hubs}, nil
}
func (h *fakeHub) CreateToken(context.Context, *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	return &adminv1.CreateTokenResponse{Token: "id.secret", Id: "id", CaPin: "sha256:00", ExpiresAt: stamp(-time.Hour), GuestDomain: h.guest}, nil
}
func (h *fakeHub) SetDrained(context.Context, *adminv1.SetDrainedRequest) (*adminv1.SetDrainedResponse, error) {
	return &adminv1.SetDrainedResponse{Seq: 9}, nil
}
func (h *fakeHub) GetDomain(context.Context, *adminv1.GetDomainRequest) (*adminv1.GetDomainResponse, error) {
	return &adminv1.GetDomainResponse{Domain: "demo", Hub: "hub1", Leader: "hub1", Epoch: 1, ConfigSeq: 7, Store: h.store, AlsoServed: h.guests}, nil
}

// session runs meshctl against a fake hub.
type session struct {
	t      *testing.T
	app    *cliutil.App
	server *grpc.Server
	in     *bytes.Buffer
	out    *bytes.Buffer
	err    *bytes.Buffer
}

func newSession(t *testing.T, h *fakeHub) *session {
	t.Helper()
	dir, err := os.MkdirTemp("", "hub") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(local.NewCredentials()))...)
	adminv1.RegisterResourceServiceServer(server, h)
	adminv1.RegisterFleetServiceServer(server, h)
	adminv1.RegisterTrustServiceServer(server, h)
	adminv1.RegisterDomainServiceServer(server, h)
	adminv1.RegisterRingServiceServer(server, h)
	go server.Serve(listener) // ends with Stop
	t.Cleanup(server.Stop)
	io, in, out, errs := cliutil.TestIO(map[string]string{"MESHKIT_HUB": "hub:1", "MESHKIT_CA_FILE": "c", "MESHKIT_CERT_FILE": "c", "MESHKIT_KEY_FILE": "k"})
	s := &session{t: t, server: server, in: in, out: out, err: errs, app: cliutil.NewApp(io, nil)}
	s.app.Now = func() time.Time { return now }
	s.app.NewID = func() string { return "6e2b57a1-0000-4000-8000-000000000001" }
	s.app.Dial = func(cfg client.Config) (*client.Client, error) {
		options := append(wire.DialOptions(wire.DialConfig{}), grpc.WithStatsHandler(client.StatsHandler()), grpc.WithTransportCredentials(local.NewCredentials()))
		conn, err := grpc.NewClient("unix://"+listener.Addr().String(), options...)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		return client.New(cfg.Hub, conn), nil
	}
	return s
}

// run runs one command line and checks its exit code.
func (s *session) run(want int, args ...string) {
	s.t.Helper()
	s.runContext(s.t.Context(), want, args...)
}

func (s *session) runContext(ctx context.Context, want int, args ...string) {
	s.t.Helper()
	s.out.Reset()
	s.err.Reset()
	s.app.Args = append([]string{"meshctl"}, args...)
	if got := cli.Run(ctx, s.app); got != want {
		s.t.Fatalf("meshctl %v: exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", args, got, want, s.out, s.err)
	}
}

func stamp(ago time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-ago)) }

func cluster(name, address string, seq uint64) *adminv1.Resource {
	return &adminv1.Resource{Kind: "Cluster", Namespace: "default", Name: name, Generation: 2, ResourceVersion: seq, CreatedAt: stamp(3 * time.Hour), UpdatedAt: stamp(5 * time.Minute),
		Content: []byte(`{"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"` + name + `","namespace":"default"},"spec":{"endpoints":[{"address":"` + address + `","locality":{"region":"eu"}}]}}`),
		Owners:  []*adminv1.FieldOwner{{Manager: "meshctl", Fields: []string{"spec.endpoints"}}}}
}

func route(name, to string, seq uint64) *adminv1.Resource {
	return &adminv1.Resource{Kind: "Route", Namespace: "default", Name: name, Generation: 1, ResourceVersion: seq, CreatedAt: stamp(time.Hour), UpdatedAt: stamp(time.Hour),
		Content: []byte(`{"apiVersion":"meshkit.dev/v1","kind":"Route","metadata":{"name":"` + name + `","namespace":"default"},"spec":{"rules":[{"clusters":[{"name":"` + to + `"}],"name":"all"}],"service":"` + name + `"}}`)}
}
