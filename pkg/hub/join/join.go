// Package join admits nodes and renews certificates: the hub's side of
// meshkit.identity.v1.
//
// A node joins with a token. Its name, its labels and the token's use are decided
// by the log: of two joins with a token's last use, the one that the log orders
// first succeeds. A certificate is recorded in the log before it is handed out. A
// retry with the same request id, token, name and key gets a certificate again
// and spends nothing.
//
// Service is safe for concurrent use.
package join

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Bounds of a join request, in bytes.
const (
	maxToken     = 256
	maxNode      = 63
	maxCSR       = 16 << 10
	maxRequestID = 64
)

// Options of the service; all but Admission are required.
type Options struct {
	Domain    string
	Hub       string
	Replica   *replica.Replica
	Authority *ca.Authority
	// Anchors gives the trust metadata in force.
	Anchors func() *trust.Anchors
	// Hubs gives the addresses of the domain's hubs.
	Hubs func() []string
	// Admission is for hubs that join.
	Admission HubAdmission
}

// Service implements identityv1.IdentityServiceServer.
type Service struct {
	identityv1.UnimplementedIdentityServiceServer
	opt      Options
	joins    *access.Limiter // by host
	failures *access.Limiter // by host: guessing costs time
	renewals *access.Limiter // by identity

	reading chan struct{} // one slot: the store is asked what is new
	readAt  time.Time     // when that last began which succeeded; of who has the slot
}

// New makes the service.
func New(opt Options) *Service {
	return &Service{
		opt: opt, joins: access.NewLimiter(50, 500), failures: access.NewLimiter(0.5, 10), renewals: access.NewLimiter(0.2, 10),
		reading: make(chan struct{}, 1),
	}
}

// errReplayed says that the log has the request already.
var errReplayed = errors.New("request was committed before")

// request is a join request that is well-formed.
type request struct {
	*identityv1.JoinRequest
	tokenID     string
	hash        [32]byte
	fingerprint []byte
	id          identity.ID
}

// Join implements identityv1.IdentityServiceServer.
func (s *Service) Join(ctx context.Context, in *identityv1.JoinRequest) (*identityv1.JoinResponse, error) {
	host := access.Host(ctx)
	if err := s.joins.Take(host); err != nil {
		return nil, err
	}
	resp, err := s.join(ctx, in)
	if err != nil && fault.KindOf(err) == fault.Unauthenticated {
		// Guessing is slowed down; who has a token is not, though it shares its
		// address with who guesses.
		if err := s.failures.Take(host); err != nil {
			return nil, err
		}
	}
	return resp, err
}

func (s *Service) join(ctx context.Context, in *identityv1.JoinRequest) (*identityv1.JoinResponse, error) {
	req, err := Parse(s.opt.Domain, in)
	if err != nil {
		return nil, err
	}
	cur := s.opt.Replica.Current()
	if cur == nil {
		return nil, fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	again, err := s.check(cur.State, req, time.Now())
	if err != nil {
		return nil, err
	}
	if s.opt.Anchors() == nil {
		return nil, notRead() // before the token is spent
	}
	if again { // as often as a member may ask for a certificate
		if err := s.renewals.Take(req.id.String()); err != nil {
			return nil, err
		}
	}
	cert, err := s.opt.Authority.Issue(ctx, ca.Request{CSR: in.GetCsr(), ID: req.id})
	if err != nil {
		return nil, err
	}
	if !again {
		err = s.admit(ctx, req, cert)
		again = errors.Is(err, errReplayed)
	}
	if again {
		err = s.record(ctx, cert, access.CallerOf(ctx), s.member(req.id))
	}
	if err != nil {
		return nil, err
	}
	return s.response(req, cert)
}

// Parse checks the form of a join request. It is where outside bytes arrive
// unauthenticated, so it is strict and cheap.
func Parse(domain string, in *identityv1.JoinRequest) (*request, error) {
	if len(in.GetNode()) > maxNode || identity.ValidName(in.GetNode()) != nil {
		return nil, fault.New(fault.CodeBadRequest, "node: a name has at most %d lower-case letters, digits, '-' and '.'", maxNode)
	}
	if n := len(in.GetCsr()); n == 0 || n > maxCSR {
		return nil, fault.New(fault.CodeBadRequest, "csr: %d bytes, not 1 to %d", n, maxCSR)
	}
	if !validRequestID(in.GetRequestId()) {
		return nil, fault.New(fault.CodeBadRequest, "request_id: at most %d printable characters", maxRequestID)
	}
	token := in.GetToken()
	id, secret, ok := strings.Cut(token, ".")
	if !ok || id == "" || secret == "" || len(token) > maxToken {
		return nil, fault.New(fault.CodeTokenInvalid, "the join token is not of the form ID.SECRET")
	}
	spiffe, err := identity.New(domain, identity.Node, in.GetNode())
	if err != nil {
		return nil, err
	}
	r := &request{JoinRequest: in, tokenID: id, hash: sha256.Sum256([]byte(token)), id: spiffe}
	if in.GetRequestId() != "" {
		h := sha256.New()
		for _, part := range [][]byte{[]byte("join"), r.hash[:], []byte(in.GetNode()), keyOf(in.GetCsr())} {
			sum := sha256.Sum256(part)
			h.Write(sum[:])
		}
		r.fingerprint = h.Sum(nil)
	}
	return r, nil
}

func validRequestID(id string) bool {
	return len(id) <= maxRequestID && !strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) })
}

