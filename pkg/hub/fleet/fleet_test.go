package fleet

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/distribution/feed"
	"github.com/meshkit/meshkit/pkg/view"
)

// joined are nodes whose certificates have long expired, so that nobody waits for
// those which are away.
func joined(names ...string) iter.Seq[Joined] {
	return func(yield func(Joined) bool) {
		for _, n := range names {
			if !yield(Joined{Name: n}) {
				return
			}
		}
	}
}

func TestAnAcknowledgementThatOvertakesItsPublicationIsCounted(t *testing.T) {
	now := time.Now()
	f := New(Options{Now: func() time.Time { return now }})
	fast := f.Connect("fast", nil, "", "v", &controlv1.Hello{})
	slow := f.Connect("slow", nil, "", "v", &controlv1.Hello{})
	commit := []Commit{{Version: 5, At: now}}
	now = now.Add(time.Millisecond)
	fast.Acked(&controlv1.Ack{Epoch: 1, Version: 5})
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"v"}, commit)
	names := joined("fast", "slow", "away")
	if p := f.Progress(5, names); p.Done || p.Concerned != 2 || p.Acked != 1 || p.Disconnected != 1 {
		t.Fatalf("before the slow one: %+v", p)
	}
	now = now.Add(time.Second)
	slow.Acked(&controlv1.Ack{Epoch: 1, Version: 6}) // covers 5
	p := f.Progress(5, names)
	if !p.Done || p.Acked != 2 || p.P50 < time.Millisecond || p.Last != time.Second+time.Millisecond {
		t.Fatalf("at the end: %+v", p)
	}
}

// A node that came back in the middle of an activation holds the content, and the
// data plane may still refuse it.
func TestANodeThatComesBackWhileStagingIsWaitedFor(t *testing.T) {
	f := New(Options{})
	content := digest.Hash{5}
	f.Offered("v", content)
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"v"}, []Commit{{Version: 5, At: time.Now()}})
	at := &controlv1.ResumePoint{Epoch: 1, Version: 5, Digest: content[:], View: "v"}
	c := f.Connect("n", nil, "", "v", &controlv1.Hello{Resume: at, Phase: controlv1.Phase_PHASE_STAGING})
	if p := f.Progress(5, joined("n")); p.Done {
		t.Fatalf("%+v, and nobody knows whether it is active", p)
	}
	c.Reported(&controlv1.Status{Active: at, Phase: controlv1.Phase_PHASE_STAGING})
	if p := f.Progress(5, joined("n")); !p.Done || p.Acked != 1 {
		t.Fatalf("%+v, and it is active", p)
	}
}

func TestARefusalThatOvertakesItsPublicationIsCounted(t *testing.T) {
	f := New(Options{})
	c := f.Connect("n", nil, "", "v", &controlv1.Hello{})
	c.Nacked(&controlv1.Nack{Epoch: 1, Version: 5, Code: "MK5012"})
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"v"}, []Commit{{Version: 5, At: time.Now()}})
	if p := f.Progress(5, joined("n")); !p.Done || p.Nacked != 1 {
		t.Fatalf("%+v", p)
	}
	f.Published(feed.Point{Epoch: 1, Version: 6}, []string{"v"}, []Commit{{Version: 6, At: time.Now()}})
	if p := f.Progress(6, joined("n")); p.Done {
		t.Fatalf("%+v: the refusal was of the version before", p)
	}
}

func TestARefusalEndsTheWaitAndIsNamed(t *testing.T) {
	f := New(Options{})
	c := f.Connect("n", nil, "", "v", &controlv1.Hello{})
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"v"}, []Commit{{Version: 5, At: time.Now()}})
	c.Nacked(&controlv1.Nack{Epoch: 1, Version: 5, Resync: true})
	if p := f.Progress(5, joined("n")); p.Done {
		t.Fatal("a request for a snapshot ended the wait")
	}
	c.Nacked(&controlv1.Nack{Epoch: 1, Version: 5, Code: "MK5001"})
	if p := f.Progress(5, joined("n")); !p.Done || p.Nacked != 1 || p.Nacks["n"].GetCode() != "MK5001" {
		t.Fatalf("%+v", p)
	}
	if p := f.Progress(6, joined("n")); p.Done {
		t.Fatal("a version that is not published yet is done")
	}
}

