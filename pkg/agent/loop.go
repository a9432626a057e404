package agent

import (
	"context"
	"sync"
	"time"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/kind/domainsettings"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/view"
)

// message is what reaches the loop: an event, and what belongs to it.
type message struct {
	ev activation.Event
	// bundle is new content, or known content in another form.
	bundle *bundle
	// reply answers an operator's command.
	reply chan<- reply
	// fresh is a verified freshness statement.
	fresh *freshness
	// activated is the content that the data plane has now; changed is how many
	// bytes of it are new.
	activated *bundle
	changed   int64
	// request is a finished Reply.
	request uint64
}

type reply struct {
	generation activation.Generation
	err        error
}

// work is one effect that takes time.
type work struct {
	run func(ctx context.Context) message
	// memo is set for a Remember, of which only the last in a row counts.
	memo bool
}

// loop is the state of the one goroutine that owns the machine.
type loop struct {
	*Agent
	ctx       context.Context // of the loop; what health checks run under
	machine   activation.Machine
	bundles   map[activation.Point]*bundle
	active    *bundle           // what the data plane has, with its graph; nil: nothing
	incoming  *trustv1.Envelope // statement that the present message brought; nil: none
	settings  domainsettings.Spec
	waiting   map[uint64]chan<- reply
	requests  uint64
	replies   map[uint64]reply // decided, not yet durable
	queue     []work
	busy      bool
	done      chan message // answer of the worker
	wg        sync.WaitGroup
	isSettled bool

	reported   *controlv1.Status
	reportedAt time.Time
	unreported bool // the status has changed since, and waits for reportEvery to pass
	// disputed: a version was refused, and none kept since. What the next update can
	// stand on, and whether an ack means anything, the hub then takes from statuses.
	disputed bool
}

// reportEvery is the least time between two statuses. They are levels: of a change that
// takes less, the hub hears the ack and one status, not each step.
const reportEvery = 250 * time.Millisecond

// loop runs until ctx ends; then it leaves the store as after a clean stop.
func (a *Agent) loop(ctx context.Context) error {
	defer close(a.stopped)
	l := &loop{
		Agent: a, ctx: ctx, bundles: make(map[activation.Point]*bundle), waiting: make(map[uint64]chan<- reply),
		replies: make(map[uint64]reply), done: make(chan message, 1),
	}
	l.begin()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.startWork(ctx)
		timer.Reset(l.untilTick())
		select {
		case <-ctx.Done():
			l.end()
			return nil
		case m := <-a.messages:
			l.handle(m)
		case m := <-l.done:
			l.busy = false
			l.handle(m)
		case <-timer.C:
			l.handle(message{ev: activation.Tick{}})
		}
	}
}

// begin takes in what the store holds.
func (l *loop) begin() {
	for p, c := range l.found.Contents {
		c.Trie = l.opts.Shared.trie(c.Trie)
		l.bundles[p] = &bundle{point: p, content: c, required: requiredOf(c.Manifest)}
	}
	l.settings = (*domainsettings.Spec)(nil).Effective()
	if g, ok := l.found.State.Active(); ok {
		l.settings = settingsOf(l.bundles[g.Point].content.Trie)
	}
	l.machine = activation.New(l.machineConfig())
	l.handle(message{ev: activation.Start{Durable: l.found.State}})
	if l.found.Damage != nil {
		l.handle(message{ev: activation.Remembered{Reason: activation.ReasonOf(l.found.Damage, fault.CodeLKGCorrupt)}})
	}
	l.found = nil
	close(l.started)
}

// settingsOf reads the domain's settings out of content, without parsing the rest.
func settingsOf(t *digest.Trie) domainsettings.Spec {
	key := resource.Key{Kind: domainsettings.Kind, Namespace: "default", Name: domainsettings.Name}
	if leaf, ok := t.Get(key.String()); ok {
		if obj, err := kind.Parse(leaf.Content); err == nil {
			if spec, ok := obj.Spec.(*domainsettings.Spec); ok {
				return spec.Effective()
			}
		}
	}
	return (*domainsettings.Spec)(nil).Effective()
}

// machineConfig joins what the domain says with what this node's file says.
func (l *loop) machineConfig() activation.Config {
	p, s := l.cfg.Probation, l.settings
	c := activation.Config{
		Probation:    s.Probation.Period.Std(),
		MaxCrashes:   s.Probation.MaxRestarts,
		StaleAfter:   s.Freshness.StaleAfter.Std(), // signed; what a hub promises is not
		MaxLost:      p.MaxLostClient,
		Capabilities: view.Known(),
	}
	if p.Period > 0 {
		c.Probation = p.Period.Std()
	}
	if p.MaxRestarts != nil {
		c.MaxCrashes = *p.MaxRestarts
	}
	if len(p.Health) > 0 {
		c.HealthInterval, c.HealthFailures = p.Interval.Std(), p.Failures
	}
	return c
}

// reconfigure follows the settings of g.
func (l *loop) reconfigure(g *graph.Graph) {
	if g != nil {
		l.settings = g.Settings()
	}
	l.machine, _ = l.machine.Step(activation.Configure{Config: l.machineConfig()}, time.Now())
}

