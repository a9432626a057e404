package lkg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/durable/durabletest"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// history makes versions of a small bundle and remembers what was made.
type history struct {
	trie     *digest.Trie
	state    activation.Durable
	contents map[activation.Point]*Content
	made     map[activation.Point]bool
}

func newHistory(resources, size int) *history {
	h := &history{contents: make(map[activation.Point]*Content), made: make(map[activation.Point]bool)}
	for i := range resources {
		h.trie = h.trie.Set(fmt.Sprintf("Cluster/default/c%d", i), filler(i, 0, size))
	}
	return h
}

func filler(i, version, size int) []byte {
	b := fmt.Appendf(nil, `{"i":%d,"v":%d,"x":"`, i, version)
	for len(b) < size-2 {
		b = append(b, byte('a'+(len(b)*7+i+version)%26))
	}
	return append(b, `"}`...)
}

// step makes the next version: one resource changes.
func (h *history) step(version, size int) {
	h.trie = h.trie.Set(fmt.Sprintf("Cluster/default/c%d", version%3), filler(version%3, version, size))
	h.activate(version)
}

func (h *history) activate(version int) {
	p := activation.Point{Epoch: 1, Version: uint64(version), View: "v", Digest: h.trie.Root()}
	g := activation.Generation{Point: p, Status: activation.Kept, ActivatedAt: start}
	h.state.Generations = append([]activation.Generation{g}, h.state.Generations...)
	h.state.Generations = h.state.Generations[:min(3, len(h.state.Generations))]
	h.state.Highest = p
	h.contents[p] = &Content{
		Manifest: &trustv1.Envelope{Payload: fmt.Appendf(nil, "%d %s", version, p.Digest), PayloadType: "test"}, VerifiedAt: start, Trie: h.trie,
	}
	h.made[p] = true
}

// verify accepts what a manifest of this test states.
func verify(p activation.Point, c *Content) error {
	if want := fmt.Sprintf("%d %s", p.Version, p.Digest); string(c.Manifest.GetPayload()) != want {
		return errors.New("manifest states something else")
	}
	if c.Trie.Root() != p.Digest {
		return errors.New("root differs")
	}
	return nil
}

func options(dir string) Options {
	return Options{Dir: dir, Domain: "eu", Node: "n1", Verify: verify}
}

