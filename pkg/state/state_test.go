package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// machine is a state with the log that led to it.
type machine struct {
	s   *State
	log []*logv1.Entry
}

func entryAfter(s *State, kind string, payload proto.Message, requestID string) *logv1.Entry {
	data, err := proto.Marshal(payload)
	if err != nil {
		panic(err)
	}
	hash := s.Position().Hash
	return &logv1.Entry{
		Seq: s.Seq() + 1, Term: max(s.Term(), 1), Time: timestamppb.New(epoch.Add(time.Duration(s.Seq()) * time.Second)),
		Author: "spiffe://d/operator/admin", Kind: kind, Payload: data, PreviousHash: hash[:], RequestId: requestID,
	}
}

func hashOf(e *logv1.Entry) [32]byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		panic(err)
	}
	return sha256.Sum256(data)
}

func (m *machine) apply(kind string, payload proto.Message, requestID string) (Effect, error) {
	e := entryAfter(m.s, kind, payload, requestID)
	next, effect, err := m.s.Apply(e, hashOf(e))
	if err == nil {
		m.s, m.log = next, append(m.log, e)
	}
	return effect, err
}

func newMachine() *machine {
	m := &machine{s: New()}
	if _, err := m.apply(KindDomainCreated, &logv1.DomainCreated{Domain: "d", Root: []byte("r"), Keyset: []byte("k"), CaBundle: []byte("c")}, ""); err != nil {
		panic(err)
	}
	return m
}

func cert(node string, n int) *logv1.CertificateIssued {
	return &logv1.CertificateIssued{
		Identity: "spiffe://d/node/" + node, Serial: fmt.Sprint(n), Fingerprint: fmt.Sprint("f", n),
		NotBefore: timestamppb.New(epoch), NotAfter: timestamppb.New(epoch.Add(24 * time.Hour)),
	}
}

func write(name, content string) *logv1.ResourceWrite {
	return &logv1.ResourceWrite{Kind: "Cluster", Namespace: "default", Name: name, Content: []byte(content), Ownership: []byte("{}"), Delete: content == ""}
}

var key = func(name string) resource.Key { return resource.Key{Kind: "Cluster", Namespace: "default", Name: name} }

// step draws one entry; it may be one that the state refuses.
func (m *machine) step(t *rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	id := ""
	if rapid.Bool().Draw(t, "with id") {
		id = fmt.Sprint("req", m.s.Seq())
	}
	var kind string
	var payload proto.Message
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		kind, payload = KindTermStarted, &logv1.TermStarted{Hub: "hub" + name.Draw(t, "hub")}
	case 1, 2, 3:
		c := &logv1.ChangeSet{Message: "m", Fingerprint: []byte{1}}
		for _, n := range rapid.SliceOfNDistinct(name, 1, 3, rapid.ID).Draw(t, "names") {
			c.Writes = append(c.Writes, write(n, rapid.SampledFrom([]string{"", "x", "yy", "zzz"}).Draw(t, "content")))
		}
		kind, payload = KindChangeSet, c
	case 4:
		hash := sha256.Sum256([]byte{byte(m.s.Seq())})
		kind, payload = KindTokenCreated, &logv1.TokenCreated{Id: fmt.Sprint("t", m.s.Seq()%4), Hash: hash[:], Uses: 2, ExpiresAt: timestamppb.New(epoch.Add(20 * time.Second))}
	case 5:
		n := name.Draw(t, "node")
		kind, payload = KindNodeJoined, &logv1.NodeJoined{Node: n, TokenId: fmt.Sprint("t", rapid.IntRange(0, 3).Draw(t, "token")), Certificate: cert(n, int(m.s.Seq())), Labels: map[string]string{"z": "1", "a": "2"}}
	case 6:
		kind, payload = KindNodeForgotten, &logv1.NodeForgotten{Node: name.Draw(t, "node")}
	case 7:
		kind, payload = "FromTheFuture", &logv1.TermStarted{Hub: "x"}
	case 8:
		kind, payload = KindTrustUpdated, &logv1.TrustUpdated{Roots: [][]byte{{byte(m.s.Seq())}}, Keyset: []byte{2}}
	case 9:
		kind, payload = KindHubMoved, &logv1.HubMoved{Hub: "hub" + name.Draw(t, "hub"), Address: fmt.Sprint("h:", m.s.Seq())}
	}
	before := m.s.Digest()
	if _, err := m.apply(kind, payload, id); err != nil {
		if fault.CodeOf(err) != fault.CodeBadEntry {
			t.Fatalf("refused with %v", err)
		}
		if m.s.Digest() != before {
			t.Fatal("a refused entry left a trace")
		}
	}
}

