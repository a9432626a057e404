package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/agent/fleet"
	"github.com/meshkit/meshkit/pkg/agent/join"
	agentlocal "github.com/meshkit/meshkit/pkg/agent/local"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// joined joins a node and gives its configuration, with a short probation.
func joined(t testing.TB, h *testHub, node string) agent.Config {
	t.Helper()
	dir := filepath.Join(shortDir(t), node)
	if _, err := join.Join(t.Context(), join.Request{Hub: h.address, Token: "good-token", Pin: h.ca.pin(), Dir: dir, Node: node, Listen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := agent.LoadConfig(filepath.Join(dir, agent.ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Probation.Period = resource.Duration(50 * time.Millisecond)
	return cfg
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mka")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// running is an agent that runs until stop.
type running struct {
	*agent.Agent
	endpoints agent.Endpoints
	stop      func()
}

// start runs an agent and waits until it is ready.
func start(t testing.TB, cfg agent.Config) *running {
	t.Helper()
	ready := make(chan agent.Endpoints, 1)
	a, err := agent.New(cfg, agent.Options{Ready: func(e agent.Endpoints) { ready <- e }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r := &running{Agent: a}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended with %v", err)
		}
	}
	t.Cleanup(r.stop)
	select {
	case r.endpoints = <-ready:
	case err := <-done:
		t.Fatalf("agent ended with %v", err)
	case <-time.After(patience):
		t.Fatal("agent not ready")
	}
	return r
}

type bundleFile struct {
	Version   uint64                     `json:"version"`
	Digest    string                     `json:"digest"`
	Manifest  []byte                     `json:"manifest"`
	Resources map[string]json.RawMessage `json:"resources"`
}

func readBundle(t testing.TB, cfg agent.Config) bundleFile {
	t.Helper()
	data, err := os.ReadFile(cfg.Bundle.Path)
	if err != nil {
		t.Fatal(err)
	}
	var b bundleFile
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChangesArriveAndSurviveTheLossOfEveryHub(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1, "b": 2}))
	h.awaitAck(1, true)
	h.publish(2, content(map[string]int{"a": 1, "b": 3}))
	h.awaitAck(2, true)
	if b := readBundle(t, cfg); b.Version != 2 || len(b.Resources) != 2 || !strings.Contains(string(b.Resources["Cluster/default/b"]), ":3") {
		t.Fatalf("bundle file: %+v", b)
	}
	a.stop()
	h.stop()
	if err := os.Remove(cfg.Bundle.Path); err != nil {
		t.Fatal(err)
	}

	a = start(t, cfg) // with no hub
	if b := readBundle(t, cfg); b.Version != 2 {
		t.Fatalf("bundle file after a restart without a hub: version %d", b.Version)
	}
	if got := follow(t, "unix:"+a.endpoints.Socket, local.NewCredentials(), "proxy").await(t, 2); len(got) != 2 {
		t.Fatalf("the socket serves %d resources", len(got))
	}
	client := credentials.NewTLS(mtls.ClientConfig(h.ca.source(identity.Node, "n1"), func(identity.ID) error { return nil }))
	if got := follow(t, a.endpoints.Listen, client, "n1").await(t, 2); len(got) != 2 {
		t.Fatalf("the port serves %d resources", len(got))
	}

	h.start() // and it goes on from where it was
	h.publish(3, content(map[string]int{"a": 1, "b": 4}))
	h.awaitAck(3, false)
}

// An ack says of each change that it is active. What a status says beside that is a
// level, and the hub need not hear of each step of each change.
func TestFastChangesAreToldInFewStatuses(t *testing.T) {
	h := newHub(t)
	start(t, joined(t, h, "n1"))
	const changes = 100
	from := time.Now()
	for v := range uint64(changes) {
		h.publish(v+1, content(map[string]int{"a": int(v) + 1}))
		h.awaitAck(v+1, false)
	}
	got := h.awaitStatus(changes)
	if most := 3 + int(time.Since(from)/agent.ReportEvery); got > most {
		t.Errorf("%d changes were told in %d statuses, want at most %d: one each %s", changes, got, most, agent.ReportEvery)
	}
}

// follower is a data plane that streams.
type follower struct {
	updates chan *subscriber.Update
	client  *subscriber.Client
	node    string
}

func follow(t testing.TB, address string, creds credentials.TransportCredentials, node string) *follower {
	t.Helper()
	f := &follower{updates: make(chan *subscriber.Update, 100), node: node}
	c, err := subscriber.New(subscriber.Config{Hubs: []string{address}, DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(creds)}, Handler: f})
	if err != nil {
		t.Fatal(err)
	}
	f.client = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

func (f *follower) Hello() *controlv1.Hello {
	return &controlv1.Hello{Node: f.node, Capabilities: []string{"core/v1"}, Protocols: []string{distribution.Protocol}}
}
func (f *follower) Accepted(context.Context, string, *controlv1.Accepted) {}
func (f *follower) Update(_ context.Context, u *subscriber.Update)        { f.updates <- u }
func (f *follower) Freshness(context.Context, *trustv1.Envelope)          {}
func (f *follower) Trust(context.Context, *trustv1.Metadata)              {}
func (f *follower) Notice(context.Context, *controlv1.Notice)             {}
func (f *follower) Disconnected(string, error, time.Duration)             {}

// await waits for a version and gives the keys that came with it.
func (f *follower) await(t testing.TB, version uint64) []string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case u := <-f.updates:
			m := &trustv1.Manifest{}
			if err := proto.Unmarshal(u.Manifest.GetPayload(), m); err != nil {
				t.Fatal(err)
			}
			f.client.Ack(&controlv1.Ack{Epoch: m.GetEpoch(), Version: m.GetVersion(), Digest: m.GetDigest()})
			if m.GetVersion() != version {
				continue
			}
			var keys []string
			for _, r := range u.Upserts {
				keys = append(keys, r.GetKey())
			}
			return keys
		case <-deadline:
			t.Fatalf("version %d did not come", version)
		}
	}
}

