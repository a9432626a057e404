//go:build linux

// Command propagation measures what it costs a hub to bring one change to thousands
// of agents, against a bare gRPC broadcast of the same bytes, and prints the tables of
// docs/performance.md.
//
//	go run ./test/bench/propagation                    everything: about ten minutes
//	go run ./test/bench/propagation -streams 1000      only with 1,000 streams
//	go run ./test/bench/propagation -only floor,hub    only variants whose name begins so,
//	                                                   of them, "memory" and "restart"
//
// Each variant is a server process and a process with the clients, one connection per
// stream, on loopback. All variants are up at the same time and take turns: a change
// of one, then of the next, so that a machine whose speed drifts slows all of them. It
// exits 1 when a figure misses its target.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshkit/meshkit/test/harness"
)

// options are the command line.
type options struct {
	streams   []int
	resources int
	changes   int
	only      []string
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "part" {
		if err := runPart(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintf(os.Stderr, "propagation: %s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "propagation:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	met, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "propagation:", err)
	}
	if err != nil || !met {
		os.Exit(1)
	}
}

// runPart is what the bench's other processes do.
func runPart(kind, config string) error {
	var h handlers
	var err error
	switch kind {
	case "clients":
		var spec clientSpec
		if err = json.Unmarshal([]byte(config), &spec); err == nil {
			if spec.Kind == "crowd" {
				h, err = crowdPart(spec)
			} else {
				h, err = clientsPart(spec)
			}
		}
	case "server":
		var spec serverSpec
		if err = json.Unmarshal([]byte(config), &spec); err == nil {
			h, err = serverParts[spec.Kind](spec)
		}
	default:
		err = fmt.Errorf("no part %q", kind)
	}
	if err != nil {
		return err
	}
	return h.serve(os.Stdin, os.Stdout)
}

func parse(args []string) (options, error) {
	f := flag.NewFlagSet("propagation", flag.ContinueOnError)
	streams := f.String("streams", "1000,5000", "numbers of streams")
	only := f.String("only", "", "variants to run, by the beginning of their names; empty: all")
	o := options{}
	f.IntVar(&o.resources, "resources", 1000, "resources of about 1 KiB")
	f.IntVar(&o.changes, "changes", 20, "changes measured, after three that are not")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(*streams, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < verified {
			return o, fmt.Errorf("-streams %q: want numbers of at least %d", *streams, verified)
		}
		o.streams = append(o.streams, n)
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	return o, nil
}

func run(ctx context.Context, o options) (met bool, err error) {
	dir, err := os.MkdirTemp("", "mkprop")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	defer harness.Cleanup()
	fmt.Printf("%s, %s/%s, %d CPUs, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"))
	var all []figure
	for _, n := range o.streams {
		f, err := round(ctx, o, dir, n)
		if err != nil {
			return false, err
		}
		all = append(all, f...)
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, options, string, int) ([]figure, error)
	}{{"memory", memories}, {"restart", restart}} {
		if !o.wants(part.name) {
			continue
		}
		f, err := part.measure(ctx, o, dir, slices.Max(o.streams))
		if err != nil {
			return false, fmt.Errorf("%s: %w", part.name, err)
		}
		all = append(all, f...)
	}
	return verdict(all), nil
}

// round measures all variants with n streams each.
func round(ctx context.Context, o options, dir string, n int) ([]figure, error) {
	var all []*running
	defer func() {
		for _, r := range all {
			r.stop()
		}
	}()
	for _, v := range variants {
		if !o.wants(v.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "starting %s with %d streams\n", v.name, n)
		r, err := v.start(ctx, o, dir, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		r.again = func() (*running, error) { return v.start(ctx, o, dir, n) }
		all = append(all, r)
	}
	const warm = 3
	size := 1024 // of an update; what a hub sends takes its place
	for i := range warm + o.changes {
		for k := range all {
			at := (k + i) % len(all) // nobody is always the first
			m, r, err := all[at].attempt(ctx, size)
			all[at] = r
			if err != nil {
				return nil, fmt.Errorf("%s: change %d: %w", r.name, i, err)
			}
			if r.name == hubPlain || r.name == hubTLS {
				size = m.bytes
			}
			if i >= warm {
				r.turns = append(r.turns, m)
			}
		}
	}
	return report(o, n, size, all), nil
}

func (o options) wants(name string) bool {
	return o.only == nil || slices.ContainsFunc(o.only, func(p string) bool { return strings.HasPrefix(name, p) })
}
