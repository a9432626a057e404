package hubdir

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// with makes a directory that holds files of these names.
func with(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestADirectoryIsClaimedOnlyWhenNothingIsInIt(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "a", "b")
	if made, err := Claim(absent); err != nil || !made {
		t.Errorf("an absent one: made is %t (%v)", made, err)
	}
	if made, err := Claim(absent); err != nil || made {
		t.Errorf("an empty one: made is %t (%v)", made, err)
	}
	for name, c := range map[string]struct {
		holds []string
		code  fault.Code
		says  string // of the remedy
	}{
		"keys alone":               {[]string{"keys/config.key"}, fault.CodeInitIncomplete, "move "},
		"a store":                  {[]string{"keys/config.key", "store.db"}, fault.CodeInitIncomplete, "If one did"},
		"a store in the making":    {[]string{"store.db.new-17"}, fault.CodeInitIncomplete, "move "},
		"a configuration half-way": {[]string{"ca/root.pem", ConfigFile + durable.TempSuffix}, fault.CodeInitIncomplete, "move "},
		"a hub":                    {[]string{"keys/config.key", ConfigFile}, fault.CodeInitNotEmpty, ""},
		"something else":           {[]string{"keys/config.key", "photos/1.jpg"}, fault.CodeInitNotEmpty, ""},
	} {
		dir := with(t, c.holds...)
		_, err := Claim(dir)
		if fault.CodeOf(err) != c.code || !strings.Contains(fault.RemedyOf(err), c.says) {
			t.Errorf("%s: %v, %q", name, err, fault.RemedyOf(err))
		}
	}
}

func TestWhatWasMadeIsTakenBackAndNothingElse(t *testing.T) {
	dir := with(t, "keys/config.key", "root/root-1.json", MakerFile, ConfigFile)
	Clear(dir, false)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%d entries are left (%v)", len(entries), err)
	}
	Clear(dir, true)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left (%v)", err)
	}
	dir = with(t, "keys/config.key", "notes")
	Clear(dir, true)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "notes" {
		t.Errorf("left: %v (%v)", entries, err)
	}
}

func TestADirectoryHasCome(t *testing.T) {
	for name, c := range map[string]struct {
		holds []string
		want  Stage
	}{
		"empty":                             {nil, Absent},
		"a hub":                             {[]string{"keys/config.key", MakerFile, ConfigFile}, Complete},
		"keys alone":                        {[]string{"keys/config.key", "ca/root.key"}, Early},
		"all but the log and configuration": {[]string{"keys/config.key", "ca/root.key", MakerFile}, CutShort},
		"the configuration is missing":      {[]string{"keys/config.key", "store.db", MakerFile}, CutShort},
		"a configuration half-way":          {[]string{"keys/config.key", MakerFile, ConfigFile + durable.TempSuffix}, CutShort},
		"asked to be admitted":              {[]string{"keys/config.key", JoiningFile, "joining.key"}, Joining},
		"a store without a configuration":   {[]string{"keys/config.key", "store.db"}, Foreign},
		"something else":                    {[]string{"keys/config.key", "notes"}, Foreign},
	} {
		if got, err := Inspect(with(t, c.holds...)); err != nil || got != c.want {
			t.Errorf("%s: stage %d, want %d (%v)", name, got, c.want, err)
		}
	}
	if got, err := Inspect(filepath.Join(t.TempDir(), "absent")); err != nil || got != Absent {
		t.Errorf("absent: stage %d (%v)", got, err)
	}
	file := filepath.Join(with(t, "file"), "file")
	if got, err := Inspect(file); fault.CodeOf(err) != fault.CodeIO {
		t.Errorf("a file: stage %d (%v)", got, err)
	}
}

// A crash while it is cleared must leave nothing that is gone on with without its keys,
// and nothing that is not cleared again.
func TestWhatIsHalfClearedIsClearedAgain(t *testing.T) {
	all := []string{"store.db", MakerFile, "keys/config.key", "root/root-1.key", "ca/root.key", "tls/hub.key", "admin/ca.pem"}
	for gone := range ours {
		dir := with(t, all...)
		for _, name := range ours[:gone] {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		stage, err := Inspect(dir)
		whole := gone < 2
		if err != nil || whole != (stage == CutShort) || !whole && stage != Early && stage != Absent {
			t.Errorf("without %v it is at stage %d (%v)", ours[:gone], stage, err)
		}
	}
}

func TestRootsAndKeysAreListedByTheirNames(t *testing.T) {
	dir := with(t, "root-10.json", "root-2.json", "root-1.json", "root-x.json", "root-99999999999999999999.json", "keyset-root-3.json", "root-1.key", "root-v2-1.key", "key")
	if got, err := Roots(dir); err != nil || !slices.Equal(got, []uint64{1, 2, 10}) {
		t.Errorf("roots %v (%v)", got, err)
	}
	if got, err := KeyNames(dir); err != nil || !slices.Equal(got, []string{"root-1", "root-v2-1"}) {
		t.Errorf("keys %v (%v)", got, err)
	}
	gone := filepath.Join(dir, "offline")
	if got, err := Roots(gone); err != nil || got != nil {
		t.Errorf("roots of no directory: %v (%v)", got, err)
	}
	if got, err := KeyNames(gone); err != nil || got != nil {
		t.Errorf("keys of no directory: %v (%v)", got, err)
	}
}
