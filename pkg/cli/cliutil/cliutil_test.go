package cliutil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

func TestCleanShowsWhatATerminalWouldObey(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 漢字 ✓":  "plain äöü 漢字 ✓",
		"\x1b[31mred":     `\x1b[31mred`,
		"a\nb\tc\rd":      `a\nb\tc\rd`,
		"x\u202ey\u2066z": `x\u202ey\u2066z`,
		"\u200bzero":      `\u200bzero`,
		"bad\xffutf8":     `bad\xffutf8`,
		"c1\u009b31m":     `c1\x9b31m`,
		"\u2028line":      `\u2028line`,
		"\x07\x7f":        `\x07\x7f`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := CleanText("a\n\tb\x1b"); got != "a\n\tb\\x1b" {
		t.Errorf("CleanText: %q", got)
	}
}

func TestEveryRegisteredCodeHasADocumentedExitCode(t *testing.T) {
	documented := make(map[int]bool)
	for _, m := range ExitMeanings {
		documented[m.Code] = true
	}
	for _, e := range fault.All() {
		if code := ExitCode(fmt.Errorf("wrapped: %w", fault.New(e.Code, "x"))); !documented[code] || code == 0 {
			t.Errorf("%s exits with %d", e.Code, code)
		}
	}
	if ExitCode(nil) != 0 || ExitCode(errors.New("x")) != 1 {
		t.Error("nil and unnamed errors")
	}
}