// check tells whether the request may join in state st; again: it has joined
// already, and its answer was lost.
func (s *Service) check(st *state.State, r *request, now time.Time) (again bool, err error) {
	t, ok := st.Token(r.tokenID)
	if !ok || subtle.ConstantTimeCompare(t.GetToken().GetHash(), r.hash[:]) != 1 {
		return false, fault.New(fault.CodeTokenInvalid, "the join token is not known")
	}
	if t.GetRevoked() {
		return false, fault.New(fault.CodeTokenRevoked, "join token %s was revoked", r.tokenID)
	}
	if id := r.GetRequestId(); id != "" {
		if done, ok := st.Request(id); ok {
			if string(done.GetFingerprint()) != string(r.fingerprint) {
				return false, fault.New(fault.CodeRequestIDReused, "request id %q was used for another request, committed as entry %d", id, done.GetSeq())
			}
			// The member must be the one that this very request made: another may have
			// joined under the name with the same token since.
			if n, ok := st.Node(r.GetNode()); ok && n.GetJoinedSeq() == done.GetSeq() {
				return true, nil
			}
			return false, fault.New(fault.CodeNodeForgotten, "node %q joined with this request and was forgotten since", r.GetNode())
		}
	}
	if now.Before(st.Time()) {
		now = st.Time()
	}
	if err := st.CheckJoin(r.tokenID, r.GetNode(), now); err != nil {
		return false, err
	}
	if _, exists := st.Node(r.GetNode()); !exists && st.NodeCount() >= state.MaxNodes {
		return false, fault.New(fault.CodeRequestTooLarge, "the domain has %d nodes, its limit", st.NodeCount())
	}
	return false, nil
}

// admit commits the join.
func (s *Service) admit(ctx context.Context, r *request, cert ca.Certificate) error {
	_, err := s.opt.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
		again, err := s.check(cur.State, r, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		if again {
			return replica.Proposal{}, errReplayed
		}
		t, _ := cur.State.Token(r.tokenID)
		c := access.CallerOf(ctx)
		return replica.Proposal{
			Kind:   state.KindNodeJoined,
			Author: r.id.String(), Origin: c.Origin, RequestID: r.GetRequestId(), Traceparent: wire.Traceparent(ctx),
			Payload: &logv1.NodeJoined{
				Node: r.GetNode(), Labels: t.GetToken().GetLabels(), TokenId: r.tokenID, Certificate: Issued(cert), Fingerprint: r.fingerprint,
			},
		}, nil
	})
	return err
}

// member gives the entry with which the node of a name joined; 0 for who is none.
func (s *Service) member(id identity.ID) uint64 {
	n, ok := s.opt.Replica.Current().State.Node(id.Name)
	if id.Kind != identity.Node || !ok {
		return 0
	}
	return n.GetJoinedSeq()
}

// record commits a certificate of the node that joined with the entry member:
// another may have joined under the name after the caller was let through.
func (s *Service) record(ctx context.Context, cert ca.Certificate, c access.Caller, member uint64) error {
	_, err := s.opt.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if cert.ID.Kind == identity.Node {
			if n, ok := cur.State.Node(cert.ID.Name); !ok || n.GetJoinedSeq() != member {
				return replica.Proposal{}, fault.New(fault.CodeNodeForgotten, "node %q is not a member any more", cert.ID.Name)
			}
		}
		issued := Issued(cert)
		issued.Presented = access.Presented(ctx)
		return replica.Proposal{Kind: state.KindCertificateIssued, Author: cert.ID.String(), Origin: c.Origin, Payload: issued}, nil
	})
	return err
}

