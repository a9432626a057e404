package state

import (
	"bytes"
	"encoding/hex"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Roles of a join token.
const (
	RoleNode = "node"
	RoleHub  = "hub"
)

// CheckToken tells whether the token may admit a node or hub of that name at now:
// nil, or why not. It does not check the secret: compare the token's hash first.
func (s *State) CheckToken(id, role, name string, now time.Time) error {
	err := s.checkToken(id, role, name, now)
	if err == nil {
		return nil
	}
	if role != RoleHub {
		return err
	}
	switch err.Code {
	case fault.CodeTokenInvalid, fault.CodeTokenRevoked, fault.CodeTokenExpired:
		return err.WithRemedy("Make a token for hubs with `meshctl token create --hub`.")
	case fault.CodeTokenUsed:
		return err.WithRemedy("Check `meshctl get hubs`; make a new token with `meshctl token create --hub`.")
	}
	return err
}

func (s *State) checkToken(id, role, name string, now time.Time) *fault.Error {
	t, ok := s.Token(id)
	switch {
	case !ok:
		return fault.New(fault.CodeTokenInvalid, "join token %q is not known", id)
	case t.GetRevoked():
		return fault.New(fault.CodeTokenRevoked, "join token %s was revoked", id)
	case !now.Before(t.GetToken().GetExpiresAt().AsTime()):
		return fault.New(fault.CodeTokenExpired, "join token %s expired at %s", id, t.GetToken().GetExpiresAt().AsTime().Format(time.RFC3339))
	case t.GetUsed() >= t.GetToken().GetUses():
		return fault.New(fault.CodeTokenUsed, "join token %s has no use left of %d", id, t.GetToken().GetUses())
	case (t.GetToken().GetRole() == RoleHub) != (role == RoleHub):
		return fault.New(fault.CodeTokenBound, "join token %s does not admit a %s", id, role).
			WithRemedy("Make a token for it: `meshctl token create` for a node, `meshctl token create --hub` for a hub.")
	case t.GetToken().GetNode() != "" && t.GetToken().GetNode() != name:
		return fault.New(fault.CodeTokenBound, "join token %s is for %s %q, not %q", id, role, t.GetToken().GetNode(), name)
	}
	return nil
}

// CheckJoin tells whether node may join with the token at now: CheckToken, and
// the name is free or the token is bound to it.
func (s *State) CheckJoin(id, node string, now time.Time) error {
	if err := s.CheckToken(id, RoleNode, node, now); err != nil {
		return err
	}
	t, _ := s.Token(id)
	if _, taken := s.Node(node); taken && t.GetToken().GetNode() != node {
		return fault.New(fault.CodeNodeExists, "node %q has joined already", node).
			WithRemedy("If that node is gone, run `meshctl agent forget %s`; to let it join again, `meshctl token create --node %s`; or choose another --node name.", node, node)
	}
	return nil
}

// CheckHubJoin tells whether a hub may join with the token at now. A token that is
// bound to a name admits a hub of that name again, one that was lost.
func (s *State) CheckHubJoin(id, hub string, now time.Time) error {
	if err := s.CheckToken(id, RoleHub, hub, now); err != nil {
		return err
	}
	t, _ := s.Token(id)
	_, taken := s.Hub(hub)
	switch {
	case taken && t.GetToken().GetNode() != hub:
		return fault.New(fault.CodeHubExists, "hub %q is in the domain already", hub).
			WithRemedy("Choose another --name; or, if that hub is lost, `meshctl token create --hub --node %s`.", hub)
	case !taken && s.hubs.Len() >= MaxHubs:
		return fault.New(fault.CodeRequestTooLarge, "the domain has %d hubs, its limit", s.hubs.Len())
	}
	return nil
}

// CheckDrain tells whether a hub may be drained, or taken into use again: it is
// there, and when it is drained another is left that is not.
func (s *State) CheckDrain(hub string, drained bool) error {
	if _, ok := s.Hub(hub); !ok {
		return fault.New(fault.CodeNoSuchHub, "hub %q is not in the domain", hub)
	}
	if !drained {
		return nil
	}
	for h := range s.Hubs() {
		if h.GetHub() != hub && !h.GetDrained() {
			return nil
		}
	}
	return fault.New(fault.CodeLastHub, "hub %q is the last one that is not drained", hub)
}

// spend uses up one use of a token that exists.
func (st *step) spend(token string) {
	old, _ := st.Token(token)
	t := proto.CloneOf(old)
	t.Used++
	st.tokens, _, _ = st.tokens.Insert([]byte(token), t)
}

func (st *step) tokenCreated(m *logv1.TokenCreated) error {
	if m.GetId() == "" || len(m.GetHash()) != 32 || m.GetUses() == 0 || !m.GetExpiresAt().IsValid() {
		return bad(st.entry, "the token lacks id, hash, uses or expiry")
	}
	if _, dup := st.Token(m.GetId()); dup {
		return bad(st.entry, "token %q exists", m.GetId())
	}
	t := &logv1.TokenState{Token: m, CreatedAt: st.entry.GetTime(), Author: st.entry.GetAuthor()}
	st.tokens, _, _ = st.tokens.Insert([]byte(m.GetId()), t)
	if st.tokens.Len() > MaxTokens {
		st.dropDeadTokens()
	}
	return st.remember(m.GetFingerprint())
}

// dropDeadTokens removes every token that can admit nobody any more.
func (st *step) dropDeadTokens() {
	txn := st.tokens.Txn()
	for k, t := range scan(st.tokens, nil, nil) {
		if t.GetRevoked() || t.GetUsed() >= t.GetToken().GetUses() || !st.time.Before(t.GetToken().GetExpiresAt().AsTime()) {
			txn.Delete(k)
		}
	}
	st.tokens = txn.Commit()
}

func (st *step) tokenRevoked(m *logv1.TokenRevoked) error {
	old, ok := st.Token(m.GetId())
	if !ok {
		return bad(st.entry, "token %q does not exist", m.GetId())
	}
	t := proto.CloneOf(old)
	t.Revoked = true
	st.tokens, _, _ = st.tokens.Insert([]byte(m.GetId()), t)
	return nil
}

func (st *step) nodeJoined(m *logv1.NodeJoined) error {
	if m.GetNode() == "" || m.GetCertificate() == nil {
		return bad(st.entry, "it lacks the node's name or certificate")
	}
	if err := st.checkCertificate(m.GetCertificate()); err != nil {
		return err
	}
	if name, ok := st.nodeOf(m.GetCertificate().GetIdentity()); !ok || name != m.GetNode() {
		return bad(st.entry, "its certificate is for %q", m.GetCertificate().GetIdentity())
	}
	if err := st.CheckJoin(m.GetTokenId(), m.GetNode(), timeOf(st.entry)); err != nil {
		return bad(st.entry, "node %q may not join: %w", m.GetNode(), err)
	}
	st.spend(m.GetTokenId())
	_, again := st.Node(m.GetNode())
	n := &logv1.NodeState{
		Node: m.GetNode(), Labels: m.GetLabels(), TokenId: m.GetTokenId(), JoinedAt: st.entry.GetTime(),
		Certificate: m.GetCertificate(), JoinedSeq: st.entry.GetSeq(), Accepted: accepting(nil, m.GetCertificate()),
	}
	st.nodes, _, _ = st.nodes.Insert([]byte(m.GetNode()), n)
	st.certificates, _, _ = st.certificates.Insert([]byte(m.GetCertificate().GetIdentity()), m.GetCertificate())
	st.effect.Nodes = []string{m.GetNode()}
	// A node that was known is another member now, whose view may be another: its
	// stream ends, and it must see a newer version.
	st.effect.Config = again
	return st.remember(m.GetFingerprint())
}

func (st *step) nodeForgotten(m *logv1.NodeForgotten) error {
	n, ok := st.Node(m.GetNode())
	if !ok {
		return bad(st.entry, "node %q does not exist", m.GetNode())
	}
	st.nodes, _, _ = st.nodes.Delete([]byte(m.GetNode()))
	st.certificates, _, _ = st.certificates.Delete([]byte(n.GetCertificate().GetIdentity()))
	st.effect.Nodes = []string{m.GetNode()}
	st.effect.Config = true
	return nil
}

// MaxAccepted is how many certificates of one member are known at once. A renewal
// at half-life and a grace of three days leave fewer than that unexpired, unless
// answers are lost again and again; the one that asked last always counts.
const MaxAccepted = 16

// accepting gives the fingerprints of a member's certificates with a new one: that
// one first, then the one that asked for it, then the others.
func accepting(before [][]byte, c *logv1.CertificateIssued) [][]byte {
	out := make([][]byte, 0, MaxAccepted)
	add := func(fingerprint []byte) {
		if len(fingerprint) > 0 && len(out) < MaxAccepted && !slices.ContainsFunc(out, func(x []byte) bool { return bytes.Equal(x, fingerprint) }) {
			out = append(out, fingerprint)
		}
	}
	add(rawFingerprint(c.GetFingerprint()))
	if presented := rawFingerprint(c.GetPresented()); slices.ContainsFunc(before, func(x []byte) bool { return bytes.Equal(x, presented) }) {
		add(presented)
	}
	for _, x := range before {
		add(x)
	}
	return out
}

// rawFingerprint reads the hex of a fingerprint; nil if it is not one.
func rawFingerprint(text string) []byte {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil
	}
	return raw
}

// Accepts tells whether a certificate, by the SHA-256 of its DER, is one of the
// present member's of that name.
func Accepts(n *logv1.NodeState, fingerprint [32]byte) bool {
	return slices.ContainsFunc(n.GetAccepted(), func(x []byte) bool { return bytes.Equal(x, fingerprint[:]) })
}
