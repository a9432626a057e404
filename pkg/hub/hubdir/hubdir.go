// Package hubdir is the layout of a hub's directory: what its files are called, and how
// a hub is told from what an interrupted command left.
//
//	meshhub.yaml                    configuration; comes last, and makes the directory a hub
//	keys/{config,keyset}.key        what the hub signs with
//	root/root-N.{key,json}          root of trust; its keys may be kept elsewhere
//	ca/root.{pem,key}               CA of the domain; its key may be kept elsewhere
//	ca/intermediate.{pem,key}       CA that issues the nodes' certificates
//	ca/hubs.{pem,key}               CA that makes issuing CAs for hubs that join
//	tls/hub.{pem,key}               the hub's own certificate
//	admin/                          credentials of the first operator
//	store.db                        the log, when it is in an embedded store
//	made.json                       who had the domain made, on the hub that made it
//	domains/eu-central/…            all of this again, for a domain that is served besides
//
// One process at a time works on a directory; nothing here guards that.
package hubdir

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Names in a hub's directory.
const (
	ConfigFile = "meshhub.yaml"
	MakerFile  = "made.json"
	// JoiningFile is of a join that has begun and is not complete.
	JoiningFile = "joining.json"
	DomainsDir  = "domains"
	// HubCA is the name of the files of the CA that makes issuing CAs for hubs.
	HubCA = "hubs"
)

// ours are the names of what is made with a domain, in a directory of its own.
// Clear keeps to the order: without the store and what says that it can be gone on with,
// the rest is Early.
var ours = []string{"store.db", MakerFile, "keys", "root", "ca", "tls", "admin", ConfigFile}

// Stage is how far a directory has come.
type Stage int

// Stages of a directory.
const (
	// Absent: it is not there, or empty.
	Absent Stage = iota
	// Early: keys and certificates that nobody has heard of.
	Early
	// CutShort: a domain of which all is there but the log's first entry, perhaps, and
	// the configuration.
	CutShort
	// Joining: a hub that has asked to be admitted, perhaps.
	Joining
	// Complete: a hub's.
	Complete
	// Foreign: something else, or a hub's whose configuration was lost.
	Foreign
)

// Inspect tells how far a directory has come. What cannot be read is an error, and no
// stage: a stage may be cleared.
func Inspect(dir string) (Stage, error) {
	entries, err := os.ReadDir(dir)
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name })
	}
	switch {
	case os.IsNotExist(err):
		return Absent, nil
	case err != nil:
		return Foreign, fault.New(fault.CodeIO, "read %s: %w", dir, err)
	case len(entries) == 0:
		return Absent, nil
	case has(ConfigFile):
		return Complete, nil
	case has(JoiningFile):
		return Joining, nil
	case has(MakerFile):
		return CutShort, nil
	case leftBehind(entries) && !has("store.db"):
		return Early, nil
	}
	return Foreign, nil
}

// Claim makes the directory, or finds it empty. made tells whether it was made.
// CodeInitIncomplete: it holds what was cut short; CodeInitNotEmpty: something else.
func Claim(dir string) (made bool, err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case os.IsNotExist(err):
		if err := durable.MkdirAll(durable.OS, dir, 0o700); err != nil {
			return false, fault.New(fault.CodeIO, "make %s: %w", dir, err)
		}
		return true, nil
	case err != nil:
		return false, fault.New(fault.CodeIO, "read %s: %w", dir, err)
	case len(entries) == 0:
		if err := os.Chmod(dir, 0o700); err != nil {
			return false, fault.New(fault.CodeIO, "protect %s: %w", dir, err)
		}
		return false, nil
	}
	if leftBehind(entries) {
		return false, fault.New(fault.CodeInitIncomplete, "%s holds what an interrupted init left", dir).WithRemedy("%s", Remedy(dir))
	}
	return false, fault.New(fault.CodeInitNotEmpty, "%s is not empty", dir)
}

// Clear takes back what was made in a directory that was empty or absent. made says
// that the directory itself goes too; it stays if it holds anything else. After a crash
// at any point of it the directory is CutShort, Early or Absent, with all that it needs.
func Clear(dir string, made bool) {
	for i, name := range ours {
		_ = os.RemoveAll(filepath.Join(dir, name))
		if i < 2 {
			_ = durable.OS.SyncDir(dir)
		}
	}
	if made {
		_ = os.Remove(dir)
	}
}

// leftBehind tells whether the entries are all of a domain in the making, without the
// one that is written last.
func leftBehind(entries []os.DirEntry) bool {
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), durable.TempSuffix)
		name, _, _ = strings.Cut(name, ".new-") // a store that was being made
		if e.Name() == ConfigFile || !slices.Contains(ours, name) {
			return false
		}
	}
	return true
}

// Remedy says what to do about a directory without a configuration. It may be the
// wrong one, or that of a hub whose configuration was lost, so nothing is to be removed.
func Remedy(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 || !leftBehind(entries) {
		return "Check the path. `meshhub init --domain NAME --data DIR` makes a new hub with its configuration in DIR."
	}
	if _, err := os.Stat(filepath.Join(dir, MakerFile)); err == nil {
		return "Repeat the `meshhub init` that was interrupted, with the same flags: it goes on."
	}
	if _, err := os.Stat(filepath.Join(dir, "store.db")); err != nil {
		return fmt.Sprintf("If this is what an interrupted `meshhub init` left, move %s away and run `meshhub init --domain NAME --data %s`.", dir, dir)
	}
	return fmt.Sprintf("If no hub ever ran there, move %s away and run `meshhub init --domain NAME --data %s`. If one did, its domain is in store.db: restore %s from a backup, or write it again (docs/runbooks/hub.md).", dir, dir, ConfigFile)
}

// RootFile names the metadata of a root version, in root/.
func RootFile(version uint64) string { return fmt.Sprintf("root-%d.json", version) }

var rootName = regexp.MustCompile(`^root-([0-9]+)\.json$`)

// Roots lists the versions of root metadata in a directory, oldest first. One that does
// not exist has none.
func Roots(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fault.New(fault.CodeIO, "list %s: %w", dir, err)
	}
	var versions []uint64
	for _, e := range entries {
		if m := rootName.FindStringSubmatch(e.Name()); m != nil {
			if v, err := strconv.ParseUint(m[1], 10, 64); err == nil {
				versions = append(versions, v)
			}
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// KeyNames lists the keys of a directory, which may have been taken offline.
func KeyNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fault.New(fault.CodeIO, "list keys: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".key"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// WriteFile writes a file durably, and makes its directory.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	if err := durable.MkdirAll(durable.OS, filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.CodeIO, "make %s: %w", filepath.Dir(path), err)
	}
	if err := durable.WriteFile(durable.OS, path, data, perm); err != nil {
		return fault.New(fault.CodeIO, "write %s: %w", path, err)
	}
	return nil
}

// CertificatePEM is how a certificate, DER, is kept in a file.
func CertificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
