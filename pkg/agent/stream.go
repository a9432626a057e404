package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/version"
	"github.com/meshkit/meshkit/pkg/view"
)

// freshness is a verified freshness statement.
type freshness struct {
	env   *trustv1.Envelope
	point activation.Point
	at    time.Time
	// signer is the hub and its key, for people.
	signer string
}

func signerOf(k trust.HubKey) string { return fmt.Sprintf("hub %q (key %s)", k.Hub, k.KeyID) }

// maxFreshnessAge bounds how far in the past a statement may have been issued: a
// hub's clock may be behind, and a statement may not be kept for later.
const maxFreshnessAge = 10 * time.Minute

// stream keeps a session with one of the hubs.
func (a *Agent) stream(ctx context.Context) error {
	<-a.started
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		a.mu.Lock()
		a.reconnect = cancel
		a.mu.Unlock()
		err := a.streamOnce(once)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) streamOnce(ctx context.Context) error {
	c, err := subscriber.New(subscriber.Config{
		Hubs: a.cfg.Hubs, DialOptions: a.dialOptions(), Handler: &receiver{Agent: a},
		Limits: a.cfg.distributionLimits(), Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.client.Store(c)
	defer a.client.Store(nil)
	_ = c.Run(ctx) // ends with ctx, and says no more than that
	return nil
}

func (a *Agent) dialOptions() []grpc.DialOption {
	creds := credentials.NewTLS(mtls.ClientConfig(a.source, mtls.AnyHub))
	return append([]grpc.DialOption{grpc.WithTransportCredentials(creds)}, a.opts.DialOptions...)
}

// receiver takes what a hub sends. The client's goroutine owns it.
type receiver struct {
	*Agent
	// tip is the content that was verified last: what the next delta most likely
	// stands on.
	tip *digest.Trie
	// early was refused for reasons that may pass. A hub does not send it twice on one
	// stream, so the node comes back once it would be accepted.
	early *trustv1.Envelope
}

// mayPass are the reasons that a clock or later trust metadata can take away.
var mayPass = []fault.Code{fault.CodeIssuedInFuture, fault.CodeTrustBehind, fault.CodeKeysetExpired, fault.CodeNoKeyset}

// reconsider opens the stream anew if what was refused is acceptable now.
func (r *receiver) reconsider(now time.Time) {
	if r.early == nil {
		return
	}
	if _, _, err := r.anchors.get().VerifyManifest(r.early, now); err != nil {
		return
	}
	r.early = nil
	r.log.Info("content that was refused can be accepted now: asking for it again")
	r.resume()
}

// Hello implements subscriber.Handler.
func (r *receiver) Hello() *controlv1.Hello {
	rep := r.state.Load().report
	r.tip, r.early = nil, nil
	anchors := r.anchors.get()
	held, _ := rep.Durable.Active() // what deltas can stand on, active yet or not
	return &controlv1.Hello{
		Node: r.cfg.Node, Labels: r.cfg.Labels, Capabilities: view.Known(), Build: version.String(),
		Resume: resumePoint(held.Point), Highest: resumePoint(rep.Durable.Highest),
		RootVersion: anchors.RootVersion(), KeysetVersion: anchors.KeysetVersion(),
		Protocols: []string{distribution.Protocol}, Phase: phaseToProto(rep.Phase),
	}
}

// Accepted implements subscriber.Handler.
func (r *receiver) Accepted(_ context.Context, hub string, acc *controlv1.Accepted) {
	r.accepted.Store(acc)
	r.feeds.Accepted(acc)
	r.log.Info("connected", "hub", hub, "view", acc.GetView())
	r.post(message{ev: activation.Connected{Hub: hub}})
	r.reportAgain()
}

// reportAgain sends the present status on a new stream.
func (a *Agent) reportAgain() {
	if s := a.state.Load(); s != nil {
		a.report(a.status(s.report))
	}
}

// Update implements subscriber.Handler: it verifies, and hands over what holds.
func (r *receiver) Update(_ context.Context, u *subscriber.Update) {
	b, why := r.verify(u, time.Now())
	r.early = nil
	if why != nil {
		if slices.Contains(mayPass, why.Code) {
			r.early = u.Manifest
		}
		r.post(message{ev: activation.Refused{Point: claimed(u.Manifest), Reason: *why}})
		return
	}
	r.tip = b.content.Trie
	r.post(message{bundle: b, ev: activation.Offered{Candidate: activation.Candidate{Point: b.point, Verified: true, Required: b.required, Signer: b.signer}}})
}

// verify holds an update against the anchors and its own manifest.
func (r *receiver) verify(u *subscriber.Update, now time.Time) (*bundle, *activation.Reason) {
	m, hub, err := r.anchors.get().VerifyManifest(u.Manifest, now)
	if err != nil {
		return nil, activation.ReasonOf(err, fault.CodeInternal)
	}
	var base *digest.Trie
	if !u.Snapshot {
		base = r.base(u.Base)
	}
	t, err := subscriber.Apply(base, m, u, r.cfg.distributionLimits())
	if err != nil {
		why := activation.ReasonOf(err, fault.CodeInternal)
		// A delta that does not fit may mean that the two sides differ about the
		// base; a snapshot that does not fit will not fit the next time either.
		why.Resync = !u.Snapshot
		return nil, why
	}
	p, err := pointOf(m)
	if err != nil {
		return nil, activation.ReasonOf(err, fault.CodeInternal)
	}
	return &bundle{
		point: p, required: m.GetRequiredCapabilities(), signer: signerOf(hub), traceparent: u.Traceparent, received: u.Received,
		content: &lkg.Content{Manifest: proto.CloneOf(u.Manifest), VerifiedAt: now, Trie: r.opts.Shared.trie(t)},
	}, nil
}

// base finds content that this node holds.
func (r *receiver) base(root digest.Hash) *digest.Trie {
	if r.tip.Root() == root {
		return r.tip
	}
	for p, b := range r.state.Load().bundles {
		if p.Digest == root {
			return b.content.Trie
		}
	}
	return nil
}

// Freshness implements subscriber.Handler.
func (r *receiver) Freshness(_ context.Context, env *trustv1.Envelope) {
	now := time.Now()
	r.reconsider(now)
	f, hub, err := r.anchors.get().VerifyFreshness(env, now)
	if err != nil {
		r.log.Warn("freshness refused", "err", err)
		return
	}
	issued := f.GetIssuedAt().AsTime()
	if !issued.After(r.issued) {
		return // seen before: it says nothing about now
	}
	if issued.Before(now.Add(-maxFreshnessAge)) {
		r.log.Warn("freshness is too old: replayed, or the hub's clock is behind", "hub", hub.Hub, "issued", issued)
		return
	}
	p, err := freshPoint(f)
	if err != nil {
		r.log.Warn("freshness refused", "err", err)
		return
	}
	r.issued = issued
	r.feeds.Confirmed()
	r.post(message{fresh: &freshness{env: proto.CloneOf(env), point: p, at: now, signer: signerOf(hub)}})
}

// takeFresh carries a freshness statement through the machine, and keeps it as
// proof where one is needed: for a later point of the same content, and when the
// key that signed the manifest has left the keyset.
func (l *loop) takeFresh(f *freshness) {
	g, ok := l.machine.Active()
	if !ok || l.active == nil || l.active.point != g.Point || g.View != f.point.View || g.Digest != f.point.Digest {
		l.step(activation.Fresh{Point: f.point, Signer: f.signer})
		return
	}
	vouched := l.active.with(func(b *bundle) {
		content := *b.content
		content.Vouch, content.VouchedAt = f.env, f.at
		b.content = &content
		b.point = f.point
	})
	if f.point == g.Point {
		if !l.anchors.lists(l.active.content.Manifest) && !l.vouchedByListed() {
			l.setActive(vouched)
			l.step(activation.Vouched{})
			if err := l.feeds.Prove(l.active.version()); err != nil {
				l.log.Warn("proof not passed on", "err", err)
			}
		}
	} else if f.point.Compare(g.Point) > 0 && l.bundles[f.point] == nil {
		l.bundles[f.point] = vouched
	}
	l.step(activation.Fresh{Point: f.point, Signer: f.signer})
	if g, _ := l.machine.Active(); g.Point == f.point && l.active.point != f.point {
		l.setActive(l.bundles[f.point])
		if err := l.feeds.Publish(l.active.version()); err != nil {
			l.log.Warn("version not passed on", "err", err)
		}
	}
	if l.active.point == f.point {
		if err := l.feeds.Freshness(f.env); err != nil {
			l.log.Warn("freshness not passed on", "err", err)
		}
	}
}

// vouchedByListed tells whether the active content has a second proof that counts.
func (l *loop) vouchedByListed() bool {
	return l.active.content.Vouch != nil && l.anchors.lists(l.active.content.Vouch)
}

// Trust implements subscriber.Handler.
func (r *receiver) Trust(_ context.Context, m *trustv1.Metadata) {
	changed, err := r.anchors.update(m, time.Now())
	if err != nil && !changed {
		r.log.Error("trust metadata refused", "code", fault.CodeOf(err), "err", err)
		r.metrics.trustRefused.Inc()
		return
	}
	if err != nil {
		r.log.Error("trust metadata not saved yet", "err", err)
	}
	if !changed {
		return
	}
	now := r.anchors.get()
	r.log.Info("trust metadata updated", "root", now.RootVersion(), "keyset", now.KeysetVersion())
	r.feeds.Trust(now)
	r.reconsider(time.Now())
	r.adoptBundle()
}

// Notice implements subscriber.Handler.
func (r *receiver) Notice(_ context.Context, n *controlv1.Notice) {
	r.log.Warn("notice from hub", "code", n.GetCode(), "message", n.GetMessage(), "remedy", n.GetRemediation())
}

// Disconnected implements subscriber.Handler.
func (r *receiver) Disconnected(hub string, err error, wait time.Duration) {
	reason := ""
	if err != nil {
		reason = err.Error()
		r.log.Warn("disconnected", "hub", hub, "err", err, "wait", wait)
	}
	r.feeds.Disconnected()
	r.post(message{ev: activation.Disconnected{Reason: reason}})
}
