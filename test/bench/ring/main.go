// Command ring measures how long writes wait when the leader of a ring is lost, and
// how many writes a ring takes, on three real hubs and three real Consul servers:
//
//	go run ./test/bench/ring              the table of docs/performance.md, about two minutes
//	go run ./test/bench/ring -kills 5     fewer kills; 0 and -others 0: only the writes
//
// It builds Consul from its module the first time (minutes). It exits 1 when a
// figure misses its target.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// figure is one line of the table.
type figure struct {
	name, target, measured, detail string
	met                            bool
}

func main() {
	kills := flag.Int("kills", 20, "how often the leader is killed")
	others := flag.Int("others", 7, "how often it is stopped, and ended in order")
	flag.Parse()
	debug.SetGCPercent(400) // what makes the load shares two CPUs with what is measured
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	figures, err := measure(ctx, *kills, *others)
	stop()
	fmt.Printf("%s, %s/%s, %d CPUs, %s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"))
	fmt.Println("| figure | target | measured | | made of |")
	fmt.Println("|---|---|---|---|---|")
	code := 0
	for _, f := range figures {
		verdict := "met"
		if !f.met {
			verdict, code = "**missed**", 1
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", f.name, f.target, f.measured, verdict, f.detail)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ring:", err)
		code = 1
	}
	os.Exit(code)
}

// measure runs the whole bench. Failures of the harness come as panics.
func measure(ctx context.Context, kills, others int) (out []figure, err error) {
	t := &tb{}
	defer harness.Cleanup()
	defer t.end(&err)
	c := harness.New(t)
	var urls []string
	for _, s := range consultest.Start(t, c.Path("consul"), consultest.Options{Servers: 3}).Servers {
		urls = append(urls, "consul://"+s.HTTP+"/meshkit?dc=dc1")
	}
	r := &ring{hubs: c.NewRing("bench", urls...)}
	defer r.close()
	out = append(out, r.throughput(ctx))
	for _, e := range []struct {
		name   string
		signal os.Signal
		n      int
		most   time.Duration // of the median
		worst  time.Duration // 0: no target
	}{
		{"SIGKILL of the leader to the next acknowledged write", syscall.SIGKILL, kills, 1200 * time.Millisecond, 2500 * time.Millisecond},
		{"SIGSTOP of the leader, the same", syscall.SIGSTOP, others, 3 * time.Second, 0},
		{"SIGTERM of the leader, longest time without an acknowledged write", syscall.SIGTERM, others, 300 * time.Millisecond, 0},
	} {
		if e.n < 1 {
			continue
		}
		gaps, err := r.lose(ctx, e.signal, e.n)
		if err != nil {
			return out, err
		}
		slices.Sort(gaps)
		mid, last := gaps[len(gaps)/2], gaps[len(gaps)-1]
		target := fmt.Sprintf("median ≤ %s", e.most)
		if e.worst > 0 {
			target += fmt.Sprintf(", max ≤ %s", e.worst)
		}
		out = append(out, figure{
			name: e.name, target: target, measured: fmt.Sprintf("%s, max %s", ms(mid), ms(last)),
			met: mid <= e.most && (e.worst == 0 || last <= e.worst), detail: fmt.Sprintf("%d times; fastest %s", len(gaps), ms(gaps[0])),
		})
	}
	return out, nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// tb makes the harness usable outside tests: a failure is a panic that end turns
// into an error.
type tb struct{ cleanup []func() }

type failure string

func (t *tb) Helper()                           {}
func (t *tb) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (t *tb) Errorf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }
func (t *tb) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }
func (t *tb) Failed() bool                      { return false }
func (t *tb) Cleanup(f func())                  { t.cleanup = append(t.cleanup, f) }

func (t *tb) end(err *error) {
	p := recover()
	for _, f := range slices.Backward(t.cleanup) {
		f()
	}
	if msg, ok := p.(failure); ok {
		*err = errors.New(string(msg))
	} else if p != nil {
		panic(p)
	}
}