func TestAFailingHookTakesTheNodeAndItsProcessesBack(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	cfg.Bundle.Hook = []string{"/bin/sh", "-c", `if grep -q 10.0.0.1:666 "$MESHKIT_BUNDLE"; then echo "port 666 is taken"; exit 3; fi`}
	start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	h.publish(2, content(map[string]int{"a": 666}))
	n := h.awaitNack(fault.CodeActivationFailed)
	if !strings.Contains(n.GetMessage(), "port 666 is taken") || !strings.Contains(n.GetMessage(), "exit status 3") {
		t.Fatalf("the nack says %q", n.GetMessage())
	}
	h.publish(3, content(map[string]int{"a": 666})) // the same content again
	h.publish(4, content(map[string]int{"a": 7}))
	h.awaitAck(4, true)
	if b := readBundle(t, cfg); b.Version != 4 {
		t.Fatalf("bundle file has version %d", b.Version)
	}
}

func TestADataPlanesNackRevertsAndItIsServedTheOldContent(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	proxy := follow(t, "unix:"+a.endpoints.Socket, local.NewCredentials(), "proxy")
	proxy.await(t, 1)
	a.stop()

	cfg.Probation.Period = resource.Duration(time.Minute)
	start(t, cfg)
	v2 := content(map[string]int{"a": 2})
	h.publish(2, v2)
	proxy.await(t, 2)
	proxy.client.Nack(&controlv1.Nack{Epoch: 1, Version: 2, Digest: v2.Root().Bytes(), Code: "X1", Message: "cannot bind"})
	n := h.awaitNack(fault.CodeDataPlaneRefused)
	if !strings.Contains(n.GetMessage(), "cannot bind") {
		t.Fatalf("the nack says %q", n.GetMessage())
	}
	proxy.await(t, 1)
}

func TestForgedContentIsRefusedAndTheKeyNamed(t *testing.T) {
	h := newHub(t)
	a := start(t, joined(t, h, "n1"))
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	stranger := newSigner(t)
	h.publishSigned(2, content(map[string]int{"a": 2}), stranger)
	n := h.awaitNack(fault.CodeUnknownKey)
	if !strings.Contains(n.GetMessage(), stranger.KeyID()) {
		t.Fatalf("the nack does not name the key: %q", n.GetMessage())
	}
	if rep := a.Report(); rep.Active.Version != 1 {
		t.Fatalf("active is version %d", rep.Active.Version)
	}
}

func TestARotatedKeyIsFollowedAndLastKnownGoodStaysTrusted(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	h.rotate()
	v2 := content(map[string]int{"a": 2})
	h.publish(2, v2)
	h.awaitAck(2, true)

	// The key of version 2 goes as well, and a statement by the new one comes: for
	// a later point, which the agent acknowledges.
	h.rotate()
	h.publish(3, v2)
	h.confirm(3, v2)
	h.awaitAck(3, true)
	a.stop()
	h.stop()
	a = start(t, cfg)
	if rep := a.Report(); rep.Active.Version != 3 || rep.Durable.Highest.Version != 3 {
		t.Fatalf("after two rotations and a restart without a hub: %+v", rep)
	}
}

