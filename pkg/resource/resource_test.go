package resource

import (
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

func TestKeysRoundTripAndRefuseWhatIsNone(t *testing.T) {
	for _, s := range []string{"Route/default/checkout", "DomainSettings/default/domain", "Cluster/a-b/x.y-z"} {
		k, err := ParseKey(s)
		if err != nil || k.String() != s {
			t.Errorf("ParseKey(%q) = %v, %v", s, k, err)
		}
	}
	for _, s := range []string{"", "Route", "Route/default", "route/default/x", "Route//x", "Route/default/", "Route/default/x/y", "Route/default/X", "Route/a.b/x", "Ro\x1bute/default/x", "Route/default/-x", "Route/default/" + strings.Repeat("a", 254)} {
		_, err := ParseKey(s)
		if fault.CodeOf(err) != fault.CodeResourceKey {
			t.Errorf("ParseKey(%q) gives %v", s, err)
		}
		if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("the error shows an escape character: %q", err)
		}
	}
}

func TestReferencesAreRelativeToTheNamespaceOfTheReferrer(t *testing.T) {
	if got := ReferenceKey("Cluster", "shop", "a").String(); got != "Cluster/shop/a" {
		t.Error(got)
	}
	if got := ReferenceKey("Cluster", "shop", "other/a").String(); got != "Cluster/other/a" {
		t.Error(got)
	}
}

func TestNearestNameIsSuggestedOnlyWhenItIsNear(t *testing.T) {
	fields := []string{"service", "priority", "rules", "timeout", "policies", "loadBalancing"}
	for in, want := range map[string]string{
		"servcie": "service", "Timeout": "timeout", "timeuot": "timeout", "rule": "rules", "policy": "policies", "load_balancing": "loadBalancing",
		"load": "loadBalancing", "x": "", "completelyDifferent": "", "": "", strings.Repeat("s", 5000): "",
	} {
		if got, _ := FindField(in, fields); got != want {
			t.Errorf("FindField(%.20q) = %q, want %q", in, got, want)
		}
	}
}

func TestDurationsAreTextWithoutZeroParts(t *testing.T) {
	for d, want := range map[time.Duration]string{250 * time.Millisecond: "250ms", 2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Minute: "1h30m", 0: "0s", 10 * time.Second: "10s", time.Hour + time.Second: "1h0m1s"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
	var d Duration
	if err := d.UnmarshalJSON([]byte("5")); err == nil {
		t.Error("a number was read as a duration")
	}
}

func TestFindingsPrintOnOneLineAndSortByPlace(t *testing.T) {
	key := Key{"Route", "default", "a"}
	f := Errorf(fault.CodeFormat, key, "spec.rules[0].name", "do this", "it is %d", 5)
	f.Pos = Position{"mesh/a.yaml", 3, 7}
	if got, want := f.String(), "mesh/a.yaml:3:7: error MK2012: Route/default/a spec.rules[0].name: it is 5 (do this)"; got != want {
		t.Errorf("got %s", got)
	}
	if got, want := (Finding{Code: fault.CodeSyntax, Severity: Warning, Reason: "odd"}).String(), "warning MK2001: odd"; got != want {
		t.Errorf("got %s", got)
	}
	at := func(file string, line, column int) Finding { return Finding{Pos: Position{file, line, column}} }
	list := []Finding{at("b", 1, 1), at("a", 10, 1), at("a", 9, 2), at("a", 9, 1)}
	SortFindings(list)
	for i, want := range []string{"a:9:1", "a:9:2", "a:10:1", "b:1:1"} {
		if list[i].Pos.String() != want {
			t.Errorf("item %d is %s, want %s", i, list[i].Pos, want)
		}
	}
}

func TestParseCanonicalKeepsWhatIsUnknownAndRefusesWhatIsNoResource(t *testing.T) {
	content := []byte(`{"apiVersion":"meshkit.dev/v9","kind":"Future","metadata":{"name":"x","namespace":"default"},"spec":{"new":[1]}}`)
	r, err := ParseCanonical(content)
	if err != nil || r.Key().String() != "Future/default/x" || string(r.Spec) != `{"new":[1]}` {
		t.Fatalf("%+v, %v", r, err)
	}
	again, err := r.Canonical()
	if err != nil || string(again) != string(content) {
		t.Errorf("%s, %v", again, err)
	}
	for _, bad := range []string{"", "{}", "null", "[]", `{"kind":"x"}`, `{"apiVersion":"a","kind":"K","metadata":{"name":"x"}}`} {
		if _, err := ParseCanonical([]byte(bad)); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("ParseCanonical(%q) gives %v", bad, err)
		}
	}
}

func TestLabelsFromElsewhereAreCheckedLikeThoseInFiles(t *testing.T) {
	if err := ValidLabels(map[string]string{"region": "eu", "example.com/tier": "Gold_1", "empty": ""}); err != nil {
		t.Error(err)
	}
	many := make(map[string]string)
	for i := range MaxLabels + 1 {
		many[strings.Repeat("a", i+1)] = "x"
	}
	for _, bad := range []map[string]string{{"": "x"}, {"a": "b c"}, {"a": "\x1b"}, {"UPPER.com/a": "x"}, {"a": strings.Repeat("x", 64)}, {"-a": "x"}, many} {
		if err := ValidLabels(bad); fault.CodeOf(err) != fault.CodeLabel {
			t.Errorf("%v gives %v", bad, err)
		}
	}
}
