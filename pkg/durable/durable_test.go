package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/durable/durabletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	oldContent = "the content that was there before"
	newContent = "the new content, which is longer than the old one was"
)

// before gives a file system on which /d/f durably has the old content.
func before(t *testing.T) *durabletest.FS {
	t.Helper()
	f := durabletest.New()
	if err := errors.Join(durable.MkdirAll(f, "/d", 0o700), durable.WriteFile(f, "/d/f", []byte(oldContent), 0o600)); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, f *durabletest.FS) string {
	t.Helper()
	data, err := durable.ReadFile(f, "/d/f", 1000)
	if err != nil {
		t.Fatalf("%v; there is\n%s", err, f.Tree())
	}
	return string(data)
}

// seeds is how many outcomes of each power loss are looked at.
const seeds = 40

// oneOf checks each state that a crash may leave, and that the next write works.
func oneOf(t *testing.T, what string, crashed *durabletest.FS, allowed ...string) {
	t.Helper()
	states := []*durabletest.FS{crashed.Kill()}
	for seed := range uint64(seeds) {
		states = append(states, crashed.PowerLoss(seed))
	}
	for i, s := range states {
		got := read(t, s)
		if !strings.Contains(strings.Join(allowed, "\n"), got) || len(got) < len(oldContent) {
			t.Fatalf("%s, state %d: the file holds %q", what, i, got)
		}
		if err := durable.WriteFile(s, "/d/f", []byte("next"), 0o600); err != nil {
			t.Fatalf("%s, state %d: the next write: %v", what, i, err)
		}
		if got := read(t, s.PowerLoss(0)); got != "next" {
			t.Fatalf("%s, state %d: after the next write the file holds %q", what, i, got)
		}
	}
}

func TestCrashAtAnyStepLeavesOldOrNewContent(t *testing.T) {
	for n := 0; ; n++ {
		f := before(t)
		f.CrashAfter(n)
		err := durable.WriteFile(f, "/d/f", []byte(newContent), 0o600)
		if err == nil {
			if n < 6 {
				t.Fatalf("WriteFile took %d operations; it must create, write, sync, rename and sync", n)
			}
			oneOf(t, "after success", f, newContent)
			return
		}
		if !errors.Is(err, durabletest.ErrCrashed) {
			t.Fatal(err)
		}
		oneOf(t, "crash after operation "+string(rune('0'+n)), f, oldContent, newContent)
	}
}

func TestFailureOfAnyStepIsReportedAndLeavesOldOrNewContent(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for n := 1; ; n++ {
			f := before(t)
			was := f.Ops()
			f.FailOp(n, syscall.EIO, applied)
			err := durable.WriteFile(f, "/d/f", []byte(newContent), 0o600)
			if f.Ops()-was < n {
				break // there are no more steps
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("operation %d failed, WriteFile gave %v", n, err)
			}
			oneOf(t, "failed operation", f, oldContent, newContent)
		}
	}
}

func TestFullDiskLeavesOldContent(t *testing.T) {
	for room := range len(newContent) {
		f := before(t)
		f.Capacity(len(oldContent) + room)
		err := durable.WriteFile(f, "/d/f", []byte(newContent), 0o600)
		if !durable.IsFull(err) || !strings.Contains(err.Error(), "/d/f") {
			t.Fatalf("with room for %d bytes: %v", room, err)
		}
		if got := read(t, f); got != oldContent {
			t.Fatalf("the file holds %q", got)
		}
		f.Capacity(-1)
		if err := durable.WriteFile(f, "/d/f", []byte(newContent), 0o600); err != nil {
			t.Fatal(err)
		}
		oneOf(t, "with space again", f, newContent)
	}
}

func TestRenamedStaysRenamed(t *testing.T) {
	f := before(t)
	if err := durable.Rename(f, "/d/f", "/d/g"); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(seeds) {
		after := f.PowerLoss(seed)
		if got, err := durable.ReadFile(after, "/d/g", 100); err != nil || string(got) != oldContent {
			t.Fatalf("after a power loss: %q, %v", got, err)
		}
		if _, err := durable.ReadFile(after, "/d/f", 10); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the old name after a power loss: %v", err)
		}
	}
}

func TestDirectoriesSurvive(t *testing.T) {
	f := durabletest.New()
	if err := durable.MkdirAll(f, "/a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(seeds) {
		if _, err := f.PowerLoss(seed).ReadDir("/a/b/c"); err != nil {
			t.Fatalf("after a power loss: %v", err)
		}
	}
}

func TestReadFileRefusesTooMuch(t *testing.T) {
	f := before(t)
	if _, err := durable.ReadFile(f, "/d/f", int64(len(oldContent))-1); !errors.Is(err, durable.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if _, err := durable.ReadFile(f, "/d/f", int64(len(oldContent))); err != nil {
		t.Fatal(err)
	}
}

func TestRealFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "file")
	if err := durable.MkdirAll(durable.OS, filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{oldContent, newContent} {
		if err := durable.WriteFile(durable.OS, path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := durable.ReadFile(durable.OS, path, 1000); err != nil || string(got) != content {
			t.Fatalf("%q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

// The model must be able to show what goes wrong without the syncs.
func TestModelForgetsWhatWasNotSynced(t *testing.T) {
	lost, torn, late := false, false, false
	for seed := range uint64(200) {
		f := before(t)
		h, err := f.Create("/d/f.tmp", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		h.Write([]byte(newContent))
		h.Close()
		if err := f.Rename("/d/f.tmp", "/d/f"); err != nil {
			t.Fatal(err)
		}
		switch got := read(t, f.PowerLoss(seed)); {
		case got == "":
			lost = true
		case got == oldContent:
			late = true
		case got != newContent:
			torn = true
		}
	}
	if !lost || !torn || !late {
		t.Fatalf("lost %v, torn %v, late %v", lost, torn, late)
	}
}
