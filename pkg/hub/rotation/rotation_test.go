package rotation_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/rotation"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/plugins/signer/file"
)

// site is a hub's directory with three root keys, two of which change the root, and what
// `meshctl trust show --save` wrote.
type site struct {
	root, keys, saved string
	metadata          *trustv1.Metadata
}

func keysIn(dir string) (sign.Driver, error) { return file.New(dir, file.Options{}), nil }

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{root: filepath.Join(dir, "root"), keys: filepath.Join(dir, "keys"), saved: filepath.Join(dir, "saved")}
	create := func(dir, name string) *sign.Signer {
		d, _ := keysIn(dir)
		k, err := sign.Create(t.Context(), d, name, sign.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	var roots []*sign.Signer
	for i := range 3 {
		roots = append(roots, create(s.root, "root-"+strconv.Itoa(i+1)))
	}
	keyset, config := create(s.keys, keyring.KeysetKey), create(s.keys, keyring.ConfigKey)
	now := time.Now()
	root, err := trust.NewRoot("eu-west", roots, 2, []*sign.Signer{keyset}, now.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	bundle := hubtest.NewDomain(t).Authority.Bundle()
	signed, err := trust.NewKeyset(root, 1, map[string][]sign.PublicKey{"hub1": {config.Public()}}, bundle, now.AddDate(1, 0, 0), keyset)
	if err != nil {
		t.Fatal(err)
	}
	s.metadata = &trustv1.Metadata{Roots: [][]byte{root}, Keyset: signed, CaBundle: bundle}
	for path, data := range map[string][]byte{
		filepath.Join(s.root, hubdir.RootFile(1)): root, filepath.Join(s.saved, "keyset.json"): signed, filepath.Join(s.saved, "ca-bundle.pem"): bundle,
	} {
		if err := hubdir.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) options() rotation.Options {
	return rotation.Options{Dir: s.root, Keys: keysIn, Expires: time.Now().AddDate(5, 0, 0)}
}

func (s *site) withKeyset() rotation.Options {
	o := s.options()
	o.Keyset = &rotation.KeysetOptions{HubKeys: s.keys, Metadata: s.saved}
	return o
}

// follows has someone who knows the first root take what was made.
func (s *site) follows(t *testing.T, roots ...string) (*trust.Anchors, error) {
	t.Helper()
	known, err := trust.FromMetadata("eu-west", s.metadata)
	if err != nil {
		t.Fatal(err)
	}
	next := &trustv1.Metadata{}
	for _, path := range roots {
		next.Roots = append(next.Roots, read(t, path))
	}
	return known.Update(next, time.Now())
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func ids(keys []*sign.Signer) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.KeyID())
	}
	slices.Sort(out)
	return out
}

func TestNewRootKeysTakeThePlaceOfTheOld(t *testing.T) {
	s := newSite(t)
	second, err := rotation.Rotate(t.Context(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	if second.Version != 2 || second.File != filepath.Join(s.root, "root-2.json") || len(second.Old) != 3 || len(second.Fresh) != 3 || second.Keyset != nil {
		t.Errorf("made %+v", second)
	}
	o := s.options()
	o.RootKeys, o.RootThreshold = 2, 1
	third, err := rotation.Rotate(t.Context(), o) // signed by those alone that are listed now
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ids(third.Old), ids(second.Fresh)) {
		t.Errorf("signed by %v, and %v were new before", ids(third.Old), ids(second.Fresh))
	}
	after, err := s.follows(t, second.File, third.File)
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.Sorted(slices.Values(after.Root().KeyIDs))
	if info := after.Root(); info.Version != 3 || info.Threshold != 1 || !slices.Equal(listed, ids(third.Fresh)) {
		t.Errorf("the root is %+v", info)
	}
}

func TestARootIsRenewedWithItsKeys(t *testing.T) {
	s := newSite(t)
	o := s.options()
	o.KeepKeys = true
	made, err := rotation.Rotate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.follows(t, made.File)
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.Sorted(slices.Values(after.Root().KeyIDs))
	if len(made.Fresh) != 0 || !slices.Equal(listed, ids(made.Old)) || after.Root().Expires.Before(time.Now().AddDate(4, 11, 0)) {
		t.Errorf("made %+v, the root is %+v", made, after.Root())
	}
}

func TestARotationThatCannotBeSignedMakesNoRoot(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{"root-1.key", "root-3.key"} {
		if err := os.Rename(filepath.Join(s.root, name), filepath.Join(t.TempDir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rotation.Rotate(t.Context(), s.options()); fault.CodeOf(err) != fault.CodeRootUnsigned {
		t.Errorf("with one of two keys: %v", err)
	}
	if names, err := hubdir.KeyNames(s.root); err != nil || !slices.Equal(names, []string{"root-2"}) {
		t.Errorf("keys afterwards: %v (%v)", names, err)
	}
	o := s.options()
	o.Dir = t.TempDir()
	if _, err := rotation.Rotate(t.Context(), o); fault.CodeOf(err) != fault.CodeConfig {
		t.Errorf("without a root: %v", err)
	}
}

func TestANewKeysetKeyComesWithTheRootThatNamesIt(t *testing.T) {
	s := newSite(t)
	was := read(t, filepath.Join(s.keys, "keyset.key"))
	made, err := rotation.Rotate(t.Context(), s.withKeyset())
	if err != nil {
		t.Fatal(err)
	}
	if string(read(t, made.Keyset.OldKeyFile())) != string(was) || string(read(t, made.Keyset.KeyFile())) == string(was) {
		t.Error("the old key is not kept, or still in its place")
	}
	known, err := trust.FromMetadata("eu-west", s.metadata)
	if err != nil {
		t.Fatal(err)
	}
	after, err := known.Update(&trustv1.Metadata{Roots: [][]byte{read(t, made.File)}, Keyset: read(t, made.Keyset.File)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.Root().KeysetKeyIDs; !slices.Equal(got, []string{made.Keyset.KeyID()}) || after.KeysetVersion() != 2 {
		t.Errorf("keyset %d is signed by %v, want %s", after.KeysetVersion(), got, made.Keyset.KeyID())
	}
}

// A crash leaves a beginning of what is written; the root comes last.
func TestARotationThatWasCutShortIsRunAgain(t *testing.T) {
	s := newSite(t)
	was := read(t, filepath.Join(s.keys, "keyset.key"))
	first, err := rotation.Rotate(t.Context(), s.withKeyset())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(first.File); err != nil {
		t.Fatal(err)
	}
	again, err := rotation.Rotate(t.Context(), s.withKeyset())
	if err != nil {
		t.Fatal(err)
	}
	if again.Version != first.Version || !slices.Equal(ids(again.Fresh), ids(first.Fresh)) {
		t.Errorf("root %d with %v, and at first %d with %v", again.Version, ids(again.Fresh), first.Version, ids(first.Fresh))
	}
	if string(read(t, again.Keyset.OldKeyFile())) != string(was) {
		t.Error("the key that is published is lost")
	}
	known, err := trust.FromMetadata("eu-west", s.metadata)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := known.Update(&trustv1.Metadata{Roots: [][]byte{read(t, again.File)}, Keyset: read(t, again.Keyset.File)}, time.Now()); err != nil {
		t.Error(err)
	}
}

// Metadata that was saved from another domain, or not at all, costs no key.
func TestTheKeysetKeyStaysWhenTheMetadataIsNotItsOwn(t *testing.T) {
	other := newSite(t)
	for name, saved := range map[string]string{"of another domain": other.saved, "not there": filepath.Join(t.TempDir(), "none")} {
		s := newSite(t)
		was := read(t, filepath.Join(s.keys, "keyset.key"))
		o := s.withKeyset()
		o.Keyset.Metadata = saved
		if _, err := rotation.Rotate(t.Context(), o); err == nil || fault.RemedyOf(err) == "" && name == "not there" {
			t.Errorf("%s: %v", name, err)
		}
		if string(read(t, filepath.Join(s.keys, "keyset.key"))) != string(was) {
			t.Errorf("%s: the keyset key changed", name)
		}
		if versions, err := hubdir.Roots(s.root); err != nil || !slices.Equal(versions, []uint64{1}) {
			t.Errorf("%s: roots %v (%v)", name, versions, err)
		}
	}
}
