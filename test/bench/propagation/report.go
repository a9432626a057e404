//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// figure is one line of the last table.
type figure struct {
	name, target, text string
	met                bool
	detail             string
}

// most is a figure that must not be above a limit.
func most(name string, limit, value float64, unit, detail string) figure {
	return figure{name, fmt.Sprintf("≤ %g%s", limit, unit), fmt.Sprintf("%.2f%s", value, unit), value <= limit, detail}
}

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

// report prints a table for n streams and gives the figures that have a target.
func report(o options, n, size int, all []*running) []figure {
	by := make(map[string]*running)
	for _, r := range all {
		by[r.name] = r
	}
	fmt.Printf("\n%d streams, %d resources, one changed, updates of %d bytes, median of %d changes\n\n", n, o.resources, size, o.changes)
	fmt.Println("| variant | server CPU per change | × floor | p50 | p99 | last | × floor | KiB per stream |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, r := range all {
		floor := by[floorOf(r.tls)]
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %.1f |\n", r.name, millis(r.cpu()), over(r, floor, (*running).cpu),
			millis(middle(r.turns, func(t turn) time.Duration { return t.p50 })), millis(middle(r.turns, func(t turn) time.Duration { return t.p99 })),
			millis(r.last()), over(r, floor, (*running).last), r.memory/1024)
	}
	var out []figure
	for _, name := range []string{hubPlain, hubTLS} {
		if r := by[name]; r != nil {
			out = append(out, figures(o, n, r, by)...)
		}
	}
	return out
}

// floorOf names the floor of a transport.
func floorOf(tls bool) string {
	if tls {
		return floorTLS
	}
	return floorPlain
}

// figures holds r against the targets.
func figures(o options, n int, r *running, by map[string]*running) []figure {
	var out []figure
	if floor := by[floorOf(r.tls)]; floor != nil {
		limit := 1.4
		if n >= 5000 {
			limit = 1.2
		}
		out = append(out,
			most(fmt.Sprintf("%s, %d streams: server CPU per change, acked, against the floor", r.name, n), limit, ratio(r, floor, (*running).cpu), " ×", millis(r.cpu())+" against "+millis(floor.cpu())),
			most(fmt.Sprintf("%s, %d streams: last client, against the floor", r.name, n), 1.5, ratio(r, floor, (*running).last), " ×", millis(r.last())+" against "+millis(floor.last())))
	}
	out = append(out, stored(n, r, o.resources))
	if l := by[linear]; l != nil && !r.tls {
		v := ratio(l, r, (*running).cpu)
		out = append(out, figure{fmt.Sprintf("%s, %d streams: server CPU against LinearCache", r.name, n), "≥ 7 × less", fmt.Sprintf("%.1f ×", v), v >= 7, millis(r.cpu()) + " against " + millis(l.cpu())})
	}
	return out
}

// stored holds the memory per stream against its target.
func stored(n int, r *running, resources int) figure {
	limit := 45.0
	if r.tls {
		limit = 70
	}
	return most(fmt.Sprintf("%s, %d streams, %d resources: memory per stream", r.name, n, resources), limit, r.memory/1024, " KiB",
		fmt.Sprintf("objects and stacks after a collection, less those without streams; with spans that are partly free %.0f KiB", r.spans/1024))
}

// memories measures the memory per stream with ten times the resources.
func memories(ctx context.Context, o options, dir string, n int) ([]figure, error) {
	o.resources *= 10
	n = min(n, 1000)
	var out []figure
	for _, start := range []func(context.Context, options, string, int) (*running, error){startPlain, startHub} {
		r, err := start(ctx, o, dir, n)
		if err != nil {
			return nil, err
		}
		out = append(out, stored(n, r, o.resources))
		r.stop()
	}
	return out, nil
}

// verdict prints the figures and tells whether all targets are met.
func verdict(all []figure) bool {
	fmt.Println("\n| figure | target | measured | | made of |")
	fmt.Println("|---|---|---|---|---|")
	met := true
	for _, f := range all {
		word := "met"
		if !f.met {
			word, met = "**missed**", false
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", f.name, f.target, f.text, word, strings.ReplaceAll(f.detail, "\n", " "))
	}
	return met
}

func ratio(r, floor *running, f func(*running) time.Duration) float64 {
	return float64(f(r)) / float64(f(floor))
}

func over(r, floor *running, f func(*running) time.Duration) string {
	if floor == nil {
		return "—"
	}
	return fmt.Sprintf("%.2f", ratio(r, floor, f))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
