package demo

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// pause lets people read between steps; programs do not wait.
const pause = 900 * time.Millisecond

// step is one step of the story. do gives the figures of what it saw.
type step struct {
	name  string
	title string
	text  string // what happens and why, for people
	do    func(ctx context.Context) (figures string, err error)
}

// narrator tells the story: line by line for programs, with explanations and a
// spinner for people. One goroutine calls its methods.
type narrator struct {
	io       *cliutil.IO
	headless bool
	lively   bool // a person looks at a terminal

	mu      sync.Mutex // guards what follows
	doing   string
	details []string
	stop    chan struct{}
	stopped chan struct{}
}

func newNarrator(io *cliutil.IO, headless bool) *narrator {
	return &narrator{io: io, headless: headless, lively: !headless && io.OutTerminal}
}

func (n *narrator) printf(format string, args ...any) { fmt.Fprintf(n.io.Out, format, args...) }

// columns is where text for people is broken; 0: nowhere, no terminal.
func (n *narrator) columns() int {
	if !n.lively {
		return 0
	}
	return min(n.io.Width, 100)
}

func (n *narrator) welcome() {
	if n.headless {
		return
	}
	n.printf("\n%s\n%s\n", n.io.PaintOut(cliutil.Bold, "MeshKit demo"), cliutil.WrapParagraphs(
		"A change travels from meshctl through the hub's log to every agent's signed last-known-good,\n"+
			"and stays there when the hub is gone. Everything runs on this machine, and is gone at the end.", n.columns()))
}

// step runs one step and says how it went.
func (n *narrator) step(ctx context.Context, number, of int, st step) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !n.headless {
		n.printf("\n%s\n", n.io.PaintOut(cliutil.Bold, fmt.Sprintf("%d/%d  %s", number, of, st.title)))
		for _, l := range strings.Split(st.text, "\n") {
			n.printf("     %s\n", n.io.PaintOut(cliutil.Dim, cliutil.Wrap(l, n.columns(), 5)))
		}
	}
	begun := time.Now()
	n.startSpinner()
	figures, err := st.do(ctx)
	n.stopSpinner()
	took := time.Since(begun).Round(10 * time.Millisecond)
	for _, d := range n.takeDetails() {
		if !n.headless {
			n.printf("       %s\n", cliutil.Wrap(d, n.columns(), 9))
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return err // interrupted: the step neither held nor failed
		}
		if n.headless {
			n.printf("FAIL %d/%d %-8s %6.2fs\n", number, of, st.name, took.Seconds())
		} else {
			n.printf("   %s\n", n.io.PaintOut(cliutil.Red, "✗ did not hold"))
		}
		return err
	}
	figures = cliutil.Clean(figures)
	if n.headless {
		n.printf("ok   %d/%d %-8s %6.2fs  %s\n", number, of, st.name, took.Seconds(), figures)
		return nil
	}
	span := fmt.Sprintf("(%.2fs)", took.Seconds())
	figures = strings.TrimSuffix(cliutil.Wrap(figures+" "+span, n.columns(), 5), span)
	n.printf("   %s %s%s\n", n.io.PaintOut(cliutil.Green, "✓"), figures, n.io.PaintOut(cliutil.Dim, span))
	if n.lively {
		n.rest(ctx)
	}
	return nil
}

func (n *narrator) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// now says what is being done, beside the spinner.
func (n *narrator) now(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.doing = cliutil.Clean(fmt.Sprintf(format, args...))
}

// detail adds a line of what was seen, for people.
func (n *narrator) detail(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.details = append(n.details, cliutil.Clean(fmt.Sprintf(format, args...)))
}

func (n *narrator) takeDetails() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.details
	n.details = nil
	return d
}

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (n *narrator) startSpinner() {
	n.mu.Lock()
	n.doing = ""
	n.mu.Unlock()
	if !n.lively {
		return
	}
	n.stop, n.stopped = make(chan struct{}), make(chan struct{})
	go n.spin(n.stop, n.stopped)
}

// spin draws until stopped, then wipes its line.
func (n *narrator) spin(stop, stopped chan struct{}) {
	defer close(stopped)
	tick := time.NewTicker(80 * time.Millisecond)
	defer tick.Stop()
	begun := time.Now()
	for i := 0; ; i++ {
		select {
		case <-stop:
			n.printf("\r\x1b[K")
			return
		case <-tick.C:
			n.mu.Lock()
			doing := n.doing
			n.mu.Unlock()
			if r := []rune(doing); n.io.Width > 20 && len(r) > n.io.Width-16 {
				doing = string(r[:n.io.Width-16])
			}
			n.printf("\r\x1b[K   %s %s %s", n.io.PaintOut(cliutil.Cyan, spinner[i%len(spinner)]), doing,
				n.io.PaintOut(cliutil.Dim, fmt.Sprintf("%.1fs", time.Since(begun).Seconds())))
		}
	}
}

func (n *narrator) stopSpinner() {
	if n.stop == nil {
		return
	}
	close(n.stop)
	<-n.stopped
	n.stop = nil
}

// farewell says that nothing is left.
func (n *narrator) farewell(started int, dir string) {
	if n.headless {
		n.printf("ok   cleanup: %d processes ended, %s removed\n", started, cliutil.Clean(dir))
		return
	}
	n.printf("\n%s %d processes ended, %s removed.\n", n.io.PaintOut(cliutil.Green, "Nothing is left:"), started, cliutil.Clean(dir))
}