func TestLastKnownGoodOutlivesARotationThatNoHubVouchedAfter(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	h.rotate()
	deadline := time.Now().Add(patience)
	for a.Status().GetKeysetVersion() != 2 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	a.stop()
	h.stop()
	a = start(t, cfg)
	if rep := a.Report(); rep.Active.Version != 1 {
		t.Fatalf("after a rotation and a restart without a hub: %+v", rep)
	}
}

func TestARenewedCertificateIsUsedWithoutARestart(t *testing.T) {
	h := newHub(t)
	h.ca.life.Store(int64(3 * time.Second))
	cfg := joined(t, h, "n1")
	files := mtls.Files{
		Cert: filepath.Join(cfg.Data, "tls", "node.pem"),
		Key:  filepath.Join(cfg.Data, "tls", "node.key"),
		CA:   filepath.Join(cfg.Data, "tls", "ca.pem"),
	}
	before, err := mtls.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, cfg)
	select {
	case <-h.renew:
	case <-time.After(patience):
		t.Fatal("no renewal")
	}
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	a.stop() // waits for the renewal to be complete
	after, err := mtls.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	if !after.NotAfter().After(before.NotAfter().Add(time.Minute)) {
		t.Fatalf("the stored certificate is valid until %v, before it was %v", after.NotAfter(), before.NotAfter())
	}
	if live := a.Source().NotAfter(); !live.Equal(after.NotAfter()) {
		t.Fatalf("the agent shows a certificate valid until %v, stored is %v", live, after.NotAfter())
	}
}

