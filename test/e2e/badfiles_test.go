package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

// badFile is a file that must be refused, and where it is wrong.
type badFile struct {
	name, text string
	place      string // line:column
	code       fault.Code
	says       []string
}

func clusterWith(field string) string {
	return "apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata:\n  name: bad\nspec:\n  endpoints:\n    - address: 10.0.0.1:80\n" + field
}

// bomb expands to ten million values.
func bomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata: {name: bad}\nx0: &x0 [lol]\n")
	for i := 1; i < 8; i++ {
		fmt.Fprintf(&b, "x%d: &x%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*x%d, ", i-1), 9)+fmt.Sprintf("*x%d", i-1))
	}
	return b.String()
}

func manyClusters(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata: {name: c%d}\nspec: {endpoints: [{address: \"10.0.0.1:80\"}]}\n", i)
	}
	return b.String()
}

// badFiles are the mistakes and attacks that a file can hold.
var badFiles = []badFile{
	{"unknown field, near one that exists", strings.Replace(clusterWith(""), "endpoints", "endponts", 1), "6:3", fault.CodeUnknownField, []string{`"endponts"`, "endpoints?"}},
	{"unknown field in JSON", `{"apiVersion": "meshkit.dev/v1", "kind": "Cluster", "metadata": {"name": "bad"},` + "\n" + ` "spec": {"endpoints": [{"adress": "10.0.0.1:80"}]}}`, "2:26", fault.CodeUnknownField, []string{`"adress"`, "address?"}},
	{"unknown kind", strings.Replace(clusterWith(""), "Cluster", "Clusterr", 1), "2:7", fault.CodeUnknownKind, []string{"Cluster"}},
	{"key given twice", clusterWith("  connectTimeout: 1s\n  connectTimeout: 9s\n"), "9:3", fault.CodeDuplicateKey, []string{"line 8"}},
	{"resource given twice", clusterWith("") + "---\n" + clusterWith(""), "9:1", fault.CodeDuplicate, nil},
	{"alias bomb", bomb(), "", fault.CodeExpansion, []string{"100000"}},
	{"nesting bomb", "apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata: {name: bad}\nspec: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n", "", fault.CodeExpansion, nil},
	{"escape sequence in a name", strings.Replace(clusterWith(""), "name: bad", `name: "bad\e[31m"`, 1), "4:", fault.CodeControlCharacter, []string{`\u001b`}},
	{"raw escape character", strings.Replace(clusterWith(""), "name: bad", "name: bad\n  labels: {a: \"x\x1b[2Jx\"}", 1), "5:", fault.CodeControlCharacter, []string{`\u001b`}},
	{"text that runs backwards", strings.Replace(clusterWith(""), "name: bad", "name: bad\n  annotations: {note: \"a\u202egnp.exe\"}", 1), "5:", fault.CodeControlCharacter, []string{"202e"}},
	{"name that is none", strings.Replace(clusterWith(""), "name: bad", "name: Bad_Name", 1), "4:", fault.CodeFormat, []string{"Bad_Name"}},
	{"oversize resource", clusterWith(strings.Repeat("    - address: a-host-with-a-name.example.internal:8080\n", 6000)), "", fault.CodeTooLarge, []string{"262144"}},
	{"too many resources", manyClusters(10_001), "", fault.CodeTooMany, []string{"10000"}},
	{"not text", "\x89PNG\r\n\x1a\n\x00\xff\xfe", "1:1", fault.CodeEncoding, nil},
	{"tab as indentation", "apiVersion: meshkit.dev/v1\nkind: Cluster\nmetadata:\n\tname: bad\n", "4:", fault.CodeSyntax, nil},
	{"wrong type", strings.Replace(clusterWith(""), "10.0.0.1:80", "[1, 2]", 1), "7:", fault.CodeWrongType, nil},
	{"reference to nothing", "apiVersion: meshkit.dev/v1\nkind: Route\nmetadata:\n  name: bad\nspec:\n  service: bad\n  rules:\n    - name: all\n      clusters:\n        - name: nowhere\n", "10:", fault.CodeRefDangling, []string{"nowhere"}},
	{"condition that is not CEL", "apiVersion: meshkit.dev/v1\nkind: Policy\nmetadata:\n  name: bad\nspec:\n  authz:\n    default: deny\n    rules:\n      - name: a\n        effect: allow\n        when: request.tenant ==\n  targets:\n    - kind: Route\n      name: checkout\n", "11:", fault.CodeExprSyntax, nil},
	{"condition of the wrong type", "apiVersion: meshkit.dev/v1\nkind: Policy\nmetadata:\n  name: bad\nspec:\n  authz:\n    default: deny\n    rules:\n      - name: a\n        effect: allow\n        when: request.tenant + 1 == 2\n  targets:\n    - kind: Route\n      name: checkout\n", "11:", fault.CodeExprType, nil},
}

// TestBadFilesAreRefusedWhereTheyAreWrong applies each bad file together with a
// good one: the command ends with 65, names file, line, column and code, prints
// nothing that a terminal would obey, and nothing of the set is applied.
func TestBadFilesAreRefusedWhereTheyAreWrong(t *testing.T) {
	s := sharedSite(t)
	for _, f := range badFiles {
		t.Run(f.name, func(t *testing.T) {
			s := sharedSite(t)
			dir := s.Path("badfile")
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			s.write(t, "badfile/good.yaml", clusterYAML("good", "10.0.0.9:80"))
			bad := s.write(t, "badfile/bad.yaml", f.text)
			wantRefused(t, s.Run("meshctl", "apply", "-f", dir), 65, f.code, append(f.says, bad+":"+f.place)...)
			if r := s.Run("meshctl", "get", "cluster", "good"); r.Code != 5 {
				t.Errorf("the good file of a refused set was applied: exit %d\n%s", r.Code, r.Stdout)
			}
		})
	}
	s.unchanged(t)
	for _, f := range []string{"apply", "plan"} {
		wantRefused(t, s.Run("meshctl", f, "-f", s.Path("no-such-file.yaml")), 65, "", "no-such-file.yaml")
	}
}

// TestNamesFromTheCommandLineAreShownEscaped gives names that would act on the
// terminal where they are echoed.
func TestNamesFromTheCommandLineAreShownEscaped(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	const evil = "x\x1b]0;owned\a\u202e"
	for _, args := range [][]string{
		{"get", evil}, {"get", "cluster", evil}, {"get", "cluster/" + evil}, {"describe", "agent", evil}, {"describe", "cluster", evil},
		{"delete", "cluster/" + evil}, {"agent", "forget", evil}, {"token", "revoke", evil}, {"token", "create", "--label", evil + "=1"},
		{"history", "cluster/" + evil}, {"get", "agents", "-l", evil}, {"explain", evil}, {"apply", "-f", evil}, {"simulate", "route", "--service", evil},
		{"undo", "--message", evil, "99999"}, {"apply", "-f", s.mesh, "--message", evil}, {"apply", "-f", s.mesh, "--field-manager", evil},
		{"apply", "-f", s.mesh, "--request-id", evil}, {"key", "drop", evil}, {evil}, {"get", "routes", "--" + evil},
	} {
		r := s.Run("meshctl", args...)
		if i := strings.IndexFunc(r.Stdout+r.Stderr, acts); i >= 0 {
			t.Errorf("meshctl %q printed a control character: %q", args, r.Stdout+r.Stderr)
		}
		if r.Code == 0 && args[0] != "simulate" {
			t.Errorf("meshctl %q exited 0:\n%s%s", args, r.Stdout, r.Stderr)
		}
		if r.Code != 0 && !codePattern.MatchString(r.Stderr) {
			t.Errorf("meshctl %q gave no code: %q", args, r.Stderr)
		}
	}
}
