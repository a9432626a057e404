package join

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// maxAddress bounds the address of a hub, in bytes.
const maxAddress = 256

// HubAdmission is what a hub needs that admits hubs.
type HubAdmission struct {
	// CA makes issuing CAs; nil when its key is not on this hub.
	CA ca.Driver
	// Chain is what leads from the CA to the root, DER, the CA first.
	Chain [][]byte
	// Keyset gives the domain's next keyset, with a key of another hub.
	Keyset func(ctx context.Context, st *state.State, hub string, key sign.PublicKey, now time.Time) (keyset, caBundle []byte, err error)
	// Follow takes over the trust metadata of a state.
	Follow func(ctx context.Context, st *state.State) (changed bool, err error)
	// StoreDriver and StoreURL tell joining hubs where the log is; without a URL it is
	// where no other hub can reach it, and none is admitted.
	StoreDriver, StoreURL string
}

// hubRequest is a request to join as a hub that is well-formed.
type hubRequest struct {
	*identityv1.JoinHubRequest
	tokenID     string
	hash        [32]byte
	fingerprint []byte
	id          identity.ID
	key         sign.PublicKey
}

// JoinHub implements identityv1.IdentityServiceServer.
func (s *Service) JoinHub(ctx context.Context, in *identityv1.JoinHubRequest) (*identityv1.JoinHubResponse, error) {
	host := access.Host(ctx)
	if err := s.joins.Take(host); err != nil {
		return nil, err
	}
	resp, err := s.joinHub(ctx, in)
	if err != nil && fault.KindOf(err) == fault.Unauthenticated {
		if err := s.failures.Take(host); err != nil { // as in Join
			return nil, err
		}
	}
	return resp, err
}

func (s *Service) joinHub(ctx context.Context, in *identityv1.JoinHubRequest) (*identityv1.JoinHubResponse, error) {
	req, err := ParseHub(s.opt.Domain, s.opt.Authority.Pin(), in)
	if err != nil {
		return nil, err
	}
	cur := s.opt.Replica.Current()
	if cur == nil {
		return nil, fault.New(fault.CodeReadOnly, "the hub is still reading its log")
	}
	again, err := s.checkHub(cur.State, req, time.Now())
	if err != nil {
		return nil, err
	}
	if s.opt.Anchors() == nil {
		return nil, notRead() // before the token is spent
	}
	if s.opt.Admission.CA == nil {
		return nil, noHubCA(cur.State)
	}
	if s.opt.Admission.StoreURL == "" {
		return nil, fault.New(fault.CodeStoreNotShared, "the log of domain %s is in hub %s's own store (%s), which other hubs cannot reach", s.opt.Domain, s.opt.Hub, s.opt.Admission.StoreDriver)
	}
	if again { // as often as a member may ask for a certificate
		if err := s.renewals.Take(req.id.String()); err != nil {
			return nil, err
		}
	}
	names, ips := hostNames(in.GetAddress())
	cert, err := s.opt.Authority.Issue(ctx, ca.Request{CSR: in.GetCsr(), ID: req.id, DNSNames: names, IPs: ips})
	if err != nil {
		return nil, err
	}
	issuer, err := ca.IssueIntermediate(ctx, s.opt.Admission.CA, req.id, in.GetIssuerCsr(), time.Now())
	if err != nil {
		return nil, err
	}
	if !again {
		err = s.admitHub(ctx, req, cert, issuer)
		again = errors.Is(err, errReplayed)
	}
	if again {
		err = s.recordHub(ctx, req, cert, issuer)
	}
	if fault.CodeOf(err) == fault.CodeNotLeader {
		return nil, s.notLeader(err)
	}
	if err != nil {
		return nil, err
	}
	// The answer must hold the keyset that lists the hub.
	if _, err := s.opt.Admission.Follow(ctx, s.opt.Replica.Current().State); err != nil {
		return nil, err
	}
	anchors := s.opt.Anchors()
	if anchors == nil {
		return nil, notRead()
	}
	return &identityv1.JoinHubResponse{
		Domain: s.opt.Domain, CertificateChain: cert.Chain, IssuerChain: append([][]byte{issuer}, s.opt.Admission.Chain...),
		Trust: anchors.Metadata(0, 0), Hubs: s.opt.Hubs(), StoreDriver: s.opt.Admission.StoreDriver, StoreUrl: s.opt.Admission.StoreURL,
	}, nil
}

