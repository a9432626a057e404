package cliutil

import (
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Table is rows under headings. Cells are cleaned when written.
type Table struct {
	Headings []string
	Rows     [][]string
	// Columns is the width of the terminal; 0: there is none. What does not fit beside the
	// first columns of a wider table stands below them, row by row, with its heading.
	Columns int
	// Widths are what Write makes the columns at least, and has made them: a table
	// that goes on with those of the one before lines up with it.
	Widths []int
}

// Add appends a row; a cell that is "" shows as "-".
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

const columnGap = "   "

// Write prints the table, columns padded to their widest cell.
func (t *Table) Write(w io.Writer, headings bool, heading func(string) string) error {
	rows := make([][]string, 0, len(t.Rows)+1)
	rows = append(rows, t.Headings)
	for _, r := range t.Rows {
		c := make([]string, len(r))
		for i, cell := range r {
			if c[i] = Clean(cell); cell == "" {
				c[i] = "-"
			}
		}
		rows = append(rows, c)
	}
	widths := make([]int, len(t.Headings))
	copy(widths, t.Widths)
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	t.Widths = widths
	fit := t.fit(widths)
	var b strings.Builder
	for n, r := range rows {
		if n == 0 && !headings {
			continue
		}
		var line strings.Builder
		for i, cell := range r[:min(fit, len(r))] {
			line.WriteString(cell)
			if i < fit-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + columnGap)
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 {
			text = heading(text)
		}
		b.WriteString(text + "\n")
		if n > 0 {
			t.below(&b, r, fit)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit is how many columns, from the first, fit beside each other.
func (t *Table) fit(widths []int) int {
	total := -len(columnGap)
	for i, w := range widths {
		if total += len(columnGap) + w; t.Columns > 0 && total > t.Columns {
			return max(i, 1)
		}
	}
	return len(widths)
}

const belowIndent = "    "

// below writes the cells of a row from the given column on that are not empty, each
// behind its heading.
func (t *Table) below(b *strings.Builder, row []string, from int) {
	at := 0 // column that the line has come to; 0: none is begun
	for i := from; i < len(row); i++ {
		if row[i] == "-" {
			continue
		}
		cell := t.Headings[i] + " " + row[i]
		size := utf8.RuneCountInString(cell)
		switch {
		case at == 0:
			b.WriteString(belowIndent)
			at = len(belowIndent)
		case at+len(columnGap)+size > t.Columns:
			b.WriteString("\n" + belowIndent)
			at = len(belowIndent)
		default:
			b.WriteString(columnGap)
			at += len(columnGap)
		}
		b.WriteString(Wrap(cell, t.Columns-at+len(belowIndent), len(belowIndent)))
		at += size // beyond the edge if it took more than a line: the next begins one
	}
	if at > 0 {
		b.WriteByte('\n')
	}
}

// Age is the time since t in its largest unit, like "3m" or "5d"; "" when t is
// zero. What the clock of another machine, or a rounding, puts less than a second
// ahead is now.
func Age(now, t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d <= -time.Second:
		return "in " + span(-d)
	default:
		return span(max(d, 0))
	}
}

// Ago is Age of what has happened: a clock that is ahead makes it happen now.
func Ago(now, t time.Time) string {
	if t.After(now) {
		now = t
	}
	return Age(now, t)
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + "d"
}

// Labels joins labels as "a=b,c=d", sorted by key.
func Labels(m map[string]string) string {
	terms := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		terms = append(terms, k+"="+m[k])
	}
	return strings.Join(terms, ",")
}
