// Package arch holds the import graph to the layers of docs/architecture.md. It
// parses the sources in process: a test that shells out to `go list` is cached
// by inputs that it does not read.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/meshkit/meshkit"

// layers, lowest first. A package belongs to the layer of the longest pattern
// that is a prefix of its path; it may import its own layer only where siblings
// says so, and any layer below.
var layers = []struct {
	name     string
	patterns []string
	// siblings may import each other within the layer.
	siblings bool
}{
	{"schemas", []string{"pkg/api"}, true},
	{"L0 foundations", []string{"pkg/fault", "pkg/run", "pkg/backoff", "pkg/durable", "pkg/version"}, false},
	{"L1 domain", []string{"pkg/identity", "pkg/digest", "pkg/resource", "pkg/expr", "pkg/kind", "pkg/graph", "pkg/route", "pkg/view", "pkg/state"}, true},
	{"L2 capabilities", []string{"pkg/store", "pkg/sign", "pkg/trust", "pkg/ca", "pkg/mtls", "pkg/observe"}, false},
	{"L3 protocol", []string{"pkg/wire", "pkg/distribution", "pkg/client", "pkg/bundle", "pkg/omnirelay", "pkg/backup"}, true},
	{"L4 programs", []string{"pkg/hub", "pkg/agent"}, false},
	{"edges", []string{"pkg/cli", "tui", "plugins"}, false},
	{"commands", []string{"cmd"}, true},
	{"tests", []string{"test"}, true},
}

// allowed are arrows within a layer that the table refuses, each with its reason.
var allowed = map[string]string{
	"pkg/trust -> pkg/sign":      "signing metadata and manifests takes a signer",
	"plugins/builtin -> plugins": "the explicit lists of drivers",
}

// confined third-party modules: only packages under one of the paths import them.
var confined = map[string][]string{
	"cel.dev/cel-go":                                          {"pkg/expr"},
	"go.etcd.io/bbolt":                                        {"plugins/store/bolt"},
	"github.com/hashicorp/consul/api":                         {"plugins/store/consul"},
	"github.com/cloudflare/cfssl":                             {"plugins/ca/cfssl"},
	"github.com/theupdateframework/go-tuf":                    {"pkg/trust"},
	"github.com/secure-systems-lab/go-securesystemslib":       {"pkg/trust", "pkg/sign", "plugins/signer/file"},
	"github.com/spiffe/go-spiffe":                             {"pkg/identity", "pkg/mtls"},
	"sigs.k8s.io/structured-merge-diff":                       {"pkg/hub/ssa"},
	"github.com/spf13/cobra":                                  {"pkg/cli", "cmd"},
	"github.com/spf13/pflag":                                  {"pkg/cli", "cmd"},
	"go.yaml.in/yaml":                                         {"pkg/resource/source", "pkg/resource/decode", "pkg/cli"},
	"go.opentelemetry.io/otel/sdk":                            {"pkg/observe", "cmd"},
	"go.opentelemetry.io/otel/exporters":                      {"pkg/observe", "cmd"},
	"github.com/prometheus/client_golang/prometheus/promhttp": {"pkg/observe", "cmd"},
}

// pure packages import nothing that reaches outside the process.
var pureLayer = "L1 domain"
var impure = []string{"os", "os/exec", "net", "net/http", "io/ioutil", "math/rand", "math/rand/v2", "crypto/rand", "database/sql", "syscall", "google.golang.org/grpc"}

type file struct {
	path    string // relative to the module root
	pkg     string // directory, relative
	test    bool
	imports []string
}

func sources(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out []file
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata" || rel == "bin" || rel == "dist" {
				return filepath.SkipDir
			}
			if rel != "." {
				if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		s := file{path: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go")}
		for _, i := range f.Imports {
			v, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, v)
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("found %d Go files below %s: looking in the wrong place", len(out), root)
	}
	return out
}

func under(pkg, pattern string) bool {
	return pkg == pattern || strings.HasPrefix(pkg, pattern+"/")
}

// layerOf gives a package's layer index and the pattern that put it there.
func layerOf(pkg string) (int, string) {
	for i, l := range layers {
		for _, p := range l.patterns {
			if under(pkg, p) {
				return i, p
			}
		}
	}
	return -1, ""
}

// support reports whether pkg is test support (xxxtest beside xxx), which may
// use what tests may.
func support(pkg string) bool { return strings.HasSuffix(pkg, "test") }

func TestImportsPointDownwards(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || support(f.pkg) {
			continue
		}
		from, _ := layerOf(f.pkg)
		if from < 0 {
			if f.pkg != "." {
				t.Errorf("%s is in no layer: put package %s into test/arch and docs/architecture.md, or move it", f.path, f.pkg)
			}
			continue
		}
		for _, imp := range f.imports {
			rel, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if support(rel) && layers[from].name != "tests" {
				t.Errorf("%s imports test support %s", f.path, rel)
			}
			if !mayImport(f.pkg, rel) {
				to, _ := layerOf(rel)
				t.Errorf("%s imports %s: %q may not import %q", f.path, rel, layers[from].name, layers[to].name)
			}
		}
	}
}

