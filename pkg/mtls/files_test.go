package mtls

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// dying is a file system whose renames stop working after some: as all files
// appear by rename, it shows what a crash leaves.
type dying struct {
	durable.FS
	left int
}

var errDead = errors.New("dead")

func (d *dying) Rename(from, to string) error {
	if d.left == 0 {
		return errDead
	}
	d.left--
	return d.FS.Rename(from, to)
}

func files(dir string) Files {
	return Files{Cert: filepath.Join(dir, "node.pem"), Key: filepath.Join(dir, "node.key"), CA: filepath.Join(dir, "ca.pem")}
}

func TestCrashWhileSavingLeavesAPairThatLoads(t *testing.T) {
	a := newAuthority(t)
	for steps := range 5 {
		for _, first := range []bool{true, false} {
			f := files(t.TempDir())
			s := a.source(nodeURI)
			old := string(s.Certificate().Certificate[0])
			if !first {
				if err := s.SaveFiles(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.SetCertificate(a.leaf(nodeURI, time.Now())); err != nil {
				t.Fatal(err)
			}
			fresh := string(s.Certificate().Certificate[0])
			saved := s.saveFiles(&dying{durable.OS, steps}, f)
			if (saved == nil) != (steps == 4) {
				t.Fatalf("save with %d steps: %v", steps, saved)
			}
			for range 2 { // loading repairs, and what it repaired loads
				got, err := LoadFiles(f)
				if first && steps < 3 {
					if err == nil {
						t.Fatalf("first save died after %d steps and loads", steps)
					}
					continue
				}
				if err != nil {
					t.Fatalf("crash after %d steps: %v", steps, err)
				}
				want := fresh
				if steps < 3 {
					want = old
				}
				if string(got.Certificate().Certificate[0]) != want {
					t.Errorf("crash after %d steps: neither old nor new certificate as expected", steps)
				}
			}
		}
	}
}

func TestKeyFileIsPrivate(t *testing.T) {
	a := newAuthority(t)
	f := files(t.TempDir())
	if err := a.source(nodeURI).SaveFiles(f); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(f.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file has mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(f.Key, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := LoadFiles(f)
	wantCode(t, "key readable by the group", err, fault.CodeKeyExposed)
}

func TestDamagedFilesAreRefused(t *testing.T) {
	a := newAuthority(t)
	f := files(t.TempDir())
	if err := a.source(nodeURI).SaveFiles(f); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{f.Cert, f.Key, f.CA} {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(whole)-1; n += 7 {
			if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := LoadFiles(f)
			// A chain cut between two certificates loads, and its peer refuses it.
			if err == nil && !(path == f.Cert && len(got.Certificate().Certificate) == 1) {
				t.Errorf("first %d of %d bytes of %s load", n, len(whole), filepath.Base(path))
			}
			if err != nil && fault.CodeOf(err) == "" {
				t.Errorf("%s cut at %d: error without a code: %v", filepath.Base(path), n, err)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadFiles(f); err != nil {
		t.Errorf("restored files: %v", err)
	}
}
