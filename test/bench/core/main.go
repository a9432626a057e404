// Command core measures the figures of docs/performance.md that concern one hub
// and its agents, and prints them as the table that stands there.
//
//	go run ./test/bench/core            every figure
//	go run ./test/bench/core -run apply only figures whose name holds "apply"
//
// A figure that names a baseline is a ratio of two measurements interleaved in
// this run, so that it holds when the machine's speed drifts. Every figure is a
// median, unless it says otherwise. It exits 1 when a figure misses its target.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/meshkit/meshkit/test/harness"
)

// figure is one line of the table.
type figure struct {
	name   string
	target string
	// measure gives what to print and whether the target is met.
	measure func(ctx context.Context, b *bench) (result, error)
}

type result struct {
	text string
	met  bool
	// detail is what the figure is made of.
	detail string
}

// bench is what measurements share.
type bench struct {
	dir     string
	cleanup []func()
}

func (b *bench) temp(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	return dir, os.MkdirAll(dir, 0o700)
}

func (b *bench) close() {
	for _, f := range slices.Backward(b.cleanup) {
		f()
	}
	_ = os.RemoveAll(b.dir)
}

func main() {
	only := flag.String("run", "", "measure only figures whose name holds this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, *only)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, only string) int {
	dir, err := os.MkdirTemp("", "mkbench")
	if err != nil {
		fmt.Fprintln(os.Stderr, "core:", err)
		return 1
	}
	b := &bench{dir: dir}
	defer b.close()
	defer harness.Cleanup()
	fmt.Printf("%s, %s/%s, %d CPUs, %s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"))
	fmt.Println("| figure | target | measured | | made of |")
	fmt.Println("|---|---|---|---|---|")
	code := 0
	for _, f := range figures {
		if !strings.Contains(f.name, only) {
			continue
		}
		r, err := f.measure(ctx, b)
		verdict := "met"
		switch {
		case err != nil:
			r.text, r.detail, verdict = "failed", err.Error(), "**failed**"
			code = 1
		case !r.met:
			verdict = "**missed**"
			code = 1
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", f.name, f.target, r.text, verdict, strings.ReplaceAll(r.detail, "\n", " "))
	}
	return code
}

var figures = []figure{
	{"agent: one-resource delta on 10,000 resources, verify + activate + persist", "≤ 5 ms", agentDelta},
	{"hub: recompute digest + sign per view, one of 10,000 changed", "≤ 1 ms, ≤ 2 × of 1,000", hubView},
	{"100 changes to one resource for an agent that is behind, bytes", "≤ 12 % of 100 frames", coalesced},
	{"apply of 1,000 resources, validated, planned, durable", "≤ 1 s", applyOf(1_000, time.Second)},
	{"apply of 10,000 resources, validated, planned, durable", "≤ 8 s", applyOf(10_000, 8*time.Second)},
	{"acknowledged appends per second, 64 writers on bolt, against one writer", "≥ 10 ×", appends},
	{"agent process with a 1,000-resource bundle, RSS", "≤ 40 MB", agentMemory},
	{"hub process with 1,000 agents, RSS", "≤ 250 MB", hubMemory},
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
