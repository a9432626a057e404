package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/state"
)

// Bounds of a token.
const (
	defaultTTL = time.Hour
	maxTTL     = 30 * 24 * time.Hour
	maxUses    = 10_000
)

// shown remembers the newest tokens by request id, so that a retry whose answer
// was lost gets the same one. Secrets are in no log and on no disk; a restart
// forgets them.
type shown struct {
	mu    sync.Mutex // guards both below
	byID  map[string]*adminv1.CreateTokenResponse
	order []string
}

// maxShown bounds how many are remembered.
const maxShown = 128

func newShown() *shown { return &shown{byID: make(map[string]*adminv1.CreateTokenResponse)} }

func (s *shown) put(request string, r *adminv1.CreateTokenResponse) {
	if request == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[request] == nil {
		if len(s.order) == maxShown {
			delete(s.byID, s.order[0])
			s.order = slices.Delete(s.order, 0, 1)
		}
		s.order = append(s.order, request)
	}
	s.byID[request] = r
}

func (s *shown) get(request string) *adminv1.CreateTokenResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[request]
}

// CreateToken implements adminv1.FleetServiceServer.
func (s *Fleet) CreateToken(ctx context.Context, in *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	ttl, uses, err := checkToken(in)
	if err != nil {
		return nil, err
	}
	content := proto.CloneOf(in)
	content.RequestId = ""
	req, err := requestOf(ctx, "create token", in.GetRequestId(), content)
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random(5)))
	token := id + "." + base64.RawURLEncoding.EncodeToString(random(32))
	hash := sha256.Sum256([]byte(token))
	var out *adminv1.CreateTokenResponse
	var earlier uint64
	_, err = s.Replica.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
		if seq, done, err := req.committed(cur); err != nil || done {
			if err == nil {
				earlier, err = seq, errReplayed
			}
			return replica.Proposal{}, err
		}
		if live := liveTokens(cur.State); live >= state.MaxTokens {
			return replica.Proposal{}, fault.New(fault.CodeRequestTooLarge, "%d join tokens are usable, which is the limit", live)
		}
		out = &adminv1.CreateTokenResponse{Token: token, Id: id, CaPin: s.CAPin, Hub: s.Address(), ExpiresAt: timestamppb.New(now.Add(ttl))}
		if s.Host == nil {
			out.GuestDomain = s.Domain
		}
		// Before it is committed: the caller may leave without the answer, and a
		// retry may overtake this call. Should this not be committed, the next
		// that is takes its place.
		s.shown.put(in.GetRequestId(), out)
		return req.proposal(state.KindTokenCreated, &logv1.TokenCreated{
			Id: id, Hash: hash[:], Labels: in.GetLabels(), ExpiresAt: out.ExpiresAt, Uses: uses, Node: in.GetNode(), Role: cmp.Or(in.GetRole(), state.RoleNode), Fingerprint: req.fingerprint,
		}), nil
	})
	if errors.Is(err, errReplayed) {
		return s.createdBefore(in.GetRequestId(), earlier)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Fleet) createdBefore(request string, seq uint64) (*adminv1.CreateTokenResponse, error) {
	if r := s.shown.get(request); r != nil {
		return r, nil
	}
	return nil, fault.New(fault.CodeTokenShown, "request id %q made a token in entry %d; its secret is not kept", request, seq)
}

func checkToken(in *adminv1.CreateTokenRequest) (ttl time.Duration, uses uint32, err error) {
	ttl, uses = in.GetTtl().AsDuration(), in.GetUses()
	if in.GetTtl() == nil {
		ttl = defaultTTL
	}
	if uses == 0 {
		uses = 1
	}
	switch {
	case ttl <= 0 || ttl > maxTTL:
		return 0, 0, fault.New(fault.CodeBadRequest, "ttl: %s is not above 0 and at most %s", ttl, maxTTL)
	case uses > maxUses:
		return 0, 0, fault.New(fault.CodeBadRequest, "uses: %d is more than %d", uses, maxUses)
	case in.GetNode() != "" && (len(in.GetNode()) > 63 || identity.ValidName(in.GetNode()) != nil):
		return 0, 0, fault.New(fault.CodeBadRequest, "node: %s is not a node name", safetext.Quote(in.GetNode()))
	case in.GetRole() != "" && in.GetRole() != state.RoleNode && in.GetRole() != state.RoleHub:
		return 0, 0, fault.New(fault.CodeBadRequest, "role: %s is neither node nor hub", safetext.Quote(in.GetRole()))
	case in.GetRole() == state.RoleHub && len(in.GetLabels()) > 0:
		return 0, 0, fault.New(fault.CodeBadRequest, "labels: hubs have none")
	}
	if err := resource.ValidLabels(in.GetLabels()); err != nil {
		return 0, 0, fault.New(fault.CodeBadRequest, "labels: %w", err)
	}
	return ttl, uses, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails; the runtime stops the program instead
	return b
}

func live(t *logv1.TokenState, now time.Time) bool {
	return !t.GetRevoked() && t.GetUsed() < t.GetToken().GetUses() && now.Before(t.GetToken().GetExpiresAt().AsTime())
}

func liveTokens(st *state.State) int {
	if st.TokenCount() < state.MaxTokens {
		return st.TokenCount()
	}
	n := 0
	for t := range st.Tokens() {
		if live(t, st.Time()) {
			n++
		}
	}
	return n
}

// ListTokens implements adminv1.FleetServiceServer.
func (s *Fleet) ListTokens(context.Context, *adminv1.ListTokensRequest) (*adminv1.ListTokensResponse, error) {
	cur, err := s.current()
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListTokensResponse{}
	for t := range cur.State.Tokens() {
		out.Tokens = append(out.Tokens, &adminv1.Token{
			Id: t.GetToken().GetId(), Labels: t.GetToken().GetLabels(), CreatedAt: t.GetCreatedAt(), ExpiresAt: t.GetToken().GetExpiresAt(),
			Uses: t.GetToken().GetUses(), Used: t.GetUsed(), Revoked: t.GetRevoked(), Node: t.GetToken().GetNode(), Role: t.GetToken().GetRole(), Author: t.GetAuthor(),
		})
	}
	return out, nil
}

// RevokeToken implements adminv1.FleetServiceServer. Revoking again changes
// nothing and succeeds.
func (s *Fleet) RevokeToken(ctx context.Context, in *adminv1.RevokeTokenRequest) (*adminv1.RevokeTokenResponse, error) {
	req, err := requestOf(ctx, "revoke token", "", in)
	if err != nil {
		return nil, err
	}
	entry, err := s.Replica.Propose(ctx, func(cur *replica.Current, _ time.Time) (replica.Proposal, error) {
		t, ok := cur.State.Token(in.GetId())
		if !ok {
			return replica.Proposal{}, fault.New(fault.CodeNoSuchToken, "no join token has id %s", safetext.Quote(in.GetId()))
		}
		if t.GetRevoked() {
			return replica.Proposal{}, errReplayed
		}
		return req.proposal(state.KindTokenRevoked, &logv1.TokenRevoked{Id: in.GetId()}), nil
	})
	if err != nil && !errors.Is(err, errReplayed) {
		return nil, err
	}
	return &adminv1.RevokeTokenResponse{Seq: entry.GetSeq()}, nil
}

// maxText bounds a reason, in bytes.
const maxText = 1024

func text(field, value string) error {
	if len(value) > maxText || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fault.New(fault.CodeBadRequest, "%s: at most %d printable characters", field, maxText)
	}
	return nil
}
