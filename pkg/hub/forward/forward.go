// Package forward lets a write go to any hub of a ring: a hub that does not lead
// sends the call on to the one that does, and answers as that one did. What only a hub
// with certain keys can do, it hands on to that one. A call is sent on once.
//
// The leader judges the call as if the caller had made it there: the hub that
// forwards shows its own certificate and hands on the caller's with its chain, which
// the leader verifies as its own port does, and its address and user agent. That the
// caller holds the certificate's key is the word of the hub that forwards; one that
// the keyset does not list is not believed.
//
// A call keeps its request id over every try; one without gets one here. So a try
// whose answer was lost, because the leader died, is repeated with the next
// leader, and is done once. Of a method that knows no request ids, what the next
// leader refuses after such a try is of unknown outcome: the first may have done
// it. Before the answer is given back, this hub has caught
// up with what the leader had: callers read what they wrote.
//
// All methods are safe for concurrent use.
package forward

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// Headers of a forwarded call, and the trailer of its answer.
const (
	markHeader   = "meshkit-forwarded"
	certHeader   = "meshkit-forwarded-cert-bin" // DER of the caller's chain, leaf first; none for strangers
	originHeader = "meshkit-forwarded-address"
	agentHeader  = "meshkit-forwarded-agent"
	seqTrailer   = "meshkit-seq"
)

// methods are those that only the leader can answer.
var methods = map[string]bool{
	"/meshkit.admin.v1.ResourceService/Apply":     true,
	"/meshkit.admin.v1.ResourceService/Undo":      true,
	"/meshkit.admin.v1.FleetService/ForgetAgent":  true,
	"/meshkit.admin.v1.FleetService/CreateToken":  true,
	"/meshkit.admin.v1.FleetService/RevokeToken":  true,
	"/meshkit.admin.v1.TrustService/PublishTrust": true,
	"/meshkit.identity.v1.IdentityService/Join":   true,
	"/meshkit.identity.v1.IdentityService/Renew":  true,

	"/meshkit.identity.v1.IdentityService/AdmitHub": true,

	"/meshkit.admin.v1.RingService/TransferLeadership": true,
	"/meshkit.admin.v1.RingService/SetDrained":         true,
	"/meshkit.admin.v1.RingService/SetAddress":         true,
	"/meshkit.admin.v1.DomainService/CreateDomain":     true,
}

// handed are those that a hub hands on to one that it chooses.
var handed = map[string]bool{"/meshkit.identity.v1.IdentityService/JoinHub": true}

// anyones are those of methods and handed in which a token tells who the caller is, and a
// certificate nothing.
var anyones = map[string]bool{
	"/meshkit.identity.v1.IdentityService/Join":    true,
	"/meshkit.identity.v1.IdentityService/JoinHub": true,
}

// moves are those after which another hub leads, and whose answer comes from the
// one that led.
var moves = map[string]bool{"/meshkit.admin.v1.RingService/TransferLeadership": true}

const (
	// patience is how long a call looks for a leader, failovers included. What the
	// leader takes to answer does not count: callers say how long they wait for that,
	// or get longest.
	patience = 15 * time.Second
	longest  = 2 * time.Minute
	// storePatience is how long it waits for one that can use its store.
	storePatience = 3 * time.Second
	// catchUp is how long the answer waits for this hub to see what was written.
	catchUp = 2 * time.Second
)

// Options of a Forwarder; all are required but Patience.
type Options struct {
	Domain, Hub string
	// Patience is how long a call looks for a leader; 0 means 15 s.
	Patience time.Duration
	Replica  *replica.Replica
	Peers    *peers.Set
	// Stands tells whether the certificate of a hub counts, see access.Guard; Ready is
	// closed once the keyset is known.
	Stands func(identity.ID, []*x509.Certificate) error
	Ready  func() <-chan struct{}
	// Verify judges a caller's chain, leaf first, as at a handshake with this hub.
	Verify func(chain []*x509.Certificate) error
	Logger *slog.Logger
}

// parsedKept bounds the callers' certificates that are kept parsed.
const parsedKept = 256

