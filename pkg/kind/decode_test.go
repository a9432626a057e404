package kind_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/kindtest"
	"github.com/meshkit/meshkit/pkg/resource"
)

func TestEveryKindPassesTheSuite(t *testing.T) {
	for _, d := range kind.All() {
		t.Run(d.Kind, func(t *testing.T) { kindtest.Run(t, d) })
		t.Run(d.Kind+"Corpus", func(t *testing.T) { kindtest.Corpus(t, filepath.Join(strings.ToLower(d.Kind), "testdata")) })
	}
}

func TestEnvelopeMistakesAreFoundInPlace(t *testing.T) { kindtest.Corpus(t, "testdata") }

func FuzzDecode(f *testing.F) {
	for _, d := range kind.All() {
		f.Add([]byte(d.Example))
	}
	for _, seed := range []string{
		"", "---", "---\n---\n", "# only a comment\n", "\ufeffkind: Route\n", "a: &a [*a]\n", "a: &a {b: &b [1, 2], c: *b}\nd: *a\n",
		"<<: {a: b}\n", "? [a, b]\n: c\n", "a: !!binary aGk=\n", "%YAML 1.2\n---\na: 1\n", "a: 'x\n", "\ta: b\n", "a: |\n  text\n ---\n", "{\"a\": \"\\ud83d\\ude00\"}",
		"{\"a\": \"\\ud83d\"}", "{\"a\": 1e400}", "[1,2", "kind: List\nitems: []\n", "a: .inf\nb: 0x10\nc: 1_000\nd: 010\n", "a: \"\\e[31m\"\n", "x: ~\n...\ny: 1\n", "\xff\xfe",
	} {
		f.Add([]byte(seed))
	}
	lim := resource.DefaultLimits()
	lim.Findings = 20
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, findings := kind.Decode("f.yaml", data, lim)
		for _, fd := range findings {
			if fd.Pos.File != "f.yaml" || fd.Pos.Line < 1 || fd.Pos.Column < 1 {
				t.Fatalf("finding without a position: %#v", fd)
			}
			if strings.ContainsFunc(fd.String(), func(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e }) {
				t.Fatalf("finding holds a control character: %q", fd.String())
			}
		}
		if len(findings) > lim.Findings+1 {
			t.Fatalf("%d findings, limit %d", len(findings), lim.Findings)
		}
		for _, d := range docs {
			kindtest.RoundTrip(t, d)
		}
	})
}

// routes renders n routes of about 1 KiB.
func routes(n int, asJSON bool) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: meshkit.dev/v1\nkind: Route\nmetadata:\n  name: route-%d\n  labels: {team: payments, tier: gold}\nspec:\n  service: service-%d\n  timeout: 2s\n  rules:\n", i, i)
		for r := range 3 {
			fmt.Fprintf(&b, "    - name: rule-%d\n      match:\n        procedures: [\"Checkout::pay\", \"Checkout::refund*\"]\n        headers:\n          - name: x-beta\n            exact: \"true\"\n        tenants: [acme, globex]\n      clusters:\n        - name: checkout-v1\n          weight: 90\n        - name: checkout-v2\n          weight: 10\n", r)
		}
	}
	if !asJSON {
		return b.Bytes()
	}
	docs, _ := kind.Decode("x", b.Bytes(), resource.DefaultLimits())
	b.Reset()
	for _, d := range docs {
		b.Write(d.Content)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func benchmarkDecode(b *testing.B, asJSON bool) {
	data := routes(10_000, asJSON)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		docs, findings := kind.Decode("x.yaml", data, resource.DefaultLimits())
		if len(docs) != 10_000 || len(findings) > 0 {
			b.Fatalf("%d documents, %v", len(docs), findings)
		}
	}
}

// The budget for 10,000 resources of about 1 KiB is 3 s on one core.
func BenchmarkDecodeYAML10000(b *testing.B) { benchmarkDecode(b, false) }
func BenchmarkDecodeJSON10000(b *testing.B) { benchmarkDecode(b, true) }
