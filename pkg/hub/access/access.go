// Package access decides who may call which method of a hub. Callers prove who
// they are with a client certificate of the domain (checked at the handshake);
// this package looks at its role, and at whether it still counts: of nodes, whether
// they are still members; of hubs, whether the keyset lists them and no other has taken
// their place; of hubs and operators, whether the hub whose issuing CA signed it is
// listed, or the log has it.
// So it is with every call, also on a connection that was made before. Every method
// has a line in one table; what has none is refused.
//
// All types are safe for concurrent use.
package access

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/wire"
)

// who is the set of roles that may call a method.
type who uint8

const (
	node who = 1 << iota
	hub
	operator
	anyone // no certificate needed
)

var roles = map[identity.Kind]who{identity.Node: node, identity.Hub: hub, identity.Operator: operator}

// methods is the whole table. A test holds it against what the hub registers.
var methods = map[string]who{
	"/meshkit.admin.v1.ResourceService/Get":           operator,
	"/meshkit.admin.v1.ResourceService/List":          operator,
	"/meshkit.admin.v1.ResourceService/Watch":         operator,
	"/meshkit.admin.v1.ResourceService/Plan":          operator,
	"/meshkit.admin.v1.ResourceService/Apply":         operator,
	"/meshkit.admin.v1.ResourceService/Undo":          operator,
	"/meshkit.admin.v1.ResourceService/History":       operator,
	"/meshkit.admin.v1.ResourceService/Simulate":      operator,
	"/meshkit.admin.v1.FleetService/GetDomain":        operator | hub,
	"/meshkit.admin.v1.FleetService/ListAgents":       operator | hub,
	"/meshkit.admin.v1.FleetService/GetAgent":         operator | hub,
	"/meshkit.admin.v1.FleetService/ForgetAgent":      operator,
	"/meshkit.admin.v1.FleetService/WatchPropagation": operator | hub,
	"/meshkit.admin.v1.FleetService/ListHubs":         operator | hub,
	"/meshkit.admin.v1.FleetService/CreateToken":      operator,
	"/meshkit.admin.v1.FleetService/ListTokens":       operator,
	"/meshkit.admin.v1.FleetService/RevokeToken":      operator,
	"/meshkit.admin.v1.TrustService/GetTrust":         operator,
	"/meshkit.admin.v1.TrustService/RotateHubKey":     operator,
	"/meshkit.admin.v1.TrustService/DropHubKey":       operator,
	"/meshkit.admin.v1.TrustService/PublishTrust":     operator | hub,
	"/meshkit.admin.v1.StoreService/Export":           operator,
	"/meshkit.admin.v1.RingService/SetDrained":        operator,
	"/meshkit.admin.v1.RingService/HoldBack":          hub,
	"/meshkit.admin.v1.RingService/SetAddress":        hub,
	"/meshkit.admin.v1.DomainService/CreateDomain":    operator,
	"/meshkit.admin.v1.DomainService/AdoptDomain":     hub,
	"/meshkit.admin.v1.DomainService/FindDomain":      hub,
	"/meshkit.control.v1.ControlService/Stream":       node,

	"/meshkit.admin.v1.RingService/TransferLeadership": operator,

	"/meshkit.identity.v1.IdentityService/Join":     anyone | node | hub | operator,
	"/meshkit.identity.v1.IdentityService/JoinHub":  anyone | hub | operator,
	"/meshkit.identity.v1.IdentityService/AdmitHub": hub,
	"/meshkit.identity.v1.IdentityService/Renew":    node | hub | operator,

	"/omnirelay.control.ControlPlaneWatch/Watch":                    node,
	"/omnirelay.control.ControlPlaneWatch/Snapshot":                 node,
	"/omnirelay.mesh.control.v1.LeadershipControlService/Subscribe": node | operator,
}

// Guard checks calls to a hub of Domain. Members gives the newest state, nil while
// there is none.
type Guard struct {
	Domain  string
	Members func() *state.State
	// Listed tells whether the keyset lists a key of that hub; known: there is one.
	Listed func(hub string) (listed, known bool)
}

