package admin

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/peers"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
)

// DomainHost makes further domains in this process and serves them.
type DomainHost interface {
	// Create makes a domain, or finds that this very request made it before, and
	// serves it. CodeDomainExists: another request made it.
	Create(ctx context.Context, d NewDomain) (*CreatedDomain, error)
	// Adopt joins a domain that another hub made, or goes on with that, and serves it.
	// CodeTokenInvalid: it has to join, and was given no token.
	Adopt(ctx context.Context, in *adminv1.AdoptDomainRequest) error
	// Made tells whether this hub made a domain, and whether that is done or was cut short.
	Made(domain string) (made, done bool)
	// List lists what is served besides the domain itself.
	List() []*adminv1.ServedDomain
}

// NewDomain is a domain to make.
type NewDomain struct {
	Domain, RequestID string
	// Operator is the name of its first operator, CSR the request for the
	// certificate; Author is whom the request came from.
	Operator, Author string
	CSR              []byte
}

// CreatedDomain is a domain that was made.
type CreatedDomain struct {
	CAPin    string
	Chain    [][]byte // of the operator, DER
	CABundle []byte   // PEM
	RootKeys string   // directory
	// Address is where hubs join, and Token makes a token for one of that name, new or
	// in its own place; nil when no other hub reaches the domain's store.
	Address string
	Token   func(ctx context.Context, hub string) (string, error)
}

// Domains implements adminv1.DomainServiceServer.
type Domains struct {
	adminv1.UnimplementedDomainServiceServer
	*base
}

// adoption bounds how long the other hubs may take to join a new domain.
const adoption = 8 * time.Second

// askAgain paces how often a hub is asked that does not answer.
const askAgain = 100 * time.Millisecond

func (s *Domains) host() (DomainHost, error) {
	if s.Host == nil {
		return nil, fault.New(fault.CodeNoDomainHost, "domain %s is hosted by another one's hubs itself", s.Domain)
	}
	return s.Host, nil
}

// CreateDomain implements adminv1.DomainServiceServer. The leader is called, or the hub
// that made the domain, which another may have led at that time.
func (s *Domains) CreateDomain(ctx context.Context, in *adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	if err := identity.ValidDomain(in.GetDomain()); err != nil {
		return nil, err
	}
	if in.GetRequestId() == "" {
		return nil, fault.New(fault.CodeBadRequest, "request_id: it is needed to repeat the call")
	}
	req, err := requestOf(ctx, "create domain", in.GetRequestId(), &adminv1.CreateDomainRequest{Domain: in.GetDomain(), Csr: keyOf(in.GetCsr())})
	if err != nil {
		return nil, err
	}
	if in.GetDomain() == s.Domain {
		return nil, fault.New(fault.CodeDomainExists, "domain %q exists", in.GetDomain())
	}
	if in.GetHandedOn() {
		return s.makeHere(ctx, host, in, req)
	}
	makers, silent := s.makers(ctx, host, in.GetDomain())
	var out *adminv1.CreateDomainResponse
	for _, maker := range makers {
		if maker == nil {
			out, err = s.makeHere(ctx, host, in, req)
		} else {
			out, err = s.handOn(ctx, *maker, in, req)
		}
		if fault.CodeOf(err) != fault.CodeDomainExists {
			return out, err
		}
	}
	if len(silent) > 0 {
		return nil, fault.New(fault.CodeMakerSilent, "%w; the hub that made it is none of those that answer: no answer from %s", err, strings.Join(silent, ", ")).
			WithRemedy("To go on with an earlier try, start %s, and repeat the command as it was printed. For a new domain choose another name.", strings.Join(silent, ", "))
	}
	return nil, err
}

// makeHere makes a domain on this hub, or goes on with it, and has the other hubs join.
func (s *Domains) makeHere(ctx context.Context, host DomainHost, in *adminv1.CreateDomainRequest, req request) (*adminv1.CreateDomainResponse, error) {
	others := s.Peers.Others()
	made, err := host.Create(ctx, NewDomain{
		Domain: in.GetDomain(), RequestID: in.GetRequestId(), Operator: req.ID.Name, Author: req.Author, CSR: in.GetCsr(),
	})
	if err != nil {
		return nil, err
	}
	if _, leading := s.Replica.Leading(); leading || !in.GetHandedOn() {
		if err := s.recordHosted(ctx, req, in.GetDomain(), made.CAPin); err != nil {
			return nil, err
		}
	}
	out := &adminv1.CreateDomainResponse{CaPin: made.CAPin, CertificateChain: made.Chain, CaBundle: made.CABundle, Hub: s.Hub, RootKeys: made.RootKeys}
	out.Hubs = append([]*adminv1.DomainHub{{Hub: s.Hub, Address: made.Address}}, s.adopt(ctx, others, &adminv1.AdoptDomainRequest{
		Domain: in.GetDomain(), Address: made.Address, CaPin: made.CAPin,
	}, made.Token)...)
	return out, nil
}

