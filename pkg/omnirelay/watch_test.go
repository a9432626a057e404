package omnirelay

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	bundlev1 "github.com/meshkit/meshkit/pkg/api/meshkit/bundle/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/bundle"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/omnirelay/omnirelaytest"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

func TestEachChangeIsAWholeBundleAndAResumedClientIsLeftAlone(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 3, 10)
	c := omnirelaytest.New(t, l.conn, "node-a", l.anchors)
	c.Start()
	if e := c.Applied(); e.Bundle.Version != 1 || e.Bundle.Content.Len() != 3 || e.Response.GetVersion() != "1" || e.Response.GetEpoch() != 1 || !e.Response.GetFullSnapshot() {
		t.Errorf("the first bundle is %d.%d with %d resources", e.Bundle.Epoch, e.Bundle.Version, e.Bundle.Content.Len())
	}
	l.publish(1, 2, 4, 10)
	if e := c.Applied(); e.Bundle.Version != 2 || e.Bundle.Content.Len() != 4 {
		t.Errorf("the second bundle is version %d with %d resources: not whole", e.Bundle.Version, e.Bundle.Content.Len())
	}
	c.Stop()
	l.await(0)

	// It comes back with its own copy; the next thing that it is sent is the change.
	c.Start()
	if e := c.Applied(); e.Response != nil || e.Bundle.Version != 2 {
		t.Errorf("the client started with %+v, not with what it had stored", e)
	}
	l.await(1)
	l.publish(2, 3, 5, 10)
	if e := c.Applied(); e.Bundle.Epoch != 2 || e.Bundle.Version != 3 {
		t.Errorf("after it resumed the client was sent version %d", e.Bundle.Version)
	}
}

// The content of a later point is the content that the client has.
func TestAVersionThatChangesNothingIsNotSent(t *testing.T) {
	l := newLab(t)
	content := trie(1, 2, 10)
	l.publishAs(l.signer, 1, 1, content)
	c := omnirelaytest.New(t, l.conn, "node-a", l.anchors)
	c.Start()
	c.Applied()
	l.looked(func() { l.publishAs(l.signer, 1, 5, content) })
	l.publish(1, 6, 2, 10)
	if e := c.Applied(); e.Bundle.Version != 6 {
		t.Errorf("version %d was sent, which has the content of version 1", e.Bundle.Version)
	}
}

func TestATokenThatCannotBeFollowedIsRefusedWithWhatToDo(t *testing.T) {
	l := newLab(t)
	v := l.publish(1, 7, 1, 10)
	good := l.token(v)
	elsewhere, err := place{point: v.Point(), view: "view-1", digest: v.Trie.Root(), known: true}.token("us-east")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*relay.WatchResumeToken{
		"of another domain":    elsewhere,
		"version not a number": {Version: "v7", Epoch: 1, Opaque: good.GetOpaque()},
		"version with a plus":  {Version: "+7", Epoch: 1, Opaque: good.GetOpaque()},
		"version with zeros":   {Version: "007", Epoch: 1, Opaque: good.GetOpaque()},
		"epoch below 0":        {Version: "7", Epoch: -1, Opaque: good.GetOpaque()},
		"version over 64 bits": {Version: "18446744073709551616", Epoch: 1, Opaque: good.GetOpaque()},
	} {
		s := l.watch(bad, Core)
		m := next(t, s)
		if m.GetError().GetCode() != InvalidResumeToken || m.GetError().GetMessage() == "" || !strings.Contains(m.GetError().GetRemediation(), "LKG") || len(m.GetPayload()) > 0 {
			t.Errorf("%s: %v", name, m)
		}
		if ms := m.GetBackoff().GetMillis(); ms < 1000 || ms > 60_000 {
			t.Errorf("%s: backoff of %d ms", name, ms)
		}
		ended(t, s)
	}
	// And the one that is, is not.
	s := l.watch(good, Core)
	l.publish(1, 8, 1, 10)
	if m := next(t, s); m.GetVersion() != "8" {
		t.Errorf("with the present token the client was sent %v", m)
	}
}

