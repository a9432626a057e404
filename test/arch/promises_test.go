package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// promisesPage is the page whose names are held to the sources.
const promisesPage = "docs/promises.md"

// testName is how that page names a test.
var testName = regexp.MustCompile("`([a-z][a-z0-9_/]*)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// testsIn lists the tests and fuzz targets of a package's directory, whatever their
// build tags.
func testsIn(t *testing.T, root, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]bool)
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Type.Params.NumFields() == 1 {
				out[fn.Name.Name] = true
			}
		}
	}
	return out
}

func TestPromisesNameTestsThatExist(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, promisesPage))
	if err != nil {
		t.Fatal(err)
	}
	packages := make(map[string]map[string]bool)
	listed := make(map[string]bool)
	rows := make(map[string]int) // first word of a row: tests that it names
	for i, line := range strings.Split(string(text), "\n") {
		row, isRow := strings.CutPrefix(line, "| ")
		names := testName.FindAllStringSubmatch(line, -1)
		for _, m := range names {
			pkg, name := m[1], m[2]
			if packages[pkg] == nil {
				packages[pkg] = testsIn(t, root, pkg)
			}
			if !packages[pkg][name] {
				t.Errorf("%s:%d names %s.%s, which does not exist", promisesPage, i+1, pkg, name)
			}
			listed[pkg+"."+name] = true
		}
		if !isRow {
			continue
		}
		first, _, _ := strings.Cut(row, " ")
		heading := row == "promise | what it means here | tests |" || row == "what is wrong | tests |" || row == "outside bytes | targets |"
		if len(names) == 0 && !heading {
			t.Errorf("%s:%d names no test", promisesPage, i+1)
		}
		rows[first] += len(names)
	}
	for _, p := range []string{"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12"} {
		if rows[p] == 0 {
			t.Errorf("%s has no row for %s", promisesPage, p)
		}
	}
	for _, f := range sources(t) {
		if !f.test {
			continue
		}
		if packages[f.pkg] == nil {
			packages[f.pkg] = testsIn(t, root, f.pkg)
		}
	}
	for pkg, tests := range packages {
		for name := range tests {
			if strings.HasPrefix(name, "Fuzz") && !listed[pkg+"."+name] {
				t.Errorf("%s does not name %s.%s", promisesPage, pkg, name)
			}
		}
	}
}
