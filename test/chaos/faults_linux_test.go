//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// A mishap strikes, lasts for a while, and is taken back.
type mishap struct {
	name string
	// weight is how often it comes, among those of its lane.
	weight int
	// strike begins it and tells what it hit; undo takes it back, with ctx to
	// wait for what comes back. An undo is given also with an error that came after
	// a part was done.
	strike func(ctx context.Context, rng *rand.Rand) (what string, undo func(context.Context) error, err error)
}

// A lane is mishaps that come one after the other, as they have to do with the same
// things; those of different lanes overlap. In between are pauses of up to the given
// time, so that something is done that can be lost.
type lane struct {
	pause   time.Duration
	mishaps []mishap
}

// The bounds of how long a fault lasts.
const shortest, longest = 100 * time.Millisecond, 2500 * time.Millisecond

// schedule is a run of faults: what happened, for the report.
type schedule struct {
	r     *ring
	rec   *recorder
	count atomic.Int64

	mu     sync.Mutex // guards both below
	byName map[string]int
	// losses are when leaders were hit.
	losses []time.Duration
}

// run has faults in all lanes until ctx ends, and takes back what is left.
func (s *schedule) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, l := range s.lanes() {
		rng := rand.New(rand.NewPCG(*seed, uint64(i)))
		wg.Go(func() {
			for ctx.Err() == nil {
				pause(ctx, l.pause/10+time.Duration(rng.Int64N(int64(l.pause))))
				if ctx.Err() == nil {
					s.one(ctx, l, rng)
				}
			}
		})
	}
	wg.Wait()
}

// one has one fault.
func (s *schedule) one(ctx context.Context, l lane, rng *rand.Rand) {
	total := 0
	for _, f := range l.mishaps {
		total += f.weight
	}
	n, f := rng.IntN(total), mishap{}
	for _, f = range l.mishaps {
		if n -= f.weight; n < 0 {
			break
		}
	}
	// Short ones come more often: they meet more states of the programs.
	lasts := shortest + time.Duration(rng.Float64()*rng.Float64()*float64(longest-shortest))
	at := time.Since(s.r.began)
	what, undo, err := f.strike(ctx, rng)
	if err == nil {
		s.count.Add(1)
		s.mu.Lock()
		s.byName[f.name]++
		s.mu.Unlock()
		s.r.Logf("%8.3fs, %d writes done: %s: %s, for %v", at.Seconds(), s.rec.acknowledged(), f.name, what, lasts.Round(time.Millisecond))
		pause(ctx, lasts)
	} else if !errors.Is(err, errNobody) {
		s.r.Errorf("%s: %v", f.name, err)
	}
	if undo == nil {
		return
	}
	// It is taken back also when the schedule has ended.
	if err := undo(context.WithoutCancel(ctx)); err != nil {
		s.r.Errorf("take back %s of %s: %v", f.name, what, err)
	}
}

// errNobody says that there is nobody to hit, as when no hub leads.
var errNobody = errors.New("nobody to hit")

// lanes are all that there are.
func (s *schedule) lanes() []lane {
	r := s.r
	return []lane{
		{6 * time.Second, []mishap{ // hubs
			{"leader killed", 3, s.onLeader(killed)},
			{"leader stopped", 3, s.onLeader(stopped)},
			{"leader ended in order", 2, s.onLeader(ended)},
			{"leader's session destroyed", 2, s.destroySession},
			{"hub killed", 1, r.onHub(killed)},
			{"hub stopped", 1, r.onHub(stopped)},
			{"disk of a hub full while it restarts", 1, r.fullDisk},
		}},
		{6 * time.Second, []mishap{ // ways
			{"hub cut from Consul", 3, r.cutFromConsul},
			{"hub cut from hub", 2, r.cutHubs},
			{"hub cut from agents", 2, r.cutFromAgents},
			{"hub unplugged", 2, r.unplugHub},
			{"slow store", 4, r.slowStore},
		}},
		{14 * time.Second, []mishap{ // store
			{"Consul leader killed", 2, r.killConsulLeader},
			{"Consul server killed", 1, r.killConsul},
			{"Consul quorum lost", 2, r.loseQuorum},
			{"Consul server unplugged", 2, r.unplugConsul},
			{"Consul leader stopped", 1, r.stopConsulLeader},
		}},
		{8 * time.Second, []mishap{ // agents
			{"agent killed", 2, r.killAgent},
			{"all agents of the fleet killed", 1, r.killFleet},
		}},
	}
}