// Check tells whether the caller of ctx may call method, a full method name.
func (g *Guard) Check(ctx context.Context, method string) error {
	may, listed := methods[method]
	if !listed {
		return fault.New(fault.CodeNotPermitted, "method %s is not open to anyone", method)
	}
	id, proven := mtls.PeerID(ctx)
	if !proven {
		if may&anyone != 0 {
			return nil
		}
		return fault.New(fault.CodeNoClientCert, "%s needs a client certificate of the domain", method)
	}
	if id.Domain != g.Domain { // the handshake refused it already
		return fault.New(fault.CodePeerDomain, "%s is not of domain %q", id, g.Domain)
	}
	if may&roles[id.Kind] == 0 {
		return fault.New(fault.CodeNotPermitted, "%s may not call %s", id, method)
	}
	switch {
	case may&anyone != 0:
		return nil
	case id.Kind == identity.Node:
		return g.member(ctx, id)
	}
	return g.Stands(id, Chain(ctx))
}

// Stands tells whether the certificate of a hub or an operator, the first of a chain
// that has been verified, still counts.
//
//   - The keyset lists the hub, and the certificate is not of an earlier hub that had the
//     name: that one's were made before the present one joined.
//   - What the issuing CA of a hub signed that the keyset does not list any more, or that
//     another has the place of, counts only if the log has it: the key of that CA may be
//     in anyone's hands.
func (g *Guard) Stands(id identity.ID, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return fault.New(fault.CodeNoClientCert, "%s came without its certificate", id)
	}
	leaf := chain[0]
	if id.Kind == identity.Hub {
		if listed, err := g.listed(id.Name); err != nil {
			return err
		} else if !listed {
			return fault.New(fault.CodeHubDropped, "hub %s is not in the keyset", id.Name)
		}
		if joined := g.issuer(id.Name); joined != nil && leaf.NotBefore.Before(joined.GetNotBefore().AsTime().Add(-joinSpan)) {
			return fault.New(fault.CodeHubDropped, "the certificate is of an earlier hub %s, whose place another has taken", id.Name)
		}
	}
	return g.SignerStands(id, chain)
}

// SignerStands is the part of Stands that is about who signed the certificate. It can
// be asked of a hub that is not listed yet.
func (g *Guard) SignerStands(id identity.ID, chain []*x509.Certificate) error {
	leaf := chain[0]
	by, ok := ca.HubOf(leaf, g.Domain)
	if !ok {
		return nil
	}
	listed, err := g.listed(by)
	if err != nil {
		return err
	}
	present := g.issuer(by)
	if listed && (present == nil || signedBy(chain, present.GetFingerprint())) {
		return nil
	}
	if s := g.Members(); s != nil {
		if c, ok := s.Certificate(id.String()); ok && c.GetFingerprint() == fingerprint(leaf) {
			return nil
		}
	}
	why := "is not in the keyset"
	if listed {
		why = "has another one now"
	}
	return fault.New(fault.CodeHubDropped, "the certificate of %s was signed by an issuing CA of hub %s, which %s, and is not in the log", id, by, why)
}

// joinSpan is by how much a hub's first certificate may be older than its issuing CA:
// both are made in one call.
const joinSpan = time.Minute

// issuer is the issuing CA that a hub got when it joined last; nil for the hub that
// made the domain.
func (g *Guard) issuer(hub string) *logv1.CertificateIssued {
	s := g.Members()
	if s == nil {
		return nil
	}
	id, err := identity.New(g.Domain, identity.Hub, hub)
	if err != nil {
		return nil
	}
	c, ok := s.Certificate(IssuerOf(id))
	if !ok {
		return nil
	}
	return c
}

// IssuerOf is the name under which the log has a hub's issuing CA.
func IssuerOf(hub identity.ID) string { return hub.String() + "#issuer" }

// signedBy tells whether the CA of a fingerprint, among those that came with it,
// signed the first certificate of a chain.
func signedBy(chain []*x509.Certificate, issuer string) bool {
	for _, c := range chain[1:] {
		if fingerprint(c) == issuer {
			return chain[0].CheckSignatureFrom(c) == nil
		}
	}
	return false
}

