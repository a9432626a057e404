package omnirelay

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// watch is one stream, or one snapshot. Its handler's goroutine owns it; poke comes
// from any.
type watch struct {
	srv     *Server
	guest   *distribution.Guest
	stream  grpc.ServerStream
	backlog *wire.Backlog // what gRPC has not written of what was sent
	session distribution.Session
	detach  func() // closes session, once
	node    string
	caps    []string
	wake    chan struct{} // has room for one
	has     place         // what the client has
}

func newWatch(s *Server, g *distribution.Guest, stream grpc.ServerStream) *watch {
	return &watch{srv: s, guest: g, stream: stream, backlog: wire.NewBacklog(), wake: make(chan struct{}, 1)}
}

// verdict says what to do about what is offered.
type verdict uint8

const (
	wait        verdict = iota // the client has it, or nothing is offered, or it cannot be proven yet
	send                       // the client lacks it
	unsupported                // the client could not use it, whether it has it or not
	behind                     // it is below what the client has
)

// poke tells the stream that the session's offer has changed. It never blocks.
func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run sends until the stream ends.
func (w *watch) run(ctx context.Context) error {
	var late *time.Timer // runs while this server is behind the client
	defer func() {
		if late != nil {
			late.Stop()
		}
	}()
	for {
		changed, f, lacks, what, err := w.look()
		if err != nil {
			return w.cannot(err)
		}
		switch what {
		case send:
			if err := w.transmit(f.watch); err != nil {
				return err
			}
			w.has = f.at
			continue
		case unsupported:
			return w.unsupported(lacks)
		}
		if what != behind && late != nil {
			late.Stop()
			late = nil
		} else if what == behind && late == nil {
			late = time.NewTimer(w.guest.BehindWait())
		}
		var tooLate <-chan time.Time
		if late != nil {
			tooLate = late.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.guest.Draining():
			err := wire.WithRetry(fault.New(fault.CodeDraining, "this server is draining"), w.guest.Retry())
			return w.end(HubDraining, err, w.guest.Retry(), err)
		case <-tooLate:
			err := fault.New(fault.CodeBehind, "node %s has %s, which this server has not reached within %s", w.node, w.has.point, w.guest.BehindWait())
			pause := backoff.Jitter(w.guest.BehindWait(), 0.5)
			return w.end(HubBehind, err, pause, wire.WithRetry(err, pause))
		case <-changed:
		case <-w.wake:
		}
	}
}

// once waits for the first bundle that can be sent, as long as a stream that is ahead
// may wait.
func (w *watch) once(ctx context.Context) (*wire.Frame, error) {
	late := time.NewTimer(w.guest.BehindWait())
	defer late.Stop()
	for {
		changed, f, lacks, what, err := w.look()
		switch {
		case err != nil:
			return nil, err
		case what == send:
			return f.snapshot, nil
		case what == unsupported:
			return nil, w.missing(lacks)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.guest.Draining():
			return nil, wire.WithRetry(fault.New(fault.CodeDraining, "this server is draining"), w.guest.Retry())
		case <-late.C:
			return nil, wire.WithRetry(fault.New(fault.CodeAgentNotReady, "no content is active"), backoff.Jitter(w.guest.BehindWait(), 0.5))
		case <-changed:
		case <-w.wake:
		}
	}
}

// look judges what is offered now. changed is closed when the feed has something else;
// the session's wake tells of the rest.
func (w *watch) look() (changed <-chan struct{}, f *frame, required []string, what verdict, err error) {
	offered := w.session.Offer().Feed
	if offered == nil {
		return nil, nil, nil, wait, nil
	}
	changed = offered.Changed() // before Current: no change is missed
	v, ok := offered.Current()
	// Asked for again, after the version: metadata that was there before a version was
	// published is sent with it.
	t := w.session.Offer().Trust
	if !ok || t == nil {
		return changed, nil, nil, wait, nil
	}
	required = needs(v.Required)
	what = w.judge(v, t, required)
	if what != send {
		return changed, nil, required, what, nil
	}
	f, err = w.srv.cfg.Frames.of(frameView{domain: w.srv.cfg.Domain, view: v.View}, v, t, w.guest.Encoded)
	switch {
	case err == nil:
		return changed, f, required, send, nil
	case errors.Is(err, fault.CodeBundleTooLarge) || fault.KindOf(err) == fault.Internal:
		return changed, nil, nil, wait, err
	}
	// Not proven by the metadata at hand: the next signature, or the next metadata,
	// wakes the stream.
	if f := w.earlier(v); f != nil {
		return changed, f, required, send, nil
	}
	w.srv.cfg.Logger.Debug("bundle not sent: it cannot be proven yet", "view", v.View, "node", w.node, "err", err)
	return changed, nil, nil, wait, nil
}