// A client keeps what another control plane gave it and comes back with it for ever:
// it is served as one that has nothing, and has our token from then on.
func TestATokenOfAnotherControlPlaneCountsAsNone(t *testing.T) {
	var log logged
	l := newLab(t, func(_ *distribution.ServerConfig, c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	good := l.token(l.publish(1, 7, 1, 10))
	similar, err := proto.Marshal(&bundlev1.ResumePoint{Domain: "a node", View: "a cluster", Digest: []byte("v9"), RootVersion: 3})
	if err != nil {
		t.Fatal(err)
	}
	for name, foreign := range map[string]*relay.WatchResumeToken{
		"of text":            {Version: "build-2024.1", Epoch: 900, Opaque: []byte(`{"rev":17}`)},
		"without opaque":     {Version: "7", Epoch: 1},
		"of an epoch":        {Epoch: 1},
		"of a like message":  {Version: "7", Epoch: 1, Opaque: similar},
		"of other bytes":     {Version: "7", Epoch: -1, Opaque: []byte("\xff\xff")},
		"of too many bytes":  {Version: "7", Epoch: 1, Opaque: make([]byte, maxOpaque+1)},
		"of ours, cut short": {Version: "7", Epoch: 1, Opaque: good.GetOpaque()[:5]},
	} {
		before := log.count("no MeshKit hub or agent made")
		m := next(t, l.watch(foreign, Core))
		if m.GetError() != nil || m.GetVersion() != "7" || len(m.GetPayload()) == 0 || !proto.Equal(m.GetResumeToken(), good) {
			t.Errorf("with a token %s the client was sent %v", name, m)
		}
		if n := log.count("no MeshKit hub or agent made") - before; n != 1 {
			t.Errorf("a token %s was told of %d times", name, n)
		}
	}
}

// logged is a log that a test looks into.
type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// token is what a client has that applied v.
func (l *lab) token(v feed.Version) *relay.WatchResumeToken {
	l.t.Helper()
	p := place{point: v.Point(), view: v.View, digest: v.Trie.Root(), known: true, root: l.anchors.RootVersion(), keyset: l.anchors.KeysetVersion()}
	token, err := p.token(domain)
	if err != nil {
		l.t.Fatal(err)
	}
	return token
}

func TestAServerThatIsBehindNeverServesWhatIsOlder(t *testing.T) {
	l := newLab(t)
	ahead := l.token(feed.Version{Epoch: 2, Version: 9, View: "view-1", Trie: trie(9, 1, 10)})
	l.publish(1, 7, 1, 10)
	s := l.watch(ahead, Core)
	m := next(t, s)
	if m.GetError().GetCode() != HubBehind || m.GetBackoff().GetMillis() < 1 || len(m.GetPayload()) > 0 || m.GetVersion() != "" {
		t.Errorf("a client at 2.9 was sent %v by a server at 1.7", m)
	}
	_, err := s.Recv()
	if _, ok := wire.RetryAfter(err); !ok || fault.CodeOf(err) != fault.CodeBehind {
		t.Errorf("and its stream ended with %v", err)
	}
}

// One that catches up while the client waits serves it.
func TestAClientThatIsAheadIsServedOnceTheServerHasCaughtUp(t *testing.T) {
	l := newLab(t, func(c *distribution.ServerConfig, _ *Config) { c.BehindWait = time.Minute })
	ahead := l.token(feed.Version{Epoch: 2, Version: 9, View: "view-1", Trie: trie(9, 1, 10)})
	l.publish(1, 7, 1, 10)
	s := l.watch(ahead, Core)
	l.await(1)
	l.looked(func() { l.publish(2, 8, 1, 10) }) // still behind
	l.publish(2, 10, 1, 10)
	if m := next(t, s); m.GetVersion() != "10" {
		t.Errorf("the client was sent %v", m)
	}
}

// A call that has been taken on says so before it has anything to say.
func TestASilentStreamHasItsHeaders(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	watch, err := relay.NewControlPlaneWatchClient(l.conn).Watch(ctx, &relay.ControlWatchRequest{Capabilities: &relay.CapabilitySet{Items: []string{Core}}, ResumeToken: l.token(l.publish(1, 7, 1, 10))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Errorf("of a watch of what the client has: %v", err)
	}
	leaders, err := mesh.NewLeadershipControlServiceClient(l.conn).Subscribe(ctx, &mesh.LeadershipSubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaders.Header(); err != nil {
		t.Errorf("of a subscription while no leader is known: %v", err)
	}
}

// An agent that went back takes its clients along; one that never was there does not.
func TestClientsFollowAnAgentBackButNotBelowWhatItNeverReached(t *testing.T) {
	reached := feed.Point{Epoch: 1, Version: 8}
	l := newLab(t, func(_ *distribution.ServerConfig, c *Config) {
		c.Reached = func() feed.Point { return reached }
	})
	l.publish(1, 7, 1, 10)
	l.publish(1, 8, 1, 10)
	s := l.watch(nil, Core)
	if m := next(t, s); m.GetVersion() != "8" {
		t.Fatalf("first %v", m)
	}
	l.back()
	l.publish(1, 7, 1, 10)
	m := next(t, s)
	if m.GetVersion() != "7" {
		t.Errorf("after the agent went back to version 7 its client was sent %v", m)
	}
	ahead := l.token(feed.Version{Epoch: 1, Version: 9, View: "view-1", Trie: trie(9, 1, 10)})
	if m := next(t, l.watch(ahead, Core)); m.GetError().GetCode() != HubBehind {
		t.Errorf("a client at 1.9 was sent %v by an agent that never was above 1.8", m)
	}
}

func TestWhatNeedsAMissingCapabilityIsNeverSent(t *testing.T) {
	l := newLab(t)
	v := l.publish(1, 1, 1, 10, "wasm/v1")
	for _, caps := range [][]string{{Core}, {"wasm/v1"}, nil} {
		s := l.watch(nil, caps...)
		m := next(t, s)
		if m.GetError().GetCode() != UnsupportedCapability || len(m.GetPayload()) > 0 || m.GetVersion() != "" || m.GetResumeToken() != nil {
			t.Errorf("a client with %q was sent %v", caps, m)
		}
		if !slices.Equal(m.GetRequiredCapabilities(), []string{Core, "wasm/v1"}) || m.GetBackoff().GetMillis() < 1000 || m.GetError().GetRemediation() == "" {
			t.Errorf("the refusal is %v", m)
		}
		ended(t, s)
	}
	s := l.watch(nil, Core, "dsl/v1", "wasm/v1")
	if m := next(t, s); !slices.Equal(m.GetRequiredCapabilities(), []string{Core, "wasm/v1"}) || len(m.GetPayload()) == 0 {
		t.Errorf("a client that has them was sent %v", m)
	}
	// So is one that has it from when it could do more: it would be left with it in silence.
	s3 := l.watch(l.token(v), Core)
	if m := next(t, s3); m.GetError().GetCode() != UnsupportedCapability || !slices.Equal(m.GetRequiredCapabilities(), []string{Core, "wasm/v1"}) {
		t.Errorf("a client that came back with less was sent %v", m)
	}
	ended(t, s3)
	// A change that needs more ends the stream as well; one that has it all stays.
	s2 := l.watch(l.token(v), Core, "wasm/v1")
	l.await(2)
	l.publish(1, 2, 1, 10, "dsl/v1", "wasm/v1")
	if m := next(t, s2); m.GetError().GetCode() != UnsupportedCapability || !strings.Contains(m.GetError().GetMessage(), "needs dsl/v1") {
		t.Errorf("after a change that needs dsl/v1: %v", m)
	}
	ended(t, s2)
	if m := next(t, s); m.GetVersion() != "2" {
		t.Errorf("the client with everything was sent %v", m)
	}
	_, err := relay.NewControlPlaneWatchClient(l.conn).Snapshot(t.Context(), &relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: []string{Core}}})
	if fault.CodeOf(err) != fault.CodeCapability || !strings.Contains(err.Error(), "dsl/v1, wasm/v1") {
		t.Errorf("a snapshot without them: %v", err)
	}
}

func TestASlowReaderGetsTheNewestAndNotTheQueue(t *testing.T) {
	const versions = 20
	l := newLab(t)
	l.publish(1, 1, 3, 100_000) // more than the transport takes without a reader
	s := l.watch(nil, Core)
	l.await(1)
	for v := range versions {
		l.publish(1, uint64(v)+2, 3, 100_000)
	}
	received := 0
	for {
		m := next(t, s)
		received++
		if m.GetVersion() == versionText(versions+1) {
			break
		}
	}
	if received > 5 {
		t.Errorf("%d bundles of %d versions were sent to a reader that slept", received, versions)
	}
}

// It loses its session; its place it has until gRPC lets go of what it was sent.
func TestAClientThatTakesNoBytesIsCut(t *testing.T) {
	l := newLab(t, func(c *distribution.ServerConfig, _ *Config) { c.StallTimeout = 10 * time.Millisecond })
	l.publish(1, 1, 3, 100_000)
	s := l.watch(nil, Core)
	l.await(1)
	l.await(0) // without having read
	if n := l.counter("meshkit_control_streams"); n != 1 || s.Context().Err() != nil {
		t.Errorf("%v places are taken while the bundle waits to be read", n)
	}
	if m := next(t, s); m.GetVersion() != "1" {
		t.Errorf("what it was sent is %v", m)
	}
	if _, err := s.Recv(); fault.CodeOf(err) != fault.CodeStalled {
		t.Errorf("its stream ended with %v", err)
	}
	if n := l.counter("meshkit_control_streams"); n != 0 {
		t.Errorf("%v streams are open", n)
	}
}

// Snapshots that are asked for and not read take the node's places, and no more than
// those are held for it.
func TestSnapshotsThatAreNotReadTakePlaces(t *testing.T) {
	const places = 16
	l := newLab(t, func(c *distribution.ServerConfig, _ *Config) { c.StallTimeout = 10 * time.Millisecond })
	l.publish(1, 1, 3, 100_000)
	ask := func(ctx context.Context) grpc.ClientStream {
		s, err := l.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, relay.ControlPlaneWatch_Snapshot_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(&relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: []string{Core}}}); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first := ask(ctx)
	for range places - 1 {
		ask(ctx)
	}
	l.until("the snapshots to be with the transport", func() bool { return l.counter("meshkit_control_messages_sent_total") == places })
	var refused relay.ControlSnapshotResponse
	if err := ask(ctx).RecvMsg(&refused); fault.CodeOf(err) != fault.CodeAdmission {
		t.Errorf("one more: %d bytes, %v", len(refused.GetPayload()), err)
	}
	l.await(0) // all have been cut
	if n := l.counter("meshkit_control_streams"); n != places {
		t.Errorf("%v places are taken while %d snapshots wait to be read", n, places)
	}
	var m relay.ControlSnapshotResponse
	if err := first.RecvMsg(&m); err != nil || len(m.GetPayload()) < 300_000 {
		t.Errorf("what was sent: %d bytes, %v", len(m.GetPayload()), err)
	}
	if err := first.RecvMsg(&m); fault.CodeOf(err) != fault.CodeStalled {
		t.Errorf("the call ended with %v", err)
	}
	l.until("its place to be free", func() bool { return l.counter("meshkit_control_streams") == places-1 })
	leave()
	l.until("the others' places to be free", func() bool { return l.counter("meshkit_control_streams") == 0 })
}

func TestABundleIsEncodedOnceForAllStreams(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 10, 1000)
	var streams []relay.ControlPlaneWatch_WatchClient
	for range 3 {
		streams = append(streams, l.watch(nil, Core))
	}
	for v := uint64(2); v < 5; v++ {
		for _, s := range streams {
			next(t, s)
		}
		l.publish(1, v, 10, 1000)
	}
	for _, s := range streams {
		next(t, s)
	}
	if n, sent := l.counter("meshkit_control_frames_encoded_total"), l.counter("meshkit_control_messages_sent_total"); n != 4 || sent != 12 {
		t.Errorf("%v bundles were encoded for 4 versions, and %v sent to 3 streams", n, sent)
	}
}

