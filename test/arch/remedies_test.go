package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

var (
	// dotted is a setting, or something that looks like one, such as a file's name.
	dotted = regexp.MustCompile("(?:^|[\\s(\"'`])([a-z][A-Za-z]*(?:\\.[a-z][A-Za-z]*)+)(?:$|[\\s)\"'`,;:]|\\.(?:\\s|$))")
	flag   = regexp.MustCompile("(?:^|[\\s(\"'`])--([a-z][a-z-]*)")
	named  = regexp.MustCompile(`\.(yaml|md|json|key|pem|mk|db|log)$`)
)

// notSettings begin dotted words that are fields of resources, as meshctl explain takes
// them too, or names in expressions.
var notSettings = []string{"spec.", "metadata.", "scope.", "policy.", "domainsettings.", "request.", "source."}

// TestRemediesNameSettingsAndFlagsThatExist holds what errors tell people to set against
// the configurations of hub and agent, and the flags of the programs.
func TestRemediesNameSettingsAndFlagsThatExist(t *testing.T) {
	settings := append(settingsOf(t, "cmd/meshhub/config.go", "config"), settingsOf(t, "pkg/agent/config.go", "Config")...)
	for _, s := range []string{"agents.admissionRate", "bundle.hook"} {
		if !slices.Contains(settings, s) {
			t.Fatalf("%s is not among the settings: looking in the wrong place", s)
		}
	}
	flags, remedies := stringsOf(t)
	for _, e := range fault.All() {
		remedies = append(remedies, remedy{string(e.Code), e.Remedy})
	}
	for _, r := range remedies {
		for _, m := range dotted.FindAllStringSubmatch(r.text, -1) {
			word := m[1]
			if named.MatchString(word) || slices.ContainsFunc(notSettings, func(p string) bool { return strings.HasPrefix(word, p) }) {
				continue
			}
			if !slices.Contains(settings, word) {
				t.Errorf("%s: the remedy names the setting %s, which does not exist", r.where, word)
			}
		}
		for _, m := range flag.FindAllStringSubmatch(r.text, -1) {
			if !flags[m[1]] {
				t.Errorf("%s: the remedy names the flag --%s, which does not exist", r.where, m[1])
			}
		}
	}
}

type remedy struct{ where, text string }

// settingsOf lists the settings, like "agents.maxStreams", of a configuration whose
// sections are structs of the same file.
func settingsOf(t *testing.T, path, top string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", path), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	structs := make(map[string]*ast.StructType)
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = s
			}
		}
		return true
	})
	var out []string
	var add func(prefix string, s *ast.StructType)
	add = func(prefix string, s *ast.StructType) {
		for _, field := range s.Fields.List {
			if field.Tag == nil {
				continue
			}
			name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
			out = append(out, prefix+name)
			if id, ok := field.Type.(*ast.Ident); ok && structs[id.Name] != nil {
				add(prefix+name+".", structs[id.Name])
			}
		}
	}
	if structs[top] == nil {
		t.Fatalf("%s has no struct %s", path, top)
	}
	add("", structs[top])
	return out
}

// stringsOf finds what may be a flag's name, which is any string of a program or of
// meshctl that looks like one, and the remedies that are given at a place.
func stringsOf(t *testing.T) (flags map[string]bool, remedies []remedy) {
	t.Helper()
	flags = make(map[string]bool)
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
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && (under(s.pkg, "cmd") || under(s.pkg, "pkg/cli")) {
					flags[text] = true
				}
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "WithRemedy" || len(n.Args) == 0 {
					return true
				}
				if lit, ok := n.Args[0].(*ast.BasicLit); ok {
					if text, err := strconv.Unquote(lit.Value); err == nil {
						remedies = append(remedies, remedy{s.path, text})
					}
				}
			}
			return true
		})
	}
	if len(remedies) < 20 {
		t.Fatalf("found %d remedies: looking in the wrong place", len(remedies))
	}
	return flags, remedies
}