// makers lists the hubs that may go on with a domain, in the order in which to try them;
// nil among them is this one, which makes it if nobody has begun. The hub that has made it
// is the only one. What a crash left counts less: of several that began, one may have gone
// as far as the domain's log, and the others are told that it exists, also by one of the
// silent hubs.
func (s *Domains) makers(ctx context.Context, host DomainHost, domain string) (makers []*peers.Peer, silent []string) {
	mine, done := host.Made(domain)
	if done {
		return []*peers.Peer{nil}, nil
	}
	if mine {
		makers = append(makers, nil)
	}
	for _, a := range peers.Ask(ctx, s.Peers, func(ctx context.Context, conn *grpc.ClientConn) (r *adminv1.FindDomainResponse, err error) {
		err = patiently(ctx, func() error {
			r, err = adminv1.NewDomainServiceClient(conn).FindDomain(ctx, &adminv1.FindDomainRequest{Domain: domain})
			return err
		})
		return r, err
	}) {
		switch {
		case a.Err != nil:
			silent = append(silent, fmt.Sprintf("%s (%s)", a.Peer.Hub, a.Peer.Address))
		case a.Value.GetMade() && a.Value.GetDone():
			return []*peers.Peer{&a.Peer}, nil
		case a.Value.GetMade():
			makers = append(makers, &a.Peer)
		}
	}
	if len(makers) == 0 {
		makers = append(makers, nil)
	}
	return makers, silent
}

// handOn has another hub answer, which made the domain and has its keys. This one leads,
// and writes into its log that the domain was made.
func (s *Domains) handOn(ctx context.Context, to peers.Peer, in *adminv1.CreateDomainRequest, req request) (*adminv1.CreateDomainResponse, error) {
	handed, out := proto.CloneOf(in), &adminv1.CreateDomainResponse{}
	handed.HandedOn = true
	if _, err := s.Hand(ctx, to, adminv1.DomainService_CreateDomain_FullMethodName, handed, out); err != nil {
		return nil, fmt.Errorf("hub %s, which made domain %s or began to: %w", to.Hub, in.GetDomain(), err)
	}
	return out, s.recordHosted(ctx, req, in.GetDomain(), out.GetCaPin())
}

// FindDomain implements adminv1.DomainServiceServer.
func (s *Domains) FindDomain(_ context.Context, in *adminv1.FindDomainRequest) (*adminv1.FindDomainResponse, error) {
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	if err := identity.ValidDomain(in.GetDomain()); err != nil {
		return nil, err
	}
	made, done := host.Made(in.GetDomain())
	return &adminv1.FindDomainResponse{Made: made, Done: done}, nil
}

// recordHosted writes into this domain's log who made the other.
func (s *Domains) recordHosted(ctx context.Context, req request, domain, pin string) error {
	_, err := s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		if _, done, err := req.committed(cur); err != nil || done {
			if err == nil {
				err = errReplayed
			}
			return replica.Proposal{}, err
		}
		return req.proposal(state.KindDomainHosted, &logv1.DomainHosted{Domain: domain, CaPin: pin, Fingerprint: req.fingerprint}), nil
	})
	if errors.Is(err, errReplayed) {
		return nil
	}
	return err
}

// keyOf gives the public key of a certificate request, or the request itself when it
// is none: a new request for the same key is the same request.
func keyOf(csr []byte) []byte {
	if r, err := x509.ParseCertificateRequest(csr); err == nil {
		return r.RawSubjectPublicKeyInfo
	}
	return csr
}

// adopt has the other hubs join, all at once. Those that have joined need no token.
func (s *Domains) adopt(ctx context.Context, others []peers.Peer, in *adminv1.AdoptDomainRequest, token func(ctx context.Context, hub string) (string, error)) []*adminv1.DomainHub {
	ctx, cancel := context.WithTimeout(ctx, adoption)
	defer cancel()
	out := make([]*adminv1.DomainHub, len(others))
	var wg sync.WaitGroup
	for i, p := range others {
		out[i] = &adminv1.DomainHub{Hub: p.Hub, Address: p.Address}
		wg.Go(func() {
			if err := s.adoptOn(ctx, p, proto.CloneOf(in), token); err != nil {
				out[i].Problem = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

// patiently makes a call to a hub again for a while that cannot be reached: it may just
// have come back.
func patiently(ctx context.Context, call func() error) error {
	for begin := time.Now(); ; {
		err := call()
		if code := fault.CodeOf(err); code != fault.CodeNoConnection && code != fault.CodeHubDraining || time.Since(begin) > peers.Timeout {
			return err
		}
		if backoff.Sleep(ctx, backoff.Jitter(askAgain, 0.3)) != nil {
			return err
		}
	}
}

func (s *Domains) adoptOn(ctx context.Context, p peers.Peer, in *adminv1.AdoptDomainRequest, token func(ctx context.Context, hub string) (string, error)) error {
	conn, err := s.Peers.Conn(p)
	if err != nil {
		return err
	}
	c := adminv1.NewDomainServiceClient(conn)
	err = patiently(ctx, func() error {
		_, err := c.AdoptDomain(ctx, in)
		return err
	})
	if fault.CodeOf(err) != fault.CodeTokenInvalid || token == nil {
		return err
	}
	// Of its own for each: it admits the hub also when it is in the domain already, and
	// the answer to its join was lost.
	if in.Token, err = token(ctx, p.Hub); err != nil {
		return fmt.Errorf("make a token for it: %w", err)
	}
	_, err = c.AdoptDomain(ctx, in)
	return err
}

// AdoptDomain implements adminv1.DomainServiceServer.
func (s *Domains) AdoptDomain(ctx context.Context, in *adminv1.AdoptDomainRequest) (*adminv1.AdoptDomainResponse, error) {
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	if err := identity.ValidDomain(in.GetDomain()); err != nil {
		return nil, err
	}
	return &adminv1.AdoptDomainResponse{}, host.Adopt(ctx, in)
}
