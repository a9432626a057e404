package decode

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"github.com/meshkit/meshkit/pkg/resource/source"
)

// boxSpec has one field of each type.
type boxSpec struct {
	Text  string            `json:"text" required:"true" doc:"Text." example:"hello"`
	Num   float64           `json:"num,omitempty" min:"0" max:"10" doc:"Number."`
	Small int32             `json:"small,omitempty" doc:"Integer of 32 bits."`
	Big   uint64            `json:"big,omitempty" doc:"Integer."`
	Flag  *bool             `json:"flag,omitempty" cap:"flags/v1" doc:"Boolean."`
	Wait  resource.Duration `json:"wait,omitempty" min:"1ms" max:"1h" default:"5s" doc:"Duration."`
	Mode  string            `json:"mode,omitempty" enum:"slow,fast" doc:"Enumeration."`
	Words []string          `json:"words,omitempty" maxItems:"3" unique:"true" doc:"Words."`
	Table map[string]string `json:"table,omitempty" doc:"Table."`
	Boxes []innerBox        `json:"boxes,omitempty" doc:"Boxes."`
}

type innerBox struct {
	Name string `json:"name" required:"true" format:"name" doc:"Name."`
	Deep *struct {
		Word string `json:"word,omitempty" doc:"Word."`
	} `json:"deep,omitempty" doc:"Deep."`
}

func boxes(kind string) *schema.Schema {
	if kind == "Box" {
		return schema.Of(boxSpec{})
	}
	return nil
}

func box(name, spec string) string {
	return fmt.Sprintf("apiVersion: meshkit.dev/v1\nkind: Box\nmetadata:\n  name: %s\nspec:\n  text: a\n%s", name, spec)
}

func decodeBox(t *testing.T, text string) ([]Document, []resource.Finding) {
	t.Helper()
	return Resources("box.yaml", []byte(text), boxes, resource.DefaultLimits())
}

func TestPositionsPointAtValuesKeysAndTheNearestAncestor(t *testing.T) {
	docs, findings := decodeBox(t, "# first\n---\n"+box("other", "")+"---\n"+box("a", "  num: 5\n  table:\n    a.b/c: x\n  boxes:\n    - name: one\n      deep:\n        word: w\n    - {name: two}\n"))
	if len(findings) > 0 || len(docs) != 2 {
		t.Fatal(findings)
	}
	for path, want := range map[string]string{
		"spec.num": "16:8", "spec.text": "15:9", "spec.table": "17:3", `spec.table["a.b/c"]`: "18:12", "spec.boxes": "19:3", "spec.boxes[0]": "20:7", "spec.boxes[0].name": "20:13",
		"spec.boxes[0].deep": "21:7", "spec.boxes[0].deep.word": "22:15", "spec.boxes[1].name": "23:14", "spec.boxes[1].deep.word": "23:7", "spec.boxes[9]": "19:3",
		"spec.mode": "14:1", "metadata.name": "13:9", "scope.nodeLabels": "10:1", "": "10:1", "spec.boxes[x": "19:3", "][": "10:1",
	} {
		if got := docs[1].Positions.At(path); got.String() != "box.yaml:"+want {
			t.Errorf("At(%q) = %s, want %s", path, got, want)
		}
	}
	if got := (source.Positions{}).At("spec"); got != (resource.Position{}) {
		t.Errorf("zero Positions know %s", got)
	}
}

func TestColumnsCountCharacters(t *testing.T) {
	_, findings := decodeBox(t, box("a", "  table: {é😀: x, b: 5}\n"))
	if len(findings) != 1 || findings[0].Pos.String() != "box.yaml:7:21" {
		t.Errorf("%v", findings)
	}
	_, findings = decodeBox(t, `{"apiVersion":"meshkit.dev/v1","kind":"Box","metadata":{"name":"a"},`+"\n"+`"spec":{"text":"é😀","num":"x"}}`)
	if len(findings) != 1 || findings[0].Pos.String() != "box.yaml:2:27" {
		t.Errorf("%v", findings)
	}
}

func TestIntegersThatTheGoTypeOrADoubleCannotHoldAreRefused(t *testing.T) {
	for spec, ok := range map[string]bool{
		"small: 2147483647": true, "small: 2147483648": false, "small: -2147483649": false, "big: 9007199254740991": true, "big: 9007199254740992": false, "big: -1": false,
		"num: .inf": false, "num: .nan": false, "num: 1e1": true, "num: 10.000001": false, "num: .5": false, "small: 1_0": false, "small: 0o7": false, "small: +1": false,
	} {
		if _, findings := decodeBox(t, box("a", "  "+spec+"\n")); resource.HasErrors(findings) == ok {
			t.Errorf("%s: %v", spec, findings)
		}
	}
}

func TestFindingsAreBoundedAndTheRestIsCounted(t *testing.T) {
	var b strings.Builder
	b.WriteString(box("a", ""))
	for i := range 500 {
		fmt.Fprintf(&b, "  unknown%d: 1\n", i)
	}
	_, findings := decodeBox(t, b.String())
	if len(findings) != 101 {
		t.Fatalf("%d findings", len(findings))
	}
	last := findings[100]
	if last.Code != fault.CodeMoreFindings || last.Severity != resource.Error || !strings.HasPrefix(last.Reason, "and 400 more") || last.Pos.Line != 106 {
		t.Errorf("%+v", last)
	}
}