// While no hub can vouch for content anew, all clients that begin share one bundle too.
func TestABundleWithEarlierTrustIsEncodedOnceForAllStreams(t *testing.T) {
	var kept []*trust.Anchors // the newest first
	l := newLab(t, func(_ *distribution.ServerConfig, c *Config) {
		c.Earlier = func() (out []*trust.Anchors) { // read from disk each time
			for _, k := range kept {
				a, err := trust.FromMetadata(domain, k.Metadata(0, 0))
				if err != nil {
					t.Error(err)
				}
				out = append(out, a)
			}
			return out
		}
	})
	l.publish(1, 1, 10, 1000)
	first := l.anchors
	l.rotate()
	kept = []*trust.Anchors{l.anchors, first}
	for range 3 {
		if m := next(t, l.watch(nil, Core)); m.GetVersion() != "1" || len(m.GetPayload()) == 0 {
			t.Fatalf("the client was sent %v", m)
		}
	}
	if n := l.counter("meshkit_control_frames_encoded_total"); n != 1 {
		t.Errorf("%v bundles were encoded for 3 clients", n)
	}
}

// A bundle that cannot be made is told of, and the client stays away for a while.
func TestABundleThatCannotBeMadeEndsTheAttempt(t *testing.T) {
	l := newLab(t)
	l.publish(1<<63, 1, 1, 10) // an epoch that the protocol has no number for
	s := l.watch(nil, Core)
	m := next(t, s)
	if ms := m.GetBackoff().GetMillis(); m.GetError().GetCode() != BundleUnavailable || len(m.GetPayload()) > 0 || m.GetVersion() != "" || ms < 10_000 || ms > 30_000 {
		t.Errorf("the client was sent %v", m)
	}
	_, err := s.Recv()
	if _, ok := wire.RetryAfter(err); !ok || fault.CodeOf(err) != fault.CodeInternal {
		t.Errorf("and its stream ended with %v", err)
	}
}

