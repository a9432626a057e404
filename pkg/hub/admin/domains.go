package admin

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
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
	// Adopt joins a domain that another hub made, and serves it.
	Adopt(ctx context.Context, in *adminv1.AdoptDomainRequest) error
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
	// Joining is how many other hubs are to join.
	Joining int
}

// CreatedDomain is a domain that was made.
type CreatedDomain struct {
	CAPin    string
	Chain    [][]byte // of the operator, DER
	CABundle []byte   // PEM
	RootKeys string   // directory
	// Address and Token are for the hubs that join.
	Address, Token string
}

// Domains implements adminv1.DomainServiceServer.
type Domains struct {
	adminv1.UnimplementedDomainServiceServer
	*base
}

// adoption bounds how long the other hubs may take to join a new domain.
const adoption = 8 * time.Second

func (s *Domains) host() (DomainHost, error) {
	if s.Host == nil {
		return nil, fault.New(fault.CodeNoDomainHost, "domain %s is hosted by another one's hubs itself", s.Domain)
	}
	return s.Host, nil
}

// CreateDomain implements adminv1.DomainServiceServer. Only the leader is called.
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
	content := proto.CloneOf(in)
	content.RequestId = ""
	req, err := requestOf(ctx, "create domain", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	if in.GetDomain() == s.Domain {
		return nil, fault.New(fault.CodeDomainExists, "domain %q exists", in.GetDomain())
	}
	others := s.Peers.Others()
	made, err := host.Create(ctx, NewDomain{
		Domain: in.GetDomain(), RequestID: in.GetRequestId(), Operator: req.ID.Name, Author: req.Author, CSR: in.GetCsr(), Joining: len(others),
	})
	if err != nil {
		return nil, err
	}
	if err := s.recordHosted(ctx, req, in.GetDomain(), made.CAPin); err != nil {
		return nil, err
	}
	out := &adminv1.CreateDomainResponse{CaPin: made.CAPin, CertificateChain: made.Chain, CaBundle: made.CABundle, Hub: s.Hub, RootKeys: made.RootKeys}
	out.Hubs = append([]*adminv1.DomainHub{{Hub: s.Hub, Address: made.Address}}, s.adopt(ctx, others, &adminv1.AdoptDomainRequest{
		Domain: in.GetDomain(), Address: made.Address, Token: made.Token, CaPin: made.CAPin,
	})...)
	return out, nil
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

// adopt has the other hubs join, all at once.
func (s *Domains) adopt(ctx context.Context, others []peers.Peer, in *adminv1.AdoptDomainRequest) []*adminv1.DomainHub {
	ctx, cancel := context.WithTimeout(ctx, adoption)
	defer cancel()
	out := make([]*adminv1.DomainHub, len(others))
	var wg sync.WaitGroup
	for i, p := range others {
		out[i] = &adminv1.DomainHub{Hub: p.Hub, Address: p.Address}
		wg.Go(func() {
			conn, err := s.Peers.Conn(p)
			if err == nil {
				_, err = adminv1.NewDomainServiceClient(conn).AdoptDomain(ctx, in)
			}
			if err != nil {
				out[i].Problem = err.Error()
			}
		})
	}
	wg.Wait()
	return out
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