// Forwarder sends calls to the leader. Use New.
type Forwarder struct {
	opt    Options
	parsed *lru.Cache[string, *x509.Certificate] // by DER
}

// New makes a Forwarder.
func New(opt Options) *Forwarder {
	if opt.Patience == 0 {
		opt.Patience = patience
	}
	parsed, err := lru.New[string, *x509.Certificate](parsedKept)
	if err != nil {
		panic(err) // of a size below 1
	}
	return &Forwarder{opt: opt, parsed: parsed}
}

// parse reads a certificate; those who call often are not read again each time.
func (f *Forwarder) parse(der string) (*x509.Certificate, error) {
	if cert, ok := f.parsed.Get(der); ok {
		return cert, nil
	}
	cert, err := x509.ParseCertificate([]byte(der))
	if err == nil {
		f.parsed.Add(der, cert)
	}
	return cert, err
}

type forwardedKey struct{}

// Accept takes over who called from a hub that forwards. It comes before whoever
// judges the caller.
func (f *Forwarder) Accept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get(markHeader)) == 0 {
		// It says what the log has of another request: a hub does, to answer that one.
		if p, ok := req.(*adminv1.PublishTrustRequest); ok && len(p.GetFingerprint()) > 0 {
			return nil, fault.New(fault.CodeNotPermitted, "fingerprint: only hubs publish for another request, which they forward")
		}
		return next(ctx, req)
	}
	select {
	case <-f.opt.Ready():
	default: // the caller has not done wrong: it may come again
		return nil, fault.New(fault.CodeReadOnly, "hub %s is still reading its log", f.opt.Hub)
	}
	by, ok := mtls.PeerID(ctx)
	if !ok || by.Kind != identity.Hub || by.Domain != f.opt.Domain || !methods[info.FullMethod] && !handed[info.FullMethod] {
		return nil, fault.New(fault.CodeNotPermitted, "%s may not forward %s", by, info.FullMethod)
	}
	if err := f.opt.Stands(by, access.Chain(ctx)); err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, der := range md.Get(certHeader) { // the headers' size is bounded
		cert, err := f.parse(der)
		if err != nil {
			return nil, fault.New(fault.CodeBadRequest, "certificate of the caller, forwarded by %s: %w", by, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) > 0 {
		if err := f.opt.Verify(chain); err != nil {
			return nil, fmt.Errorf("caller whose request %s forwards: %w", by, err)
		}
	}
	md = md.Copy()
	if agent := md.Get(agentHeader); len(agent) > 0 {
		md.Set("user-agent", agent...)
	}
	ctx = metadata.NewIncomingContext(ctx, md)
	ctx = access.WithCaller(ctx, forwardedAddr(first(md.Get(originHeader))), chain)
	if err := mayName(ctx, by, info.FullMethod); err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, forwardedKey{}, true)
	resp, err := next(ctx, req)
	if cur := f.opt.Replica.Current(); err == nil && cur != nil {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(seqTrailer, strconv.FormatUint(cur.State.Seq(), 10)))
	}
	return resp, err
}

