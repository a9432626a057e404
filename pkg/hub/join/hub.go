package join

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
)

// maxAddress bounds the address of a hub, in bytes.
const maxAddress = 256

// HubAdmission is how hubs are admitted.
type HubAdmission struct {
	// CA makes issuing CAs; nil when its key is not on this hub.
	CA ca.Driver
	// Chain is what leads from the CA to the root, DER, the CA first.
	Chain [][]byte
	// Keyset gives the keyset that follows a state's, with a key of another hub, and
	// CheckKeyset checks one that another hub made so.
	Keyset      func(ctx context.Context, st *state.State, hub string, key sign.PublicKey, now time.Time) (keyset, caBundle []byte, err error)
	CheckKeyset func(st *state.State, hub string, key sign.PublicKey, keyset, caBundle []byte, now time.Time) error
	// SignerStands tells whether who signed a hub's certificate still may.
	SignerStands func(identity.ID, []*x509.Certificate) error
	// Turn is the turn of one of this hub's joins, from the keyset that it is prepared
	// with to its commit: a channel of one slot. Those that came together would otherwise
	// all follow the same keyset, and one of them get on.
	Turn chan struct{}
	// Admit has the leader commit a join that this hub has prepared.
	Admit func(context.Context, *identityv1.AdmitHubRequest) error
	// HandOn has a hub answer that has the keys which this one lacks; why says which.
	HandOn func(ctx context.Context, in *identityv1.JoinHubRequest, why error) (*identityv1.JoinHubResponse, error)
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
	if in.GetRequestId() == "" { // by which it is known on every hub that it comes to
		in = proto.CloneOf(in)
		in.RequestId = rand.Text()
	}
	req, err := ParseHub(s.opt.Domain, s.opt.Authority.Pin(), in)
	if err != nil {
		return nil, err
	}
	cur := s.opt.Replica.Current()
	if cur == nil {
		return nil, fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	}
	// Whoever can connect comes this far. The store is asked for a token that is new here,
	// and for no more of them than may be wrong.
	if _, known := cur.State.Token(req.tokenID); !known && s.failures.Room(access.Host(ctx)) {
		s.catchUp(ctx)
		cur = s.opt.Replica.Current()
	}
	again, err := s.checkHub(cur.State, req, time.Now())
	if err != nil {
		return nil, err
	}
	if s.opt.Anchors() == nil {
		return nil, notRead() // before the token is spent
	}
	if s.opt.Admission.CA == nil {
		return s.opt.Admission.HandOn(ctx, in, fault.New(fault.CodeNoHubCA, "hub %s does not hold the key of the hub CA", s.opt.Hub))
	}
	if s.opt.Admission.StoreURL == "" {
		return nil, fault.New(fault.CodeStoreNotShared, "the log of domain %s is in hub %s's own store (%s), which other hubs cannot reach", s.opt.Domain, s.opt.Hub, s.opt.Admission.StoreDriver)
	}
	if again { // as often as a member may ask for a certificate
		if err := s.renewals.Take(req.id.String()); err != nil {
			return nil, err
		}
	}
	resp, err := s.admitHub(ctx, req)
	if fault.CodeOf(err) == fault.CodeKeysetKeyMissing {
		return s.opt.Admission.HandOn(ctx, in, err)
	}
	return resp, err
}

// catchUpTime bounds how long a join waits for the store.
const catchUpTime = time.Second

// catchUp reads what the other hubs have written, such as a token that was made a moment
// ago. While the store does not answer, the leader is the one who knows. Those who come
// together share a look that began after they came.
func (s *Service) catchUp(ctx context.Context) {
	if _, leading := s.opt.Replica.Leading(); leading {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	came := time.Now()
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return
	}
	if s.readAt.After(came) {
		return
	}
	if began := time.Now(); s.opt.Replica.Barrier(ctx) == nil {
		s.readAt = began
	}
}

// admitHub makes what a hub gets that joins, and has the leader commit it.
func (s *Service) admitHub(ctx context.Context, req *hubRequest) (*identityv1.JoinHubResponse, error) {
	names, ips := HostNames(s.opt.Domain, req.GetAddress())
	cert, err := s.opt.Authority.Issue(ctx, ca.Request{CSR: req.GetCsr(), ID: req.id, DNSNames: names, IPs: ips})
	if err != nil {
		return nil, err
	}
	issuer, err := ca.IssueIntermediate(ctx, s.opt.Admission.CA, req.id, req.GetIssuerCsr(), time.Now())
	if err != nil {
		return nil, err
	}
	in := &identityv1.AdmitHubRequest{
		Join: req.JoinHubRequest, RequestId: req.GetRequestId(), CertificateChain: cert.Chain, IssuerChain: append([][]byte{issuer}, s.opt.Admission.Chain...),
	}
	if err := s.haveAdmitted(ctx, req, in); err != nil {
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
	if !lists(anchors, req.GetHub()) {
		return nil, fault.New(fault.CodeReadOnly, "hub %s is admitted, and hub %s has not read so from the log yet", req.GetHub(), s.opt.Hub)
	}
	return &identityv1.JoinHubResponse{
		Domain: s.opt.Domain, CertificateChain: in.GetCertificateChain(), IssuerChain: in.GetIssuerChain(),
		Trust: anchors.Metadata(0, 0), Hubs: s.opt.Hubs(), StoreDriver: s.opt.Admission.StoreDriver, StoreUrl: s.opt.Admission.StoreURL,
	}, nil
}

// admitPatience is how long a join is prepared again because the keyset changed in
// between, by what another hub did.
const admitPatience = 10 * time.Second

// haveAdmitted adds the next keyset to a join that has been prepared and has the leader
// commit it. It is here because the keyset key is: the leader may be another hub.
func (s *Service) haveAdmitted(ctx context.Context, req *hubRequest, in *identityv1.AdmitHubRequest) error {
	select {
	case s.opt.Admission.Turn <- struct{}{}:
		defer func() { <-s.opt.Admission.Turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for the joins that came before: %w", ctx.Err())
	}
	pause := backoff.New(backoff.Policy{Base: 20 * time.Millisecond, Cap: 500 * time.Millisecond})
	for started := time.Now(); ; {
		st := s.opt.Replica.Current().State
		again, err := s.checkHub(st, req, time.Now())
		if err != nil {
			return err
		}
		in.Keyset, in.CaBundle = nil, nil
		if !again {
			if in.Keyset, in.CaBundle, err = s.opt.Admission.Keyset(ctx, st, req.GetHub(), req.key, time.Now()); err != nil {
				return err
			}
		}
		err = s.opt.Admission.Admit(ctx, in)
		if fault.CodeOf(err) != fault.CodeKeysetMoved || time.Since(started) > admitPatience || pause.Wait(ctx) != nil {
			return err
		}
	}
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
	return proofOf("meshkit hub join", strings.ToLower(pin), hub, tokenID)
}

// RenewProof is what a hub signs with its config key to get another certificate.
func RenewProof(pin, hub string, csr []byte) []byte {
	return proofOf("meshkit hub renew", strings.ToLower(pin), hub, string(csr))
}

func proofOf(what string, parts ...string) []byte {
	h := sha256.New()
	h.Write([]byte(what))
	for _, part := range parts {
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

// keyOf gives the public key of a certificate request, or the request itself when
// it is none: a new request for the same key is the same request.
func keyOf(csr []byte) []byte {
	if r, err := x509.ParseCertificateRequest(csr); err == nil {
		return r.RawSubjectPublicKeyInfo
	}
	return csr
}