// earlier gives a bundle for a client that lacks v's content, with the newest trust
// metadata from before that verifies it; nil if there is none.
func (w *watch) earlier(v feed.Version) *frame {
	if w.srv.cfg.Earlier == nil || w.has.known && w.has.digest == v.Trie.Root() {
		return nil
	}
	for _, t := range w.srv.cfg.Earlier() {
		// Asked first: what does not verify would take the place of the frame that does.
		key := frameView{domain: w.srv.cfg.Domain, view: v.View, earlier: true}
		if _, err := (&frame{key: key, manifest: v.Manifest, vouch: v.Vouch, trust: t}).prove(); err != nil {
			continue
		}
		if f, err := w.srv.cfg.Frames.of(key, v, t, w.guest.Encoded); err == nil {
			return f
		}
	}
	return nil
}

// judge compares a version with what the client has and can do.
func (w *watch) judge(v feed.Version, t distribution.Trust, required []string) verdict {
	reached := v.Point()
	if w.srv.cfg.Reached != nil {
		if r := w.srv.cfg.Reached(); r.Compare(reached) > 0 {
			reached = r
		}
	}
	switch {
	case w.has.point.Compare(reached) > 0:
		return behind
	case slices.ContainsFunc(required, func(c string) bool { return !slices.Contains(w.caps, c) }):
		return unsupported // also one that has it: it came back as a build that can do less
	case w.has.known && w.has.digest == v.Trie.Root() && t.RootVersion() <= w.has.root && t.KeysetVersion() <= w.has.keyset:
		return wait
	}
	return send
}

// transmit sends a bundle, and waits until it is written: gRPC takes a message of any
// size, and nothing back. A client that takes less than a minimum rate loses its session,
// and its call is over. The call's place it keeps for as long as gRPC holds the bundle,
// which is until it was read or the connection is gone: so what clients do not read is
// bounded by the number of places.
func (w *watch) transmit(f *wire.Frame) error {
	ctx := w.stream.Context()
	if err := w.stream.SendMsg(w.backlog.Message(f)); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	w.guest.Sent("bundle", f.Size())
	limit := w.guest.StallTimeout() + time.Duration(f.Size())*time.Second/slowest
	stalled := time.NewTimer(limit)
	defer stalled.Stop()
	var cut error
	for w.backlog.Len() > 0 {
		select {
		case <-w.backlog.Emptied():
		case <-stalled.C:
			cut = fault.New(fault.CodeStalled, "node %s did not take %d bytes within %s", w.node, f.Size(), limit.Round(time.Millisecond))
			w.srv.cfg.Logger.Warn("OmniRelay client does not read", "node", w.node, "err", cut)
			w.detach()
		case <-w.guest.Draining(): // what is queued goes before the end
			return cmp.Or(cut, wire.WithRetry(fault.New(fault.CodeDraining, "this server is draining"), w.guest.Retry()))
		case <-ctx.Done():
			return cmp.Or(cut, context.Cause(ctx))
		}
	}
	return cut
}

// tell sends a small message. Everything before it is written, so gRPC has room for it.
func (w *watch) tell(m *relay.ControlWatchResponse) error {
	if err := w.stream.SendMsg(m); err != nil {
		return cmp.Or(context.Cause(w.stream.Context()), err)
	}
	return nil
}

// unsupported tells a client that its configuration needs what it cannot do.
func (w *watch) unsupported(required []string) error {
	err := w.missing(required)
	w.srv.cfg.Logger.Info("OmniRelay client lacks a capability", "node", w.node, "err", err)
	m := ending(UnsupportedCapability, err, backoff.Jitter(refusedWait, 0.5))
	m.RequiredCapabilities = required
	return w.tell(m)
}

// missing is the error for content that needs these capabilities.
func (w *watch) missing(required []string) error {
	lacks := slices.DeleteFunc(slices.Clone(required), func(c string) bool { return slices.Contains(w.caps, c) })
	return fault.New(fault.CodeCapability, "the configuration of node %s needs %s, which the client did not advertise", w.node, strings.Join(lacks, ", "))
}

// cannot ends a stream whose bundle cannot be made.
func (w *watch) cannot(err error) error {
	w.srv.cfg.Logger.Error("bundle not made for OmniRelay clients", "node", w.node, "err", err)
	pause := backoff.Jitter(refusedWait, 0.5)
	return w.end(BundleUnavailable, err, pause, wire.WithRetry(err, pause))
}

// end tells a client why and for how long it is sent away, and gives status as the
// stream's end.
func (w *watch) end(code string, why error, pause time.Duration, status error) error {
	if err := w.tell(ending(code, why, pause)); err != nil {
		return err
	}
	return status
}

// notAdmitted is what tells a client of a refusal that passes by itself: it reads waits
// in responses only. Nil: err does not say for how long to stay away.
func notAdmitted(err error) *relay.ControlWatchResponse {
	wait, ok := wire.RetryAfter(err)
	switch {
	case !ok:
		return nil
	case fault.CodeOf(err) == fault.CodeDraining:
		return ending(HubDraining, err, wait)
	}
	return ending(NotAdmitted, err, wait)
}

// ending is the response that ends an attempt.
func ending(code string, why error, pause time.Duration) *relay.ControlWatchResponse {
	return &relay.ControlWatchResponse{
		Error:   &relay.ControlError{Code: code, Message: why.Error(), Remediation: fault.RemedyOf(why)},
		Backoff: &relay.ControlBackoff{Millis: max(1, pause.Milliseconds())},
	}
}