// mayName tells whether the hub that forwards may name the caller of ctx:
//
//   - operators, nodes, and who has no certificate, in every method; whether such a caller
//     may call it at all, the guard says
//   - itself, as a hub, in every method
//   - another hub only where it does not matter who calls
func mayName(ctx context.Context, by identity.ID, method string) error {
	caller, proven := mtls.PeerID(ctx)
	if !proven || caller.Kind != identity.Hub || caller == by || anyones[method] {
		return nil
	}
	return fault.New(fault.CodeNotPermitted, "%s may not forward %s for %s: a hub calls in its own name", by, method, caller)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// forwardedAddr is the address of a caller of another hub.
type forwardedAddr string

func (forwardedAddr) Network() string  { return "tcp" }
func (a forwardedAddr) String() string { return string(a) }

var _ net.Addr = forwardedAddr("")

// Forwarded tells whether another hub has sent the call of ctx on. It is not sent on
// once more.
func Forwarded(ctx context.Context) bool { return ctx.Value(forwardedKey{}) != nil }

// AsOwn is for a call that a hub makes of its own to answer the one of ctx, which may
// have been forwarded: the owner of the chain makes it, from the address of who called
// first.
func AsOwn(ctx context.Context, chain []*x509.Certificate) context.Context {
	var at net.Addr
	if p, ok := peer.FromContext(ctx); ok {
		at = p.Addr
	}
	return access.WithCaller(context.WithValue(ctx, forwardedKey{}, nil), at, chain)
}

// Hand makes the call of ctx on another hub, for the caller of ctx, and waits as Send
// does until this hub has read what that one had. begun tells whether that hub may have
// got it. The request keeps its id.
func (f *Forwarder) Hand(ctx context.Context, to peers.Peer, method string, req, reply proto.Message) (begun bool, err error) {
	seq, begun, err := f.invoke(ctx, to.Address, to.Hub, method, req, reply)
	if err == nil {
		f.await(ctx, seq)
	}
	return begun, err
}

// Send sends a call to the leader if this hub is not it. It comes after whoever
// judges the caller.
func (f *Forwarder) Send(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !methods[info.FullMethod] || Forwarded(ctx) {
		return next(ctx, req)
	}
	message, reply, repeatable, err := messages(info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longest)
		defer cancel()
	}
	pause := backoff.New(backoff.Policy{Base: 20 * time.Millisecond, Cap: 500 * time.Millisecond})
	started := time.Now()
	searching := started // later by what leaders took that got the request
	doubt := doubt{repeatable: repeatable}
	for {
		_, changed := f.opt.Replica.Watch()
		_, leading := f.opt.Replica.Leading()
		leader, address := f.leader()
		if leading || leader == "" || leader == f.opt.Hub || f.opt.Replica.Frozen() {
			// It waits for the lease, should this hub be about to win it.
			resp, err := next(ctx, message) // under the id of the tries before
			if fault.CodeOf(err) == fault.CodeLeaseLost && time.Since(searching) <= f.opt.Patience && pause.Wait(ctx) == nil {
				continue // it was queued when this hub lost the lease, and is not done
			}
			if fault.CodeOf(err) != fault.CodeNotLeader || ctx.Err() != nil || time.Since(searching) > f.opt.Patience {
				return resp, doubt.about(err)
			}
			if now, _ := f.leader(); now == f.opt.Hub {
				return resp, doubt.about(err) // nobody took over
			}
			continue
		}
		asked := time.Now()
		seq, begun, err := f.ask(ctx, address, leader, info.FullMethod, message, reply)
		if err == nil {
			f.await(ctx, seq)
			return reply, nil
		}
		// Not done, or done under the request id: the next try is told.
		doubt.add(begun, err)
		if begun {
			searching = searching.Add(time.Since(asked))
		}
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Unknown, fault.Canceled:
		default:
			return nil, doubt.about(err) // judged under the request id, which an earlier try had too
		}
		// A leader that cannot use its store may lose the lease to one that can; without
		// a store of its own this hub would not learn of that one.
		noStore := errors.Is(err, fault.CodeReadOnly) || errors.Is(err, fault.CodeStoreUnavailable) || errors.Is(err, fault.CodeRingSplit)
		if noStore && time.Since(started) > storePatience {
			return nil, doubt.about(err)
		}
		if away := f.opt.Replica.Away(); away != nil {
			return nil, doubt.about(away)
		}
		wait := time.NewTimer(pause.Next())
		select {
		case <-changed: // perhaps another leads now
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil || time.Since(searching) > f.opt.Patience {
			return nil, doubt.about(err)
		}
		proto.Reset(reply)
	}
}

// doubt is an earlier try that a leader got and did not answer: what later ones say
// of themselves does not undo it.
type doubt struct {
	err        error
	repeatable bool // the request has an id, by which a leader finds what was done
}

// add takes in how a try ended that had begun: the leader may have got it.
func (d *doubt) add(begun bool, err error) {
	switch code := fault.CodeOf(err); {
	case !begun:
	case fault.KindOf(err) == fault.Unknown, code == fault.CodeNoConnection, code == fault.CodeCanceled, code == fault.CodeTimeout:
		d.err = err
	}
}