// Issued is what the log keeps of a certificate.
func Issued(c ca.Certificate) *logv1.CertificateIssued {
	return &logv1.CertificateIssued{
		Identity: c.ID.String(), Serial: c.Serial, NotBefore: timestamppb.New(c.NotBefore), NotAfter: timestamppb.New(c.NotAfter),
		Fingerprint: c.Fingerprint, Profile: string(c.Profile),
	}
}

func (s *Service) response(r *request, cert ca.Certificate) (*identityv1.JoinResponse, error) {
	n, ok := s.opt.Replica.Current().State.Node(r.GetNode())
	if !ok {
		return nil, fault.New(fault.CodeNodeForgotten, "node %q was forgotten while it joined", r.GetNode())
	}
	anchors := s.opt.Anchors()
	if anchors == nil {
		return nil, notRead()
	}
	return &identityv1.JoinResponse{
		Domain: s.opt.Domain, CertificateChain: cert.Chain, Trust: anchors.Metadata(0, 0),
		Hubs: s.opt.Hubs(), Labels: n.GetLabels(), SpiffeId: r.id.String(),
	}, nil
}

func notRead() error {
	return fault.New(fault.CodeHubStarting, "the hub has not read its trust metadata yet")
}

// Renew implements identityv1.IdentityServiceServer. The guard has checked that
// the caller may: a member node, a hub or an operator.
func (s *Service) Renew(ctx context.Context, in *identityv1.RenewRequest) (*identityv1.RenewResponse, error) {
	c := access.CallerOf(ctx)
	if err := s.renewals.Take(c.Author); err != nil {
		return nil, err
	}
	if n := len(in.GetCsr()); n == 0 || n > maxCSR {
		return nil, fault.New(fault.CodeBadRequest, "csr: %d bytes, not 1 to %d", n, maxCSR)
	}
	ttl := ca.DefaultTTL
	if c.ID.Kind == identity.Operator {
		ttl = OperatorTTL
	}
	anchors, member := s.opt.Anchors(), s.member(c.ID)
	if anchors == nil {
		return nil, notRead()
	}
	// What the log has of a hub outlives the hub whose issuing CA signed what was presented.
	if c.ID.Kind == identity.Hub {
		proven := RenewProof(s.opt.Authority.Pin(), c.ID.Name, in.GetCsr())
		if err := anchors.VerifyHub(c.ID.Name, proven, in.GetConfigProof()); err != nil {
			return nil, fault.New(fault.CodeRenewalUnproven, "renewal of %s: config_proof: %w", c.ID, err)
		}
	}
	issue := ca.Request{CSR: in.GetCsr(), ID: c.ID, TTL: ttl}
	presented := access.Certificate(ctx)
	if c.ID.Kind == identity.Hub && presented != nil {
		issue.DNSNames, issue.IPs = presented.DNSNames, Addresses(presented.IPAddresses) // it goes on being reached there
		if !slices.Contains(issue.DNSNames, s.opt.Domain) {
			issue.DNSNames = append(slices.Clip(issue.DNSNames), s.opt.Domain)
		}
	}
	cert, err := s.issueRenewed(ctx, issue, presented)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, cert, c, member); err != nil {
		return nil, err
	}
	bundle := s.opt.Authority.Bundle()
	if len(anchors.CABundle()) > 0 {
		bundle = anchors.CABundle()
	}
	return &identityv1.RenewResponse{CertificateChain: cert.Chain, CaBundle: bundle}, nil
}

// issueRenewed makes the next certificate of who has presented one. A hub that has moved
// gets one that names the host of its new address, as the log has it, and not those of
// before.
func (s *Service) issueRenewed(ctx context.Context, issue ca.Request, presented *x509.Certificate) (ca.Certificate, error) {
	if cur := s.opt.Replica.Current(); issue.ID.Kind == identity.Hub && presented != nil && cur != nil {
		if h, ok := cur.State.Hub(issue.ID.Name); ok && !Names(presented, h.GetAddress()) {
			moved := issue
			moved.DNSNames, moved.IPs = HostNames(s.opt.Domain, h.GetAddress())
			// A host that no certificate can name must not cost the hub its certificate.
			if cert, err := s.opt.Authority.Issue(ctx, moved); err == nil {
				return cert, nil
			}
		}
	}
	return s.opt.Authority.Issue(ctx, issue)
}

// OperatorTTL is the life of an operator's certificate: a file that a person
// keeps, and renews with a call.
const OperatorTTL = 90 * 24 * time.Hour
