package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/distribution/subscriber"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// apply carries out one effect, or queues it.
func (l *loop) apply(e activation.Effect) {
	switch e := e.(type) {
	case activation.Validate:
		b, base := l.bundles[e.Point], l.active
		l.enqueue(work{run: func(ctx context.Context) message { return l.validate(ctx, e, b, base) }})
	case activation.Persist:
		contents := l.contents(e.Durable)
		l.enqueue(work{run: func(context.Context) message {
			err := l.save(e.Durable, contents)
			return message{ev: activation.Persisted{Flight: e.Flight, Reason: activation.ReasonOf(err, fault.CodeLKGWrite)}}
		}})
	case activation.Remember:
		contents := l.contents(e.Durable)
		l.enqueue(work{memo: true, run: func(context.Context) message {
			if err := l.save(e.Durable, contents); err != nil {
				l.log.Error("last-known-good state not saved", "err", err)
				return message{ev: activation.Remembered{Reason: activation.ReasonOf(err, fault.CodeLKGWrite)}}
			}
			return message{}
		}})
	case activation.Activate:
		l.enqueue(work{run: func(ctx context.Context) message { return l.activate(ctx, e) }})
	case activation.CheckHealth:
		l.checkHealth(l.ctx, e, l.bundles[e.Point])
	case activation.Ack:
		l.ack(e)
	case activation.Nack:
		l.nack(e)
	case activation.WentBack:
		l.metrics.reverts.WithLabelValues(string(e.Reason.Code)).Inc()
		l.log.Error("went back to an earlier generation", "from", e.From.Version, "to", e.To.Version, "code", e.Reason.Code, "reason", e.Reason.Message)
	case activation.Resume:
		l.resume()
	case activation.Reply:
		l.replies[e.Request] = replyOf(e)
		l.enqueue(work{run: func(context.Context) message { return message{request: e.Request} }})
	}
}

func replyOf(e activation.Reply) reply {
	if e.Reason == nil {
		return reply{generation: e.Generation}
	}
	return reply{err: fault.New(e.Reason.Code, "%s", e.Reason.Message)}
}

// contents gives what a durable state names.
func (l *loop) contents(d activation.Durable) map[activation.Point]*lkg.Content {
	out := make(map[activation.Point]*lkg.Content, len(d.Generations))
	for _, g := range d.Generations {
		if b := l.bundles[g.Point]; b != nil {
			out[g.Point] = b.content
		}
	}
	return out
}

// save makes state durable, after the trust metadata that it may need.
func (l *loop) save(d activation.Durable, contents map[activation.Point]*lkg.Content) error {
	if err := l.anchors.flush(); err != nil {
		return err
	}
	return l.store.Save(d, contents)
}

func (l *loop) validate(ctx context.Context, e activation.Validate, b, base *bundle) message {
	refuse := func(why *activation.Reason) message {
		return message{ev: activation.Validated{Flight: e.Flight, Reason: why}}
	}
	if b == nil {
		return refuse(&activation.Reason{Code: fault.CodeInternal, Message: "the content to validate is gone"})
	}
	next, why := b.validate(base, l.opts.Shared)
	if why != nil {
		return refuse(why)
	}
	if v := l.cfg.Validate; len(v.Command) > 0 {
		path := l.stagedPath()
		if err := writeBundle(l.fs, path, next); err != nil {
			return refuse(activation.ReasonOf(fault.New(fault.CodeValidateCommand, "stage for external validation: %w", err), fault.CodeValidateCommand))
		}
		command := append(append([]string(nil), v.Command...), path)
		if err := execute(ctx, fault.CodeValidateCommand, v.Timeout.Std(), command, next, path); err != nil {
			return refuse(activation.ReasonOf(err, fault.CodeValidateCommand))
		}
	}
	return message{ev: activation.Validated{Flight: e.Flight}, bundle: next}
}

// activate gives content to the data plane: the bundle file, the hook, the local
// streams, in this order. It runs in the worker and reads what the loop published.
func (l *loop) activate(ctx context.Context, e activation.Activate) message {
	s := l.state.Load()
	b := s.bundles[e.Point]
	if b == nil {
		return message{ev: activation.Activated{Flight: e.Flight, Reason: &activation.Reason{Code: fault.CodeInternal, Message: "the content to activate is gone"}}}
	}
	span := startSpan(b, l.cfg.Node)
	if b.graph == nil {
		if next, why := b.validate(s.active, l.opts.Shared); why == nil {
			b = next
		}
	}
	err := l.export(ctx, b)
	if err != nil && !e.Regardless {
		if e.From.IsZero() && l.cfg.Bundle.Path != "" {
			if removeErr := l.fs.Remove(l.cfg.Bundle.Path); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
				l.log.Warn("refused bundle file not removed", "err", removeErr)
			}
		}
		endSpan(span, err)
		return message{ev: activation.Activated{Flight: e.Flight, Reason: activation.ReasonOf(err, fault.CodeActivationFailed)}}
	}
	if feedErr := l.feeds.Publish(b.version()); feedErr != nil {
		err = errors.Join(err, feedErr)
	}
	endSpan(span, err)
	l.metrics.activations.Inc()
	l.log.Info("activated", "version", b.point.Version, "epoch", b.point.Epoch, "view", b.point.View, "resources", b.content.Trie.Len(), "back", e.Back)
	return message{ev: activation.Activated{Flight: e.Flight, Reason: activation.ReasonOf(err, fault.CodeActivationFailed)}, activated: b, changed: newBytes(s.active, b)}
}

