package cliutil

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// IO is all that a command may read from and write to.
type IO struct {
	In  io.Reader
	Out io.Writer // data
	Err io.Writer // for people
	// OutTerminal and ErrTerminal say whether a person looks at the stream.
	OutTerminal bool
	ErrTerminal bool
	// Color permits colour on those streams that are terminals.
	Color bool
	// Width and ErrWidth are those of the terminals that Out and Err are, in
	// columns; 0: not a terminal.
	Width    int
	ErrWidth int
	// Env looks up an environment variable; "" when unset.
	Env func(string) string
}

// SystemIO gives the process's own streams. Colour is off under NO_COLOR
// (no-color.org) or TERM=dumb.
func SystemIO() *IO {
	out, errw := int(os.Stdout.Fd()), int(os.Stderr.Fd())
	s := &IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		OutTerminal: term.IsTerminal(out), ErrTerminal: term.IsTerminal(errw),
		Color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		Env:   os.Getenv,
	}
	s.Width, s.ErrWidth = columns(out), columns(errw)
	return s
}

func columns(fd int) int {
	w, _, err := term.GetSize(fd)
	if err != nil {
		return 0 // not a terminal
	}
	return w
}

// Discard gives streams that hold nothing and keep nothing, for a program that does
// what a command does.
func Discard() *IO {
	return &IO{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Env: func(string) string { return "" }}
}

// TestIO gives streams in memory, with an environment of its own and no
// terminal, for tests.
func TestIO(env map[string]string) (s *IO, stdin, stdout, stderr *bytes.Buffer) {
	stdin, stdout, stderr = new(bytes.Buffer), new(bytes.Buffer), new(bytes.Buffer)
	return &IO{In: stdin, Out: stdout, Err: stderr, Env: func(k string) string { return env[k] }}, stdin, stdout, stderr
}

// Notef writes a line for people, cleaned.
func (s *IO) Notef(format string, args ...any) {
	fmt.Fprintln(s.Err, CleanText(fmt.Sprintf(format, args...)))
}

// Donef is Notef with a tick in front.
func (s *IO) Donef(format string, args ...any) {
	fmt.Fprintf(s.Err, "%s %s\n", s.PaintErr(Green, "✓"), CleanText(fmt.Sprintf(format, args...)))
}

// Outf writes a line of data, cleaned.
func (s *IO) Outf(format string, args ...any) {
	fmt.Fprintln(s.Out, CleanText(fmt.Sprintf(format, args...)))
}

// Interruptible is r until ctx ends: then a Read that waits, for a person who
// types or a program that is silent, ends with the context's error.
func Interruptible(ctx context.Context, r io.Reader) io.Reader { return &interruptible{ctx, r} }

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done, buf := make(chan result, 1), make([]byte, len(p))
	go func() { // outlives an interrupted Read, at most until the process ends
		n, err := i.r.Read(buf)
		done <- result{n, err}
	}()
	select {
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	case r := <-done:
		return copy(p, buf[:r.n]), r.err
	}
}

// Style is a way to emphasise.
type Style string

// The styles; each is an ANSI SGR sequence.
const (
	Bold   Style = "\x1b[1m"
	Dim    Style = "\x1b[2m"
	Red    Style = "\x1b[31m"
	Green  Style = "\x1b[32m"
	Yellow Style = "\x1b[33m"
	Cyan   Style = "\x1b[36m"
)

const styleReset = "\x1b[0m"

// PaintErr styles text for Err; text must be clean already.
func (s *IO) PaintErr(style Style, text string) string {
	return paint(s.Color && s.ErrTerminal, style, text)
}

// PaintOut styles text for Out; text must be clean already.
func (s *IO) PaintOut(style Style, text string) string {
	return paint(s.Color && s.OutTerminal, style, text)
}

func paint(on bool, style Style, text string) string {
	if !on || text == "" {
		return text
	}
	return string(style) + text + styleReset
}

// Clean makes text harmless on a terminal: control characters, line ends,
// bidirectional and invisible formatting characters and bytes that are not
// UTF-8 become visible escapes, like \x1b or \u202e.
func Clean(text string) string { return clean(text, false) }

// CleanText is Clean for text of several lines: newlines and tabs stay.
func CleanText(text string) string { return clean(text, true) }

func clean(text string, multiline bool) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return unsafeRune(r, multiline) }) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !unsafeRune(r, multiline):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

// unsafeRune tells whether r can move, hide or reorder what a terminal shows.
func unsafeRune(r rune, multiline bool) bool {
	if multiline && (r == '\n' || r == '\t') {
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs)
}