func open(t testing.TB, o Options) (*Store, *Found) {
	t.Helper()
	s, f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

func save(t testing.TB, s *Store, h *history) {
	t.Helper()
	if err := s.Save(h.state, h.contents); err != nil {
		t.Fatal(err)
	}
}

func versions(d activation.Durable) []uint64 {
	var out []uint64
	for _, g := range d.Generations {
		out = append(out, g.Version)
	}
	return out
}

func TestWhatWasSavedIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	s, f := open(t, options(dir))
	if len(f.Lost) > 0 || len(f.State.Generations) > 0 {
		t.Fatalf("a new store holds %+v", f)
	}
	h := newHistory(20, 100)
	for v := 1; v <= 6; v++ {
		h.step(v, 100)
		save(t, s, h)
	}
	h.state.Pinned, h.state.PinReason, h.state.Crashes, h.state.Running = true, "maintenance", 2, true
	h.state.Quarantine = []activation.Quarantined{{Point: activation.Point{Version: 9, Digest: digest.Hash{7}}, Code: fault.CodeProbationFailed, Message: "sick", Since: start}}
	save(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, f = open(t, options(dir))
	defer s.Close()
	if len(f.Lost) > 0 || f.Damage != nil {
		t.Fatalf("lost %q (%v)", f.Lost, f.Damage)
	}
	if fmt.Sprintf("%+v", f.State) != fmt.Sprintf("%+v", h.state) {
		t.Fatalf("found\n%+v\nwant\n%+v", f.State, h.state)
	}
	for _, g := range h.state.Generations {
		if f.Contents[g.Point].Trie.Root() != g.Digest || f.Contents[g.Point].Trie.Len() != 20 {
			t.Fatalf("content of version %d differs", g.Version)
		}
	}
}

func TestADeltaIsStoredAsADelta(t *testing.T) {
	s, _ := open(t, options(t.TempDir()))
	defer s.Close()
	h := newHistory(500, 200)
	h.step(1, 200)
	save(t, s, h)
	before := s.Size()
	h.step(2, 200)
	save(t, s, h)
	if grown := s.Size() - before; grown > 2000 {
		t.Fatalf("one changed resource of 200 bytes took %d bytes", grown)
	}
}

// TestDamageNeverYieldsWhatWasNotStored truncates a small store at each offset and
// flips bits in each byte of each file: what is found was stored and is verified,
// what is gone is named, and the highest point never goes back.
func TestDamageNeverYieldsWhatWasNotStored(t *testing.T) {
	disk := durabletest.New()
	s, _ := open(t, onDisk(disk))
	h := newHistory(6, 60)
	for v := 1; v <= 5; v++ {
		h.step(v, 60)
		save(t, s, h)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/lkg/journal-0000000000000001", "/lkg/highest"} {
		whole, err := durable.ReadFile(disk, path, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", path, len(whole))
		for i := range whole {
			cut := disk.Kill()
			cut.Truncate(path, i)
			check(t, cut, h, fmt.Sprintf("%s truncated at %d", path, i), atRecordEnd(whole[:i]))
			for _, mask := range []byte{0x01, 0x80, 0xff} {
				flipped := disk.Kill()
				flipped.Flip(path, i, mask)
				check(t, flipped, h, fmt.Sprintf("%s byte %d flipped by %02x", path, i, mask), false)
			}
		}
	}
}

func onDisk(disk durable.FS) Options {
	o := options("/lkg")
	o.FS = disk
	return o
}

// check opens a damaged store. older says that the damage left what looks like an
// older file.
func check(t *testing.T, disk durable.FS, h *history, what string, older bool) {
	t.Helper()
	s, f, err := Open(onDisk(disk))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	if len(f.Lost) == 0 && !older {
		t.Fatalf("%s: found %v and said nothing of a loss", what, versions(f.State))
	}
	for _, g := range f.State.Generations {
		if !h.made[g.Point] || f.Contents[g.Point].Trie.Root() != g.Digest {
			t.Fatalf("%s: found %+v, which was never stored", what, g)
		}
	}
	if f.State.Highest.Version != 5 {
		t.Fatalf("%s: highest is %d, and 5 was let through", what, f.State.Highest.Version)
	}
}

// atRecordEnd tells whether a truncation fell between two records: then the file is
// simply an older one.
func atRecordEnd(data []byte) bool {
	sc := newScanner(bytes.NewReader(data), int64(len(data)))
	for {
		_, _, skipped, err := sc.next()
		if skipped > 0 {
			return false
		}
		if err != nil {
			return true
		}
	}
}

func TestADamagedRecordCostsOnlyWhatStandsOnIt(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, options(dir))
	h := newHistory(6, 60)
	for v := 1; v <= 3; v++ {
		h.step(v, 60)
		save(t, s, h)
	}
	path := s.path(1)
	before, _ := os.ReadFile(path)
	h.step(4, 60)
	save(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	data[len(before)+headerSize+3] ^= 1 // the content record of version 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, f := open(t, options(dir))
	if got := versions(f.State); !slices.Equal(got, []uint64{3, 2}) {
		t.Fatalf("found versions %v, want 3 and 2", got)
	}
	if f.State.Highest.Version != 4 || fault.CodeOf(f.Damage) != fault.CodeLKGCorrupt {
		t.Fatalf("highest %d, damage %v", f.State.Highest.Version, f.Damage)
	}
	// The next save leaves a store without damage.
	h.step(5, 60)
	h.state.Generations = h.state.Generations[:1]
	save(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, f = open(t, options(dir))
	defer s.Close()
	if len(f.Lost) > 0 || !slices.Equal(versions(f.State), []uint64{5}) {
		t.Fatalf("after a save: versions %v, lost %q", versions(f.State), f.Lost)
	}
}

func TestUntrustedGenerationsAreNamedAndLeftOut(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, options(dir))
	h := newHistory(3, 60)
	for v := 1; v <= 3; v++ {
		h.step(v, 60)
		save(t, s, h)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o := options(dir)
	o.Verify = func(p activation.Point, c *Content) error {
		if p.Version == 3 {
			return errors.New("key k1 was dropped")
		}
		return verify(p, c)
	}
	s, f := open(t, o)
	defer s.Close()
	if got := versions(f.State); !slices.Equal(got, []uint64{2, 1}) {
		t.Fatalf("found %v, want 2 and 1", got)
	}
	if fault.CodeOf(f.Damage) != fault.CodeLKGUnverified || !strings.Contains(f.Lost[0], "key k1 was dropped") {
		t.Fatalf("lost %q, damage %v", f.Lost, f.Damage)
	}
}

func TestTheStoreOfAnotherNodeIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, options(dir))
	h := newHistory(1, 60)
	h.step(1, 60)
	save(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o := options(dir)
	o.Node = "n2"
	if _, _, err := Open(o); fault.CodeOf(err) != fault.CodeLKGForeign {
		t.Fatalf("got %v, want %s", err, fault.CodeLKGForeign)
	}
}

func TestTheJournalIsRewrittenAndStaysBounded(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, options(dir))
	h := newHistory(100, 2000)
	for v := 1; v <= 700; v++ {
		h.step(v, 2000)
		save(t, s, h)
		if limit := 2*h.trie.Bytes() + journalSlack + 3*h.trie.Bytes(); s.Size() > limit {
			t.Fatalf("version %d: %d bytes for a bundle of %d", v, s.Size(), h.trie.Bytes())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) > 4 {
		t.Fatalf("%d files remain: %v", len(entries), entries)
	}
	s, f := open(t, options(dir))
	defer s.Close()
	if len(f.Lost) > 0 || !slices.Equal(versions(f.State), []uint64{700, 699, 698}) {
		t.Fatalf("found %v, lost %q", versions(f.State), f.Lost)
	}
}

func TestAStoreThatWouldOutgrowItsLimitRefuses(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 4000
	s, _ := open(t, o)
	h := newHistory(10, 100)
	h.step(1, 100)
	save(t, s, h)
	for i := range 10 {
		h.trie = h.trie.Set(fmt.Sprintf("Cluster/default/big%d", i), filler(i, 2, 300))
	}
	kept := h.state
	h.activate(2)
	if err := s.Save(h.state, h.contents); fault.CodeOf(err) != fault.CodeLKGSize {
		t.Fatalf("got %v, want %s", err, fault.CodeLKGSize)
	}
	// The old state still stands, and takes further marks.
	kept.Crashes = 1
	if err := s.Save(kept, h.contents); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, f := open(t, o)
	defer s.Close()
	if !slices.Equal(versions(f.State), []uint64{1}) || f.State.Crashes != 1 {
		t.Fatalf("found %+v", f.State)
	}
}

func TestHighestNeverGoesDownWhateverIsSaved(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, options(dir))
	h := newHistory(2, 60)
	h.step(7, 60)
	save(t, s, h)
	lower := h.state
	lower.Highest = activation.Point{Epoch: 1, Version: 3}
	if err := s.Save(lower, h.contents); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, f := open(t, options(dir))
	defer s.Close()
	if f.State.Highest.Version != 7 {
		t.Fatalf("highest went down to %d", f.State.Highest.Version)
	}
}

// TestEveryCrashLeavesTheOldStateOrTheNew cuts the power after each operation of a
// sequence of saves, with a rewrite among them.
func TestEveryCrashLeavesTheOldStateOrTheNew(t *testing.T) {
	const steps = 12
	script := func(disk *durabletest.FS) (acked int, h *history) {
		h = newHistory(4, 60)
		s, _, err := Open(onDisk(disk))
		if err != nil {
			return 0, h
		}
		defer s.Close()
		for v := 1; v <= steps; v++ {
			h.step(v, 60)
			if s.Save(h.state, h.contents) != nil {
				break
			}
			acked = v
			if v == steps/2 { // as after damage: the next save rewrites all
				s.mu.Lock()
				s.doubtful = true
				s.mu.Unlock()
			}
		}
		return acked, h
	}
	total := durabletest.New()
	script(total)
	for n := range total.Ops() {
		for seed := range uint64(3) {
			disk := durabletest.New()
			disk.CrashAfter(n)
			acked, h := script(disk)
			after := disk.PowerLoss(seed)
			s, f, err := Open(onDisk(after))
			if err != nil {
				t.Fatalf("crash after %d operations (seed %d): %v", n, seed, err)
			}
			newest := 0
			if g, ok := f.State.Active(); ok {
				newest = int(g.Version)
				if !h.made[g.Point] {
					t.Fatalf("crash after %d operations (seed %d): found %+v, which was never saved", n, seed, g)
				}
			}
			if newest < acked || newest > acked+1 || int(f.State.Highest.Version) < acked {
				t.Fatalf("crash after %d operations (seed %d): found version %d, highest %d; %d was acknowledged; lost %q", n, seed, newest, f.State.Highest.Version, acked, f.Lost)
			}
			// And it works on.
			h.step(steps+1, 60)
			save(t, s, h)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFailedWritesAreReportedAndRecoveredFrom fails each operation of one save, not
// done and done but reported failed.
func TestFailedWritesAreReportedAndRecoveredFrom(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for n := 1; ; n++ {
			disk := durabletest.New()
			s, _ := open(t, onDisk(disk))
			h := newHistory(4, 60)
			h.step(1, 60)
			save(t, s, h)
			old := h.state
			h.step(2, 60)
			before := disk.Ops()
			disk.FailOp(n, syscall.EIO, applied)
			err := s.Save(h.state, h.contents)
			if err == nil && disk.Ops()-before < n {
				s.Close()
				break // the save has fewer operations
			}
			if err != nil && fault.CodeOf(err) != fault.CodeLKGWrite {
				t.Fatalf("operation %d failed: %v", n, err)
			}
			reopened, f := open(t, onDisk(disk.PowerLoss(uint64(n))))
			got := versions(f.State)
			if ok := slices.Equal(got, []uint64{2, 1}) || err != nil && slices.Equal(got, []uint64{1}); !ok {
				t.Fatalf("operation %d (applied %v) failed with %v; found %v", n, applied, err, got)
			}
			reopened.Close()
			// The store goes on: first with the old state, then with the new.
			if err := s.Save(old, h.contents); err != nil {
				t.Fatalf("after operation %d failed: %v", n, err)
			}
			save(t, s, h)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again, f := open(t, onDisk(disk.PowerLoss(uint64(n))))
			if got := versions(f.State); !slices.Equal(got, []uint64{2, 1}) {
				t.Fatalf("after operation %d failed and a good save: found %v, lost %q", n, got, f.Lost)
			}
			again.Close()
		}
	}
}

func TestAFullDiskRefusesTheNewAndKeepsTheOld(t *testing.T) {
	disk := durabletest.New()
	s, _ := open(t, onDisk(disk))
	h := newHistory(10, 100)
	h.step(1, 100)
	save(t, s, h)
	old := h.state
	disk.Capacity(int(s.Size()) + 200)
	h.step(2, 100)
	if err := s.Save(h.state, h.contents); fault.CodeOf(err) != fault.CodeLKGWrite || !strings.Contains(err.Error(), "no space") {
		t.Fatalf("got %v, want %s that names the space", err, fault.CodeLKGWrite)
	}
	reopened, f := open(t, onDisk(disk.Kill()))
	if got := versions(f.State); !slices.Equal(got, []uint64{1}) {
		t.Fatalf("on the full disk: found %v", got)
	}
	reopened.Close()
	disk.Capacity(-1)
	if err := s.Save(old, h.contents); err != nil {
		t.Fatal(err)
	}
	save(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, f = open(t, onDisk(disk.Kill()))
	defer s.Close()
	if got := versions(f.State); !slices.Equal(got, []uint64{2, 1}) {
		t.Fatalf("once there was space: found %v, lost %q", got, f.Lost)
	}
}

func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	s, _ := open(f, options(dir))
	h := newHistory(3, 40)
	for v := 1; v <= 3; v++ {
		h.step(v, 40)
		save(f, s, h)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "journal-0000000000000001"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(append(bytes.Clone(whole[20:]), whole...))
	f.Add([]byte("MKj1S\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLoader(options("x"))
		if err := l.read("fuzz", bytes.NewReader(data), int64(len(data))); err != nil && fault.CodeOf(err) != fault.CodeLKGForeign {
			t.Fatal(err)
		}
		found := l.result()
		for _, g := range found.State.Generations {
			if err := verify(g.Point, found.Contents[g.Point]); err != nil {
				t.Fatalf("found what does not verify: %v", err)
			}
		}
	})
}

// BenchmarkOneResourceOfTenThousand is the store's part of the figure in
// docs/performance.md.
func BenchmarkOneResourceOfTenThousand(b *testing.B) {
	s, _ := open(b, Options{FS: durable.OS, Dir: b.TempDir(), Domain: "eu", Node: "n1", Verify: verify})
	h := newHistory(10_000, 1024)
	h.step(1, 1024)
	save(b, s, h)
	v := 1
	for b.Loop() {
		v++
		h.step(v, 1024)
		save(b, s, h)
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