// counter sums a metric.
func (l *lab) counter(name string) (sum float64) {
	l.t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(l.metrics.Collectors()...)
	all, err := r.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}

// looked runs f and waits until the one stream has judged what there is then. It asks
// twice each time that it looks; of three looks, one at most began before f.
func (l *lab) looked(f func()) {
	l.t.Helper()
	l.until("the stream to look", func() bool { return len(l.wakes) == 1 })
	l.mu.Lock()
	before := l.offers
	l.mu.Unlock()
	f()
	l.until("the stream to look", func() bool {
		for _, wake := range l.wakes {
			wake()
		}
		return l.offers >= before+6
	})
}

// await waits until exactly n streams have their session.
func (l *lab) await(n int) {
	l.t.Helper()
	l.until("sessions", func() bool { return len(l.wakes) == n })
}

// until waits for something that l.mu guards.
func (l *lab) until(what string, holds func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		ok := holds()
		l.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestStreamsCountAgainstTheLimitsOfControlStreams(t *testing.T) {
	l := newLab(t, func(c *distribution.ServerConfig, _ *Config) { c.MaxStreams = 1 })
	l.publish(1, 1, 1, 10)
	first := l.watch(nil, Core)
	next(t, first)
	s := l.watch(nil, Core)
	m := next(t, s)
	if m.GetError().GetCode() != NotAdmitted || m.GetBackoff().GetMillis() < 1 {
		t.Errorf("beyond the limit: %v", m)
	}
	_, err := s.Recv()
	if _, ok := wire.RetryAfter(err); !ok || fault.CodeOf(err) != fault.CodeStreamLimit {
		t.Errorf("the stream ends with %v, which does not say when to come back", err)
	}
	_, err = relay.NewControlPlaneWatchClient(l.conn).Snapshot(t.Context(), &relay.ControlSnapshotRequest{Capabilities: &relay.CapabilitySet{Items: []string{Core}}})
	if _, ok := wire.RetryAfter(err); !ok || fault.CodeOf(err) != fault.CodeStreamLimit {
		t.Errorf("a snapshot beyond the limit: %v", err)
	}
	// Its place is free again when it is gone.
	_ = first.CloseSend()
	l.publish(1, 2, 1, 10)
	next(t, first)
}

func TestOneNodeCannotOpenStreamsWithoutEnd(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 1, 10)
	for i := range 16 {
		if m := next(t, l.watch(nil, Core)); m.GetError() != nil {
			t.Fatalf("stream %d of the node was refused: %v", i+1, m)
		}
	}
	s := l.watch(nil, Core)
	if m := next(t, s); m.GetError().GetCode() != NotAdmitted {
		t.Errorf("a seventeenth stream of one node: %v", m)
	}
	if _, err := s.Recv(); fault.CodeOf(err) != fault.CodeAdmission {
		t.Errorf("it ends with %v", err)
	}
}

