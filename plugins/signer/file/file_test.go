package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/sign/signtest"
	"github.com/meshkit/meshkit/plugins/signer/file"
)

func TestKeyFileIsPrivateAndAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := file.New(dir, file.Options{}).Create(t.Context(), "config", sign.Ed25519); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "config.key"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %04o", path, info.Mode(), err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files in the key directory (%v), want the key alone", len(entries), err)
	}
}

func TestKeyReadableByOthersIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	d := file.New(dir, file.Options{})
	if _, err := d.Create(t.Context(), "config", sign.Ed25519); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.key")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Open(t.Context(), "config"); !errors.Is(err, fault.CodeKeyExposed) {
			t.Errorf("mode %04o: %v, want %s", mode, err, fault.CodeKeyExposed)
		}
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chmod(dir, 0o770)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(t.Context(), "config"); !errors.Is(err, fault.CodeKeyExposed) {
		t.Errorf("directory that others can write: %v, want %s", err, fault.CodeKeyExposed)
	}
}

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	signtest.Run(t, func(t testing.TB) sign.Driver {
		return file.New(filepath.Join(dir, t.Name()), file.Options{})
	})
}

// The suite does not run with a passphrase: each key would cost a scrypt.
func TestSealedKeyOpensWithItsPassphraseOnly(t *testing.T) {
	dir := t.TempDir()
	made, err := sign.Create(t.Context(), file.New(dir, file.Options{Passphrase: []byte("right")}), "root-1", sign.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sign.Open(t.Context(), file.New(dir, file.Options{Passphrase: []byte("right")}), "root-1")
	if err != nil || again.KeyID() != made.KeyID() {
		t.Errorf("right passphrase: %v", err)
	}
	for _, pass := range []string{"", "wrong"} {
		_, err := file.New(dir, file.Options{Passphrase: []byte(pass)}).Open(t.Context(), "root-1")
		if !errors.Is(err, fault.CodeKeyPassphrase) {
			t.Errorf("passphrase %q: %v, want %s", pass, err, fault.CodeKeyPassphrase)
		}
	}
}

func TestNamesCannotLeaveTheDirectory(t *testing.T) {
	d := file.New(t.TempDir(), file.Options{})
	for _, name := range []string{"", "..", "../x", "a/b", `a\b`, ".hidden", "a\x00b"} {
		if _, err := d.Create(t.Context(), name, sign.Ed25519); !errors.Is(err, fault.CodeKeyInvalid) {
			t.Errorf("create %q: %v, want %s", name, err, fault.CodeKeyInvalid)
		}
		if _, err := d.Open(t.Context(), name); !errors.Is(err, fault.CodeKeyInvalid) {
			t.Errorf("open %q: %v, want %s", name, err, fault.CodeKeyInvalid)
		}
	}
}

// Every truncation of a key file is an error, and none of them panics.
func TestTruncatedKeyFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	d := file.New(dir, file.Options{})
	if _, err := d.Create(t.Context(), "config", sign.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.key")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) - 1 { // without its last newline it is still whole
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Open(t.Context(), "config"); !errors.Is(err, fault.CodeKeyInvalid) {
			t.Fatalf("first %d of %d bytes: %v, want %s", n, len(whole), err, fault.CodeKeyInvalid)
		}
	}
	if _, err := d.Open(t.Context(), "missing"); !errors.Is(err, fault.CodeKeyNotFound) {
		t.Errorf("missing key: %v, want %s", err, fault.CodeKeyNotFound)
	}
}