// noHubCA names the hub that made the domain: unless they were moved, the keys that
// admit hubs are there.
func noHubCA(st *state.State) error {
	err := fault.New(fault.CodeNoHubCA, "this hub does not hold the key of the hub CA")
	for h := range st.Hubs() {
		if h.GetJoinedSeq() == 0 { // it did not join
			return err.WithRemedy("Run `meshctl domain transfer %s --to %s`, then `meshhub join --hub %s`: hub %s made the domain and holds the keys, unless they were moved.", st.Domain(), h.GetHub(), h.GetAddress(), h.GetHub())
		}
	}
	return err
}

// notLeader is for a hub that could admit the other and may not write: the keyset that
// lists a hub and its joining are one entry. While nobody else leads, asking again
// helps.
func (s *Service) notLeader(err error) error {
	st := s.opt.Replica.Current().State
	leader := st.Leader().GetHub()
	if leader == "" || leader == s.opt.Hub {
		return err
	}
	return fault.New(fault.CodeNoHubCA, "hub %s holds the keys that admit hubs, and hub %s leads", s.opt.Hub, leader).
		WithRemedy("Run `meshctl domain transfer %s --to %s`, then join again; the token is still good.", st.Domain(), s.opt.Hub)
}

// ParseHub checks the form of a hub's join request, strictly and cheaply: it
// comes from whoever can connect.
func ParseHub(domain, pin string, in *identityv1.JoinHubRequest) (*hubRequest, error) {
	if len(in.GetHub()) > maxNode || identity.ValidName(in.GetHub()) != nil {
		return nil, fault.New(fault.CodeBadRequest, "hub: a name has at most %d lower-case letters, digits, '-' and '.'", maxNode)
	}
	if host, port, err := net.SplitHostPort(in.GetAddress()); err != nil || host == "" || port == "" || len(in.GetAddress()) > maxAddress || !validRequestID(port) {
		return nil, fault.New(fault.CodeBadRequest, "address: want host:port, at most %d bytes", maxAddress)
	}
	for field, csr := range map[string][]byte{"csr": in.GetCsr(), "issuer_csr": in.GetIssuerCsr()} {
		if n := len(csr); n == 0 || n > maxCSR {
			return nil, fault.New(fault.CodeBadRequest, "%s: %d bytes, not 1 to %d", field, n, maxCSR)
		}
	}
	if len(in.GetConfigKey()) > maxCSR || len(in.GetConfigProof()) > maxCSR {
		return nil, fault.New(fault.CodeBadRequest, "config_key or config_proof: more than %d bytes", maxCSR)
	}
	if !validRequestID(in.GetRequestId()) {
		return nil, fault.New(fault.CodeBadRequest, "request_id: at most %d printable characters", maxRequestID)
	}
	token := in.GetToken()
	id, secret, ok := strings.Cut(token, ".")
	if !ok || id == "" || secret == "" || len(token) > maxToken {
		return nil, fault.New(fault.CodeTokenInvalid, "the join token is not of the form ID.SECRET").WithRemedy(remedyToken)
	}
	spiffe, err := identity.New(domain, identity.Hub, in.GetHub())
	if err != nil {
		return nil, err
	}
	key, err := sign.ParsePublicKey(in.GetConfigKey())
	if err != nil {
		return nil, fault.New(fault.CodeBadRequest, "config_key: %w", err)
	}
	if err := key.Verify(HubProof(pin, in.GetHub(), id), in.GetConfigProof()); err != nil {
		return nil, fault.New(fault.CodeBadRequest, "config_proof: %w", err)
	}
	r := &hubRequest{JoinHubRequest: in, tokenID: id, hash: sha256.Sum256([]byte(token)), id: spiffe, key: key}
	if in.GetRequestId() != "" {
		h := sha256.New()
		parts := [][]byte{[]byte("join hub"), r.hash[:], []byte(in.GetHub()), []byte(in.GetAddress()), []byte(key.KeyID()), keyOf(in.GetCsr()), keyOf(in.GetIssuerCsr())}
		for _, part := range parts {
			sum := sha256.Sum256(part)
			h.Write(sum[:])
		}
		r.fingerprint = h.Sum(nil)
	}
	return r, nil
}