// full is a backend that has no room for a node's view at the moment.
type full struct{ distribution.Backend }

func (full) Attach(context.Context, distribution.Peer, *controlv1.Hello, func()) (distribution.Session, error) {
	return nil, wire.WithRetry(fault.New(fault.CodeViewLimit, "1 views are in use"), time.Minute)
}

func TestARefusalOfTheBackendSaysWhenToComeBack(t *testing.T) {
	l := newLab(t, func(_ *distribution.ServerConfig, c *Config) { c.Backend = full{} })
	s := l.watch(nil, Core)
	m := next(t, s)
	if m.GetError().GetCode() != NotAdmitted || m.GetError().GetMessage() == "" || m.GetBackoff().GetMillis() != time.Minute.Milliseconds() {
		t.Errorf("refused for a minute, the client was sent %v", m)
	}
	_, err := s.Recv()
	if wait, ok := wire.RetryAfter(err); !ok || wait != time.Minute || fault.CodeOf(err) != fault.CodeViewLimit {
		t.Errorf("and its stream ended with %v", err)
	}
}

func TestADrainSendsClientsAwayForAWhile(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 1, 10)
	s := l.watch(nil, Core)
	next(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.streams.Drain(ctx, nil); err != nil {
		t.Fatalf("drain: %v", err)
	}
	if m := next(t, s); m.GetError().GetCode() != HubDraining || m.GetBackoff().GetMillis() < 500 || len(m.GetPayload()) > 0 {
		t.Errorf("on drain the client was sent %v", m)
	}
	if _, err := s.Recv(); fault.CodeOf(err) != fault.CodeDraining {
		t.Errorf("and its stream ended with %v", err)
	}
	late := l.watch(nil, Core)
	if m := next(t, late); m.GetError().GetCode() != HubDraining {
		t.Errorf("a client that comes during the drain was sent %v", m)
	}
}

