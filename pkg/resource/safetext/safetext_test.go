package safetext

import (
	"strings"
	"testing"
)

func TestQuoteShowsWhatCouldActOrHide(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 日本": `"plain é 日本"`, "a\x1b[31m": `"a\u001b[31m"`, "\u202eevil": `"\u202eevil"`, "a\u200bb": `"a\u200bb"`, "x\xffy": `"x\xffy"`,
		"q\"\\": `"q\"\\"`, "\U000e0041": `"\U000e0041"`, "a\nb": `"a\nb"`, strings.Repeat("a", 100): `"` + strings.Repeat("a", 64) + `…"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%+q) = %s, want %s", in, got, want)
		}
	}
}