func (g *Guard) listed(hub string) (bool, error) {
	listed, known := g.Listed(hub)
	if !known {
		return false, fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	return listed, nil
}

// member tells whether the node has not been forgotten, and whether its
// certificate is not one of a forgotten node of the same name.
func (g *Guard) member(ctx context.Context, id identity.ID) error {
	s := g.Members()
	if s == nil {
		return fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	n, ok := s.Node(id.Name)
	if !ok {
		return fault.New(fault.CodeNodeForgotten, "node %q is not a member of domain %s", id.Name, s.Domain())
	}
	return Owns(ctx, n)
}

// Owns tells whether the certificate of the caller is one of a member's: those of
// a node that had the name before are not.
func Owns(ctx context.Context, n *logv1.NodeState) error {
	if cert := Certificate(ctx); cert != nil && state.Accepts(n, sha256.Sum256(cert.Raw)) {
		return nil
	}
	return fault.New(fault.CodeNodeForgotten, "the certificate of node %q belongs to an earlier node of that name", n.GetNode())
}

// Presented is the fingerprint of the caller's certificate, as the log has it; ""
// if there is none.
func Presented(ctx context.Context) string {
	cert := Certificate(ctx)
	if cert == nil {
		return ""
	}
	return fingerprint(cert)
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Certificate is the one that the caller presented, or nil.
func Certificate(ctx context.Context) *x509.Certificate {
	if chain := Chain(ctx); len(chain) > 0 {
		return chain[0]
	}
	return nil
}

// Chain is the certificate that the caller presented and those that came with it;
// nil if there is none.
func Chain(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil
	}
	return info.State.PeerCertificates
}

// WithCaller makes the owner of a verified chain, at an address, the caller; nil
// for who has no certificate.
func WithCaller(ctx context.Context, at net.Addr, chain []*x509.Certificate) context.Context {
	state := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chain}
	return peer.NewContext(ctx, &peer.Peer{Addr: at, AuthInfo: credentials.TLSInfo{State: state}})
}

// Options are the interceptors that apply the guard.
func (g *Guard) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := g.Check(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := g.Check(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, ss)
		}),
	}
}

// Caller is who called, for the log.
type Caller struct {
	ID identity.ID
	// Author is the SPIFFE ID as text; Origin the peer's address and user agent.
	Author, Origin string
}

// maxOrigin bounds the origin, in bytes.
const maxOrigin = 256

// CallerOf tells who called.
func CallerOf(ctx context.Context) Caller {
	var c Caller
	if id, ok := mtls.PeerID(ctx); ok {
		c.ID, c.Author = id, id.String()
	}
	c.Origin = Address(ctx)
	if ua := metadata.ValueFromIncomingContext(ctx, "user-agent"); len(ua) > 0 {
		c.Origin += " " + ua[0]
	}
	if len(c.Origin) > maxOrigin {
		c.Origin = c.Origin[:maxOrigin]
	}
	// It goes into a log entry, which holds text; a header may hold any bytes.
	c.Origin = strings.ToValidUTF8(c.Origin, "?")
	return c
}

// Address is the peer's network address, or "".
func Address(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// Host is the peer's address without the port.
func Host(ctx context.Context) string {
	addr := Address(ctx)
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// maxLimiters bounds how many callers a Limiter tells apart; the one that has
// been quiet the longest is forgotten.
const maxLimiters = 4096

// Limiter holds each caller to a rate.
type Limiter struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex // guards both below
	byKey map[string]*list.Element
	order *list.List // of *limited, the quietest first
}

type limited struct {
	key string
	lim *rate.Limiter
}

// NewLimiter permits burst calls at once and perSecond on average.
func NewLimiter(perSecond float64, burst int) *Limiter {
	return &Limiter{rate: rate.Limit(perSecond), burst: burst, byKey: make(map[string]*list.Element), order: list.New()}
}

func (l *Limiter) of(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.byKey[key]; ok {
		l.order.MoveToBack(e)
		return e.Value.(*limited).lim
	}
	if l.order.Len() >= maxLimiters {
		delete(l.byKey, l.order.Remove(l.order.Front()).(*limited).key)
	}
	x := &limited{key: key, lim: rate.NewLimiter(l.rate, l.burst)}
	l.byKey[key] = l.order.PushBack(x)
	return x.lim
}

// Take spends one call of key's allowance, or says when to come back.
func (l *Limiter) Take(key string) error {
	r := l.of(key).Reserve()
	if d := r.Delay(); d > 0 {
		r.Cancel()
		return tooMany(key, d)
	}
	return nil
}

// Room tells whether Take would be let through now. It spends nothing.
func (l *Limiter) Room(key string) bool { return l.of(key).Tokens() >= 1 }

func tooMany(key string, d time.Duration) error {
	d = max(d, 100*time.Millisecond)
	return wire.WithRetry(fault.New(fault.CodeRateLimited, "too many requests from %s; come back in %s", key, d.Round(100*time.Millisecond)), d)
}