func TestBreakGlassNeedsNoHub(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	a := start(t, cfg)
	for v := uint64(1); v <= 2; v++ {
		h.publish(v, content(map[string]int{"a": int(v)}))
		h.awaitAck(v, true)
	}
	h.stop()
	conn, err := agentlocal.Dial(t.Context(), a.endpoints.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := agentlocal.NewClient(conn)
	if _, err := client.Revert(t.Context(), &agentv1.RevertRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	s, err := client.GetStatus(t.Context(), &agentv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if g := s.GetGenerations()[0]; g.GetPoint().GetVersion() != 1 || !s.GetPinned() || s.GetHighest().GetVersion() != 2 {
		t.Fatalf("status after revert: %v", s)
	}
	b, err := client.GetBundle(t.Context(), &agentv1.GetBundleRequest{})
	if err != nil || len(b.GetResources()) != 1 || !strings.Contains(string(b.GetResources()[0].GetContent()), ":1") {
		t.Fatalf("bundle %v (%v)", b, err)
	}
	if _, err := client.Pin(t.Context(), &agentv1.PinRequest{Version: 99}); fault.CodeOf(err) != fault.CodeGenerationNotFound {
		t.Fatalf("pinning what is not stored: %v", err)
	}
	if _, err := client.Unpin(t.Context(), &agentv1.UnpinRequest{}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	a = start(t, cfg)
	if v := a.Report().Active.Version; v != 2 {
		t.Fatalf("after unpin and a restart: version %d", v)
	}
}

// TestAFullDiskNacksAndRecovers gives the store a disk without room, and then room.
func TestAFullDiskNacksAndRecovers(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	cfg.Bundle.Path = ""
	disk := &fillable{FS: durable.OS}
	a, err := agent.New(cfg, agent.Options{FS: disk, NoLocal: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	h.publish(1, content(map[string]int{"a": 1}))
	h.awaitAck(1, true)
	disk.full.Store(true)
	h.publish(2, content(map[string]int{"a": 2}))
	h.awaitNack(fault.CodeLKGWrite)
	if rep := a.Report(); rep.Active.Version != 1 {
		t.Fatalf("on a full disk version %d is active", rep.Active.Version)
	}
	disk.full.Store(false)
	h.awaitAck(2, false) // it tries again by itself
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// fillable is a file system on which nothing can be made while it is full.
type fillable struct {
	durable.FS
	full atomic.Bool
}

func (f *fillable) Create(path string, perm fs.FileMode) (durable.File, error) {
	if f.full.Load() {
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.ENOSPC}
	}
	return f.FS.Create(path, perm)
}

func TestAStrangersCertificateIsNotServed(t *testing.T) {
	h := newHub(t)
	a := start(t, joined(t, h, "n1"))
	stranger := newCA(t)
	creds := credentials.NewTLS(mtls.ClientConfig(stranger.source(identity.Node, "n1"), func(identity.ID) error { return nil }))
	conn, err := grpc.NewClient("passthrough:///"+a.endpoints.Listen, append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := controlv1.NewControlServiceClient(conn).Stream(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		t.Fatal("a certificate of another CA was admitted")
	}
}

func TestTwoAgentsDoNotShareADirectory(t *testing.T) {
	h := newHub(t)
	cfg := joined(t, h, "n1")
	start(t, cfg)
	if _, err := agent.New(cfg, agent.Options{}); fault.CodeOf(err) != fault.CodeAgentDirectoryInUse {
		t.Fatalf("got %v, want %s", err, fault.CodeAgentDirectoryInUse)
	}
}

func TestAJoinCanBeRepeatedAndAsksTheSame(t *testing.T) {
	h := newHub(t)
	dir := filepath.Join(shortDir(t), "n1")
	r := join.Request{Hub: h.address, Token: "good-token", Pin: h.ca.pin(), Dir: dir, Node: "n1", Timeout: 300 * time.Millisecond}
	h.loseAnswers.Store(1000)
	_, err := join.Join(t.Context(), r)
	if err == nil {
		t.Fatal("joined without an answer")
	}
	if help := fault.RemedyOf(err); !strings.Contains(help, "run the same command again") {
		t.Errorf("the remedy is %q, and nobody who joins has a request id to give", help)
	}
	first := <-h.joins
	if join.Joined(dir) {
		t.Fatal("a join without an answer left a configuration")
	}
	other := r
	other.Node = "n2"
	if _, err := join.Join(t.Context(), other); fault.CodeOf(err) != fault.CodeJoinOtherTarget {
		t.Fatalf("another node in the same directory: %v", err)
	}
	h.loseAnswers.Store(0)
	for len(h.joins) > 0 {
		<-h.joins
	}
	r.Timeout = patience
	if _, err := join.Join(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	again := <-h.joins
	if again.GetRequestId() != first.GetRequestId() || string(again.GetCsr()) != string(first.GetCsr()) {
		t.Fatal("the repetition was another request")
	}
	if _, err := join.Join(t.Context(), r); fault.CodeOf(err) != fault.CodeAlreadyJoined {
		t.Fatalf("a second join: %v", err)
	}
}

func TestJoinRefusesAWrongPinAndABadToken(t *testing.T) {
	h := newHub(t)
	r := join.Request{Hub: h.address, Token: "good-token", Pin: newCA(t).pin(), Dir: filepath.Join(shortDir(t), "x"), Node: "n1"}
	if _, err := join.Join(t.Context(), r); fault.CodeOf(err) != fault.CodePinMismatch {
		t.Fatalf("wrong pin: %v", err)
	}
	if len(h.joins) > 0 {
		t.Fatal("the token was sent to a hub that the pin does not vouch for")
	}
	r = join.Request{Hub: h.address, Token: "bad-token", Pin: h.ca.pin(), Dir: filepath.Join(shortDir(t), "y"), Node: "n1"}
	if _, err := join.Join(t.Context(), r); fault.KindOf(err) != fault.Unauthenticated {
		t.Fatalf("bad token: %v", err)
	}
}

func TestAFleetRunsItsAgentsAndKeepsTheirIdentities(t *testing.T) {
	h := newHub(t)
	h.publish(1, content(map[string]int{"a": 1}))
	cfg := fleet.Config{Hub: h.address, Token: "good-token", Pin: h.ca.pin(), Dir: shortDir(t), Count: 5}
	run := func() {
		f, err := fleet.Open(t.Context(), cfg, fleet.Options{Change: func(c *agent.Config) { c.Probation.Period = resource.Duration(20 * time.Millisecond) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		for range cfg.Count {
			h.awaitAck(1, true)
		}
		if r := f.Report(); r.Agents != 5 || r.Active != 5 || r.Version != 1 || r.Connected != 5 {
			t.Errorf("report %+v", r)
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("fleet ended with %v", err)
		}
	}
	run()
	joins := len(h.joins)
	cfg.Token = ""
	f, err := fleet.Open(t.Context(), cfg, fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(h.joins) != joins {
		t.Fatal("a restart joined again")
	}
}