// untilTick is the wait until the machine, or a reader of the phase, wants a tick.
func (l *loop) untilTick() time.Duration {
	now := time.Now()
	wait := time.Hour
	for _, t := range []time.Time{l.machine.Deadline(), l.machine.StaleAt()} {
		if !t.IsZero() && (t.After(now) || t.Equal(l.machine.Deadline())) {
			wait = min(wait, max(t.Sub(now), 0))
		}
	}
	if l.unreported {
		wait = min(wait, max(l.reportedAt.Add(reportEvery).Sub(now), 0))
	}
	return wait
}

// handle takes one message through the machine.
func (l *loop) handle(m message) {
	l.prepare(&m)
	if m.ev != nil {
		l.step(m.ev)
	}
	if m.request != 0 {
		l.answer(m.request)
	}
	l.forget()
	l.publish(time.Now())
	if m.activated != nil && l.opts.Changed != nil {
		l.opts.Changed(m.changed)
	}
}

// step takes one event through the machine and carries out what follows.
func (l *loop) step(ev activation.Event) {
	var effects []activation.Effect
	l.machine, effects = l.machine.Step(ev, time.Now())
	for _, e := range effects {
		l.apply(e)
	}
}

// prepare takes in what a message brings beside its event.
func (l *loop) prepare(m *message) {
	l.incoming = nil
	if b := m.bundle; b != nil {
		l.incoming = b.content.Manifest
		if known := l.bundles[b.point]; known == nil || b.graph != nil {
			l.bundles[b.point] = b
		}
	}
	if v, ok := m.ev.(activation.Validated); ok && v.Reason == nil && m.bundle != nil {
		l.reconfigure(m.bundle.graph)
	}
	if m.activated != nil {
		l.setActive(m.activated)
	}
	if m.fresh != nil {
		l.incoming = m.fresh.env
		l.takeFresh(m.fresh)
	}
	if m.reply != nil {
		l.requests++
		l.waiting[l.requests] = m.reply
		switch ev := m.ev.(type) {
		case activation.Pin:
			ev.Request = l.requests
			m.ev = ev
		case activation.Unpin:
			ev.Request = l.requests
			m.ev = ev
		case activation.Revert:
			ev.Request = l.requests
			m.ev = ev
		}
	}
}

// setActive records what the data plane has. Only it keeps its graph.
func (l *loop) setActive(b *bundle) {
	for p, other := range l.bundles {
		if other.graph != nil && other.graph != b.graph {
			l.bundles[p] = other.with(func(c *bundle) { c.graph = nil })
		}
	}
	l.active = b
	l.bundles[b.point] = b
	l.reconfigure(b.graph)
}

// answer delivers the outcome of a command.
func (l *loop) answer(request uint64) {
	if to, ok := l.waiting[request]; ok {
		to <- l.replies[request] // has room for one
		delete(l.waiting, request)
		delete(l.replies, request)
	}
}

// forget drops the content that nothing names any more.
func (l *loop) forget() {
	named := make(map[activation.Point]bool)
	for _, p := range l.machine.References() {
		named[p] = true
	}
	for p, b := range l.bundles {
		if !named[p] && b != l.active {
			delete(l.bundles, p)
		}
	}
}

// publish shows others the new state, and the hub what changed of it.
func (l *loop) publish(now time.Time) {
	s := &state{report: l.machine.Report(now), active: l.active, bundles: make(map[activation.Point]*bundle, len(l.bundles))}
	for p, b := range l.bundles {
		s.bundles[p] = b
	}
	l.state.Store(s)
	if !l.isSettled && !l.machine.InFlight() {
		l.isSettled = true
		close(l.settled)
	}
	status := l.status(s.report)
	changed := l.reported == nil || !sameStatus(l.reported, status)
	l.unreported = changed && !l.disputed && now.Before(l.reportedAt.Add(reportEvery))
	if changed && !l.unreported {
		l.reported, l.reportedAt = status, now
		l.report(status)
	}
}

// startWork begins the next piece of work, if none is in progress.
func (l *loop) startWork(ctx context.Context) {
	if l.busy || len(l.queue) == 0 {
		return
	}
	next := l.queue[0]
	l.queue = l.queue[1:]
	l.busy = true
	l.wg.Go(func() { l.done <- next.run(ctx) })
}

// enqueue adds work. Of several memos in a row the last says everything.
func (l *loop) enqueue(w work) {
	if n := len(l.queue); w.memo && n > 0 && l.queue[n-1].memo {
		l.queue[n-1] = w
		return
	}
	l.queue = append(l.queue, w)
}

// end lets the work in progress finish (its context has ended), makes the clean
// stop durable, and turns away who still waits.
func (l *loop) end() {
	if l.busy {
		m := <-l.done
		if m.activated != nil {
			l.setActive(m.activated)
		}
		if m.request != 0 {
			l.answer(m.request)
		}
	}
	var effects []activation.Effect
	l.machine, effects = l.machine.Step(activation.Stop{}, time.Now())
	for _, e := range effects {
		if r, ok := e.(activation.Remember); ok {
			if err := l.save(r.Durable, l.contents(r.Durable)); err != nil {
				l.log.Warn("clean stop not recorded", "err", err)
			}
		}
	}
	l.wg.Wait()
	for request, to := range l.waiting {
		to <- reply{err: fault.New(fault.CodeAgentStopping, "the agent is stopping")}
		delete(l.waiting, request)
	}
	l.publish(time.Now())
}