// What can be done to a program: what begins, and what takes it back.
type blow struct {
	strike func(*member)
	undo   func(context.Context, *member) error
}

var (
	killed  = blow{func(m *member) { m.down(false) }, func(ctx context.Context, m *member) error { return m.up(ctx) }}
	ended   = blow{func(m *member) { m.down(true) }, func(ctx context.Context, m *member) error { return m.up(ctx) }}
	stopped = blow{func(m *member) { m.signal(syscall.SIGSTOP) }, func(_ context.Context, m *member) error {
		m.signal(syscall.SIGCONT)
		return nil
	}}
)

func (b blow) on(m *member) (string, func(context.Context) error, error) {
	b.strike(m)
	return m.name, func(ctx context.Context) error { return b.undo(ctx, m) }, nil
}

type strike = func(ctx context.Context, rng *rand.Rand) (string, func(context.Context) error, error)

// onLeader hits the hub that leads.
func (s *schedule) onLeader(b blow) strike {
	return func(ctx context.Context, _ *rand.Rand) (string, func(context.Context) error, error) {
		n, _ := s.r.leader(ctx)
		if n < 0 {
			return "", nil, errNobody
		}
		s.lost()
		return b.on(s.r.hubs[n])
	}
}

// lost notes that a leader is hit now.
func (s *schedule) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.losses = append(s.losses, time.Since(s.r.began))
}

func (s *schedule) destroySession(ctx context.Context, _ *rand.Rand) (string, func(context.Context) error, error) {
	n, session := s.r.leader(ctx)
	if n < 0 {
		return "", nil, errNobody
	}
	for _, server := range s.r.consul.Servers {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		_, err := server.Client().Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
		cancel()
		if err == nil {
			s.lost()
			return s.r.hubs[n].name, nil, nil
		}
	}
	return "", nil, errNobody // Consul does not answer now
}

func (r *ring) onHub(b blow) strike {
	return func(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
		return b.on(r.hubs[rng.IntN(len(r.hubs))])
	}
}