func TestTheSameLogGivesTheSameStateThroughAnySnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		cut := rapid.IntRange(1, 60).Draw(t, "snapshot after")
		var restored *State
		for i := range rapid.IntRange(1, 60).Draw(t, "entries") {
			m.step(t)
			if i == cut {
				var buf bytes.Buffer
				if err := m.s.WriteSnapshot(&buf); err != nil {
					t.Fatal(err)
				}
				var err error
				if restored, err = ReadSnapshot(&buf); err != nil {
					t.Fatal(err)
				}
			}
		}
		replayed := New()
		for _, e := range m.log {
			var err error
			if replayed, _, err = replayed.Apply(e, hashOf(e)); err != nil {
				t.Fatal(err)
			}
			if restored != nil && e.GetSeq() > restored.Seq() {
				if restored, _, err = restored.Apply(e, hashOf(e)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if replayed.Digest() != m.s.Digest() {
			t.Fatal("a second machine has another state")
		}
		if restored != nil && (restored.Digest() != m.s.Digest() || restored.Trie().Root() != m.s.Trie().Root()) {
			t.Fatal("a machine that began at a snapshot has another state")
		}
	})
}

func TestATruncatedOrAlteredSnapshotIsNeverTakenForAnother(t *testing.T) {
	m := newMachine()
	if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{write("a", "x"), write("b", "y")}}, "r"); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := m.s.WriteSnapshot(&buf); err != nil {
		t.Fatal(err)
	}
	for n := range buf.Len() {
		if _, err := ReadSnapshot(bytes.NewReader(buf.Bytes()[:n])); fault.CodeOf(err) != fault.CodeBadSnapshot {
			t.Fatalf("first %d of %d bytes: %v", n, buf.Len(), err)
		}
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(buf.Bytes(), 0))); fault.CodeOf(err) != fault.CodeBadSnapshot {
		t.Fatalf("a byte too many: %v", err)
	}
}

