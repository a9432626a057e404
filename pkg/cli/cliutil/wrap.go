package cliutil

import (
	"strings"
	"unicode/utf8"
)

// Wrap breaks text between words so that no line is longer than columns; the
// first line is taken to start at column indent, further ones get as many
// spaces. Text that fits, and all text when columns is 0, stays as it is.
func Wrap(text string, columns, indent int) string {
	if columns <= 0 || indent+utf8.RuneCountInString(text) <= columns && !strings.Contains(text, "\n") {
		return text
	}
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		size := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+size > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += size
	}
	return b.String()
}

// WrapParagraphs wraps each paragraph of text; paragraphs in which a line starts
// with a space, like lists and examples, stay as they are.
func WrapParagraphs(text string, columns int) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if !strings.HasPrefix(p, " ") && !strings.Contains(p, "\n ") {
			paragraphs[i] = Wrap(p, columns, 0)
		}
	}
	return strings.Join(paragraphs, "\n\n")
}