// Between the keyset that drops a key and the manifest that the next one signs there is
// nothing that a client could verify.
func TestNothingIsSentThatItsOwnTrustMetadataRefuses(t *testing.T) {
	l := newLab(t)
	content := trie(1, 2, 10)
	l.publishAs(l.signer, 1, 1, content)
	c := omnirelaytest.New(t, l.conn, "node-a", l.anchors)
	c.Start()
	c.Applied()
	l.looked(l.rotate)
	l.publishAs(l.signer, 1, 1, content) // the same version, by the new key
	e := c.Applied()
	if e.Bundle.Version != 1 || e.Bundle.Trust.KeysetVersion() != 2 || e.Bundle.Signer.KeyID != l.signer.KeyID() {
		t.Errorf("after the rotation the client has keyset %d and a bundle signed by %v", e.Bundle.Trust.KeysetVersion(), e.Bundle.Signer)
	}
}

// An agent whose hub's key was dropped has the word of the next one.
func TestAFreshnessStatementVouchesForAManifestWhoseKeyWasDropped(t *testing.T) {
	l := newLab(t)
	content := trie(1, 2, 10)
	v := l.publishAs(l.signer, 1, 1, content)
	pinned := l.anchors
	l.rotate()
	s := l.watch(nil, Core)
	l.await(1)
	env, err := trust.SignFreshness(t.Context(), l.signer, &trustv1.Freshness{
		Domain: domain, View: "view-1", Epoch: 1, Version: 4, Digest: content.Root().Bytes(), IssuedAt: timestamppb.Now(), KeysetVersion: l.anchors.KeysetVersion(),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.Vouch = env
	if err := l.feed.Publish(v); err != nil {
		t.Fatal(err)
	}
	m := next(t, s)
	b, err := bundle.Open(m.GetPayload(), pinned, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if m.GetVersion() != "4" || b.Version != 4 || b.Signer.KeyID != l.signer.KeyID() {
		t.Errorf("the response has version %s, the bundle %d, vouched for by %v; want what the statement says", m.GetVersion(), b.Version, b.Signer)
	}
}

func TestASnapshotIsThePresentBundle(t *testing.T) {
	l := newLab(t)
	l.publish(1, 3, 5, 10)
	m, err := relay.NewControlPlaneWatchClient(l.conn).Snapshot(t.Context(), &relay.ControlSnapshotRequest{NodeId: "node-a", Capabilities: &relay.CapabilitySet{Items: []string{Core}}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(m.GetPayload(), l.anchors, time.Now())
	if err != nil || m.GetVersion() != "3" || m.GetEpoch() != 1 || b.Content.Len() != 5 || b.Version != 3 {
		t.Errorf("the snapshot is %s at epoch %d: %v", m.GetVersion(), m.GetEpoch(), err)
	}
}

func TestANodeMayAskForItselfOnly(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 1, 10)
	client := relay.NewControlPlaneWatchClient(l.conn)
	s, err := client.Watch(t.Context(), &relay.ControlWatchRequest{NodeId: "node-b", Capabilities: &relay.CapabilitySet{Items: []string{Core}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); fault.CodeOf(err) != fault.CodeHelloNode || fault.KindOf(err) != fault.Denied {
		t.Errorf("a watch of another node's content: %v", err)
	}
	if _, err := client.Snapshot(t.Context(), &relay.ControlSnapshotRequest{NodeId: "node-b"}); fault.KindOf(err) != fault.Denied {
		t.Errorf("a snapshot of another node's content: %v", err)
	}
}

func TestWhatAClientSaysOfItselfIsBounded(t *testing.T) {
	l := newLab(t)
	l.publish(1, 1, 1, 10)
	many := slices.Repeat([]string{"core/v1"}, maxCapabilities+1)
	for name, r := range map[string]*relay.ControlWatchRequest{
		"too many capabilities":   {Capabilities: &relay.CapabilitySet{Items: many}},
		"a capability too long":   {Capabilities: &relay.CapabilitySet{Items: []string{strings.Repeat("x", maxWord+1)}}},
		"an empty capability":     {Capabilities: &relay.CapabilitySet{Items: []string{""}}},
		"a capability of control": {Capabilities: &relay.CapabilitySet{Items: []string{"a\nb"}}},
		"a build too long":        {Capabilities: &relay.CapabilitySet{BuildEpoch: strings.Repeat("x", maxWord+1)}},
		"a node too long":         {NodeId: strings.Repeat("x", maxWord+1)},
	} {
		s, err := relay.NewControlPlaneWatchClient(l.conn).Watch(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); fault.CodeOf(err) != fault.CodeHello {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFramesAreBoundedAndTheNewestStays(t *testing.T) {
	l := newLab(t)
	frames := NewFrames(10_000)
	var last *frame
	for i := range 20 {
		v := l.publish(1, uint64(i)+1, 2, 1000)
		v.View = string(rune('a' + i%10)) // as many views
		f, err := frames.of(frameView{domain: domain, view: v.View}, v, l.anchors, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		again, err := frames.of(frameView{domain: domain, view: v.View}, v, l.anchors, func(int) { t.Error("encoded twice") })
		if err != nil || again != f {
			t.Errorf("the newest frame was made anew: %v", err)
		}
		last = f
	}
	if frames.bytes > 10_000 || frames.order.Len() > 10 || frames.order.Back().Value.(*frame) != last {
		t.Errorf("%d frames of %d bytes are kept, want at most 10,000 bytes, the newest among them", frames.order.Len(), frames.bytes)
	}
	var sum int64
	for el := frames.order.Front(); el != nil; el = el.Next() {
		sum += el.Value.(*frame).size
	}
	if sum != frames.bytes {
		t.Errorf("the frames have %d bytes, counted are %d", sum, frames.bytes)
	}
}

func FuzzResumeToken(f *testing.F) {
	good, err := place{point: feed.Point{Epoch: 3, Version: 17}, view: "view-1", known: true}.token(domain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.GetVersion(), good.GetEpoch(), good.GetOpaque())
	f.Add("", int64(0), []byte(nil))
	f.Add("007", int64(-1), []byte("\xff"))
	f.Fuzz(func(t *testing.T, version string, epoch int64, opaque []byte) {
		p, foreign, err := parseToken(&relay.WatchResumeToken{Version: version, Epoch: epoch, Opaque: opaque}, domain)
		if foreign && (err != nil || p != (place{})) {
			t.Errorf("a foreign token gave %v, %v", p, err)
		}
		if err != nil {
			if fault.CodeOf(err) != fault.CodeResumeToken || p != (place{}) {
				t.Errorf("%v with %v", err, p)
			}
			return
		}
		if p == (place{}) {
			return
		}
		// What was understood is said again in the same words.
		token, err := p.token(domain)
		if err != nil || !p.known {
			t.Fatalf("place %v: %v", p, err)
		}
		back, _, err := parseToken(token, domain)
		if err != nil || back != p {
			t.Errorf("%v became %v: %v", p, back, err)
		}
		if m := proto.Size(token); m > 4*maxOpaque {
			t.Errorf("a token of %d bytes", m)
		}
	})
}
