package forward_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/forward"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/wire"
)

// dying is a leader that is gone for good as soon as it gets a request, or before.
type dying struct {
	adminv1.UnimplementedResourceServiceServer
	server *grpc.Server
	got    chan struct{}
	undone chan time.Duration // by when undos are to be answered
}

func (d *dying) Undo(ctx context.Context, _ *adminv1.UndoRequest) (*adminv1.UndoResponse, error) {
	by, _ := ctx.Deadline()
	d.undone <- time.Until(by)
	return &adminv1.UndoResponse{}, nil
}

func (d *dying) Apply(ctx context.Context, _ *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	close(d.got)
	go d.server.Stop() // takes the connection before there is an answer
	<-ctx.Done()
	return nil, ctx.Err()
}

// forgetful is a leader that does not know whether it did what it was asked first,
// and was done.
type forgetful struct {
	adminv1.UnimplementedFleetServiceServer
	calls atomic.Int32
}

func (f *forgetful) ForgetAgent(context.Context, *adminv1.ForgetAgentRequest) (*adminv1.ForgetAgentResponse, error) {
	if f.calls.Add(1) == 1 {
		return nil, fault.New(fault.CodeWriteUnknown, "the store did not answer")
	}
	return nil, fault.New(fault.CodeNoSuchAgent, "no agent of that name has joined")
}

// follower runs what a hub needs to forward to a leader, which it gives too.
func follower(t *testing.T) (*forward.Forwarder, *dying) {
	t.Helper()
	d := hubtest.NewDomain(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	leader := &dying{got: make(chan struct{}), undone: make(chan time.Duration, 1)}
	config := mtls.ServerConfig(d.Source(t, identity.Hub, "leader"), mtls.ServerOptions{})
	leader.server = grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(credentials.NewTLS(config)))...)
	adminv1.RegisterResourceServiceServer(leader.server, leader)
	adminv1.RegisterFleetServiceServer(leader.server, &forgetful{})
	go leader.server.Serve(l) // ends with Stop
	t.Cleanup(leader.server.Stop)

	holder := store.Holder{Name: "leader", Address: l.Addr().String()}
	open := func(ctx context.Context) (*store.Log, error) {
		return store.Open(ctx, d.Store.Driver(), store.Options{})
	}
	log, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	tenure, err := log.Campaign(t.Context(), holder)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(&logv1.TermStarted{Hub: holder.Name, Address: holder.Address})
	if err == nil {
		_, err = tenure.Submit(t.Context(), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: state.KindTermStarted, Time: time.Now(), Payload: payload}, nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}

	r := replica.New(replica.Options{Open: open, Domain: hubtest.Name, Holder: store.Holder{Name: "follower"}, Author: "spiffe://" + hubtest.Name + "/hub/follower"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	<-r.Ready()
	listed := func(string) bool { return true }
	set := peers.New(peers.Options{
		Domain: hubtest.Name, Hub: "follower", TLS: d.Source(t, identity.Hub, "follower"), Listed: listed, MessageBytes: 1 << 20,
		Stands: func(identity.ID, []*x509.Certificate) error { return nil },
		State:  func() *state.State { return r.Current().State },
	})
	t.Cleanup(set.Close)
	return forward.New(forward.Options{
		Domain: hubtest.Name, Hub: "follower", Patience: 3 * time.Second, Replica: r, Peers: set, Logger: slog.New(slog.DiscardHandler),
	}), leader
}

func send(t *testing.T, f *forward.Forwarder) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := f.Send(ctx, &adminv1.ApplyRequest{RequestId: "one"}, &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Apply_FullMethodName},
		func(context.Context, any) (any, error) {
			t.Error("a hub that does not lead does the write itself")
			return nil, nil
		})
	return err
}

// A leader that got a write and died may have done it. That nobody can be reached
// since does not say that nothing was done.
func TestAWriteThatALeaderGotAndDidNotAnswerIsOfUnknownOutcome(t *testing.T) {
	f, leader := follower(t)
	err := send(t, f)
	select {
	case <-leader.got:
	default:
		t.Fatal("the leader got no request")
	}
	if fault.KindOf(err) != fault.Unknown {
		t.Errorf("kind %v: %v", fault.KindOf(err), err)
	}
}