func TestNodesAreAwaitedForAWhileAfterTheHubBegins(t *testing.T) {
	now := time.Now()
	f := New(Options{Now: func() time.Time { return now }})
	f.Published(feed.Point{Epoch: 1, Version: 5}, nil, []Commit{{Version: 5, At: now}})
	nodes := func(yield func(Joined) bool) {
		_ = yield(Joined{Name: "back", Until: now.Add(time.Hour)}) && yield(Joined{Name: "away", Until: now.Add(time.Hour)}) && yield(Joined{Name: "expired"})
	}
	if p := f.Progress(5, nodes); p.Done || p.Again == 0 {
		t.Fatalf("before the hub serves: %+v", p)
	}
	f.Serving()
	now = now.Add(time.Second)
	f.Offered("v", digest.Hash{5})
	c := f.Connect("back", nil, "", "v", &controlv1.Hello{Resume: &controlv1.ResumePoint{Version: 4}})
	if p := f.Progress(5, nodes); p.Done || p.Concerned != 1 || p.Disconnected != 2 {
		t.Fatalf("with one back and behind: %+v", p)
	}
	c.Acked(&controlv1.Ack{Epoch: 1, Version: 5, Digest: []byte{5}})
	p := f.Progress(5, nodes)
	if p.Done || p.Again != Grace-time.Second {
		t.Fatalf("while one may still come back: %+v", p)
	}
	now = now.Add(p.Again)
	if p = f.Progress(5, nodes); !p.Done || p.Acked != 1 || p.Disconnected != 2 {
		t.Fatalf("after the grace: %+v", p)
	}
}

func TestOnlyAnExpiredNodeMissingDelaysNothing(t *testing.T) {
	f := New(Options{})
	f.Serving()
	f.Published(feed.Point{Epoch: 1, Version: 5}, nil, []Commit{{Version: 5, At: time.Now()}})
	if p := f.Progress(5, joined("expired")); !p.Done {
		t.Fatalf("%+v", p)
	}
}

func TestANodeThatHasTheContentAlreadyIsNotWaitedFor(t *testing.T) {
	f := New(Options{})
	content := digest.Hash{1}
	f.Offered("v", content)
	c := f.Connect("n", nil, "", "v", &controlv1.Hello{Resume: &controlv1.ResumePoint{Epoch: 1, Version: 4, Digest: content[:]}})
	f.Offered("w", content)
	c.Moved("w", nil)
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"w"}, []Commit{{Version: 5, At: time.Now()}})
	if p := f.Progress(5, joined("n")); !p.Done || p.Concerned != 0 {
		t.Fatalf("%+v", p)
	}
	// A change and its undo that the node never saw.
	f.Offered("w", digest.Hash{2})
	f.Published(feed.Point{Epoch: 1, Version: 6}, []string{"w"}, []Commit{{Version: 6, At: time.Now()}})
	f.Offered("w", content)
	f.Published(feed.Point{Epoch: 1, Version: 7}, []string{"w"}, []Commit{{Version: 7, At: time.Now()}})
	for version := uint64(6); version <= 7; version++ {
		if p := f.Progress(version, joined("n")); !p.Done {
			t.Fatalf("%d: %+v", version, p)
		}
	}
}

func TestAQuietNodeWithAStreamIsSeenNow(t *testing.T) {
	now := time.Now()
	f := New(Options{Now: func() time.Time { return now }})
	c := f.Connect("n", nil, "", "v", &controlv1.Hello{})
	begun := now
	now = now.Add(time.Hour)
	if live, _ := f.Get("n"); !live.LastSeen.Equal(now) {
		t.Errorf("a connected node was last seen %v ago", now.Sub(live.LastSeen))
	}
	c.Close()
	now = now.Add(time.Hour)
	if live, _ := f.Get("n"); live.LastSeen.Equal(now) || live.LastSeen.Before(begun) {
		t.Errorf("a node that is gone was last seen %v ago", now.Sub(live.LastSeen))
	}
}

