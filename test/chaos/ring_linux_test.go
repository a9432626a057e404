//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

const (
	ringDomain = "chaos"
	// fleetSize and singles are the agents under faults: those of one process, and
	// processes of their own.
	fleetSize = 24
	singles   = 2
	// nodesHost is where all agents are.
	nodesHost = "nodes"
	// smallDisk is the hub whose data is on a disk that can be filled.
	smallDisk = 2
	// comesBack is how long a program may take to run again once nothing hinders it,
	// and how long whatever hinders it may last.
	comesBack = 2 * time.Minute
)

// ring is three hubs on three Consul servers with agents, each where it can be cut
// from the others.
type ring struct {
	*testing.T
	c       *harness.Cluster
	net     *network
	consul  *consultest.Cluster
	proxies []*proxy
	hubs    []*member
	fleet   *member
	agents  []*harness.Agent
	singles []*member
	began   time.Time
}

// member is a program of the ring that faults end and start again.
type member struct {
	name string
	// start starts the program, once, with a log of that name.
	start func(log string) (*harness.Process, error)
	hub   *harness.Hub // if it is one

	mu      sync.Mutex // guards the rest
	process *harness.Process
	meant   bool     // the test ended the process
	logs    []string // one for each start
}

// newRing starts everything, and waits until all agents hold the first content.
func newRing(t *testing.T) *ring {
	t.Helper()
	ownMounts(t)
	r := &ring{T: t, c: harness.New(t), began: time.Now()}
	r.net = newNetwork(t, hubHost(0), hubHost(1), hubHost(2), consulHost(0), consulHost(1), consulHost(2), nodesHost)
	opts := consultest.Options{Servers: 3}
	for i := range 3 {
		opts.Hosts = append(opts.Hosts, r.net.hosts[consulHost(i)])
		opts.Via = append(opts.Via, r.net.in(consulHost(i)))
	}
	r.consul = consultest.Start(t, r.c.Path("consul"), opts)
	disk := r.c.Path(hubHost(smallDisk))
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	r.startHubs()
	r.startAgents()
	return r
}

func hubHost(i int) string    { return fmt.Sprintf("hub%d", i+1) }
func consulHost(i int) string { return fmt.Sprintf("consul%d", i+1) }

func (r *ring) startHubs() {
	r.Helper()
	var token, pin string
	for i, server := range r.consul.Servers {
		name := hubHost(i)
		at := r.net.hosts[name]
		listen := fmt.Sprintf("%s:%d", r.net.hosts[proxiesHost], 9500+i)
		r.proxies = append(r.proxies, newProxy(r.T, name, listen, server.HTTP))
		c := r.c.Via(r.net.in(name)...)
		h := (&harness.Hub{
			Name: name, Data: r.c.Path(name), Admin: r.c.Path(hubHost(0), "admin"), Address: at + ":8443", Metrics: at + ":9443",
		}).With(c)
		flags := []string{"--store", "consul://" + listen + "/meshkit?dc=dc1&check-listen=" + at + ":0",
			"--name", name, "--data", h.Data, "--listen", h.Address, "--metrics", h.Metrics}
		if i == 0 {
			c.Must("meshhub", append([]string{"init", "--domain", ringDomain}, flags...)...)
		} else {
			c.Must("meshhub", append([]string{"join", "--hub", r.hubs[0].hub.Address, "--token", token, "--ca-pin", pin}, flags...)...)
		}
		// The checks read the whole log in the end, so none of it is trimmed.
		appendTo(r.T, filepath.Join(h.Data, "meshhub.yaml"), "snapshots:\n  entries: 1000000\n")
		m := &member{name: name, hub: h, start: func(log string) (*harness.Process, error) {
			return c.TryStart(log, "meshhub", "run", "--config", filepath.Join(h.Data, "meshhub.yaml"))
		}}
		r.hubs = append(r.hubs, m)
		r.mustStart(m)
		if i == 0 {
			r.c.Ctl("context", "add", "--from", filepath.Join(h.Data, "admin", "context.yaml"))
			token, pin = r.c.Token("--hub", "--uses", "2")
		}
	}
}

func (r *ring) startAgents() {
	r.Helper()
	nodes := r.c.Via(r.net.in(nodesHost)...)
	fleet := joinFleet(r.T, nodes, r.hubs[0].hub, fleetSize)
	r.fleet = &member{name: "fleet", start: func(log string) (*harness.Process, error) { return nodes.TryStart(log, "meshagent", fleet...) }}
	r.mustStart(r.fleet)
	for i := range singles {
		a := nodes.JoinAgent(r.hubs[i].hub, fmt.Sprintf("single-%d", i+1))
		a.RecordActivations()
		a.Configure(noCrashLoops)
		m := &member{name: a.Node, start: func(log string) (*harness.Process, error) {
			return nodes.TryStart(log, "meshagent", "run", "--config", a.Config())
		}}
		r.agents, r.singles = append(r.agents, a), append(r.singles, m)
		r.mustStart(m)
	}
}

func (r *ring) mustStart(m *member) {
	r.Helper()
	if err := m.up(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// up starts the member, again and again while what it needs is not there.
func (m *member) up(ctx context.Context) error {
	deadline := time.Now().Add(comesBack)
	for {
		m.mu.Lock()
		log := fmt.Sprintf("%s-%d", m.name, len(m.logs)+1)
		m.logs = append(m.logs, log)
		m.mu.Unlock()
		p, err := m.start(log)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.process, m.meant = p, false
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s does not come up again: %w", m.name, err)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// down ends the member: with SIGKILL, or in order.
func (m *member) down(inOrder bool) {
	m.mu.Lock()
	p := m.process
	m.meant = true
	m.mu.Unlock()
	if inOrder {
		p.Stop()
	} else {
		p.Kill()
	}
}

func (m *member) signal(s os.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process.Signal(s)
}

// diedAlone tells whether the member ended although nobody ended it.
func (m *member) diedAlone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.process.Ended():
		return !m.meant
	default:
		return false
	}
}

// everyone lists the programs of MeshKit in the ring.
func (r *ring) everyone() []*member {
	return append(append([]*member{r.fleet}, r.hubs...), r.singles...)
}

// checkHealth reports programs that ended by themselves, and panics in their logs.
func (r *ring) checkHealth() {
	r.Helper()
	for _, m := range r.everyone() {
		if m.diedAlone() {
			r.Errorf("%s ended by itself", m.name)
		}
		for _, name := range m.logs {
			log := r.c.Log(name)
			for _, bad := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
				if i := strings.Index(log, bad); i >= 0 {
					r.Errorf("%s: %s", name, log[i:min(len(log), i+3000)])
				}
			}
		}
	}
}

// leader asks Consul who holds the lease: the hub and its session, -1 if nobody.
func (r *ring) leader(ctx context.Context) (hub int, session string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, s := range r.consul.Servers {
		pair, _, err := s.Client().KV().Get("meshkit/"+ringDomain+"/leader", (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
		if err != nil || pair == nil || pair.Session == "" {
			continue
		}
		for i, h := range r.hubs {
			if h.name == string(pair.Value) {
				return i, pair.Session
			}
		}
	}
	return -1, ""
}
