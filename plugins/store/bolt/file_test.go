//go:build linux

package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

// The test binary starts itself as another process that uses a store.
const (
	childVar  = "MESHKIT_TEST_STORE"
	childHold = "hold"
	childLoad = "load"
)

func init() {
	role, path, ok := strings.Cut(os.Getenv(childVar), ":")
	if !ok {
		return
	}
	if err := child(role, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child opens the store and says so; then it holds it until its input ends, or
// appends and says each sequence number once it is acknowledged.
func child(role, path string) error {
	f, err := Open(path, Options{})
	if err != nil {
		return err
	}
	d, err := f.Domain("eu-west")
	if err != nil {
		return err
	}
	l, err := store.Open(context.Background(), d, store.Options{})
	if err != nil {
		return err
	}
	t, err := l.Campaign(context.Background(), store.Holder{Name: "child"})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if role == childHold {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	var mu sync.Mutex // keeps lines whole
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				x, err := t.Submit(context.Background(), draft(fmt.Sprintf("%d.%d", w, i)))
				if err != nil {
					return
				}
				mu.Lock()
				fmt.Println(x.Seq, string(x.Payload))
				mu.Unlock()
			}
		}()
	}
	select {}
}

type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t *testing.T, role, path string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), childVar+"="+role+":"+path)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	p.out = bufio.NewScanner(out)
	if !p.out.Scan() || p.out.Text() != "ready" {
		t.Fatalf("the other process said %q", p.out.Text())
	}
	return p
}

func TestSecondProcessIsToldWhoHoldsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	holder := start(t, childHold, path)
	_, err := Open(path, Options{LockTimeout: 50 * time.Millisecond})
	if fault.CodeOf(err) != fault.CodeStoreLocked || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("got %v (%s)", err, fault.CodeOf(err))
	}
	holder.in.Close()
	if err := holder.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err != nil {
		t.Fatalf("after the holder ended: %v", err)
	}
}

func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acknowledged := make(map[string]string) // sequence number → payload
	for round := range 4 {
		p := start(t, childLoad, path)
		for range 50 + 37*round {
			if !p.out.Scan() {
				t.Fatal("the writer ended early")
			}
			seq, payload, _ := strings.Cut(p.out.Text(), " ")
			acknowledged[seq] = payload
		}
		p.cmd.Process.Kill()
		for p.out.Scan() {
			// Acknowledged between the last line that was read and the kill. The last
			// one may be cut short.
			if seq, payload, ok := strings.Cut(p.out.Text(), " "); ok && strings.Contains(payload, ".") {
				acknowledged[seq] = payload
			}
		}
		p.cmd.Wait()
	}
	l, _ := lead(t, mustDomain(t, mustOpen(t, path), "eu-west"), store.Options{})
	found := make(map[string]string)
	for after := uint64(0); ; {
		got, err := l.Read(t.Context(), after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		for _, x := range got {
			found[fmt.Sprint(x.Seq)] = string(x.Payload)
			after = x.Seq
		}
	}
	for seq, payload := range acknowledged {
		if !strings.HasPrefix(found[seq], payload) {
			t.Fatalf("entry %s was acknowledged as %q and reads as %q", seq, payload, found[seq])
		}
	}
}

// fill gives a path on a file system that has little space, and a function
// that gives it space.
func fill(t *testing.T) (dir string, relief func()) {
	t.Helper()
	dir = t.TempDir()
	if os.Geteuid() == 0 && mountSmall(dir) == nil {
		t.Log("full disk: a tmpfs of 512 KiB")
		t.Cleanup(func() { unmount(dir) })
		return dir, func() { enlarge(t, dir) }
	}
	t.Log("full disk: a limit on the size of files")
	return dir, limitFileSize(t, 512<<10)
}

func TestFullDiskLosesNothingAndEnds(t *testing.T) {
	dir, relief := fill(t)
	path := filepath.Join(dir, "store.db")
	f := mustOpen(t, path)
	l, tenure := lead(t, mustDomain(t, f, "eu-west"), store.Options{})
	payload := strings.Repeat("x", 10_000)
	written := 0
	var err error
	for ; written < 1000; written++ {
		if _, err = tenure.Submit(t.Context(), draft(payload)); err != nil {
			break
		}
	}
	if fault.CodeOf(err) != fault.CodeStoreFull || !strings.Contains(err.Error(), path) {
		t.Fatalf("after %d entries: %v (%s)", written, err, fault.CodeOf(err))
	}
	for range 3 {
		if _, err := tenure.Submit(t.Context(), draft(payload)); fault.CodeOf(err) != fault.CodeStoreFull {
			t.Fatalf("a further append gave %v", err)
		}
	}
	if h, err := l.Head(t.Context()); err != nil || h.Seq != uint64(written) {
		t.Fatalf("the log ends at %d with %d acknowledged, %v", h.Seq, written, err)
	}
	if tenure.Context().Err() != nil {
		t.Fatalf("leadership ended: %v", context.Cause(tenure.Context()))
	}
	relief()
	for range 60 {
		x, err := tenure.Submit(t.Context(), draft(payload))
		if err != nil {
			t.Fatalf("after there was space again: %v", err)
		}
		written++
		if x.Seq != uint64(written) {
			t.Fatalf("the entry stands at %d, want %d", x.Seq, written)
		}
	}
	l.Close()
	f.Close()
	l, _ = lead(t, mustDomain(t, mustOpen(t, path), "eu-west"), store.Options{})
	if h, err := l.Head(t.Context()); err != nil || h.Seq != uint64(written) {
		t.Fatalf("after opening again the log ends at %d with %d acknowledged, %v", h.Seq, written, err)
	}
}

