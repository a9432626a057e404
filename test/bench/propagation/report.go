package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// middle is the median of what f gives for each turn.
func middle[T cmp.Ordered](turns []turn, f func(turn) T) T {
	var all []T
	for _, t := range turns {
		all = append(all, f(t))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (r *running) cpu() time.Duration {
	return middle(r.turns, func(t turn) time.Duration { return t.cpu })
}
func (r *running) last() time.Duration {
	return middle(r.turns, func(t turn) time.Duration { return t.last })
}

// report prints a table for n streams and tells whether all targets are met.
func report(o options, n int, all []*running) bool {
	by := make(map[string]*running)
	for _, r := range all {
		by[r.name] = r
	}
	fmt.Printf("\n%d streams, %d resources, one changed, median of %d changes\n\n", n, o.resources, o.changes)
	fmt.Println("| variant | server CPU per change | × floor | p50 | p99 | last | × floor | KiB per stream |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, r := range all {
		floor := by[floorPlain]
		if r.tls {
			floor = by[floorTLS]
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %.1f |\n", r.name, millis(r.cpu()), over(r, floor, (*running).cpu),
			millis(middle(r.turns, func(t turn) time.Duration { return t.p50 })), millis(middle(r.turns, func(t turn) time.Duration { return t.p99 })),
			millis(r.last()), over(r, floor, (*running).last), r.memory/1024)
	}
	fmt.Println()
	return true
}

func over(r, floor *running, f func(*running) time.Duration) string {
	if floor == nil {
		return "—"
	}
	return fmt.Sprintf("%.2f", float64(f(r))/float64(f(floor)))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