// mayImport reports whether an arrow follows the table.
func mayImport(pkg, imported string) bool {
	from, fromPattern := layerOf(pkg)
	to, toPattern := layerOf(imported)
	switch {
	case to < 0:
		return false
	case to != from:
		return to < from
	case layers[from].siblings, under(imported, pkg):
		return true
	case allowed[fromPattern+" -> "+toPattern] != "", allowed[pkg+" -> "+toPattern] != "":
		return true
	case fromPattern == "plugins":
		// One plugin may be several packages, but knows no other plugin.
		return pluginOf(pkg) == pluginOf(imported)
	}
	return fromPattern == toPattern
}

// pluginOf cuts a package below plugins/<capability>/<name> to that.
func pluginOf(pkg string) string {
	parts := strings.Split(pkg, "/")
	return strings.Join(parts[:min(3, len(parts))], "/")
}

func TestOnlyCommandsAndTestsImportPlugins(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || under(f.pkg, "cmd") || under(f.pkg, "test") || under(f.pkg, "plugins") {
			continue
		}
		for _, imp := range f.imports {
			if strings.HasPrefix(imp, module+"/plugins/") || strings.HasPrefix(imp, module+"/tui") {
				t.Errorf("%s imports %s: pkg never imports plugins or tui", f.path, imp)
			}
		}
	}
}

func TestHubAgentAndBridgeDoNotKnowEachOther(t *testing.T) {
	programs := []string{"pkg/hub", "pkg/agent", "pkg/bridge"}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		for _, p := range programs {
			if !under(f.pkg, p) {
				continue
			}
			for _, imp := range f.imports {
				rel, ours := strings.CutPrefix(imp, module+"/")
				if ours && slices.ContainsFunc(programs, func(q string) bool { return q != p && under(rel, q) }) {
					t.Errorf("%s imports %s", f.path, rel)
				}
			}
		}
	}
}

func TestHeavyDependenciesStayConfined(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || support(f.pkg) || under(f.pkg, "test") {
			continue
		}
		for _, imp := range f.imports {
			for mod, homes := range confined {
				if under(imp, mod) && !slices.ContainsFunc(homes, func(h string) bool { return under(f.pkg, h) }) {
					t.Errorf("%s imports %s, which belongs in %s", f.path, imp, strings.Join(homes, ", "))
				}
			}
		}
	}
}

func TestDomainPackagesArePure(t *testing.T) {
	for _, f := range sources(t) {
		l, _ := layerOf(f.pkg)
		if f.test || support(f.pkg) || l < 0 || layers[l].name != pureLayer {
			continue
		}
		for _, imp := range f.imports {
			if slices.Contains(impure, imp) {
				t.Errorf("%s imports %s: the domain has no I/O, clock, or randomness", f.path, imp)
			}
		}
	}
}

// TestMeshctlStaysLight follows meshctl's imports through our packages: it must
// not reach a store driver, the CA, or a telemetry pipeline.
func TestMeshctlStaysLight(t *testing.T) {
	byPkg := make(map[string][]file)
	for _, f := range sources(t) {
		if !f.test {
			byPkg[f.pkg] = append(byPkg[f.pkg], f)
		}
	}
	forbidden := []string{"go.etcd.io/bbolt", "github.com/cloudflare/cfssl", "github.com/hashicorp/consul", "go.opentelemetry.io/collector"}
	seen := make(map[string]bool)
	var visit func(pkg string, trail []string)
	visit = func(pkg string, trail []string) {
		if seen[pkg] {
			return
		}
		seen[pkg] = true
		for _, f := range byPkg[pkg] {
			for _, imp := range f.imports {
				if slices.ContainsFunc(forbidden, func(m string) bool { return under(imp, m) }) {
					t.Errorf("meshctl reaches %s through %s", imp, strings.Join(append(trail, pkg), " -> "))
				}
				if rel, ours := strings.CutPrefix(imp, module+"/"); ours {
					visit(rel, append(trail, pkg))
				}
			}
		}
	}
	if len(byPkg["cmd/meshctl"]) == 0 {
		t.Fatal("cmd/meshctl has no sources")
	}
	visit("cmd/meshctl", nil)
}

// TestEveryPackageSaysWhatItIs holds each package to a doc comment.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := make(map[string]bool)
	exists := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test || under(s.pkg, "pkg/api") {
			continue
		}
		exists[s.pkg] = true
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", s.path), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			documented[s.pkg] = true
		}
	}
	for pkg := range exists {
		if !documented[pkg] {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}