// Publications share a bounded number of places: one that takes the place of an
// older one starts with nobody's debts, and with none of its late arrivals.
func TestManyPublicationsWaitEachForItself(t *testing.T) {
	now := time.Now()
	f := New(Options{Now: func() time.Time { return now }})
	publish := func(v uint64) {
		f.Published(feed.Point{Epoch: 1, Version: v}, []string{"v"}, []Commit{{Version: v, At: now}})
	}
	publish(1)
	fast := f.Connect("fast", nil, "", "v", &controlv1.Hello{}) // late for 1
	slow := f.Connect("slow", nil, "", "v", &controlv1.Hello{})
	const last = 2*maxWaves + 1
	for v := uint64(2); v <= last; v++ {
		publish(v)
		fast.Acked(&controlv1.Ack{Epoch: 1, Version: v})
		if p := f.Progress(v, joined("fast", "slow")); p.Done || p.Concerned != 2 || p.Acked != 1 {
			t.Fatalf("version %d: %+v", v, p)
		}
	}
	now = now.Add(time.Second)
	slow.Acked(&controlv1.Ack{Epoch: 1, Version: last})
	for v := uint64(last - maxWaves + 1); v <= last; v++ {
		if p := f.Progress(v, joined("fast", "slow")); !p.Done || p.Acked != 2 || p.Last != time.Second {
			t.Fatalf("version %d: %+v", v, p)
		}
	}
}

// Each answer counts as within or beyond its region's target, and regions beyond the
// bound share one label.
func TestAnswersAreHeldAgainstTheirRegionsTarget(t *testing.T) {
	now := time.Now()
	asked := map[string]int{}
	f := New(Options{Now: func() time.Time { return now }, Target: func(region string) (time.Duration, bool) {
		asked[region]++
		return 100 * time.Millisecond, region != "free"
	}})
	connect := func(name, region string) *Conn {
		return f.Connect(name, map[string]string{"region": region}, "", "v", &controlv1.Hello{})
	}
	quick, late, free := connect("quick", "eu"), connect("late", "eu"), connect("free", "free")
	f.Published(feed.Point{Epoch: 1, Version: 5}, []string{"v"}, []Commit{{Version: 5, At: now}})
	now = now.Add(100 * time.Millisecond)
	quick.Acked(&controlv1.Ack{Epoch: 1, Version: 5})
	free.Acked(&controlv1.Ack{Epoch: 1, Version: 5})
	now = now.Add(time.Millisecond)
	late.Acked(&controlv1.Ack{Epoch: 1, Version: 5})
	for result, want := range map[string]float64{"within": 1, "exceeded": 1} {
		if got := testutil.ToFloat64(f.metrics.slo.WithLabelValues("eu", result)); got != want {
			t.Errorf("%v answers of eu are %s, want %v", got, result, want)
		}
	}
	if n := testutil.CollectAndCount(f.metrics.slo); n != 2 {
		t.Errorf("%d series of targets, and only eu has one", n)
	}
	if asked["eu"] != 1 {
		t.Errorf("the target of eu was looked up %d times for one change", asked["eu"])
	}
	conns := make([]*Conn, 2*maxRegions)
	for i := range conns {
		conns[i] = connect(fmt.Sprint("n", i), fmt.Sprint("r", i))
	}
	f.Published(feed.Point{Epoch: 1, Version: 6}, []string{"v"}, []Commit{{Version: 6, At: now}})
	for _, c := range conns {
		c.Acked(&controlv1.Ack{Epoch: 1, Version: 6})
	}
	if n := testutil.CollectAndCount(f.metrics.seconds); n != maxRegions+1 {
		t.Errorf("%d regions have metrics of their own, want %d and one for all others", n, maxRegions)
	}
}

// Who keeps what follows from all nodes' capabilities asks the version whether to look
// again: at each change, and only then.
func TestTheCapabilitiesVersionMovesWithTheCapabilities(t *testing.T) {
	f := New(Options{})
	moves := func(what string, want bool, act func()) {
		t.Helper()
		before := f.CapabilitiesVersion()
		act()
		if moved := f.CapabilitiesVersion() != before; moved != want {
			t.Errorf("%s: the version moved: %v", what, moved)
		}
	}
	connect := func(name string, caps ...string) func() {
		return func() { f.Connect(name, nil, "", "v", &controlv1.Hello{Capabilities: caps}) }
	}
	moves("a node that knows everything, as was assumed", false, connect("a", view.Known()...))
	moves("a node that knows less than was assumed", true, connect("b", view.Core))
	moves("the same again", false, connect("b", view.Core))
	moves("an upgrade", true, connect("b", view.Known()...))
	moves("a downgrade", true, connect("b", view.Core))
	if got := f.Capabilities("b"); !slices.Equal(got, []string{view.Core}) {
		t.Errorf("b knows %v", got)
	}
	moves("b is forgotten: it may come back as any node", true, func() { f.Forget("b") })
	if got := f.Capabilities("b"); !slices.Equal(got, view.Known()) {
		t.Errorf("b, not seen, knows %v", got)
	}
	moves("a is forgotten", false, func() { f.Forget("a") })
}
