// Package safetext shows text of unknown origin to people: what a file, a peer or
// an argument held, in errors and findings that end on a terminal or in a log.
//
// Functions are pure and safe for concurrent use.
package safetext

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxQuoted bounds what Quote shows of a text, in characters.
const maxQuoted = 64

// Quote renders a text of unknown origin for people: in double quotes, control,
// bidirectional and invisible characters and broken UTF-8 escaped, long text
// cut. The result is safe to print on a terminal.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	n := 0
	for i := 0; i < len(s); n++ {
		if n == maxQuoted {
			b.WriteString("…")
			break
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString("\\n")
		case r == '\t':
			b.WriteString("\\t")
		case unsafeRune(r):
			b.WriteString(Escape(r))
		default:
			b.WriteRune(r)
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}

// Escape writes a character as Go source does: \u202e for a sign that turns the direction of writing.
func Escape(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf("\\U%08x", r)
	}
	return fmt.Sprintf("\\u%04x", r)
}

// unsafeRune says whether a character may act on a terminal, hide, or change
// the order in which text is shown.
func unsafeRune(r rune) bool {
	if r < 0x7f {
		return r < 0x20
	}
	switch {
	case unicode.IsControl(r), unicode.Is(unicode.Cs, r), unicode.Is(unicode.Co, r):
		return true
	case r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // bidirectional controls
		return true
	case r == 0x00ad || r == 0x200b || r >= 0x2060 && r <= 0x2064 || r == 0xfeff || r == 0x180e: // invisible
		return true
	case r == 0x2028 || r == 0x2029: // line and paragraph separators
		return true
	case r >= 0xfff9 && r <= 0xfffb || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef: // annotations, noncharacters
		return true
	case r >= 0xe0000 && r <= 0xe0fff: // tags and variation selectors
		return true
	}
	return false
}

// FindUnsafe gives the first character of s that may act on a terminal, hide, or
// change the order in which text is shown. Text may hold new lines and tabs when
// multiline is set.
func FindUnsafe(s string, multiline bool) (rune, bool) {
	for _, r := range s {
		if unsafeRune(r) && !(multiline && (r == '\n' || r == '\t')) {
			return r, true
		}
	}
	return 0, false
}
