package agent

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestClippedTextTravels: a message with half a rune cannot be sent, and would silence
// the stream for good.
func TestClippedTextTravels(t *testing.T) {
	for _, s := range []string{strings.Repeat("é", maxMessage), "a" + strings.Repeat("é", maxMessage), "bad \xff byte", "short"} {
		got := clip(s)
		if !utf8.ValidString(got) || len(got) > maxMessage+8 {
			t.Errorf("%d bytes became %d, valid %v", len(s), len(got), utf8.ValidString(got))
		}
	}
}
