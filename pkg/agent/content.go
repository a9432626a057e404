package agent

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	"github.com/meshkit/meshkit/pkg/agent/lkg"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/trust"
)

// bundle is one verified content under one point. It is immutable; a change makes
// a copy.
type bundle struct {
	point    activation.Point
	content  *lkg.Content
	required []string
	signer   string // for people; empty for what was stored
	// graph is the parsed content. Only the active bundle and one that is being
	// activated have it: the others are a delta away.
	graph       *graph.Graph
	traceparent string
	received    time.Time
}

// with returns a copy that change has altered.
func (b *bundle) with(change func(*bundle)) *bundle {
	c := *b
	change(&c)
	return &c
}

// validate holds b's content against the shared engine, in steps from base (nil:
// from nothing), and returns b with its graph. What another agent of the process has
// validated is valid.
func (b *bundle) validate(base *bundle, shared *Shared) (*bundle, *activation.Reason) {
	root := b.content.Trie.Root()
	if g := shared.graph(root); g != nil {
		return b.withGraph(g), nil
	}
	from, g := (*digest.Trie)(nil), graph.New()
	if base != nil && base.graph != nil {
		from, g = base.content.Trie, base.graph
	}
	var changes []graph.Change
	for c := range digest.Diff(from, b.content.Trie) {
		key, err := resource.ParseKey(c.Key)
		if err != nil {
			return nil, activation.ReasonOf(err, fault.CodeContentRefused)
		}
		change := graph.Change{Key: key}
		if c.After != nil {
			change.Content = c.After.Content
		}
		changes = append(changes, change)
	}
	next, findings := g.Update(changes)
	for _, f := range findings {
		if f.Severity != resource.Error {
			continue
		}
		return nil, &activation.Reason{Code: fault.CodeContentRefused, Resource: f.Key.String(), Message: string(f.Code) + " " + f.Field + ": " + f.Reason}
	}
	return b.withGraph(shared.keep(root, next)), nil
}

// withGraph returns b with its graph, and one trie in memory instead of two.
func (b *bundle) withGraph(g *graph.Graph) *bundle {
	return b.with(func(c *bundle) {
		c.graph = g
		if t := g.Trie(); t.Root() == c.content.Trie.Root() {
			content := *c.content
			content.Trie = t
			c.content = &content
		}
	})
}

// pointOf names what a manifest states.
func pointOf(m *trustv1.Manifest) (activation.Point, error) {
	h, err := digest.HashOf(m.GetDigest())
	if err != nil {
		return activation.Point{}, err
	}
	return activation.Point{Epoch: m.GetEpoch(), Version: m.GetVersion(), View: m.GetView(), Digest: h}, nil
}

// claimed reads the point that an envelope claims, verified or not, so that a
// refusal can name it.
func claimed(env *trustv1.Envelope) activation.Point {
	var m trustv1.Manifest
	if proto.Unmarshal(env.GetPayload(), &m) != nil {
		return activation.Point{}
	}
	p, _ := pointOf(&m)
	return p
}

// resumePoint is p as it travels; nil for the zero point.
func resumePoint(p activation.Point) *controlv1.ResumePoint {
	if p.IsZero() {
		return nil
	}
	return &controlv1.ResumePoint{Epoch: p.Epoch, Version: p.Version, View: p.View, Digest: p.Digest.Bytes()}
}

// requiredOf lists the capabilities that a manifest requires.
func requiredOf(env *trustv1.Envelope) []string {
	var m trustv1.Manifest
	if proto.Unmarshal(env.GetPayload(), &m) != nil {
		return nil
	}
	return m.GetRequiredCapabilities()
}

// proves tells whether a stored generation is vouched for under a: by its manifest,
// or by a freshness statement that names the same content.
func proves(a *trust.Anchors, p activation.Point, c *lkg.Content) error {
	if c.Trie.Root() != p.Digest {
		return fault.New(fault.CodeLKGCorrupt, "content has digest %s, and version %d has %s", c.Trie.Root(), p.Version, p.Digest)
	}
	m, _, err := a.VerifyStored(c.Manifest)
	if err == nil {
		stated, pointErr := pointOf(m)
		if pointErr == nil && stated == p {
			return nil
		}
		err = fault.New(fault.CodeLKGUnverified, "the manifest states version %d with digest %s", stated.Version, stated.Digest)
	}
	if c.Vouch == nil {
		return err
	}
	f, _, vouchErr := a.VerifyFreshness(c.Vouch, c.VouchedAt)
	if vouchErr != nil {
		return err
	}
	stated, vouchErr := freshPoint(f)
	if vouchErr != nil || stated != p {
		return fault.New(fault.CodeLKGUnverified, "the freshness statement names version %d with digest %s", stated.Version, stated.Digest)
	}
	return nil
}

func freshPoint(f *trustv1.Freshness) (activation.Point, error) {
	h, err := digest.HashOf(f.GetDigest())
	if err != nil {
		return activation.Point{}, err
	}
	return activation.Point{Epoch: f.GetEpoch(), Version: f.GetVersion(), View: f.GetView(), Digest: h}, nil
}
