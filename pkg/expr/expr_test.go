package expr

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

func TestConditionsDecideOnTheRequest(t *testing.T) {
	in := Input{
		Service: "checkout", Procedure: "Checkout::pay", Headers: map[string]string{"x-role": "admin", "x-n": "7"},
		Caller: "web", Tenant: "acme", Shard: "s1", RoutingKey: "u42", Spiffe: "spiffe://eu-west/node/n1",
	}
	cases := map[string]bool{
		`request.service == "checkout"`:                                true,
		`request.procedure.startsWith("Checkout::")`:                   true,
		`request.headers["x-role"] == "admin"`:                         true,
		`"x-none" in request.headers`:                                  false,
		`has(request.headers.missing)`:                                 false,
		`request.caller == "web" && request.tenant in ["acme", "b"]`:   true,
		`request.shard != "s1" || request.routingKey.endsWith("43")`:   false,
		`source.spiffe.matches("^spiffe://eu-west/node/n[0-9]+$")`:     true,
		`int(request.headers["x-n"]) > 6`:                              true,
		`request.headers.exists(k, k == "x-role")`:                     true,
		`["a", "b"].exists(t, t == request.tenant)`:                    false,
		`request.tenant == "" ? false : size(request.tenant) == 4`:     true,
		`request.headers.all(k, size(request.headers[k]) < 10)`:        true,
		`!(request.service == "x") && !("y" in request.headers)`:       true,
		`request.service + request.tenant == "checkoutacme"`:           true,
		`duration("5s") > duration("1s") && request.service != "none"`: true,
	}
	for src, want := range cases {
		p, err := Compile(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got, err := p.Eval(in); err != nil || got != want {
			t.Errorf("%s = %v, %v; want %v", src, got, err, want)
		}
	}
}

func TestUnusableConditionsAreRefusedWithCodeAndColumn(t *testing.T) {
	cases := []struct {
		name, src    string
		code         fault.Code
		line, column int
		says         string
	}{
		{"syntax", `request.service == `, fault.CodeExprSyntax, 1, 20, ""},
		{"syntax on line 2", "request.service == \"a\" &&\n  (request.tenant == \"b\"", fault.CodeExprSyntax, 2, 25, ""},
		{"empty", "  ", fault.CodeExprSyntax, 1, 1, "empty"},
		{"unknown field", `request.tennant == "a"`, fault.CodeExprType, 1, 1, "did you mean request.tenant?"},
		{"unknown name", `tenant == "a"`, fault.CodeExprType, 1, 1, "request.tenant"},
		{"type", `request.service == 3`, fault.CodeExprType, 1, 17, ""},
		{"not bool", `request.service`, fault.CodeExprType, 1, 1, "string"},
		{"dyn is not bool", `dyn(request.service)`, fault.CodeExprType, 1, 1, "bool"},
		{"time zone tables", `timestamp("2020-01-01T00:00:00Z").getHours("Europe/Paris") == 1`, fault.CodeExprType, 1, 10, ""},
		{"pattern of the request", `request.service.matches(request.tenant)`, fault.CodeExprType, 1, 32, "constant"},
		{"bad pattern", `request.service.matches("(")`, fault.CodeExprType, 1, 25, ""},
		{"cost", `request.headers.exists(a, request.headers.exists(b, request.headers[a].contains(request.headers[b])))`, fault.CodeExprCost, 0, 0, "100000"},
		{"size", `request.service == "` + strings.Repeat("a", MaxSource) + `"`, fault.CodeExprSize, 0, 0, "4096"},
		{"nesting", strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), fault.CodeExprSyntax, 1, 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Compile(c.src)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("error is %v", err)
			}
			if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %s %q; want %s saying %q", fault.CodeOf(err), err, c.code, c.says)
			}
			if c.column > 0 && (e.Line != c.line || e.Column != c.column) {
				t.Errorf("at %d:%d (%v); want %d:%d", e.Line, e.Column, err, c.line, c.column)
			}
		})
	}
}

func TestEvaluationStopsAtTheCostLimitOnHugeRequests(t *testing.T) {
	p, err := Compile(`request.headers.exists(k, request.headers[k].contains("needle"))`)
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]string{}
	for i := range 2000 {
		headers[fmt.Sprint("h", i)] = strings.Repeat("x", 8000)
	}
	if _, err = p.Eval(Input{Headers: headers}); fault.CodeOf(err) != fault.CodeExprCost {
		t.Fatalf("error is %v; want the cost limit", err)
	}
}

func TestFailingEvaluationIsAnErrorNotAVerdict(t *testing.T) {
	p, err := Compile(`request.headers["absent"] == "x"`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.Eval(Input{}); fault.CodeOf(err) != fault.CodeExprEval {
		t.Fatalf("error is %v", err)
	}
}

// TestNothingOfCELIsBuiltBeforeTheFirstCompile runs itself in a fresh process, in
// which the environment is certainly not built yet.
func TestNothingOfCELIsBuiltBeforeTheFirstCompile(t *testing.T) {
	if os.Getenv("EXPR_TEST_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "EXPR_TEST_CHILD=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	idle := heap()
	if _, err := Compile("true"); err != nil {
		t.Fatal(err)
	}
	built := heap() - idle
	t.Logf("heap before: %d KiB; added by the first Compile: %d KiB", idle>>10, built>>10)
	if built < 200<<10 {
		t.Errorf("the first Compile added %d bytes: CEL had been set up before", built)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestProgramMemoryIsModest(t *testing.T) {
	if _, err := Compile("true"); err != nil {
		t.Fatal(err)
	}
	const n = 200
	programs := make([]*Program, n)
	before := heap()
	for i := range programs {
		programs[i], _ = Compile(fmt.Sprintf(`source.spiffe.startsWith("spiffe://eu-west/") && request.tenant in ["acme%d", "globex"]`, i))
	}
	each := (heap() - before) / n
	runtime.KeepAlive(programs)
	t.Logf("%d bytes a program", each)
	if each > 40<<10 {
		t.Errorf("a compiled condition takes %d bytes", each)
	}
}

func FuzzCompileAndEvalNeverPanic(f *testing.F) {
	f.Add(`request.service == "a" && request.headers.exists(k, k == "b")`)
	f.Add(`[1,2].map(x, x/0).size() == 2`)
	f.Fuzz(func(t *testing.T, src string) {
		p, err := Compile(src)
		if err != nil {
			if fault.CodeOf(err) == "" {
				t.Fatalf("%q: error without code: %v", src, err)
			}
			return
		}
		_, _ = p.Eval(Input{Service: "a", Headers: map[string]string{"b": "c"}})
	})
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(`source.spiffe.startsWith("spiffe://eu-west/") && request.tenant in ["acme", "globex"]`); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEval(b *testing.B) {
	p, err := Compile(`source.spiffe.startsWith("spiffe://eu-west/") && request.tenant in ["acme", "globex"]`)
	if err != nil {
		b.Fatal(err)
	}
	in := Input{Spiffe: "spiffe://eu-west/node/a", Tenant: "globex"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Eval(in); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func Example() {
	p, err := Compile(`request.tenant == "acme" && source.spiffe.startsWith("spiffe://eu-west/")`)
	if err != nil {
		fmt.Println(err)
		return
	}
	allowed, err := p.Eval(Input{Tenant: "acme", Spiffe: "spiffe://eu-west/node/n1"})
	fmt.Println(allowed, err)
	// Output: true <nil>
}
