package state

import (
	"bytes"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

// Effect says what an entry changed, for whoever follows the states.
type Effect struct {
	// Kind of the entry.
	Kind string
	// Changed are the resources written or removed, in the entry's order.
	Changed []resource.Key
	// Config: the config sequence moved to this entry.
	Config bool
	// Trust: trust metadata changed.
	Trust bool
	// Nodes that joined, changed labels, were forgotten or got a certificate.
	Nodes []string
	// Skipped: the entry's kind is not known.
	Skipped bool
}

// step is one entry being folded: a private copy of the state, so that a refused
// entry leaves no trace.
type step struct {
	*State
	entry  *logv1.Entry
	effect Effect
}

// Apply folds the next entry of the log, whose stored bytes hash to hash. On an
// error the state is unchanged and fault.CodeBadEntry names the entry.
func (s *State) Apply(e *logv1.Entry, hash [32]byte) (*State, Effect, error) {
	if !bytes.Equal(e.GetPreviousHash(), s.pos.Hash[:]) {
		return nil, Effect{}, bad(e, "it does not follow the entry before it: the hash chain is broken")
	}
	next, effect, err := s.Propose(e)
	if err != nil {
		return nil, Effect{}, err
	}
	next.pos.Hash = hash
	return next, effect, nil
}

// Propose folds an entry that is about to be appended: its place in the hash
// chain is not known yet and not checked. WithHash completes the state once it
// is.
func (s *State) Propose(e *logv1.Entry) (*State, Effect, error) {
	if e.GetSeq() != s.pos.Seq+1 {
		return nil, Effect{}, bad(e, "the next sequence number is %d", s.pos.Seq+1)
	}
	if e.GetTerm() < s.pos.Term {
		return nil, Effect{}, bad(e, "its term %d is below term %d of the entry before", e.GetTerm(), s.pos.Term)
	}
	if (e.GetKind() == KindDomainCreated) != (e.GetSeq() == 1) {
		return nil, Effect{}, bad(e, "%s is the first entry and no other", KindDomainCreated)
	}
	copied := *s
	st := &step{State: &copied, entry: e, effect: Effect{Kind: e.GetKind()}}
	st.pos = Position{Seq: e.GetSeq(), Term: e.GetTerm()}
	if t := e.GetTime().AsTime(); t.After(s.time) {
		st.time = t
	}
	if err := st.fold(); err != nil {
		return nil, Effect{}, err
	}
	if st.effect.Config {
		st.configSeq, st.configEpoch = e.GetSeq(), e.GetTerm()
	}
	return st.State, st.effect, nil
}

// WithHash is the state with the hash of its newest entry filled in.
func (s *State) WithHash(hash [32]byte) *State {
	c := *s
	c.pos.Hash = hash
	return &c
}

func (st *step) fold() error {
	switch st.entry.GetKind() {
	case KindDomainCreated:
		return decode(st, st.domainCreated)
	case KindTermStarted:
		return decode(st, st.termStarted)
	case KindChangeSet:
		return decode(st, st.changeSet)
	case KindTokenCreated:
		return decode(st, st.tokenCreated)
	case KindTokenRevoked:
		return decode(st, st.tokenRevoked)
	case KindNodeJoined:
		return decode(st, st.nodeJoined)
	case KindHubJoined:
		return decode(st, st.hubJoined)
	case KindHubDrained:
		return decode(st, st.hubDrained)
	case KindHubMoved:
		return decode(st, st.hubMoved)
	case KindDomainHosted:
		return decode(st, func(m *logv1.DomainHosted) error { return st.remember(m.GetFingerprint()) })
	case KindLeadershipTransferred:
		return decode(st, st.leadershipTransferred)
	case KindNodeForgotten:
		return decode(st, st.nodeForgotten)
	case KindCertificateIssued:
		return decode(st, st.certificateIssued)
	case KindTrustUpdated:
		return decode(st, st.trustUpdated)
	case KindLossAccepted:
		return decode(st, st.lossAccepted)
	case KindLogRestored:
		return decode(st, st.logRestored)
	}
	st.skipped++
	st.effect.Skipped = true
	return nil
}

// decode parses the payload and hands it to f.
func decode[M any, P interface {
	*M
	proto.Message
}](st *step, f func(P) error) error {
	m := P(new(M))
	if err := proto.Unmarshal(st.entry.GetPayload(), m); err != nil {
		return bad(st.entry, "its payload is not a %s: %w", st.entry.GetKind(), err)
	}
	return f(m)
}

func bad(e *logv1.Entry, format string, args ...any) error {
	return fault.New(fault.CodeBadEntry, "log entry %d (%s): %w", e.GetSeq(), e.GetKind(), fmt.Errorf(format, args...))
}

func (st *step) domainCreated(m *logv1.DomainCreated) error {
	if m.GetDomain() == "" || len(m.GetRoot()) == 0 || len(m.GetKeyset()) == 0 {
		return bad(st.entry, "it lacks the domain's name, root or keyset")
	}
	st.domain = m.GetDomain()
	st.roots, st.keyset, st.caBundle = [][]byte{m.GetRoot()}, m.GetKeyset(), m.GetCaBundle()
	// The empty mesh is a version too: nodes that join before the first change are
	// given it.
	st.effect.Trust, st.effect.Config = true, true
	return nil
}

func (st *step) termStarted(m *logv1.TermStarted) error {
	if m.GetHub() == "" {
		return bad(st.entry, "it names no hub")
	}
	h := &logv1.HubState{Hub: m.GetHub(), Address: m.GetAddress(), LastTerm: st.entry.GetTerm()}
	if before, ok := st.Hub(m.GetHub()); ok {
		h.JoinedSeq, h.Drained, h.Chosen = before.GetJoinedSeq(), before.GetDrained(), before.GetChosen()
	}
	st.choose("", m.GetHub()) // who was chosen instead leads no more
	st.hubs, _, _ = st.hubs.Insert([]byte(m.GetHub()), h)
	return nil
}

// lossAccepted moves the version: what nodes have seen is behind it.
func (st *step) lossAccepted(m *logv1.LossAccepted) error {
	if m.GetLostSeq() == 0 || m.GetLostTerm() == 0 {
		return bad(st.entry, "it does not say what was lost")
	}
	st.acceptedSeq, st.acceptedTerm = max(st.acceptedSeq, m.GetLostSeq()), max(st.acceptedTerm, m.GetLostTerm())
	st.effect.Config = true
	return nil
}

// logRestored moves the version, as lossAccepted does: the entry's term is above all
// that nodes have seen.
func (st *step) logRestored(m *logv1.LogRestored) error {
	if m.GetKeptSeq() == 0 || m.GetKeptTerm() >= st.entry.GetTerm() {
		return bad(st.entry, "its term %d is not above that of the backup, %d", st.entry.GetTerm(), m.GetKeptTerm())
	}
	st.acceptedSeq, st.acceptedTerm = max(st.acceptedSeq, m.GetLostSeq()), max(st.acceptedTerm, m.GetLostTerm())
	st.effect.Config = true
	return nil
}

func (st *step) certificateIssued(m *logv1.CertificateIssued) error {
	if err := st.checkCertificate(m); err != nil {
		return err
	}
	st.certificates, _, _ = st.certificates.Insert([]byte(m.GetIdentity()), m)
	name, ok := st.nodeOf(m.GetIdentity())
	if !ok {
		return nil
	}
	old, ok := st.Node(name)
	if !ok {
		return bad(st.entry, "it is for node %q, which has not joined", name)
	}
	n := proto.CloneOf(old)
	n.Certificate, n.Accepted = m, accepting(old.GetAccepted(), m)
	st.nodes, _, _ = st.nodes.Insert([]byte(name), n)
	st.effect.Nodes = []string{name}
	return nil
}

func (st *step) checkCertificate(c *logv1.CertificateIssued) error {
	if c.GetIdentity() == "" || c.GetSerial() == "" || c.GetFingerprint() == "" {
		return bad(st.entry, "its certificate lacks identity, serial or fingerprint")
	}
	if !c.GetNotAfter().IsValid() || !c.GetNotBefore().IsValid() || !c.GetNotAfter().AsTime().After(c.GetNotBefore().AsTime()) {
		return bad(st.entry, "the validity of its certificate is not a period")
	}
	return nil
}

// nodeOf gives the node's name when identity is a node of this domain.
func (st *step) nodeOf(identity string) (string, bool) {
	prefix := "spiffe://" + st.domain + "/node/"
	if len(identity) <= len(prefix) || identity[:len(prefix)] != prefix {
		return "", false
	}
	return identity[len(prefix):], true
}

// hubJoined lists a hub. Its keyset is checked by whoever proposes it, as that of
// TrustUpdated is.
func (st *step) hubJoined(m *logv1.HubJoined) error {
	if m.GetHub() == "" || m.GetAddress() == "" || m.GetCertificate() == nil || m.GetIssuer() == nil || len(m.GetKeyset()) == 0 {
		return bad(st.entry, "it lacks the hub's name, address, certificates or keyset")
	}
	for _, c := range []*logv1.CertificateIssued{m.GetCertificate(), m.GetIssuer()} {
		if err := st.checkCertificate(c); err != nil {
			return err
		}
	}
	if err := st.CheckHubJoin(m.GetTokenId(), m.GetHub(), timeOf(st.entry)); err != nil {
		return bad(st.entry, "hub %q may not join: %w", m.GetHub(), err)
	}
	st.spend(m.GetTokenId())
	st.hubs, _, _ = st.hubs.Insert([]byte(m.GetHub()), &logv1.HubState{Hub: m.GetHub(), Address: m.GetAddress(), JoinedSeq: st.entry.GetSeq()})
	st.certificates, _, _ = st.certificates.Insert([]byte(m.GetCertificate().GetIdentity()), m.GetCertificate())
	st.certificates, _, _ = st.certificates.Insert([]byte(m.GetIssuer().GetIdentity()), m.GetIssuer())
	st.keyset = m.GetKeyset()
	if len(m.GetCaBundle()) > 0 {
		st.caBundle = m.GetCaBundle()
	}
	st.effect.Trust = true
	return st.remember(m.GetFingerprint())
}

func (st *step) hubDrained(m *logv1.HubDrained) error {
	if err := st.CheckDrain(m.GetHub(), m.GetDrained()); err != nil {
		return bad(st.entry, "%w", err)
	}
	old, _ := st.Hub(m.GetHub())
	h := proto.CloneOf(old)
	h.Drained = m.GetDrained()
	st.hubs, _, _ = st.hubs.Insert([]byte(m.GetHub()), h)
	return st.remember(m.GetFingerprint())
}

func (st *step) hubMoved(m *logv1.HubMoved) error {
	old, ok := st.Hub(m.GetHub())
	if !ok || m.GetAddress() == "" {
		return bad(st.entry, "hub %q is not in the domain, or it lacks the address", m.GetHub())
	}
	h := proto.CloneOf(old)
	h.Address = m.GetAddress()
	st.hubs, _, _ = st.hubs.Insert([]byte(m.GetHub()), h)
	return nil
}

func (st *step) leadershipTransferred(m *logv1.LeadershipTransferred) error {
	if _, ok := st.Hub(m.GetTo()); !ok {
		return bad(st.entry, "hub %q is not in the domain", m.GetTo())
	}
	chosen := ""
	if m.GetChosen() {
		chosen = m.GetTo()
	}
	st.choose(chosen, "")
	return st.remember(m.GetFingerprint())
}

// choose notes which hub an operator has lead, and that it is none of the others, except
// for one whose state stays as it is. At most one is chosen at any time.
func (st *step) choose(hub, except string) {
	for h := range st.Hubs() {
		if chosen := h.GetHub() == hub; h.GetHub() != except && chosen != h.GetChosen() {
			c := proto.CloneOf(h)
			c.Chosen = chosen
			st.hubs, _, _ = st.hubs.Insert([]byte(c.GetHub()), c)
		}
	}
}

func (st *step) trustUpdated(m *logv1.TrustUpdated) error {
	if len(m.GetRoots()) == 0 && len(m.GetKeyset()) == 0 && len(m.GetCaBundle()) == 0 {
		return bad(st.entry, "it updates nothing")
	}
	if len(m.GetRoots()) > 0 {
		roots := append(append([][]byte(nil), st.roots...), m.GetRoots()...)
		st.roots = roots[max(0, len(roots)-MaxRoots):]
	}
	if len(m.GetKeyset()) > 0 {
		st.keyset = m.GetKeyset()
	}
	if len(m.GetCaBundle()) > 0 {
		st.caBundle = m.GetCaBundle()
	}
	st.effect.Trust = true
	return st.remember(m.GetFingerprint())
}

// remember keeps the entry's request id, so that a retry is answered alike.
func (st *step) remember(fingerprint []byte) error {
	id := st.entry.GetRequestId()
	if id == "" {
		return nil
	}
	if old, ok := st.Request(id); ok {
		return bad(st.entry, "request id %q was used by entry %d", id, old.GetSeq())
	}
	r := &logv1.RequestRecord{RequestId: id, Seq: st.entry.GetSeq(), Fingerprint: fingerprint}
	requests, order := st.requests.Txn(), st.requestOrder.Txn()
	requests.Insert([]byte(id), r)
	order.Insert(append(seqKey(r.Seq), id...), id)
	for n := st.requests.Len() + 1; n > MaxRequests; n-- {
		k, oldest, _ := order.Root().Minimum()
		order.Delete(k)
		requests.Delete([]byte(oldest))
	}
	st.requests, st.requestOrder = requests.Commit(), order.Commit()
	return nil
}

func timeOf(e *logv1.Entry) time.Time { return e.GetTime().AsTime() }
