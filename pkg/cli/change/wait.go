package change

import (
	"context"
	"errors"
	"fmt"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// waitFor follows a version to the agents and tells people on stderr. A hub
// that goes away in between is asked again until the time is up.
func waitFor(ctx context.Context, app *cliutil.App, c *client.Client, version uint64, timeout time.Duration) error {
	waitCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := &progress{io: app.IO, version: version}
	defer p.clear()
	pause := backoff.New(backoff.Policy{Base: 200 * time.Millisecond, Cap: 2 * time.Second})
	for {
		err := c.WatchPropagation(waitCtx, version, func(r *adminv1.WatchPropagationResponse) error {
			pause.Reset()
			p.show(r)
			if r.GetDone() {
				return errDone
			}
			return nil
		})
		switch {
		case errors.Is(err, errDone):
			return p.verdict()
		case ctx.Err() != nil:
			return fault.New(fault.CodeInterrupted, "stopped waiting; seq %d is committed and goes on to the agents", version)
		case waitCtx.Err() != nil, fault.KindOf(err) == fault.Timeout:
			// The hub knows the deadline too, and may be the first to act on it.
			return p.timedOut(timeout)
		case err != nil && fault.KindOf(err) != fault.Unavailable:
			return err
		}
		if pause.Wait(waitCtx) != nil && ctx.Err() == nil {
			return p.timedOut(timeout)
		}
	}
}

var errDone = errors.New("propagation is done")

// progress is the state of one wait; one goroutine uses it.
type progress struct {
	io      *cliutil.IO
	version uint64
	last    *adminv1.WatchPropagationResponse
	drawn   bool // an unfinished line stands on the terminal
}

func (p *progress) show(r *adminv1.WatchPropagationResponse) {
	moved := p.last == nil || p.last.GetAcked() != r.GetAcked() || p.last.GetNacked() != r.GetNacked() || p.last.GetConcerned() != r.GetConcerned()
	p.last = r
	if r.GetDone() || !moved {
		return
	}
	text := fmt.Sprintf("seq %d: active on %d of %s", p.version, r.GetAcked(), plural(int(r.GetConcerned()), "agent"))
	if n := r.GetNacked(); n > 0 {
		text += fmt.Sprintf(", %d refused it", n)
	}
	if p.io.ErrTerminal {
		fmt.Fprintf(p.io.Err, "\r\x1b[K%s", text)
		p.drawn = true
		return
	}
	p.io.Notef("%s", text)
}

func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.io.Err, "\r\x1b[K")
		p.drawn = false
	}
}

// verdict says how it ended.
func (p *progress) verdict() error {
	p.clear()
	r := p.last
	say := p.io.Donef
	if r.GetNacked() > 0 {
		say = p.io.Notef
	}
	if r.GetConcerned() > 0 {
		times := ""
		if r.GetAcked() > 0 {
			times = fmt.Sprintf(" (p50 %s, p99 %s, last %s)", ms(r.GetP50().AsDuration()), ms(r.GetP99().AsDuration()), ms(r.GetLast().AsDuration()))
		}
		say("seq %d: active on %d of %s%s", p.version, r.GetAcked(), plural(int(r.GetConcerned()), "agent"), times)
	} else {
		p.io.Notef("seq %d: no connected agent is concerned", p.version)
	}
	if n := r.GetDisconnected(); n > 0 {
		p.io.Notef("%s %s not connected; they catch up when they are back", plural(int(n), "agent"), isAre(n))
	}
	if r.GetNacked() == 0 {
		return nil
	}
	p.refusals()
	return fault.New(fault.CodePartial, "%d of %d agents refused seq %d and keep their previous generation", r.GetNacked(), r.GetConcerned(), p.version).
		WithRemedy("`meshctl describe agent NAME` tells why; then correct the change, or `meshctl undo`.")
}

func (p *progress) timedOut(timeout time.Duration) error {
	p.clear()
	if p.last == nil {
		return fault.New(fault.CodeWaitTimeout, "seq %d is committed, but the hub reported nothing of it within %s", p.version, timeout)
	}
	p.refusals()
	refused := ""
	if n := p.last.GetNacked(); n > 0 {
		refused = fmt.Sprintf("; %d refused it", n)
	}
	if p.last.GetAcked() == p.last.GetConcerned() {
		refused = ", and the hub had not counted all"
	}
	return fault.New(fault.CodeWaitTimeout, "seq %d is committed, but after %s it is active on %d of %s%s",
		p.version, timeout, p.last.GetAcked(), plural(int(p.last.GetConcerned()), "agent"), refused)
}

func (p *progress) refusals() {
	for _, n := range p.last.GetNacks() {
		where := ""
		if res := n.GetNack().GetResource(); res != "" {
			where = " " + res
		}
		p.io.Notef("  %s: [%s]%s %s", cliutil.Clean(n.GetNode()), cliutil.Clean(n.GetNack().GetCode()), cliutil.Clean(where), cliutil.Clean(n.GetNack().GetMessage()))
	}
}

func isAre(n uint64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// ms rounds for people.
func ms(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