// about is the error to answer with after a try ended with err. Only a leader that
// looked for the request id in its log knows that nothing was done.
func (d *doubt) about(err error) error {
	if err == nil || d.err == nil {
		return err
	}
	if !d.repeatable {
		return fault.New(fault.CodeWriteUnknown, "a leader got the request and did not answer: %v; the next try: %w", d.err, err).
			WithRemedy("See whether it was done; if not, try again.")
	}
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Canceled, fault.Timeout, fault.Unauthenticated, fault.Denied:
		return fault.New(fault.CodeWriteUnknown, "a leader got the request and did not answer: %v; since then: %w", d.err, err)
	}
	return err
}

// messages gives the request, with a request id if it has a place for one, and an
// empty answer.
func messages(method string, req any) (message, reply proto.Message, repeatable bool, err error) {
	message, ok := req.(proto.Message)
	if !ok {
		return nil, nil, false, fault.New(fault.CodeInternal, "request of %s is a %T", method, req)
	}
	id := message.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if id != nil && message.ProtoReflect().Get(id).String() == "" {
		message = proto.Clone(message)
		message.ProtoReflect().Set(id, protoreflect.ValueOfString(rand.Text()))
	}
	// "/package.Service/Method" is "package.Service.Method" to the registry.
	desc, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(method[1:], "/", ".")))
	if err != nil {
		return nil, nil, false, fault.New(fault.CodeInternal, "find method %s: %w", method, err)
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(desc.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return nil, nil, false, fault.New(fault.CodeInternal, "find answer of %s: %w", method, err)
	}
	return message, typ.New().Interface(), id != nil, nil
}

// leader is the hub that began the newest term, as far as this hub has read.
func (f *Forwarder) leader() (hub, address string) {
	cur := f.opt.Replica.Current()
	if cur == nil {
		return "", ""
	}
	h := cur.State.Leader()
	return h.GetHub(), h.GetAddress()
}

// ask makes the call on the leader, and gives it up when another hub leads: one
// that was stopped or cut off would not say so.
func (f *Forwarder) ask(ctx context.Context, address, hub, method string, req, reply proto.Message) (seq uint64, begun bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		if moves[method] {
			<-ctx.Done()
		}
		for ctx.Err() == nil {
			_, changed := f.opt.Replica.Watch()
			if now, _ := f.leader(); now != hub {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
	defer wg.Wait()
	defer cancel()
	return f.invoke(ctx, address, hub, method, req, reply)
}

// invoke makes the call; begun tells whether any of it may have been sent.
func (f *Forwarder) invoke(ctx context.Context, address, hub, method string, req, reply proto.Message) (seq uint64, begun bool, err error) {
	conn, err := f.opt.Peers.Conn(peers.Peer{Hub: hub, Address: address})
	if err != nil {
		return 0, false, err
	}
	out := metadata.Pairs(markHeader, "1", originHeader, access.Address(ctx))
	if agent := metadata.ValueFromIncomingContext(ctx, "user-agent"); len(agent) > 0 {
		out.Set(agentHeader, agent[0])
	}
	for _, cert := range access.Chain(ctx) {
		out.Append(certHeader, string(cert.Raw))
	}
	var trailer metadata.MD
	var to peer.Peer // known once there is a connection to send on
	if err := conn.Invoke(metadata.NewOutgoingContext(ctx, out), method, req, reply, grpc.Trailer(&trailer), grpc.Peer(&to)); err != nil {
		return 0, to.Addr != nil, err
	}
	seq, _ = strconv.ParseUint(first(trailer.Get(seqTrailer)), 10, 64)
	return seq, true, nil
}

// await waits until this hub has read the log up to seq, for a while.
func (f *Forwarder) await(ctx context.Context, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for {
		cur, changed := f.opt.Replica.Watch()
		if cur != nil && cur.State.Seq() >= seq {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			f.opt.Logger.Warn("answer of the leader given before it was read from the log", "seq", seq)
			return
		}
	}
}