// The second try of a request without an id may find what the first did: that there
// is nothing to do does not say that nothing was done.
func TestWhatARetryWithoutARequestIDIsToldIsOfUnknownOutcome(t *testing.T) {
	f, _ := follower(t)
	_, err := f.Send(t.Context(), &adminv1.ForgetAgentRequest{Node: "node-a"}, &grpc.UnaryServerInfo{FullMethod: adminv1.FleetService_ForgetAgent_FullMethodName},
		func(context.Context, any) (any, error) { return nil, nil })
	if !errors.Is(err, fault.CodeWriteUnknown) || !strings.Contains(err.Error(), "no agent of that name") {
		t.Errorf("%v (%s)", err, fault.CodeOf(err))
	}
}

// A leader that is not there got nothing: whoever is told may do something else.
func TestAWriteThatReachedNobodyWasNotDone(t *testing.T) {
	f, leader := follower(t)
	leader.server.Stop()
	if err := send(t, f); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("kind %v: %v", fault.KindOf(err), err)
	}
}

// A caller says how long it waits for an answer; the patience is with the search for a
// leader.
func TestALeaderHasTheTimeThatTheCallerGives(t *testing.T) {
	undo := &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Undo_FullMethodName}
	f, leader := follower(t)
	own := forward.New(forward.Options{Domain: hubtest.Name, Hub: "leader", Replica: replica.New(replica.Options{Domain: hubtest.Name})})
	for name, hub := range map[string]*forward.Forwarder{"on the hub that forwards": f, "on the leader": own} {
		for _, given := range []time.Duration{0, time.Minute} {
			ctx, cancel := context.WithCancel(t.Context())
			if given > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), given)
			}
			_, err := hub.Send(ctx, &adminv1.UndoRequest{}, undo, func(ctx context.Context, req any) (any, error) {
				return leader.Undo(ctx, req.(*adminv1.UndoRequest))
			})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if has := <-leader.undone; has < 50*time.Second || has > 2*time.Minute {
				t.Errorf("%s a caller that gives %s has its undo done within %s", name, given, has)
			}
		}
	}
}

// Whoever sets no bound hears all the same that nobody leads.
func TestTheSearchForALeaderEnds(t *testing.T) {
	f, leader := follower(t)
	leader.server.Stop()
	begun := time.Now()
	_, err := f.Send(t.Context(), &adminv1.UndoRequest{}, &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Undo_FullMethodName},
		func(context.Context, any) (any, error) { return nil, nil })
	if took := time.Since(begun); fault.KindOf(err) != fault.Unavailable || took > time.Minute {
		t.Errorf("after %s: %v", took, err)
	}
}

// A request gets its id before the first try: a hub that forwarded it in vain and
// leads then must not do it under another.
func TestAHubThatDoesTheWriteItselfKeepsTheRequestID(t *testing.T) {
	r := replica.New(replica.Options{Domain: hubtest.Name, Holder: store.Holder{Name: "leader"}})
	f := forward.New(forward.Options{Domain: hubtest.Name, Hub: "leader", Replica: r})
	_, err := f.Send(t.Context(), &adminv1.ApplyRequest{}, &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Apply_FullMethodName},
		func(_ context.Context, req any) (any, error) {
			if req.(*adminv1.ApplyRequest).GetRequestId() == "" {
				t.Error("the request has no id")
			}
			return nil, nil
		})
	if err != nil {
		t.Error(err)
	}
}

// A hub that has not read the keyset yet does not know who may forward: it is not
// the caller's fault.
func TestAHubThatStartsRefusesNoForwarderForGood(t *testing.T) {
	f := forward.New(forward.Options{
		Domain: hubtest.Name, Hub: "leader", Ready: func() <-chan struct{} { return make(chan struct{}) },
	})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("meshkit-forwarded", "1"))
	_, err := f.Accept(ctx, &adminv1.ApplyRequest{}, &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Apply_FullMethodName},
		func(context.Context, any) (any, error) {
			t.Error("it is believed")
			return nil, nil
		})
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("kind %v: %v", fault.KindOf(err), err)
	}
}

// A write that was queued when this hub gave the lease up goes to who leads next.
func TestAWriteThatWasQueuedAtAHandOverIsTriedAgain(t *testing.T) {
	f := forward.New(forward.Options{Domain: hubtest.Name, Hub: "leader", Replica: replica.New(replica.Options{})})
	tries := 0
	_, err := f.Send(t.Context(), &adminv1.ApplyRequest{}, &grpc.UnaryServerInfo{FullMethod: adminv1.ResourceService_Apply_FullMethodName},
		func(context.Context, any) (any, error) {
			if tries++; tries < 3 {
				return nil, fault.New(fault.CodeLeaseLost, "append to log: this hub is resigning leadership")
			}
			return &adminv1.ApplyResponse{}, nil
		})
	if err != nil {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
