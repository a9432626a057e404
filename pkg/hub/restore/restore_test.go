package restore

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/trust"
)

func TestLaterChangesAreFound(t *testing.T) {
	var e Evidence
	var v backup.Verified
	v.Head.Seq, v.Head.Term = 100, 7
	e.add(v, "same", 100, 7)
	e.add(v, "older", 40, 3)
	if len(e.Says) > 0 {
		t.Errorf("found %q", e.Says)
	}
	e.add(v, "longer", 101, 7)
	e.add(v, "of a later term", 90, 9)
	if e.seq != 101 || e.term != 9 || !strings.Contains(strings.Join(e.Says, "; "), "longer: entry 101 of term 7") {
		t.Errorf("found %d, %d, %q", e.seq, e.term, e.Says)
	}
	if _, err := e.Plan(v, 9, true); err == nil {
		t.Error("a term floor that was seen is taken")
	}
}

// metadata makes a root and a keyset of version 1.
func metadata(t *testing.T) *trustv1.Metadata {
	t.Helper()
	key := func() *sign.Signer {
		k, err := sign.Create(t.Context(), hubtest.NewKeys(), "key", sign.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	keyset, later := key(), time.Now().AddDate(1, 0, 0)
	root, err := trust.NewRoot("eu-west", []*sign.Signer{key()}, 1, []*sign.Signer{keyset}, later)
	if err != nil {
		t.Fatal(err)
	}
	bundle := hubtest.NewDomain(t).Authority.Bundle()
	signed, err := trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {key().Public()}}, bundle, later, keyset)
	if err != nil {
		t.Fatal(err)
	}
	return &trustv1.Metadata{Roots: [][]byte{root}, Keyset: signed, CaBundle: bundle}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := hubdir.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestABackupIsHeldAgainstTheRootsThatAreNamedOrKept(t *testing.T) {
	first, second := metadata(t).GetRoots()[0], metadata(t).GetRoots()[0]
	dir := filepath.Join(t.TempDir(), "root")
	if _, err := Roots(dir, nil); fault.CodeOf(err) != fault.CodeNoRootPin {
		t.Errorf("without any: %v", err)
	}
	write(t, filepath.Join(dir, "root-10.json"), second)
	write(t, filepath.Join(dir, "root-9.json"), first)
	same := func(a, b [][]byte) bool { return slices.EqualFunc(a, b, slices.Equal) }
	if roots, err := Roots(dir, nil); err != nil || !same(roots, [][]byte{first, second}) {
		t.Errorf("%d roots (%v)", len(roots), err)
	}
	named := filepath.Join(t.TempDir(), "mine.json")
	write(t, named, second)
	if roots, err := Roots(dir, []string{named}); err != nil || !same(roots, [][]byte{second}) {
		t.Errorf("%d roots are named (%v)", len(roots), err)
	}
	write(t, named, []byte("{}"))
	if _, err := Roots(dir, []string{named}); err == nil || !strings.Contains(err.Error(), named) {
		t.Errorf("with one that is none: %v", err)
	}
}

// A log in memory with an entry, and who leads on it.
func logOf(t *testing.T, leader bool) *memstore.Server { return logWith(t, leader, "test") }

func logWith(t *testing.T, leader bool, kinds ...string) *memstore.Server {
	t.Helper()
	server := memstore.New(memstore.Options{})
	l := open(t, server)
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "hub2", Address: "10.0.0.2:8443"})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if _, err := tenure.Submit(t.Context(), func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: kind, Author: "test", Time: time.Now()}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if leader {
		t.Cleanup(func() { _ = l.Close() })
		return server
	}
	if err := errors.Join(tenure.Resign(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
	return server
}

func open(t *testing.T, server *memstore.Server) *store.Log {
	t.Helper()
	l, err := store.Open(t.Context(), server.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEachPlaceThatTellsOfLaterChangesIsNamed(t *testing.T) {
	anchors, err := trust.FromMetadata("eu-west", metadata(t))
	if err != nil {
		t.Fatal(err)
	}
	v := backup.Verified{Anchors: anchors} // it ends before the first entry
	dir := t.TempDir()
	position, keys := filepath.Join(dir, "log.position"), filepath.Join(dir, "keys")
	mark, err := json.Marshal(store.MarkOf("hub1", store.Head{Position: store.Position{Seq: 7, Term: 3}}))
	if err != nil {
		t.Fatal(err)
	}
	filled := memstore.New(memstore.Options{})
	restoration := func() (*store.Restoration, error) { return store.NewRestoration(filled.Driver(), store.Options{}) }
	places := Places{Position: position, Keys: keys, LeftName: "old", FilledName: "new", Filled: restoration}
	if e, err := Look(t.Context(), v, places); err != nil || len(e.Says)+len(e.Notes) > 0 {
		t.Errorf("nothing tells, and it says %v, %v (%v)", e.Says, e.Notes, err)
	}

	write(t, position, mark)
	for _, name := range []string{"config.key", "config-1.key", "config-2.key", "keyset.key"} {
		write(t, filepath.Join(keys, name), nil)
	}
	l := open(t, filled)
	if err := errors.Join(l.RaiseAlarm(t.Context(), store.MarkOf("hub3", store.Head{Position: store.Position{Seq: 9, Term: 2}})), l.Close()); err != nil {
		t.Fatal(err)
	}
	left := logOf(t, false)
	places.Left = func(ctx context.Context) (*store.Log, error) { return store.Open(ctx, left.Driver(), store.Options{}) }
	e, err := Look(t.Context(), v, places)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(e.Says, "\n")
	for _, want := range []string{position + ": entry 7 of term 3", "the store used so far, old, ends with: entry 1 of term 1", "hub hub3 has seen: entry 9 of term 2", filepath.Join(keys, "config-2.key")} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if len(e.Says) != 4 {
		t.Errorf("it says\n%s", said)
	}
	if _, err := e.Plan(v, 0, false); fault.CodeOf(err) != fault.CodeRestoreLoss {
		t.Errorf("a loss that nobody accepted: %v", err)
	}
	if p, err := e.Plan(v, 4, true); err != nil || p.Term != 4 || p.LostSeq != 9 || p.LostTerm != 3 {
		t.Errorf("the plan is %+v (%v)", p, err)
	}

	places.Left = func(context.Context) (*store.Log, error) { return nil, errors.New("gone") }
	if e, err := Look(t.Context(), v, places); err != nil || len(e.Notes) != 1 || !strings.Contains(e.Notes[0], "gone") {
		t.Errorf("a store that cannot be looked at: %v (%v)", e.Notes, err)
	}
	if err := os.WriteFile(position, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(t.Context(), v, places); fault.CodeOf(err) != fault.CodeCorrupt {
		t.Errorf("a damaged position file: %v", err)
	}
}

// Hubs that are stopped one by one hand the lead over, which the log notes. Nothing is
// lost with that; what else was seen is.
func TestHubsThatWereStoppedOneByOneLoseNothing(t *testing.T) {
	anchors, err := trust.FromMetadata("eu-west", metadata(t))
	if err != nil {
		t.Fatal(err)
	}
	v := backup.Verified{Anchors: anchors}
	look := func(seen store.Position, kinds ...string) Evidence {
		left := logWith(t, false, kinds...)
		mark, err := json.Marshal(store.MarkOf("hub1", store.Head{Position: seen}))
		if err != nil {
			t.Fatal(err)
		}
		position := filepath.Join(t.TempDir(), "log.position")
		write(t, position, mark)
		e, err := Look(t.Context(), v, Places{Position: position, Keys: t.TempDir(), LeftName: "old", Left: func(ctx context.Context) (*store.Log, error) { return store.Open(ctx, left.Driver(), store.Options{}) }})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := look(store.Position{Seq: 2, Term: 1}, state.KindTermStarted, state.KindTermStarted)
	if len(e.Says) != 0 {
		t.Errorf("two hubs began to lead, and it says %v", e.Says)
	}
	if p, err := e.Plan(v, 0, false); err != nil || p.Term < 2 || p.LostSeq != 2 {
		t.Errorf("the plan is %+v (%v)", p, err)
	}
	if e := look(store.Position{Seq: 2, Term: 1}, state.KindTermStarted, "test"); len(e.Says) != 2 {
		t.Errorf("there was a change, and it says %v", e.Says)
	}
	if e := look(store.Position{Seq: 3, Term: 1}, state.KindTermStarted, state.KindTermStarted); len(e.Says) != 1 {
		t.Errorf("the hub has seen an entry that the store does not have, and it says %v", e.Says)
	}
}

func TestAStoreThatIsInUseIsNeitherLeftNorFilled(t *testing.T) {
	dir := t.TempDir()
	used := logOf(t, true)
	none := Places{Position: filepath.Join(dir, "log.position"), Keys: dir}
	byLeader, byLock, filled := none, none, none
	byLeader.Left = func(ctx context.Context) (*store.Log, error) { return store.Open(ctx, used.Driver(), store.Options{}) }
	byLock.Left = func(context.Context) (*store.Log, error) { return nil, fault.New(fault.CodeStoreLocked, "locked") }
	filled.Filled = func() (*store.Restoration, error) { return store.NewRestoration(used.Driver(), store.Options{}) }
	for name, p := range map[string]Places{"a hub leads on the old one": byLeader, "the old one is locked": byLock, "a hub leads on the new one": filled} {
		if _, err := Look(t.Context(), backup.Verified{}, p); fault.CodeOf(err) != fault.CodeStoreLocked || !strings.Contains(fault.RemedyOf(err), "Stop all hubs") {
			t.Errorf("%s: %v, %q", name, err, fault.RemedyOf(err))
		}
	}
}
