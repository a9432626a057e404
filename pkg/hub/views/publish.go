package views

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/view"
	"github.com/meshkit/meshkit/pkg/wire"
)

var tracer = otel.Tracer("github.com/meshkit/meshkit/pkg/hub/views")

// publish signs v's manifest and makes it current in a's feed. s.mu is held.
func (s *Set) publish(ctx context.Context, a *activeView, v *view.View, point feed.Point, previous digest.Hash) error {
	traceparent := s.traceparent(point)
	ctx, span := tracer.Start(wire.WithTraceparent(ctx, traceparent), "publish view", trace.WithAttributes(
		attribute.String("meshkit.view", v.Class.ID()), attribute.Int64("meshkit.version", int64(point.Version)),
	))
	defer span.End()
	signer, anchors, err := s.opt.Keys.Signer()
	if err != nil {
		return err
	}
	root := v.Trie.Root()
	m := &trustv1.Manifest{
		Domain: s.opt.Domain, View: v.Class.ID(), Epoch: point.Epoch, Version: point.Version, Digest: root[:],
		Count: uint64(v.Trie.Len()), TotalBytes: uint64(v.Trie.Bytes()), RequiredCapabilities: v.Required,
		IssuedAt: timestamppb.New(s.opt.Now()), KeysetVersion: anchors.KeysetVersion(),
	}
	if !previous.IsZero() {
		m.PreviousDigest = previous[:]
	}
	env, err := trust.SignManifest(ctx, signer, m)
	if err != nil {
		return fmt.Errorf("sign the manifest of view %s: %w", m.GetView(), err)
	}
	if span.SpanContext().IsValid() {
		traceparent = wire.Traceparent(ctx)
	}
	// Before streams are woken: an answer may overtake what follows.
	s.opt.Fleet.Offered(m.GetView(), root)
	err = a.feed.Publish(feed.Version{
		Epoch: point.Epoch, Version: point.Version, View: m.GetView(), Trie: v.Trie, Manifest: env,
		Required: v.Required, Traceparent: traceparent, At: s.opt.Now(),
	})
	if err == nil {
		a.key = signer.KeyID()
	}
	return err
}

// traceparent is the trace of the change that made point.
func (s *Set) traceparent(point feed.Point) string {
	for _, c := range s.opt.Replica.CommitsAfter(point.Version - 1) {
		if c.Seq == point.Version {
			return c.Traceparent
		}
	}
	return ""
}

// refresh signs "still at this version" for every view, after trying again what
// could not be signed before.
func (s *Set) refresh(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsigned != nil {
		s.publishAll(ctx)
	}
	s.resignStale(ctx)
	s.expel()
	for id, a := range s.active {
		if err := s.fresh(ctx, a); err != nil {
			s.metrics.failures.Inc()
			s.log.Error("freshness not signed", "view", id, "err", err)
		}
	}
	s.sweep()
}

// fresh signs one view's freshness. s.mu is held.
func (s *Set) fresh(ctx context.Context, a *activeView) error {
	signer, anchors, err := s.opt.Keys.Signer()
	if err != nil {
		return err
	}
	cur, ok := a.feed.Current()
	if !ok {
		return nil
	}
	root := cur.Trie.Root()
	env, err := trust.SignFreshness(ctx, signer, &trustv1.Freshness{
		Domain: s.opt.Domain, View: cur.View, Epoch: cur.Epoch, Version: cur.Version, Digest: root[:],
		IssuedAt: timestamppb.New(s.opt.Now()), KeysetVersion: anchors.KeysetVersion(),
		RequiredCapabilities: cur.Required,
	})
	if err != nil {
		return err
	}
	return a.feed.Freshness(env)
}

// resignStale signs again what another key than the present one signed: the key
// was replaced by metadata that was signed elsewhere. s.mu is held.
func (s *Set) resignStale(ctx context.Context) {
	signer, _, err := s.opt.Keys.Signer()
	if err != nil {
		return // the trust check of health says so
	}
	for id, a := range s.active {
		if a.key == signer.KeyID() {
			continue
		}
		err := s.publish(ctx, a, a.view, a.point, a.previous)
		if err == nil {
			err = s.fresh(ctx, a)
		}
		if err != nil {
			s.metrics.failures.Inc()
			s.log.Error("view not signed with the new key", "view", id, "err", err)
		}
	}
}

// resignAll replaces every manifest and statement by one of the present key.
func (s *Set) resignAll(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.active {
		if err := s.publish(ctx, a, a.view, a.point, a.previous); err != nil {
			return err
		}
		if err := s.fresh(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func sameAccepted(a, b *controlv1.Accepted) bool { return proto.Equal(a, b) }

type metrics struct {
	publish  prometheus.Histogram
	failures prometheus.Counter
	refused  prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshkit_publish_seconds", Help: "Time to bring all views to a new version: digests, signatures, publication.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "meshkit_publish_failures_total", Help: "Manifests and freshness statements that could not be signed or published."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "meshkit_views_refused_total", Help: "Nodes refused because the domain's limit on views was reached."}),
	}
}

func (m metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.publish, m.failures, m.refused}
}
