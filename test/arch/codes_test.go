package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryErrorCodeIsGiven finds codes that nothing returns: `meshctl explain`
// would tell of an error that cannot happen.
func TestEveryErrorCodeIsGiven(t *testing.T) {
	declared := make(map[string]string) // by constant, the file
	used := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test || under(s.pkg, "pkg/api") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", s.path), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if id, ok := n.Type.(*ast.Ident); ok && s.pkg == "pkg/fault" && id.Name == "Code" {
					for _, name := range n.Names {
						declared[name.Name] = s.path
					}
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "fault" && strings.HasPrefix(n.Sel.Name, "Code") {
					used[n.Sel.Name] = true
				}
			}
			return true
		})
	}
	if len(declared) < 100 {
		t.Fatalf("found %d codes: looking in the wrong place", len(declared))
	}
	for name, file := range declared {
		if !used[name] {
			t.Errorf("%s declares %s, which nothing returns", file, name)
		}
	}
}