func TestEntriesThatContradictTheLogAreRefused(t *testing.T) {
	m := newMachine()
	good := entryAfter(m.s, KindTermStarted, &logv1.TermStarted{Hub: "h"}, "")
	for name, spoil := range map[string]func(*logv1.Entry){
		"gap":             func(e *logv1.Entry) { e.Seq++ },
		"repeat":          func(e *logv1.Entry) { e.Seq-- },
		"older term":      func(e *logv1.Entry) { e.Term = 0 },
		"broken chain":    func(e *logv1.Entry) { e.PreviousHash = make([]byte, 32) },
		"garbage":         func(e *logv1.Entry) { e.Payload = []byte{0xff} },
		"second creation": func(e *logv1.Entry) { e.Kind = KindDomainCreated },
		"unknown token":   func(e *logv1.Entry) { e.Kind = KindTokenRevoked },
	} {
		e := proto.CloneOf(good)
		spoil(e)
		if _, _, err := m.s.Apply(e, hashOf(e)); fault.CodeOf(err) != fault.CodeBadEntry {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := m.s.Apply(good, hashOf(good)); err != nil {
		t.Fatal(err)
	}
}

func TestAHubThatMovesKeepsAllButItsAddress(t *testing.T) {
	m := newMachine()
	for _, e := range []struct {
		kind    string
		payload proto.Message
	}{
		{KindTermStarted, &logv1.TermStarted{Hub: "hub1", Address: "10.0.0.1:8443"}},
		{KindTermStarted, &logv1.TermStarted{Hub: "hub2", Address: "10.0.0.2:8443"}},
		{KindHubDrained, &logv1.HubDrained{Hub: "hub1", Drained: true}},
		{KindHubMoved, &logv1.HubMoved{Hub: "hub1", Address: "10.0.0.9:8443"}},
	} {
		if _, err := m.apply(e.kind, e.payload, ""); err != nil {
			t.Fatal(err)
		}
	}
	if h, _ := m.s.Hub("hub1"); h.GetAddress() != "10.0.0.9:8443" || !h.GetDrained() || h.GetLastTerm() != 1 {
		t.Errorf("%v", h)
	}
	if h, _ := m.s.Hub("hub2"); h.GetAddress() != "10.0.0.2:8443" {
		t.Errorf("another hub moved: %v", h)
	}
	for _, moved := range []*logv1.HubMoved{{Hub: "hub9", Address: "10.0.0.9:8443"}, {Hub: "hub1"}, {}} {
		if _, err := m.apply(KindHubMoved, moved, ""); fault.CodeOf(err) != fault.CodeBadEntry {
			t.Errorf("%v: %v", moved, err)
		}
	}
}

// What is wrong with a hub's token is mended with a token for hubs.
func TestTheRemedyForAHubsTokenIsAnotherForHubs(t *testing.T) {
	m := newMachine()
	tok := &logv1.TokenCreated{Id: "one", Hash: make([]byte, 32), Uses: 1, Role: RoleHub, ExpiresAt: timestamppb.New(epoch.Add(time.Hour))}
	if _, err := m.apply(KindTokenCreated, tok, ""); err != nil {
		t.Fatal(err)
	}
	refused := func(token string, now time.Time, code fault.Code) {
		t.Helper()
		err := m.s.CheckHubJoin(token, "hub2", now)
		if fault.CodeOf(err) != code || !strings.Contains(fault.RemedyOf(err), "meshctl token create --hub") {
			t.Errorf("%v (%s): %q", err, fault.CodeOf(err), fault.RemedyOf(err))
		}
	}
	if err := m.s.CheckHubJoin("one", "hub2", m.s.Time()); err != nil {
		t.Fatal(err)
	}
	refused("none", m.s.Time(), fault.CodeTokenInvalid)
	refused("one", epoch.Add(2*time.Hour), fault.CodeTokenExpired)
	joined := &logv1.HubJoined{Hub: "hub3", Address: "10.0.0.3:8443", TokenId: "one", Certificate: cert("hub3", 1), Issuer: cert("hub3-ca", 2), Keyset: []byte("keyset")}
	if _, err := m.apply(KindHubJoined, joined, ""); err != nil {
		t.Fatal(err)
	}
	refused("one", m.s.Time(), fault.CodeTokenUsed)
}

func TestATokensUsesExpiryAndBindingAreDecidedByTheLog(t *testing.T) {
	m := newMachine()
	hash := make([]byte, 32)
	add := func(id string, uses uint32, node string, life time.Duration) {
		t.Helper()
		tok := &logv1.TokenCreated{Id: id, Hash: hash, Uses: uses, Node: node, ExpiresAt: timestamppb.New(epoch.Add(life))}
		if _, err := m.apply(KindTokenCreated, tok, ""); err != nil {
			t.Fatal(err)
		}
	}
	join := func(token, node string) error {
		_, err := m.apply(KindNodeJoined, &logv1.NodeJoined{Node: node, TokenId: token, Certificate: cert(node, 1)}, "")
		return err
	}
	add("one", 1, "", time.Hour)
	add("bound", 9, "a", time.Hour)
	add("short", 9, "", 20*time.Second)
	if err := join("one", "a"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token, node string
		want        fault.Code
	}{{"one", "b", fault.CodeTokenUsed}, {"bound", "b", fault.CodeTokenBound}, {"none", "b", fault.CodeTokenInvalid}} {
		if err := m.s.CheckJoin(c.token, c.node, m.s.Time()); fault.CodeOf(err) != c.want {
			t.Errorf("%s for %s: %v, want %s", c.token, c.node, err, c.want)
		}
		if err := join(c.token, c.node); fault.CodeOf(err) != fault.CodeBadEntry {
			t.Errorf("entry that joins %s with %s: %v", c.node, c.token, err)
		}
	}
	if err := join("bound", "a"); err != nil {
		t.Errorf("a token bound to a name that is taken: %v", err)
	}
	if err := join("short", "c"); err != nil {
		t.Fatal(err)
	}
	if err := m.s.CheckJoin("short", "d", epoch.Add(20*time.Second)); fault.CodeOf(err) != fault.CodeTokenExpired {
		t.Errorf("at its expiry: %v", err)
	}
}

func TestHistoryIsBoundedAndTheOldestGoesFirst(t *testing.T) {
	m := newMachine()
	first := m.s.Seq() + 1
	for i := range MaxRevisions + 5 {
		if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{write("a", fmt.Sprint("v", i))}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	revs := m.s.Revisions(key("a"))
	if len(revs) != MaxRevisions+1 || revs[0].Seq != m.s.Seq() {
		t.Errorf("%d revisions, newest %d", len(revs), revs[0].Seq)
	}
	if _, kept := m.s.RevisionAt(key("a"), first); kept {
		t.Error("the oldest revision is still there")
	}
	for range MaxChanges {
		if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{write("b", fmt.Sprint(m.s.Seq()))}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for range m.s.Changes() {
		n++
	}
	if n != MaxChanges {
		t.Errorf("%d changes kept, want %d", n, MaxChanges)
	}
}

func TestARevisionLeadsToWhatItReplacedAcrossDeletion(t *testing.T) {
	m := newMachine()
	for _, content := range []string{"one", "", "two"} {
		if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{write("a", content)}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for seq := m.s.Seq(); seq != 0; {
		r, ok := m.s.RevisionAt(key("a"), seq)
		if !ok {
			t.Fatalf("revision %d is not known", seq)
		}
		got = append(got, string(r.Content))
		seq = r.PreviousSeq
	}
	if fmt.Sprint(got) != "[two  one]" {
		t.Errorf("history %q", got)
	}
}

func TestOnlyWhatReachesNodesMovesTheConfigSequence(t *testing.T) {
	m := newMachine()
	if m.s.ConfigSeq() != 1 {
		t.Fatalf("the empty mesh is version %d, want 1", m.s.ConfigSeq())
	}
	same := write("a", "x")
	if _, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{same}}, ""); err != nil {
		t.Fatal(err)
	}
	at := m.s.ConfigSeq()
	owned := proto.CloneOf(same)
	owned.Ownership = []byte(`{"m":"*"}`)
	if effect, err := m.apply(KindChangeSet, &logv1.ChangeSet{Writes: []*logv1.ResourceWrite{owned}}, ""); err != nil || effect.Config {
		t.Fatalf("a change of ownership alone: %v, %v", effect, err)
	}
	if _, err := m.apply(KindTermStarted, &logv1.TermStarted{Hub: "h"}, ""); err != nil {
		t.Fatal(err)
	}
	if m.s.ConfigSeq() != at {
		t.Errorf("config sequence moved from %d to %d", at, m.s.ConfigSeq())
	}
}

func FuzzReadSnapshot(f *testing.F) {
	m := newMachine()
	var buf bytes.Buffer
	if err := m.s.WriteSnapshot(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ReadSnapshot(bytes.NewReader(data))
		if err != nil {
			if fault.CodeOf(err) != fault.CodeBadSnapshot {
				t.Fatal(err)
			}
			return
		}
		var again bytes.Buffer
		if err := s.WriteSnapshot(&again); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSnapshot(&again); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzApplyEntry(f *testing.F) {
	m := newMachine()
	data, err := proto.Marshal(entryAfter(m.s, KindTermStarted, &logv1.TermStarted{Hub: "h"}, ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		e := new(logv1.Entry)
		if proto.Unmarshal(data, e) != nil {
			return
		}
		if _, _, err := m.s.Propose(e); err != nil && fault.CodeOf(err) != fault.CodeBadEntry {
			t.Fatal(err)
		}
	})
}

// Whom an operator has lead stays chosen over its own terms and a snapshot, until another
// begins a term, or is chosen, or is handed the lead without being chosen.
func TestWhomAnOperatorHasLeadIsChosenUntilAnotherLeads(t *testing.T) {
	m := newMachine()
	do := func(kind string, payload proto.Message) {
		t.Helper()
		if _, err := m.apply(kind, payload, ""); err != nil {
			t.Fatal(err)
		}
	}
	term := func(hub string) { t.Helper(); do(KindTermStarted, &logv1.TermStarted{Hub: hub, Address: "10.0.0.1:1"}) }
	transfer := func(to string, chosen bool) {
		t.Helper()
		do(KindLeadershipTransferred, &logv1.LeadershipTransferred{To: to, Chosen: chosen})
	}
	want := func(when, hub string) {
		t.Helper()
		var buf bytes.Buffer
		if err := m.s.WriteSnapshot(&buf); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSnapshot(&buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*State{m.s, again} {
			for h := range s.Hubs() {
				if h.GetChosen() != (h.GetHub() == hub) {
					t.Errorf("%s: hub %s is chosen: %t", when, h.GetHub(), h.GetChosen())
				}
			}
		}
	}
	for _, hub := range []string{"hub2", "hub3", "hub1"} {
		term(hub)
	}
	want("at first", "")
	transfer("hub2", true)
	want("transferred", "hub2")
	term("hub2")
	want("it leads", "hub2")
	term("hub2")
	want("it leads again", "hub2")
	transfer("hub3", true)
	want("transferred again", "hub3")
	term("hub1")
	want("another took the lease", "")
	transfer("hub2", true)
	term("hub2")
	transfer("hub3", false)
	want("handed over to spread leadership", "")
}
