package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// TestEveryEntryOfTheLogHasAnAuthor is promise P9: it does all that changes a domain,
// and reads the log of the stopped hub. Each entry says who, when and from where; the
// hash chain holds; and history tells it to people.
func TestEveryEntryOfTheLogHasAnAuthor(t *testing.T) {
	s := newSite(t)
	began := time.Now().Add(-time.Minute)
	s.Ctl("apply", "-f", s.write(t, "a.yaml", clusterYAML("audited", "10.0.0.1:80")), "--message", "because of 4711", "--request-id", "req-1")
	s.Ctl("undo")
	token, _ := s.Token("--node", "leaver")
	_, pin := s.Token()
	if r, _ := s.join("leaver", token, pin); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	s.Ctl("agent", "forget", "leaver", "--reason", "sold")
	spare, _ := s.Token()
	s.Ctl("token", "revoke", strings.SplitN(spare, ".", 2)[0])
	s.Ctl("key", "rotate")
	wantContains(t, "history", s.Ctl("history", "-o", "json"), "because of 4711", "req-1", "spiffe://eu-west/operator/admin", "127.0.0.1:")
	s.hub.Stop()

	l, err := builtin.OpenLog(t.Context(), "bolt", "eu-west", builtin.StoreOptions{Path: filepath.Join(s.hub.Data, "store.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	entries, err := l.Read(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	authors := make(map[string]string)
	var before store.Entry
	for i, e := range entries {
		if e.GetAuthor() == "" || e.GetTime() == nil || e.GetTime().AsTime().Before(began) {
			t.Errorf("entry %d (%s) lacks author or time: %v", e.GetSeq(), e.GetKind(), e)
		}
		if strings.Contains(e.GetAuthor(), "/operator/") && !strings.HasPrefix(e.GetOrigin(), "127.0.0.1:") {
			t.Errorf("entry %d (%s) of %s does not say from where: %q", e.GetSeq(), e.GetKind(), e.GetAuthor(), e.GetOrigin())
		}
		if i > 0 && (e.GetSeq() != before.GetSeq()+1 || string(e.GetPreviousHash()) != string(before.Hash[:])) {
			t.Errorf("entry %d does not follow entry %d", e.GetSeq(), before.GetSeq())
		}
		authors[e.GetKind()] += e.GetAuthor() + " "
		before = e
	}
	for kind, author := range map[string]string{
		"DomainCreated": "spiffe://", "TermStarted": "/hub/hub1", "ChangeSet": "/operator/admin", "TokenCreated": "/operator/admin", "TokenRevoked": "/operator/admin",
		"NodeJoined": "/node/leaver", "NodeForgotten": "/operator/admin", "TrustUpdated": "/operator/admin",
	} {
		if !strings.Contains(authors[kind], author) {
			t.Errorf("no %s by %s in the log; it holds %s", kind, author, fmt.Sprint(authors))
		}
	}
}
