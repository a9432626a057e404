package backup_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/trust"
)

const domain = "eu-west"

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// world is a domain with a log.
type world struct {
	log     *store.Log
	tenure  *store.Tenure
	state   *state.State
	root    []byte
	config  *sign.Signer
	anchors *trust.Anchors
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func key(t testing.TB, seed byte) *sign.Signer {
	return must(sign.New(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))))(t)
}

func newWorld(t testing.TB, name string, seed byte, entries int) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{config: key(t, seed+2)}
	bundle := caBundle(t, name)
	w.root = must(trust.NewRoot(name, []*sign.Signer{key(t, seed)}, 1, []*sign.Signer{key(t, seed+1)}, noon.AddDate(5, 0, 0)))(t)
	keyset := must(trust.NewKeyset(w.root, 1, map[string][]sign.PublicKey{"hub1": {w.config.Public()}}, bundle, noon.AddDate(1, 0, 0), key(t, seed+1)))(t)
	w.log = must(store.Open(ctx, memstore.New(memstore.Options{}).Driver(), store.Options{Retain: 1}))(t)
	t.Cleanup(func() { w.log.Close() })
	w.tenure = must(w.log.Campaign(ctx, store.Holder{Name: "hub1"}))(t)
	w.state = state.New()
	submit := func(kind string, m proto.Message) {
		payload := must(proto.Marshal(m))(t)
		e := must(w.tenure.Submit(ctx, func(store.Position) (store.Draft, error) {
			return store.Draft{Kind: kind, Author: "spiffe://" + name + "/hub/hub1", Time: noon, Payload: payload}, nil
		}))(t)
		w.state, _ = must2(w.state.Apply(e.Entry, e.Hash))(t)
	}
	submit(state.KindDomainCreated, &logv1.DomainCreated{Domain: name, Root: w.root, Keyset: keyset, CaBundle: bundle})
	for i := range entries {
		submit(state.KindTermStarted, &logv1.TermStarted{Hub: fmt.Sprintf("hub%d", i), Address: "127.0.0.1:1"})
	}
	w.anchors = must(trust.Pin(name, w.root, noon))(t)
	w.anchors = must(w.anchors.Update(w.anchorsMetadata(keyset, bundle), noon))(t)
	return w
}

func must2[A, B any](a A, b B, err error) func(testing.TB) (A, B) {
	return func(t testing.TB) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}

func (w *world) source() backup.Source {
	return backup.Source{Log: w.log, State: w.state, Hub: "hub1", Build: "test", Time: noon, Signer: w.config, Anchors: w.anchors}
}