// newBytes counts the content of b that from does not have.
func newBytes(from, b *bundle) (n int64) {
	var before *digest.Trie
	if from != nil {
		before = from.content.Trie
	}
	for c := range digest.Diff(before, b.content.Trie) {
		if c.After != nil {
			n += int64(len(c.After.Content))
		}
	}
	return n
}

// version is b as the local streams carry it.
func (b *bundle) version() feed.Version {
	return feed.Version{
		Epoch: b.point.Epoch, Version: b.point.Version, View: b.point.View, Trie: b.content.Trie,
		Manifest: b.content.Manifest, Vouch: b.content.Vouch, Required: b.required, Traceparent: b.traceparent, At: time.Now(),
	}
}

// export writes the bundle file and runs the hook, as far as they are configured.
func (l *loop) export(ctx context.Context, b *bundle) error {
	c := l.cfg.Bundle
	if c.Path == "" {
		return nil
	}
	if err := writeBundle(l.fs, c.Path, b); err != nil {
		return fault.New(fault.CodeActivationFailed, "%w", err)
	}
	if len(c.Hook) == 0 {
		return nil
	}
	return execute(ctx, fault.CodeActivationFailed, c.Timeout.Std(), c.Hook, b, c.Path)
}

// checkHealth runs the health command beside the worker, which may be busy.
func (l *loop) checkHealth(ctx context.Context, e activation.CheckHealth, b *bundle) {
	l.wg.Go(func() {
		err := execute(ctx, fault.CodeProbationFailed, l.cfg.Probation.Timeout.Std(), l.cfg.Probation.Health, b, l.cfg.Bundle.Path)
		if ctx.Err() != nil {
			return
		}
		select {
		case l.messages <- message{ev: activation.Health{Point: e.Point, Reason: activation.ReasonOf(err, fault.CodeProbationFailed)}}:
		case <-ctx.Done():
		}
	})
}

func (l *loop) ack(e activation.Ack) {
	l.disputed = l.disputed && !e.Kept
	l.send(func(c *subscriber.Client) {
		c.Ack(&controlv1.Ack{
			Epoch: e.Point.Epoch, Version: e.Point.Version, Digest: e.Point.Digest.Bytes(),
			ActivatedAt: timestamppb.New(e.ActivatedAt), Kept: e.Kept,
		})
	})
}

func (l *loop) nack(e activation.Nack) {
	l.disputed = true
	l.metrics.nacks.WithLabelValues(string(e.Reason.Code)).Inc()
	l.log.Warn("content refused", "version", e.Point.Version, "epoch", e.Point.Epoch, "code", e.Reason.Code, "resource", e.Reason.Resource, "reason", e.Reason.Message)
	if e.Reason.Code == fault.CodeEquivocation {
		l.showEvidence(e.Point)
	}
	l.send(func(c *subscriber.Client) {
		c.Nack(&controlv1.Nack{
			Epoch: e.Point.Epoch, Version: e.Point.Version, Digest: e.Point.Digest.Bytes(),
			Code: string(e.Reason.Code), Resource: e.Reason.Resource, Message: clip(e.Reason.Message), Resync: e.Reason.Resync,
		})
	})
}

// showEvidence logs both statements as they were signed: who looks into it can verify
// them anywhere.
func (l *loop) showEvidence(p activation.Point) {
	if l.incoming == nil {
		return
	}
	for known, b := range l.bundles {
		if known.Compare(p) != 0 || known.View != p.View || known.Digest == p.Digest {
			continue
		}
		l.log.Error("two contents were signed for one version", "version", p.Version, "epoch", p.Epoch, "view", p.View,
			"first", encodeEvidence(b.content.Manifest), "second", encodeEvidence(l.incoming))
		return
	}
}

func encodeEvidence(env *trustv1.Envelope) string {
	data, err := proto.Marshal(env)
	if err != nil {
		return err.Error()
	}
	return base64.StdEncoding.EncodeToString(data)
}

// maxMessage bounds the text of a refusal on the wire.
const maxMessage = 2 << 10

// clip also takes out what is no UTF-8: protobuf refuses to send it.
func clip(s string) string {
	if len(s) <= maxMessage {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "…"
}

// startSpan continues the trace of the change that b brings; it covers the time
// from reception.
func startSpan(b *bundle, node string) trace.Span {
	ctx := wire.WithTraceparent(context.Background(), b.traceparent)
	at := b.received
	if at.IsZero() {
		at = time.Now()
	}
	_, span := otel.Tracer("meshkit/agent").Start(ctx, "activate", trace.WithTimestamp(at), trace.WithAttributes(
		attribute.String("meshkit.node", node), attribute.Int64("meshkit.version", int64(b.point.Version)), attribute.String("meshkit.view", b.point.View),
	))
	return span
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, string(fault.CodeOf(err)))
	}
	span.End()
}