func TestProtoJSONWritesEveryFieldAsDocumented(t *testing.T) {
	got := ProtoJSON(&adminv1.Agent{Node: "eu-1", Labels: map[string]string{"b": "2", "a": "1"}, Phase: controlv1.Phase_PHASE_STALE, TargetVersion: 1 << 40,
		JoinedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)), Active: &controlv1.ResumePoint{Digest: []byte{0xab}}})
	want := `{"node":"eu-1","labels":{"a":"1","b":"2"},"joinedAt":"2026-01-02T03:04:05.0000006Z","connected":false,"hub":"","phase":"stale",` +
		`"active":{"epoch":0,"version":0,"digest":"ab","view":""},"view":"","capabilities":[],"build":"","message":"","pinned":false,"lastSeen":null,` +
		`"certificateNotAfter":null,"nack":null,"targetVersion":1099511627776,"address":""}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = ProtoJSON(&adminv1.WatchPropagationResponse{P50: durationpb.New(1500 * time.Millisecond)})
	if !json.Valid(got) || !contains(string(got), `"p50":"1.5s"`) {
		t.Errorf("%s", got)
	}
	got = ProtoJSON(&adminv1.SimulateResponse{Decision: []byte(`{"cluster":"x"}`), Seq: 3})
	if string(got) != `{"decision":{"cluster":"x"},"seq":3}` {
		t.Errorf("%s", got)
	}
}

func contains(s, sub string) bool {
	for i := range len(s) - len(sub) + 1 {
		if s[i:i+len(sub)] == sub {
			return true
		}
	}
	return false
}

// value draws any JSON value, with strings that YAML has opinions about.
func value(depth int) *rapid.Generator[any] {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "yes", "No", "null", "~", "1", "1.5", "1e3", "0x1f", "2026-01-02", "- a", "a: b", "#x", "a #b", "'", `"`, "\u202e", "\x1b", " lead", "trail ", "a\nb", "<<", "=", "12:30:45", "é", "{", "*a", "&a", "!t", "%", "@", "`", "a,b", "true", `\\u003c`, "<&>"}))
	scalar := rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Map(rapid.Int32(), func(i int32) any { return float64(i) }), rapid.Map(text, func(s string) any { return s }))
	if depth == 0 {
		return scalar
	}
	return rapid.OneOf(scalar,
		rapid.Map(rapid.SliceOfN(value(depth-1), 0, 3), func(l []any) any { return append([]any{}, l...) }),
		rapid.Map(rapid.MapOfN(text, value(depth-1), 0, 3), func(m map[string]any) any { return m }))
}

func TestYAMLMeansTheJSONItWasMadeFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := value(3).Draw(t, "value")
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := YAML(data)
		if err != nil {
			t.Fatal(err)
		}
		if unsafe := Clean(string(out)); CleanText(string(out)) != string(out) {
			t.Fatalf("unsafe for a terminal: %s", unsafe)
		}
		var back any
		if err := yaml.Unmarshal(out, &back); err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		var want any
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, floats(back)); diff != "" {
			t.Fatalf("(-want +got):\n%s\nYAML:\n%s", diff, out)
		}
	})
}

// floats turns YAML's integers into JSON's numbers.
func floats(v any) any {
	switch v := v.(type) {
	case int:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = floats(v[k])
		}
	}
	return v
}

func TestIndentJSONEscapesWithoutChangingTheMeaning(t *testing.T) {
	in := []byte("{\"a\":\"x\u202ey\U000e0001\u009b\"}")
	out, err := IndentJSON(in)
	if err != nil {
		t.Fatal(err)
	}
	if CleanText(string(out)) != string(out) {
		t.Errorf("unsafe: %q", out)
	}
	var before, after any
	if json.Unmarshal(in, &before) != nil || json.Unmarshal(out, &after) != nil || !cmp.Equal(before, after) {
		t.Errorf("%s became %s", in, out)
	}
}

func TestRetryCommandIsTheOneTypedWithTheRequestID(t *testing.T) {
	a := &App{Args: []string{"meshctl", "apply", "-f", "my mesh/", "--request-id", "old", "--request-id=older", "-m", "it's"}}
	if got, want := a.RetryCommand("new-id"), `meshctl apply -f 'my mesh/' -m 'it'\''s' --request-id=new-id`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSelectorsAreCheckedBeforeTheyAreSent(t *testing.T) {
	for _, good := range []string{"", "a=b", "a!=b,c,!d", "meshkit.dev/x=1"} {
		if err := CheckSelector(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"=b", ",", "a=b,,c", "a==b", "!", "a b", "x\x1b[2J", "a=\u202e", "a=b=c", "!-a"} {
		if err := CheckSelector(bad); !errors.Is(err, fault.CodeSelector) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestContextFileSurvivesARoundTripAndRefusesDoubles(t *testing.T) {
	path := t.TempDir() + "/sub/config.yaml"
	c, err := LoadContexts(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Put(Context{Name: "eu", Hub: "h:1", CAFile: "/ca.pem", CertFile: "/c.pem", KeyFile: "/k.pem"})
	c.Put(Context{Name: "us", Hub: "h:2", CAFile: "/ca.pem", CertFile: "/c.pem", KeyFile: "/k.pem"})
	c.CurrentContext = "us"
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	back, err := LoadContexts(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, back, cmp.AllowUnexported(Contexts{})); diff != "" {
		t.Errorf("(-saved +loaded):\n%s", diff)
	}
	back.Contexts[0].Name = "us"
	if err := back.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadContexts(path); !errors.Is(err, fault.CodeContextFile) {
		t.Errorf("two contexts of one name: %v", err)
	}
}

func TestAnInterruptEndsWaitingForInput(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	never, hold := io.Pipe()
	defer hold.Close()
	r := Interruptible(ctx, io.MultiReader(strings.NewReader("typed"), never))
	buf := make([]byte, 16)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "typed" {
		t.Fatalf("Read = %q, %v", buf[:n], err)
	}
	interrupt()
	if _, err := r.Read(buf); !errors.Is(err, context.Canceled) {
		t.Errorf("Read after the interrupt: %v", err)
	}
}

func TestAgesAreInTheLargestUnitAndNowIsNotTheFuture(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for want, t0 := range map[string]time.Time{
		"":      {},
		"0s":    now.Add(999 * time.Millisecond), // another machine's clock, or a rounding
		"59s":   now.Add(-59 * time.Second),
		"47h":   now.Add(-47*time.Hour - 59*time.Minute),
		"2d":    now.Add(-48 * time.Hour),
		"in 1s": now.Add(time.Second),
		"in 5m": now.Add(5 * time.Minute),
	} {
		if got := Ago(now, t0); !t0.After(now) && got != want || t0.After(now) && got != "0s" {
			t.Errorf("ago of %s = %q", t0, got)
		}
		if got := Age(now, t0); got != want {
			t.Errorf("the age of %v is %q, want %q", t0, got, want)
		}
	}
}

func TestATableGoesOnWithTheWidthsOfTheOneBefore(t *testing.T) {
	var out strings.Builder
	first := &Table{Headings: []string{"NAME", "SEQ"}, Rows: [][]string{{"checkout", "1"}}}
	plain := func(h string) string { return h }
	if err := first.Write(&out, true, plain); err != nil {
		t.Fatal(err)
	}
	next := &Table{Headings: first.Headings, Rows: [][]string{{"x", "2"}}, Widths: first.Widths}
	if err := next.Write(&out, false, plain); err != nil {
		t.Fatal(err)
	}
	if want := "NAME       SEQ\ncheckout   1\nx          2\n"; out.String() != want {
		t.Errorf("wrote\n%swant\n%s", out.String(), want)
	}
}

func TestTextIsWrappedBetweenWordsAndOnlyWhenItDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		text            string
		columns, indent int
		want            string
	}{
		{"two  spaces stay", 40, 2, "two  spaces stay"},
		{"one two three", 8, 0, "one two\nthree"},
		{"one two three", 9, 2, "one two\n  three"},
		{"näïve ünïcode", 13, 0, "näïve ünïcode"},
		{"alongwordthatcannotbreak x", 5, 1, "alongwordthatcannotbreak\n x"},
		{"no terminal no wrapping", 0, 0, "no terminal no wrapping"},
	} {
		if got := Wrap(c.text, c.columns, c.indent); got != c.want {
			t.Errorf("Wrap(%q, %d, %d) = %q, want %q", c.text, c.columns, c.indent, got, c.want)
		}
	}
	if got, want := WrapParagraphs("a b c\nd\n\n  - keep this list\n", 5), "a b c\nd\n\n  - keep this list\n"; got != want {
		t.Errorf("WrapParagraphs = %q, want %q", got, want)
	}
}

func TestARowMayBeShorterThanTheHeadings(t *testing.T) {
	for columns := range 30 {
		table := &Table{Columns: columns, Headings: []string{"NAME", "ADDRESS", "ROLE"}}
		table.Add("hub1")
		table.Add()
		var b strings.Builder
		if err := table.Write(&b, true, func(h string) string { return h }); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(b.String(), "\n"); lines[1] != "hub1" || lines[2] != "" {
			t.Errorf("%d columns:\n%s", columns, &b)
		}
	}
}

func TestATableThatIsTooWideGoesOnBelowEachRow(t *testing.T) {
	table := &Table{Columns: 40, Headings: []string{"NAME", "ADDRESS", "ROLE", "SEQ", "UP", "PROBLEM"}, Rows: [][]string{
		{"hub1", "10.0.0.1:8443", "leader", "12", "5m", ""},
		{"hub2", "10.0.0.2:8443", "silent", "", "", "does not answer: dial tcp 10.0.0.2:8443: connect: connection refused"},
		{"hub3", "10.0.0.3:8443", "follower, drained", "", "", ""},
	}}
	var b strings.Builder
	if err := table.Write(&b, true, func(h string) string { return h }); err != nil {
		t.Fatal(err)
	}
	want := `NAME   ADDRESS         ROLE
hub1   10.0.0.1:8443   leader
    SEQ 12   UP 5m
hub2   10.0.0.2:8443   silent
    PROBLEM does not answer: dial tcp
    10.0.0.2:8443: connect: connection
    refused
hub3   10.0.0.3:8443   follower, drained
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	b.Reset()
	table.Columns = 0
	if err := table.Write(&b, true, func(h string) string { return h }); err != nil || strings.Count(b.String(), "\n") != 4 {
		t.Errorf("without a terminal: %v\n%s", err, b.String())
	}
}
