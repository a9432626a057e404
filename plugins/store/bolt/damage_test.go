package bolt

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// told is what a whole file says, in words that differ when any of it does.
func told(t testing.TB, path string) (string, error) {
	t.Helper()
	f, err := Open(path, Options{MustExist: true})
	if err != nil {
		return "", err
	}
	defer f.Close()
	var out bytes.Buffer
	for _, name := range []string{"eu-west", "us-east"} {
		d, err := f.Domain(name)
		if err != nil {
			return "", err
		}
		if err := tell(t, &out, d); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

func tell(t testing.TB, out io.Writer, d store.Driver) error {
	l, err := store.Open(t.Context(), d, store.Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	p, err := d.Read(t.Context(), 0, 0)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, p.Head, p.Trimmed, p.Term, p.Holder)
	for after := p.Trimmed; ; {
		got, err := l.Read(t.Context(), after, 3)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			break
		}
		for _, x := range got {
			fmt.Fprintf(out, "%d %x\n", x.Seq, x.Raw)
			after = x.Seq
		}
	}
	s, err := l.LatestSnapshot(t.Context())
	if err != nil {
		return err
	}
	content, err := io.ReadAll(s.Open(t.Context()))
	if err != nil {
		return err
	}
	// When the newest snapshot's manifest is damaged the one before serves: the
	// log reaches back to it, so the state is the same.
	if s.Seq != 8 && s.Seq != 6 || !bytes.Equal(content, bytes.Repeat([]byte{byte(s.Seq - 1)}, 700)) {
		return fmt.Errorf("snapshot %d has another content", s.Seq)
	}
	return nil
}

// sample makes a small file: two domains, a trimmed log, snapshots, free pages.
func sample(t testing.TB) (path, says string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store.db")
	f := mustOpen(t, path)
	for _, name := range []string{"eu-west", "us-east"} {
		l, tenure := lead(t, mustDomain(t, f, name), store.Options{Retain: 2, ChunkSize: 300})
		for i := range 8 {
			x, err := tenure.Submit(t.Context(), draft(fmt.Sprintf("%s %d", name, i)))
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				if err := l.SaveSnapshot(t.Context(), tenure, x.Seq, x.Hash, bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 700))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := tenure.Trim(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	says, err := told(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return path, says
}

func lead(t testing.TB, d store.Driver, opts store.Options) (*store.Log, *store.Tenure) {
	t.Helper()
	l, err := store.Open(t.Context(), d, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	tenure, err := l.Campaign(t.Context(), store.Holder{Name: "hub1", Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	return l, tenure
}

func draft(payload string) func(store.Position) (store.Draft, error) {
	return func(store.Position) (store.Draft, error) {
		return store.Draft{Kind: "Test", Payload: []byte(payload)}, nil
	}
}

// harmless tells whether the file reads as before, or says that it is damaged.
func harmless(t *testing.T, path, before, damage string) (intact bool) {
	t.Helper()
	after, err := told(t, path)
	switch fault.CodeOf(err) {
	case fault.CodeCorrupt, fault.CodeChainBroken:
		return false
	}
	if err != nil {
		t.Fatalf("%s: error %v (%s) is not one of a damaged store", damage, err, fault.CodeOf(err))
	}
	if after != before {
		t.Fatalf("%s: the store reads differently and does not say so:\n%s", damage, cmp.Diff(before, after))
	}
	return true
}

// flips are applied to each byte: one bit, and all.
var flips = []byte{0x01, 0x80, 0xff}

func TestFlippedByteIsNeverSilent(t *testing.T) {
	path, before := sample(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	every := os.Getenv("MESHKIT_EVERY_OFFSET") != ""
	refused := 0
	tried := 0
	for at := range good {
		// Every second byte where there is content, and some of the empty space; all
		// of them take a minute.
		line := good[at&^15 : at&^15+16]
		if empty := bytes.Count(line, []byte{0}) == len(line); !every && (at%2 == 1 || empty && at%62 != 0) {
			continue
		}
		flip := flips[tried%len(flips)]
		tried++
		if _, err := f.WriteAt([]byte{good[at] ^ flip}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if !harmless(t, path, before, fmt.Sprintf("byte %d xor %#x", at, flip)) {
			refused++
		}
		if _, err := f.WriteAt(good[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d flips in %d bytes were refused, the rest hit unused space", refused, tried, len(good))
	if refused < 100 {
		t.Fatal("hardly any flip was refused: the test proves nothing")
	}
}

func TestTruncatedFileIsNeverSilent(t *testing.T) {
	path, before := sample(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := info.Size() - 1; n >= 0; n -= 17 {
		if err := os.Truncate(path, n); err != nil {
			t.Fatal(err)
		}
		harmless(t, path, before, fmt.Sprintf("cut to %d bytes", n))
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if harmless(t, path, before, "emptied") {
		t.Fatal("an emptied file was taken for a new store")
	}
}

// The page that a commit writes last decides which state is read: when the
// newest is damaged, bbolt alone would go back one commit.
func TestDamagedNewestStateIsNotReplacedByTheOneBefore(t *testing.T) {
	path, before := sample(t)
	for page := range int64(2) {
		for at := range int64(80) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			var b [1]byte
			offset := page*int64(os.Getpagesize()) + at
			f.ReadAt(b[:], offset)
			f.WriteAt([]byte{b[0] ^ 0x10}, offset)
			intact := harmless(t, path, before, fmt.Sprintf("byte %d of page %d", at, page))
			if intact && at >= pageHeader {
				t.Fatalf("byte %d of page %d: damage was not noticed", at, page)
			}
			f.WriteAt(b[:], offset)
			f.Close()
		}
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for _, content := range [][]byte{[]byte("not a store"), bytes.Repeat([]byte{0xff}, 64<<10), make([]byte, 64<<10)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, Options{})
		if fault.CodeOf(err) != fault.CodeCorrupt {
			t.Fatalf("a file of %d foreign bytes gave %v", len(content), err)
		}
	}
}

// Pages swapped or overwritten by others of the same file have sound insides.
func TestMisplacedPageIsNeverSilent(t *testing.T) {
	path, before := sample(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	for from := range len(good) / size {
		for to := range len(good) / size {
			bad := bytes.Clone(good)
			copy(bad[to*size:(to+1)*size], good[from*size:(from+1)*size])
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			harmless(t, path, before, fmt.Sprintf("page %d over page %d", from, to))
		}
	}
}

// FuzzOpen overwrites a part of a sound file, and cuts it. The inputs are small:
// the file itself would be too large to mutate well.
func FuzzOpen(f *testing.F) {
	path, before := sample(f)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{1}, uint32(0))
	f.Add(uint32(4*os.Getpagesize()+8), []byte{2, 0, 0xff, 0xff}, uint32(1))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		bad := bytes.Clone(good)
		copy(bad[int(at)%len(bad):], patch)
		bad = bad[:len(bad)-int(cut)%len(bad)]
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if after, err := told(t, path); err == nil && after != before {
			t.Fatal("the store reads differently and does not say so")
		}
	})
}