func (w *world) backup(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := backup.Write(t.Context(), &buf, w.source()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (w *world) check() backup.Check { return backup.Check{Domain: domain, Roots: [][]byte{w.root}} }

func TestABackupComesBack(t *testing.T) {
	w := newWorld(t, domain, 1, 600)
	data := w.backup(t)
	v, err := backup.Verify(t.Context(), bytes.NewReader(data), w.check())
	if err != nil {
		t.Fatal(err)
	}
	if !v.Pinned || !v.Folded || v.Entries != 601 || v.Size() != uint64(len(data)) || v.State.Digest() != w.state.Digest() || v.SignedBy.Hub != "hub1" {
		t.Errorf("verified as %+v, of %d bytes", v.Backup, v.Size())
	}
}

func TestATrimmedLogIsBackedUpWithItsState(t *testing.T) {
	w := newWorld(t, domain, 1, 50)
	w.trim(t)
	v, err := backup.Verify(t.Context(), bytes.NewReader(w.backup(t)), w.check())
	if err != nil {
		t.Fatal(err)
	}
	if v.Trimmed == 0 || v.Folded || v.Entries != v.Head.Seq-v.Trimmed || v.State.Digest() != w.state.Digest() {
		t.Errorf("verified as %v", v.Backup)
	}
}

func TestEveryTruncationIsTold(t *testing.T) {
	w := newWorld(t, domain, 1, 3)
	data := w.backup(t)
	for n := range len(data) {
		if _, err := backup.Verify(t.Context(), bytes.NewReader(data[:n]), w.check()); fault.CodeOf(err) != fault.CodeBackupDamaged {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := backup.Verify(t.Context(), bytes.NewReader(append(slices.Clip(data), 0)), w.check()); fault.CodeOf(err) != fault.CodeBackupDamaged {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestEveryFlippedBitIsTold(t *testing.T) {
	w := newWorld(t, domain, 1, 2)
	data := w.backup(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << r.IntN(8)
		v, err := backup.Verify(t.Context(), bytes.NewReader(bad), w.check())
		switch fault.CodeOf(err) {
		case fault.CodeBackupDamaged, fault.CodeBackupUntrusted, fault.CodeBackupDomain, fault.CodeBackupFormat:
		default:
			t.Fatalf("byte %d of %d flipped: %v, %v", i, len(data), v.Backup, err)
		}
	}
}

func TestOnlyADomainsOwnBackupIsBelieved(t *testing.T) {
	w := newWorld(t, domain, 1, 2)
	refused := func(name string, data []byte, c backup.Check, code fault.Code) {
		t.Helper()
		if _, err := backup.Verify(t.Context(), bytes.NewReader(data), c); fault.CodeOf(err) != code {
			t.Errorf("%s: %v, want %s", name, err, code)
		}
	}
	refused("another domain's", newWorld(t, "us-east", 40, 2).backup(t), w.check(), fault.CodeBackupDomain)
	forged := newWorld(t, domain, 40, 2)
	refused("a forged root", forged.backup(t), w.check(), fault.CodeBackupUntrusted)
	src := w.source()
	src.Signer = forged.config
	var buf bytes.Buffer
	if err := backup.Write(t.Context(), &buf, src); err != nil {
		t.Fatal(err)
	}
	refused("signed by a key that no keyset lists", buf.Bytes(), w.check(), fault.CodeBackupUntrusted)
	// A root that took the keyset key away, known here and not in the backup.
	next := must(trust.RotateRoot(w.root, trust.RootChange{
		AddKeysetKeys: []sign.PublicKey{key(t, 90).Public()}, RemoveKeysetKeys: []string{key(t, 2).KeyID()}, KeysetThreshold: 1, Expires: noon.AddDate(5, 0, 0),
	}, key(t, 1)))(t)
	c := w.check()
	c.Roots = append(c.Roots, next)
	refused("signed under a root that was replaced", w.backup(t), c, fault.CodeBackupUntrusted)
	_, err := backup.Verify(t.Context(), bytes.NewReader(w.backup(t)), c)
	if remedy := fault.RemedyOf(err); !strings.Contains(remedy, "--root DIR/root/root-1.json") {
		t.Errorf("the remedy does not name the root of the backup's time: %s", remedy)
	}
}

// The state is signed like all else, so only a hub could write one that does not
// follow from the log.
func TestAStateThatTheLogDoesNotFoldIntoIsTold(t *testing.T) {
	w := newWorld(t, domain, 1, 5)
	data := rewrite(t, w, func(entries [][]byte, snapshot []byte) ([][]byte, []byte) {
		return entries, bytes.Replace(snapshot, []byte("hub3"), []byte("hubX"), 1)
	})
	if _, err := backup.Verify(t.Context(), bytes.NewReader(data), w.check()); fault.CodeOf(err) != fault.CodeBackupDamaged {
		t.Errorf("a state that is not the log's: %v", err)
	}
	data = rewrite(t, w, func(entries [][]byte, snapshot []byte) ([][]byte, []byte) {
		return slices.Delete(entries, 2, 3), snapshot
	})
	if _, err := backup.Verify(t.Context(), bytes.NewReader(data), w.check()); fault.CodeOf(err) != fault.CodeBackupDamaged {
		t.Errorf("an entry left out: %v", err)
	}
}

// A length that lies costs no memory.
func TestALyingLengthAllocatesNothing(t *testing.T) {
	w := newWorld(t, domain, 1, 2)
	data := w.backup(t)
	header := int(binary.BigEndian.Uint32(data[11:]))
	bad := append(bytes.Clone(data[:15+header]), 2, 0x09, 0xff, 0xff, 0xff)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := backup.Verify(t.Context(), bytes.NewReader(bad), w.check())
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; fault.CodeOf(err) != fault.CodeBackupDamaged || grown > 4<<20 {
		t.Errorf("%d bytes allocated; %v", grown, err)
	}
}

func FuzzVerify(f *testing.F) {
	w := newWorld(f, domain, 1, 2)
	var buf bytes.Buffer
	if err := backup.Write(context.Background(), &buf, w.source()); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:100])
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := backup.Verify(context.Background(), bytes.NewReader(data), w.check())
		if err == nil && v.State.Digest() != w.state.Digest() {
			t.Fatal("a forgery passed")
		}
		if err != nil && fault.CodeOf(err) == "" {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}

func TestAFailingReaderIsNotDamage(t *testing.T) {
	w := newWorld(t, domain, 1, 2)
	away := errors.New("the disk is away")
	_, err := backup.Verify(t.Context(), io.MultiReader(bytes.NewReader(w.backup(t)[:300]), failing{away}), w.check())
	if !errors.Is(err, away) || fault.CodeOf(err) == fault.CodeBackupDamaged {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
