// Package admin serves meshkit.admin.v1: resources, the fleet and trust. Reads
// come from the hub's newest immutable state; writes go through the log and
// return once they are durable.
//
//	admin.Register(grpcServer, admin.Options{…})
//
// Callers have been authenticated and let through by package access. All types
// are safe for concurrent use; a stream's goroutine is its handler's.
package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"iter"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.opentelemetry.io/otel"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/fleet"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/hub/views"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

var tracer = otel.Tracer("github.com/meshkit/meshkit/pkg/hub/admin")

// Options of the services. All are required.
type Options struct {
	Domain  string
	Hub     string
	Build   string
	Store   string // name of the store driver
	Started time.Time
	Replica *replica.Replica
	Views   *views.Set
	Fleet   *fleet.Fleet
	Keys    *keyring.Keyring
	// Peers are the other hubs of the ring.
	Peers *peers.Set
	// Hand makes the call of ctx on another hub, for the caller of ctx.
	Hand func(ctx context.Context, to peers.Peer, method string, req, reply proto.Message) (begun bool, err error)
	// Host makes and serves further domains in this process; nil: it does not.
	Host DomainHost
	// WhyNot tells why another hub does not serve this domain, if it says so; "": it does not.
	WhyNot func(ctx context.Context, hub string) string
	// CAPin is what joining nodes are given for --ca-pin.
	CAPin string
	// AdmitsHubs tells that the key of the hub CA is on this hub.
	AdmitsHubs bool
	// Address gives where this hub serves clients.
	Address func() string
	Limits  resource.Limits
	// CertificateGrace is how long after its expiry a node's certificate is still
	// accepted.
	CertificateGrace time.Duration
	// Stopping is closed when the hub shuts down: streams end.
	Stopping <-chan struct{}
}

// Register adds the services to a server.
func Register(r grpc.ServiceRegistrar, opt Options) {
	b := &base{Options: opt}
	adminv1.RegisterResourceServiceServer(r, &Resources{base: b})
	adminv1.RegisterFleetServiceServer(r, &Fleet{base: b, shown: newShown()})
	adminv1.RegisterTrustServiceServer(r, &Trust{base: b})
	adminv1.RegisterRingServiceServer(r, &Ring{base: b})
	adminv1.RegisterDomainServiceServer(r, &Domains{base: b})
	adminv1.RegisterStoreServiceServer(r, &Store{base: b})
}

// base is what the services share.
type base struct {
	Options
	rosters rosters
}

// current gives the newest state.
func (b *base) current() (*replica.Current, error) {
	cur := b.Replica.Current()
	if cur == nil || cur.State.Seq() == 0 {
		if err := b.Replica.Away(); err != nil {
			return nil, err // why it cannot read on, where that is known
		}
		return nil, fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	return cur, nil
}

// nodes yields all joined nodes with what views ask of them.
func (b *base) nodes(cur *replica.Current) iter.Seq[view.Node] {
	return func(yield func(view.Node) bool) {
		for n := range cur.State.Nodes("") {
			if !yield(view.Node{Name: n.GetNode(), Capabilities: b.Fleet.Capabilities(n.GetNode()), Labels: n.GetLabels()}) {
				return
			}
		}
	}
}

// rosters keeps the roster that was made last: making one costs a look at every node,
// and changes of resources are more frequent than changes of nodes.
type rosters struct {
	mu           sync.Mutex   // guards all below
	of           *state.State // whose nodes they are
	capabilities uint64       // version
	newest       *view.Roster
}

// roster gives all joined nodes, grouped for the scopes that use some labels.
func (b *base) roster(cur *replica.Current) func(keys []string) *view.Roster {
	return func(keys []string) *view.Roster {
		r := &b.rosters
		r.mu.Lock()
		defer r.mu.Unlock()
		version := b.Fleet.CapabilitiesVersion()
		if r.newest == nil || !cur.State.SameNodes(r.of) || version != r.capabilities || !r.newest.Fits(keys) {
			r.capabilities, r.newest = version, view.NewRoster(keys, b.nodes(cur))
		}
		r.of = cur.State // an older one would keep resources that are gone
		return r.newest
	}
}

// stopping ends a stream with a code when the hub shuts down.
func (b *base) stopping() error {
	return fault.New(fault.CodeHubDraining, "hub %s is shutting down", b.Hub)
}

// request is a write that may be retried.
type request struct {
	access.Caller
	id          string
	fingerprint []byte
	traceparent string
}

const maxRequestID = 64

// requestOf checks a request id and fingerprints what it names: the method, the
// caller and the content.
func requestOf(ctx context.Context, method, id string, content proto.Message) (request, error) {
	r := request{Caller: access.CallerOf(ctx), id: id, traceparent: wire.Traceparent(ctx)}
	if id == "" {
		return r, nil
	}
	if len(id) > maxRequestID || strings.ContainsFunc(id, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return r, fault.New(fault.CodeBadRequest, "request_id: at most %d printable characters", maxRequestID)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(content)
	if err != nil {
		return r, fault.New(fault.CodeInternal, "fingerprint the request: %w", err)
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(method), []byte(r.Author), data} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	r.fingerprint = h.Sum(nil)
	return r, nil
}

// committed tells whether the request is in the log already, and where.
func (r request) committed(cur *replica.Current) (seq uint64, ok bool, err error) {
	if r.id == "" {
		return 0, false, nil
	}
	done, ok := cur.State.Request(r.id)
	if !ok {
		return 0, false, nil
	}
	if string(done.GetFingerprint()) != string(r.fingerprint) {
		return 0, false, fault.New(fault.CodeRequestIDReused, "request id %q was used for another request, committed as entry %d", r.id, done.GetSeq())
	}
	return done.GetSeq(), true, nil
}

// proposal fills in who asked.
func (r request) proposal(kind string, payload proto.Message) replica.Proposal {
	return replica.Proposal{Kind: kind, Payload: payload, Author: r.Author, Origin: r.Origin, RequestID: r.id, Traceparent: r.traceparent}
}

// maxPage is the largest and the default page.
const maxPage = 1000

func pageSize(n uint32) int {
	if n == 0 || n > maxPage {
		return maxPage
	}
	return int(n)
}

// Page tokens are the key at which the next page starts.
func pageToken(next string) string { return base64.RawURLEncoding.EncodeToString([]byte(next)) }

func fromPageToken(token string) (string, error) {
	from, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(from) > 1024 {
		return "", fault.New(fault.CodeBadRequest, "page_token is not one that this hub gave")
	}
	return string(from), nil
}