// HubProof is what a hub signs with its config key to show that it is its own.
func HubProof(pin, hub, tokenID string) []byte {
	h := sha256.New()
	h.Write([]byte("meshkit hub join"))
	for _, part := range []string{strings.ToLower(pin), hub, tokenID} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

const remedyToken = "Make a token for hubs with `meshctl token create --hub`."

// checkHub tells whether the hub may join in state st; again: it has joined
// already, and its answer was lost.
func (s *Service) checkHub(st *state.State, r *hubRequest, now time.Time) (again bool, err error) {
	t, ok := st.Token(r.tokenID)
	if !ok || subtle.ConstantTimeCompare(t.GetToken().GetHash(), r.hash[:]) != 1 {
		return false, fault.New(fault.CodeTokenInvalid, "the join token is not known").WithRemedy(remedyToken)
	}
	if t.GetRevoked() {
		return false, fault.New(fault.CodeTokenRevoked, "join token %s was revoked", r.tokenID).WithRemedy(remedyToken)
	}
	if id := r.GetRequestId(); id != "" {
		if done, ok := st.Request(id); ok {
			if string(done.GetFingerprint()) != string(r.fingerprint) {
				return false, fault.New(fault.CodeRequestIDReused, "request id %q was used for another request, committed as entry %d", id, done.GetSeq())
			}
			// As for nodes: another hub may have joined under the name since.
			if h, ok := st.Hub(r.GetHub()); ok && h.GetJoinedSeq() == done.GetSeq() {
				return true, nil
			}
			return false, fault.New(fault.CodeHubExists, "hub %q joined with this request, and another has its name since", r.GetHub())
		}
	}
	if now.Before(st.Time()) {
		now = st.Time()
	}
	err = st.CheckHubJoin(r.tokenID, r.GetHub(), now)
	if anchors := s.opt.Anchors(); errors.Is(err, fault.CodeHubExists) && anchors != nil && !lists(anchors, r.GetHub()) {
		return false, fault.New(fault.CodeHubExists, "hub %q was dropped from the domain, and its name is kept", r.GetHub()).
			WithRemedy("Choose another --name; or, to use that one again, make a token for it: `meshctl token create --hub --node %s`.", r.GetHub())
	}
	return false, err
}

// lists tells whether the keyset lists a key of a hub.
func lists(a *trust.Anchors, hub string) bool {
	return slices.ContainsFunc(a.Hubs(), func(k trust.HubKey) bool { return k.Hub == hub })
}

// admitHub commits the join, with the keyset that lists the hub.
func (s *Service) admitHub(ctx context.Context, r *hubRequest, cert ca.Certificate, issuer []byte) error {
	issued, err := issuedCA(r.id, issuer)
	if err != nil {
		return err
	}
	_, err = s.opt.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
		again, err := s.checkHub(cur.State, r, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		if again {
			return replica.Proposal{}, errReplayed
		}
		keyset, bundle, err := s.opt.Admission.Keyset(ctx, cur.State, r.GetHub(), r.key, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		c := access.CallerOf(ctx)
		return replica.Proposal{
			Kind:   state.KindHubJoined,
			Author: r.id.String(), Origin: c.Origin, RequestID: r.GetRequestId(), Traceparent: wire.Traceparent(ctx),
			Payload: &logv1.HubJoined{
				Hub: r.GetHub(), Address: r.GetAddress(), TokenId: r.tokenID, Certificate: Issued(cert), Issuer: issued,
				Keyset: keyset, CaBundle: bundle, Fingerprint: r.fingerprint,
			},
		}, nil
	})
	return err
}

// recordHub commits the certificates of a hub whose first answer was lost.
func (s *Service) recordHub(ctx context.Context, r *hubRequest, cert ca.Certificate, issuer []byte) error {
	issued, err := issuedCA(r.id, issuer)
	if err != nil {
		return err
	}
	for _, c := range []*logv1.CertificateIssued{Issued(cert), issued} {
		_, err := s.opt.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
			if _, err := s.checkHub(cur.State, r, now); err != nil {
				return replica.Proposal{}, err
			}
			return replica.Proposal{Kind: state.KindCertificateIssued, Author: r.id.String(), Origin: access.CallerOf(ctx).Origin, Payload: c}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keyOf gives the public key of a certificate request, or the request itself when
// it is none: a new request for the same key is the same request.
func keyOf(csr []byte) []byte {
	if r, err := x509.ParseCertificateRequest(csr); err == nil {
		return r.RawSubjectPublicKeyInfo
	}
	return csr
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

// hostNames are what a hub's certificate names besides its SPIFFE ID, for clients
// that compare host names.
func hostNames(address string) (names []string, ips []netip.Addr) {
	names, ips = []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && !ip.IsUnspecified() && ip != ips[0]:
		ips = append(ips, ip.WithZone(""))
	case err != nil && !strings.EqualFold(host, "localhost"):
		names = append(names, strings.ToLower(host))
	}
	return names, ips
}

// Addresses are those of a certificate, as a request for the next one names them.
func Addresses(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}