// fullDisk fills the disk of a hub and restarts it: it has nothing to write to serve.
func (r *ring) fullDisk(ctx context.Context, _ *rand.Rand) (string, func(context.Context) error, error) {
	m := r.hubs[smallDisk]
	ballast := r.c.Path(m.name, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return "", nil, err
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	undo := func(context.Context) error { return os.Remove(ballast) }
	if cerr := f.Close(); cerr != nil || !errors.Is(err, syscall.ENOSPC) {
		return "", undo, errors.Join(err, cerr)
	}
	m.down(false)
	return m.name, undo, m.up(ctx)
}

// cuts takes ways from one host to another, each a pair.
func (r *ring) cuts(ways ...[2]string) (string, func(context.Context) error, error) {
	var names []string
	var err error
	done := 0
	for _, w := range ways {
		names = append(names, w[0]+"→"+w[1])
		if err = r.net.cut(w[0], w[1]); err != nil {
			break
		}
		done++
	}
	return strings.Join(names, ", "), func(context.Context) (err error) {
		for _, w := range ways[:done] {
			err = errors.Join(err, r.net.heal(w[0], w[1]))
		}
		return err
	}, err
}

// directions cuts a pair of hosts one way, the other, or both.
func directions(rng *rand.Rand, a, b string) [][2]string {
	return [][][2]string{{{a, b}}, {{b, a}}, {{a, b}, {b, a}}}[rng.IntN(3)]
}

// cutFromConsul takes a hub's way to the store, Consul's way to its health check, or
// both.
func (r *ring) cutFromConsul(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	i := rng.IntN(len(r.hubs))
	toStore, toCheck := [2]string{hubHost(i), proxiesHost}, [2]string{consulHost(i), hubHost(i)}
	return r.cuts([][][2]string{{toStore}, {toCheck}, {toStore, toCheck}}[rng.IntN(3)]...)
}

func (r *ring) cutHubs(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	i := rng.IntN(len(r.hubs))
	j := (i + 1 + rng.IntN(len(r.hubs)-1)) % len(r.hubs)
	return r.cuts(directions(rng, hubHost(i), hubHost(j))...)
}

func (r *ring) cutFromAgents(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	return r.cuts(directions(rng, hubHost(rng.IntN(len(r.hubs))), nodesHost)...)
}

func (r *ring) unplug(host string) (string, func(context.Context) error, error) {
	return host, func(context.Context) error { return r.net.plug(host, true) }, r.net.plug(host, false)
}

func (r *ring) unplugHub(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	return r.unplug(hubHost(rng.IntN(len(r.hubs))))
}

func (r *ring) unplugConsul(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	return r.unplug(consulHost(rng.IntN(len(r.consul.Servers))))
}

// slowStore makes the way of a hub to its Consul server bad.
func (r *ring) slowStore(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	i := rng.IntN(len(r.proxies))
	kinds := []toxic{
		{Type: "latency", Attributes: map[string]int{"latency": 50 + rng.IntN(1500), "jitter": rng.IntN(300)}},
		{Type: "bandwidth", Attributes: map[string]int{"rate": 1 + rng.IntN(20)}}, // KB/s
		{Type: "timeout", Attributes: map[string]int{"timeout": 100 + rng.IntN(1000)}},
		{Type: "reset_peer", Attributes: map[string]int{"timeout": rng.IntN(500)}},
		{Type: "slicer", Attributes: map[string]int{"average_size": 64, "size_variation": 32, "delay": 2000}},
	}
	x := kinds[rng.IntN(len(kinds))]
	x.Name, x.Stream = "chaos", []string{"upstream", "downstream"}[rng.IntN(2)]
	return fmt.Sprintf("%s, %v", hubHost(i), x), func(ctx context.Context) error { return r.proxies[i].cure(ctx, x.Name) }, r.proxies[i].poison(x)
}

func (r *ring) consulDown(servers ...int) (string, func(context.Context) error, error) {
	var names []string
	for _, i := range servers {
		r.consul.Servers[i].Kill()
		names = append(names, consulHost(i))
	}
	return strings.Join(names, ", "), func(context.Context) error {
		for _, i := range servers {
			r.consul.Servers[i].Start()
		}
		return nil
	}, nil
}

func (r *ring) consulLeader() int {
	s := r.consul.Leader()
	return slices.IndexFunc(r.consul.Servers, func(x *consultest.Server) bool { return x == s })
}

func (r *ring) killConsulLeader(context.Context, *rand.Rand) (string, func(context.Context) error, error) {
	i := r.consulLeader()
	if i < 0 {
		return "", nil, errNobody
	}
	return r.consulDown(i)
}

func (r *ring) killConsul(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	return r.consulDown(rng.IntN(len(r.consul.Servers)))
}

func (r *ring) loseQuorum(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	stays := rng.IntN(len(r.consul.Servers))
	return r.consulDown((stays+1)%3, (stays+2)%3)
}

func (r *ring) stopConsulLeader(context.Context, *rand.Rand) (string, func(context.Context) error, error) {
	i := r.consulLeader()
	if i < 0 {
		return "", nil, errNobody
	}
	r.consul.Servers[i].Signal(syscall.SIGSTOP)
	return consulHost(i), func(context.Context) error {
		r.consul.Servers[i].Signal(syscall.SIGCONT)
		return nil
	}, nil
}

func (r *ring) killAgent(_ context.Context, rng *rand.Rand) (string, func(context.Context) error, error) {
	return killed.on(r.singles[rng.IntN(len(r.singles))])
}

func (r *ring) killFleet(context.Context, *rand.Rand) (string, func(context.Context) error, error) {
	return killed.on(r.fleet)
}

// report tells how often each fault was.
func (s *schedule) report() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		fmt.Fprintf(&b, "\n  %4d %s", s.byName[name], name)
	}
	return b.String()
}
