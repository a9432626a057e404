package join

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/wire"
)

// What the leader does with a join. The hub with the keys has prepared it, and may be
// any that the keyset lists: nothing that it says is taken for granted. That the token
// admits the hub, the leader's own log tells; that the hub holds its keys, the
// signatures in its request; that the keyset may say so, the keyset key's; and that the
// certificates are the domain's, their chains.

// prepared is a join with what the hub is to get.
type prepared struct {
	*hubRequest
	cert             ca.Certificate
	issuer           *logv1.CertificateIssued
	keyset, caBundle []byte
}

// AdmitHub implements identityv1.IdentityServiceServer. The guard lets hubs through
// that stand, and the forwarder has it done by the leader.
func (s *Service) AdmitHub(ctx context.Context, in *identityv1.AdmitHubRequest) (*identityv1.AdmitHubResponse, error) {
	req, err := ParseHub(s.opt.Domain, s.opt.Authority.Pin(), in.GetJoin())
	if err != nil {
		return nil, err
	}
	if in.GetRequestId() == "" || in.GetRequestId() != req.GetRequestId() {
		return nil, fault.New(fault.CodeBadRequest, "request_id: want that of the join, and one")
	}
	p, err := s.checkPrepared(req, in)
	if err != nil {
		return nil, err
	}
	err = s.commitHub(ctx, p)
	if errors.Is(err, errReplayed) {
		err = s.recordHub(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	// The hub is listed, also here, when it gets its answer.
	if _, err := s.opt.Admission.Follow(ctx, s.opt.Replica.Current().State); err != nil {
		return nil, err
	}
	return &identityv1.AdmitHubResponse{}, nil
}

// checkPrepared checks the certificates of a join: they are for this hub and its keys,
// say nothing else, and who signed them may.
func (s *Service) checkPrepared(req *hubRequest, in *identityv1.AdmitHubRequest) (*prepared, error) {
	anchors := s.opt.Anchors()
	if anchors == nil {
		return nil, notRead()
	}
	refuse := func(err error) (*prepared, error) {
		return nil, fault.New(fault.CodeJoinRefused, "join of hub %s: %w", req.GetHub(), err)
	}
	now := time.Now()
	names, ips := HostNames(s.opt.Domain, req.GetAddress())
	cert, err := ca.Verify(anchors.CABundle(), in.GetCertificateChain(), ca.Request{CSR: req.GetCsr(), ID: req.id, DNSNames: names, IPs: ips}, now)
	if err != nil {
		return refuse(err)
	}
	if err := ca.VerifyIntermediate(anchors.CABundle(), in.GetIssuerChain(), req.id, req.GetIssuerCsr(), now); err != nil {
		return refuse(err)
	}
	chain := make([]*x509.Certificate, len(cert.Chain))
	for i, der := range cert.Chain {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return refuse(err)
		}
	}
	if err := s.opt.Admission.SignerStands(req.id, chain); err != nil {
		return nil, err
	}
	issuer, err := issuedCA(req.id, in.GetIssuerChain()[0])
	if err != nil {
		return nil, err
	}
	return &prepared{hubRequest: req, cert: cert, issuer: issuer, keyset: in.GetKeyset(), caBundle: in.GetCaBundle()}, nil
}

// commitHub commits a join with the keyset that lists the hub, as one entry: a join that
// fails spends no use of the token.
func (s *Service) commitHub(ctx context.Context, p *prepared) error {
	_, err := s.opt.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
		again, err := s.checkHub(cur.State, p.hubRequest, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		if again {
			return replica.Proposal{}, errReplayed
		}
		if err := s.opt.Admission.CheckKeyset(cur.State, p.GetHub(), p.key, p.keyset, p.caBundle, now); err != nil {
			return replica.Proposal{}, err
		}
		return replica.Proposal{
			Kind:   state.KindHubJoined,
			Author: p.id.String(), Origin: access.CallerOf(ctx).Origin, RequestID: p.GetRequestId(), Traceparent: wire.Traceparent(ctx),
			Payload: &logv1.HubJoined{
				Hub: p.GetHub(), Address: p.GetAddress(), TokenId: p.tokenID, Certificate: Issued(p.cert), Issuer: p.issuer,
				Keyset: p.keyset, CaBundle: p.caBundle, Fingerprint: p.fingerprint,
			},
		}, nil
	})
	return err
}

// recordHub commits the certificates of a hub whose first answer was lost. Those of an
// earlier answer do not take the place of later ones, which the hub may have.
func (s *Service) recordHub(ctx context.Context, p *prepared) error {
	for _, c := range []*logv1.CertificateIssued{Issued(p.cert), p.issuer} {
		_, err := s.opt.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
			if _, err := s.checkHub(cur.State, p.hubRequest, now); err != nil {
				return replica.Proposal{}, err
			}
			if has, ok := cur.State.Certificate(c.GetIdentity()); ok && c.GetNotBefore().AsTime().Before(has.GetNotBefore().AsTime()) {
				return replica.Proposal{}, fault.New(fault.CodeJoinRefused, "join of hub %s: the log has a later certificate for %s", p.GetHub(), c.GetIdentity())
			}
			return replica.Proposal{Kind: state.KindCertificateIssued, Author: p.id.String(), Origin: access.CallerOf(ctx).Origin, Payload: c}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// issuedCA is what the log keeps of a hub's issuing CA.
func issuedCA(hub identity.ID, der []byte) (*logv1.CertificateIssued, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "parse the issuing CA of %s: %w", hub, err)
	}
	sum := sha256.Sum256(der)
	return &logv1.CertificateIssued{
		Identity: access.IssuerOf(hub), Serial: c.SerialNumber.Text(16), NotBefore: timestamppb.New(c.NotBefore), NotAfter: timestamppb.New(c.NotAfter),
		Fingerprint: hex.EncodeToString(sum[:]), Profile: string(ca.ProfileIntermediate),
	}, nil
}
