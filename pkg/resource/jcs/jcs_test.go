package jcs

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"pgregory.net/rapid"
)

// RFC 8785, sections 3.2.2 and 3.2.3.
func TestCanonicalJSONGivesTheExamplesOfRFC8785(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{
			"literals, numbers and escapes",
			`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
			  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
			  "literals": [null, true, false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			"order of UTF-16 code units",
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		{"nested", ` [ 56 , { "d" : true , "10" : null , "1" : [ ] } ] `, `[56,{"1":[],"10":null,"d":true}]`},
	} {
		got, err := Canonicalize([]byte(tc.in))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s:\n got %s (%v)\nwant %s", tc.name, got, err, tc.want)
		}
	}
}

// RFC 8785, appendix B.
func TestCanonicalNumbersArePrintedAsECMAScriptDoes(t *testing.T) {
	for _, tc := range []struct {
		bits uint64
		want string
	}{
		{0x0000000000000000, "0"}, {0x8000000000000000, "0"}, {0x0000000000000001, "5e-324"}, {0x8000000000000001, "-5e-324"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"}, {0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x4340000000000000, "9007199254740992"}, {0xc340000000000000, "-9007199254740992"}, {0x4430000000000000, "295147905179352830000"},
		{0x44b52d02c7e14af5, "9.999999999999997e+22"}, {0x44b52d02c7e14af6, "1e+23"}, {0x44b52d02c7e14af7, "1.0000000000000001e+23"},
		{0x444b1ae4d6e2ef4e, "999999999999999700000"}, {0x444b1ae4d6e2ef4f, "999999999999999900000"}, {0x444b1ae4d6e2ef50, "1e+21"},
		{0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"}, {0x3eb0c6f7a0b5ed8d, "0.000001"},
		{0x41b3de4355555553, "333333333.3333332"}, {0x41b3de4355555554, "333333333.33333325"}, {0x41b3de4355555555, "333333333.3333333"},
		{0x41b3de4355555556, "333333333.3333334"}, {0x41b3de4355555557, "333333333.33333343"},
		{0xbecbf647612f3696, "-0.0000033333333333333333"}, {0x43143ff3c1cb0959, "1424953923781206.2"},
	} {
		if got := string(AppendNumber(nil, math.Float64frombits(tc.bits))); got != tc.want {
			t.Errorf("%016x: got %s, want %s", tc.bits, got, tc.want)
		}
	}
}

func TestCanonicalJSONRefusesWhatHasNoOneMeaning(t *testing.T) {
	for _, tc := range []struct {
		in   string
		code fault.Code
	}{
		{`{"a":1,"a":2}`, fault.CodeDuplicateKey}, {`{"a":1} 2`, fault.CodeSyntax}, {`1e400`, fault.CodeRange}, {`{"a":`, fault.CodeSyntax},
		{"\"\xff\"", fault.CodeEncoding}, {`"\ud83d"`, fault.CodeEncoding}, {`"\ude00\ud83d"`, fault.CodeEncoding}, {`"\ud83dx\ude00"`, fault.CodeEncoding},
		{strings.Repeat("[", 1000) + strings.Repeat("]", 1000), fault.CodeExpansion},
	} {
		if got, err := Canonicalize([]byte(tc.in)); fault.CodeOf(err) != tc.code {
			t.Errorf("%.40s: got %s, %v, want %s", tc.in, got, err, tc.code)
		}
	}
}

func TestCanonicalJSONIsAFixedPointThatKeepsTheValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.Float64())).Draw(t, "value")
		for _, list := range value {
			for i, f := range list {
				if math.IsNaN(f) || math.IsInf(f, 0) {
					list[i] = 0
				}
			}
		}
		once, err := Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := Canonicalize(once)
		if err != nil || string(once) != string(twice) {
			t.Fatalf("%s became %s (%v)", once, twice, err)
		}
		var back map[string][]float64
		if err := json.Unmarshal(once, &back); err != nil || len(back) != len(value) {
			t.Fatalf("%s does not read back: %v", once, err)
		}
		for k, list := range value {
			for i, f := range list {
				if back[k][i] != f {
					t.Fatalf("%q[%d]: %v became %v", k, i, f, back[k][i])
				}
			}
		}
	})
}

func TestKeysAreComparedByUTF16CodeUnits(t *testing.T) {
	units := func(s string) string { // UTF-16BE sorts bytewise as its units do
		var b strings.Builder
		for _, r := range s {
			if r > 0xffff {
				r -= 0x10000
				hi, lo := 0xd800+r>>10, 0xdc00+r&0x3ff
				b.Write([]byte{byte(hi >> 8), byte(hi), byte(lo >> 8), byte(lo)})
				continue
			}
			b.Write([]byte{byte(r >> 8), byte(r)})
		}
		return b.String()
	}
	sign := func(n int) int { return max(-1, min(1, n)) }
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOf(rapid.SampledFrom([]rune("ab\u00e9\u20ac\ud7ff\ue000\uffee\U00010000\U0001f600\U0001f601\U0010ffff")))
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		if got, want := sign(Compare(a, b)), strings.Compare(units(a), units(b)); got != want {
			t.Fatalf("Compare(%+q, %+q) = %d, want %d", a, b, got, want)
		}
	})
}