func TestLimitsRefuseBeforeTheWorkIsDone(t *testing.T) {
	lim := resource.DefaultLimits()
	lim.RequestBytes, lim.DocumentBytes, lim.ResourceBytes, lim.RequestResources, lim.StringBytes = 4000, 2000, 500, 3, 300
	for name, tc := range map[string]struct {
		text string
		code fault.Code
		docs int
	}{
		"request":   {strings.Repeat("# x\n", 2000), fault.CodeTooLarge, 0},
		"document":  {box("a", "") + "---\n" + box("b", strings.Repeat("# x\n", 600)), fault.CodeTooLarge, 1},
		"resource":  {box("a", "  mode: fast\n  words: ["+strings.Repeat("a", 200)+", "+strings.Repeat("b", 300)+"]\n"), fault.CodeTooLarge, 0},
		"string":    {box("a", "  words: ["+strings.Repeat("a", 301)+"]\n"), fault.CodeRange, 0},
		"resources": {box("a", "") + "---\n" + box("b", "") + "---\n" + box("c", "") + "---\n" + box("d", "") + "---\n" + box("e", ""), fault.CodeTooMany, 3},
	} {
		docs, findings := Resources("x", []byte(tc.text), boxes, lim)
		if len(docs) != tc.docs || len(findings) != 1 || findings[0].Code != tc.code {
			t.Errorf("%s: %d documents, %v", name, len(docs), findings)
		}
	}
}

func TestBombsAreRefusedFast(t *testing.T) {
	doubling := "a0: &a0 [x, x]\n"
	for i := 1; i < 200; i++ {
		doubling += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	long := "a: &a " + strings.Repeat("x", 60_000) + "\nb: [" + strings.Repeat("*a, ", 2000) + "]\n"
	for name, text := range map[string]string{
		"doubling": doubling, "long text": long, "deep flow": strings.Repeat("[", 500_000), "deep block": strings.Repeat("- ", 9_000) + "x",
		"loop": "a: &a {b: *a}\n", "deep json": strings.Repeat(`{"a":`, 100_000), "wide": "a: [" + strings.Repeat("1,", 200_000) + "]\n",
	} {
		began := time.Now()
		docs, findings := Resources("x", []byte(text), boxes, resource.DefaultLimits())
		if len(docs) != 0 || len(findings) == 0 {
			t.Errorf("%s: accepted", name)
		}
		if c := findings[0].Code; c != fault.CodeExpansion && c != fault.CodeSyntax {
			t.Errorf("%s: %v", name, findings[0])
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

func TestOneBrokenDocumentLeavesTheOthersReadable(t *testing.T) {
	docs, findings := decodeBox(t, box("a", "")+"---\nkey: [1\n---\n"+box("b", "")+"---\n: : :\n---\n"+box("c", ""))
	if len(docs) != 3 || len(findings) != 2 {
		t.Fatalf("%d documents, %v", len(docs), findings)
	}
}

func TestDocumentMarkersInsideTextDoNotSplit(t *testing.T) {
	docs, findings := decodeBox(t, strings.Replace(box("a", ""), "metadata:\n", "metadata:\n  annotations:\n    note: |\n      ---\n      text\n", 1)+"--- # comment\n"+box("b", ""))
	if len(docs) != 2 || len(findings) != 0 {
		t.Fatalf("%d documents, %v", len(docs), findings)
	}
	if got := docs[0].Resource.Metadata.Annotations["note"]; got != "---\ntext\n" {
		t.Errorf("%q", got)
	}
}

func TestServerFieldsAreReadPastAndTheVersionIsKept(t *testing.T) {
	plain, _ := decodeBox(t, box("a", ""))
	docs, findings := decodeBox(t, strings.Replace(box("a", ""), "metadata:\n", "metadata:\n  resourceVersion: 42\n  generation: 7\n  createdAt: 2026-01-01T00:00:00Z\n", 1)+"status: {x: y}\n")
	if len(docs) != 1 || len(findings) != 0 {
		t.Fatal(findings)
	}
	if string(docs[0].Content) != string(plain[0].Content) || docs[0].ResourceVersion != 42 {
		t.Errorf("%s, version %d", docs[0].Content, docs[0].ResourceVersion)
	}
}

func TestChecksRunOnEveryValueThatDecodedAndStopOnNone(t *testing.T) {
	d := Decoder{Schemas: boxes, Kinds: []string{"Box"}, Limits: resource.DefaultLimits(), Check: func(r *resource.Resource) []resource.Finding {
		return []resource.Finding{resource.Errorf(fault.CodeInconsistent, r.Key(), "spec.num", "", "checked")}
	}}
	_, findings := d.Decode("x", []byte(box("a", "  num: 50\n")))
	if len(findings) != 2 || findings[0].Pos.String() != "x:7:8" || findings[1].Pos.String() != "x:7:8" {
		t.Errorf("a range error hides the check: %v", findings)
	}
	_, findings = d.Decode("x", []byte(box("a", "  num: text\n")))
	if len(findings) != 1 {
		t.Errorf("a check ran on a value of the wrong type: %v", findings)
	}
}