func TestNewFileOnFullDisk(t *testing.T) {
	dir, relief := fill(t)
	ballast := filepath.Join(dir, "ballast")
	for n := 512 << 10; n >= 512; n /= 2 { // leaves nothing
		f, err := os.OpenFile(ballast, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			break
		}
		f.Write(make([]byte, n))
		f.Close()
	}
	path := filepath.Join(dir, "store.db")
	f, err := Open(path, Options{})
	if err == nil { // the limit is on each file, not on all of them
		f.Close()
		t.Skip("this kind of full disk takes a small file")
	}
	if code := fault.CodeOf(err); code != fault.CodeStoreFull {
		t.Fatalf("got %v (%s)", err, code)
	}
	relief()
	os.Remove(ballast)
	mustOpen(t, path)
}

// A commit whose fsync failed may or may not survive, and the next fsync would
// say that all is well.
// TestEveryCommitIsSynced holds the engine to its own settings, since no test in
// this process can lose what the kernel has: bbolt syncs data and meta page of each
// commit unless it is told not to.
func TestEveryCommitIsSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for _, opening := range []string{"new", "existing"} {
		f := mustOpen(t, path)
		if f.db.NoSync || f.db.NoGrowSync {
			t.Errorf("%s store: NoSync %v, NoGrowSync %v", opening, f.db.NoSync, f.db.NoGrowSync)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailedSyncStopsTheStore(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	d := mustDomain(t, f, "eu-west")
	l, tenure := lead(t, d, store.Options{})
	f.judge(f.fail, "append to log", syscall.EIO) // as bbolt gives it
	_, err := tenure.Submit(t.Context(), draft("a"))
	if fault.CodeOf(err) != fault.CodeStoreFailed {
		t.Fatalf("append gave %v (%s)", err, fault.CodeOf(err))
	}
	<-tenure.Context().Done()
	if _, err := l.Read(t.Context(), 0, 1); err != nil && fault.CodeOf(err) != fault.CodeStoreFailed {
		t.Fatalf("read gave %v", err)
	}
}

func TestFaultsInTheMapBecomeErrors(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	mustDomain(t, f, "eu-west")
	err := f.view("read", func(*bbolt.Tx) error { panic("page 7 already freed") })
	if fault.CodeOf(err) != fault.CodeCorrupt {
		t.Fatalf("a panic gave %v", err)
	}
	if _, err := f.Domain("us-east"); fault.CodeOf(err) != fault.CodeCorrupt {
		t.Fatalf("the file was used after a panic: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, f.Path()) // the lock was given up
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if _, err := Open(path, Options{MustExist: true}); fault.CodeOf(err) != fault.CodeStoreMissing {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a file was made")
	}
	mustOpen(t, path)
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Fatalf("creation left %q", names)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Fatalf("the file has mode %v", info.Mode())
	}
}

func TestDomainsAreApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	f := mustOpen(t, path)
	_, eu := lead(t, mustDomain(t, f, "eu-west"), store.Options{})
	usLog, us := lead(t, mustDomain(t, f, "us-east"), store.Options{})
	for i := range 3 {
		if _, err := eu.Submit(t.Context(), draft(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if x, err := us.Submit(t.Context(), draft("us")); err != nil || x.Seq != 1 {
		t.Fatalf("the other domain's first entry is %d, %v", x.Seq, err)
	}
	if got, err := usLog.Read(t.Context(), 0, 10); err != nil || len(got) != 1 {
		t.Fatalf("the other domain has %d entries, %v", len(got), err)
	}
	for _, name := range []string{"", "a b", "a\nb", "ü", strings.Repeat("x", 254)} {
		if _, err := f.Domain(name); fault.CodeOf(err) != fault.CodeConfig {
			t.Fatalf("the name %q gave %v", name, err)
		}
	}
}

func TestCloseDoesNotWaitForEverForAHungTransaction(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.update("hang", func(*bbolt.Tx) error {
			close(begun)
			<-release
			return nil
		})
	}()
	<-begun
	answered := make(chan error, 1)
	go func() { answered <- f.closeWithin(50 * time.Millisecond) }()
	select {
	case err := <-answered:
		if fault.CodeOf(err) != fault.CodeTimeout {
			t.Errorf("closed with %v, want %s", err, fault.CodeTimeout)
		}
	case <-time.After(10 * time.Second):
		t.Error("Close hangs with the transaction")
	}
	close(release)
	<-ended
	// It is closed after all, and its lock is free.
	g, err := Open(f.Path(), Options{LockTimeout: 10 * time.Second})
	if err != nil {
		t.Fatalf("the file stays locked after the transaction ended: %v", err)
	}
	g.Close()
}

// What is written to a file that has no name any more would be acknowledged, and gone
// with the process.
func TestAFileThatWasTakenAwayTakesNoWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	f := mustOpen(t, path)
	d := mustDomain(t, f, "eu-west")
	lease, err := d.Campaign(t.Context(), store.Holder{Name: "hub1"})
	if err != nil {
		t.Fatal(err)
	}
	write := func(after uint64) error {
		at := store.Position{Seq: after + 1, Term: lease.Term()}
		return d.Append(t.Context(), store.Batch{Term: lease.Term(), After: after, Records: []store.Record{{Position: at, Data: []byte("x")}}})
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := write(1); fault.CodeOf(err) != fault.CodeStoreUnavailable {
		t.Fatalf("without its name: %v", err)
	}
	if err := os.WriteFile(path, []byte("another file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(1); fault.CodeOf(err) != fault.CodeStoreUnavailable {
		t.Fatalf("with another file in its place: %v", err)
	}
	if p, err := d.Read(t.Context(), 0, 10); err != nil || len(p.Records) != 1 {
		t.Fatalf("what was there reads as %v, %v", p.Records, err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := write(1); err != nil {
		t.Fatalf("with the file back in place: %v", err)
	}
}
