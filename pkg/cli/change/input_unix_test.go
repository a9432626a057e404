//go:build unix

package change

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A directory is read with what can be read in it, each file once however often it
// is named.
func TestInputIsReadOnceAndWithoutPipes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	text := "apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata:\n  name: a\nspec:\n  endpoints:\n    - address: 10.0.0.1:80\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := Load(strings.NewReader(""), []string{dir, file, dir + "/."})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Documents) != 1 || len(in.Findings) > 0 {
		t.Errorf("read %d resources with %d findings, want one resource", len(in.Documents), len(in.Findings))
	}
}
