package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// ringSize is how many hubs, and how many Consul servers.
const ringSize = 3

// ring is the story of `meshctl demo --ring`: three hubs on a Consul of three
// servers, whose leader is killed again and again while clients write through
// every hub. It uses what story has; one goroutine runs it.
type ring struct {
	*story
	consul  string // the program
	servers []string
	hubs    []*ringHub
	writes  *writers
	kills   []time.Duration
}

// ringHub is one hub of the ring.
type ringHub struct {
	name, address, metrics string
	process                *process
	client                 *client.Client
}

func (r *ring) steps() []step {
	return []step{
		{"programs", "The programs", "The demo runs the real meshhub, meshagent and Consul, not copies of their insides.", r.findAll},
		{"consul", "A Consul", "Three servers, as in a datacenter. It keeps the log and the lease; nothing else.", r.startConsul},
		{"ring", "A ring of three hubs", "The first makes the domain; the others join it with a token. Each has keys of its own,\nlisted in the keyset that agents pin.", r.startRing},
		{"agents", "Eighteen agents join", "Through a hub that does not lead: it hands their joining on.", r.joinFleet},
		{"publish", "Publish a mesh", "Through another hub that does not lead. One log, one signature for each view and hub.", r.publishRing},
		{"kill", "Kill the leader, three times", "SIGKILL, while clients write through every hub. The lease goes to another within about a second;\nwrites wait for it and are done once.", r.killLeaders},
		{"handover", "Hand leadership over", "As for maintenance: nobody waits.", r.handOver},
		{"check", "Count", "Every write that was acknowledged is in the log of every hub, once, and every agent has the newest version.", r.count},
	}
}

func (r *ring) close() {
	if r.writes != nil {
		r.writes.stop()
	}
	for _, h := range r.hubs {
		if h.client != nil && h.client != r.client {
			h.client.Close()
		}
	}
	r.story.close()
}

func (r *ring) findAll(ctx context.Context) (string, error) {
	path, err := exec.LookPath(r.consul)
	if err != nil {
		return "", fault.New(fault.CodeDemoPrograms, "Consul: %w", err).
			WithRemedy("Install Consul (developer.hashicorp.com/consul/install), or name the program with --consul PATH.")
	}
	if r.consul, err = filepath.Abs(path); err != nil {
		return "", fault.New(fault.CodeDemoPrograms, "Consul: %w", err)
	}
	found, err := r.findPrograms(ctx)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, r.consul, "version").Output()
	if err != nil {
		return "", fault.New(fault.CodeDemoPrograms, "%s version: %w", r.consul, err)
	}
	version, _, _ := strings.Cut(string(out), "\n")
	return found + "; " + version, nil
}

// startConsul starts the servers and waits until they have a leader.
func (r *ring) startConsul(ctx context.Context) (string, error) {
	var ports [ringSize][3]string // API, gossip, server
	var join []string
	for i := range ports {
		for j := range ports[i] {
			address, err := freeAddress()
			if err != nil {
				return "", err
			}
			ports[i][j] = address
		}
		join = append(join, ports[i][1])
	}
	begun := time.Now()
	var running []*process
	for i := range ports {
		name := fmt.Sprintf("consul%d", i+1)
		port := func(j int) int {
			_, p, _ := strings.Cut(ports[i][j], ":")
			n, _ := strconv.Atoi(p) // freeAddress gave it
			return n
		}
		conf, err := json.Marshal(map[string]any{
			"node_name": name, "server": true, "bootstrap_expect": ringSize, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
			"datacenter": "demo", "retry_join": join, "retry_interval": "200ms", "data_dir": r.path(name), "log_level": "warn",
			"performance": map[string]any{"raft_multiplier": 1}, "disable_update_check": true, "connect": map[string]any{"enabled": false},
			"ports": map[string]any{"http": port(0), "serf_lan": port(1), "serf_wan": -1, "server": port(2), "dns": -1, "grpc": -1, "grpc_tls": -1},
		})
		if err == nil {
			err = os.WriteFile(r.path(name+".json"), conf, 0o600)
		}
		if err != nil {
			return "", fault.New(fault.CodeIO, "write Consul's configuration: %w", err)
		}
		server, err := r.sup.start(name, r.consul, "agent", "-config-file", r.path(name+".json"))
		if err != nil {
			return "", err
		}
		running = append(running, server)
		r.servers = append(r.servers, ports[i][0])
	}
	r.say.now("waiting for Consul's leader")
	for _, server := range r.servers {
		if err := r.await(ctx, 2*startLimit, "Consul's leader", func(ctx context.Context) (bool, error) { return hasLeader(ctx, server) }, running...); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d servers, with a leader after %s", ringSize, ms(time.Since(begun))), nil
}

func hasLeader(ctx context.Context, server string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server+"/v1/status/leader", nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil // not up yet
	}
	defer resp.Body.Close()
	var leader string
	return json.NewDecoder(resp.Body).Decode(&leader) == nil && leader != "", nil
}

func (r *ring) startRing(ctx context.Context) (string, error) {
	for i := range ringSize {
		h := &ringHub{name: fmt.Sprintf("hub%d", i+1)}
		var err error
		if h.address, err = freeAddress(); err != nil {
			return "", err
		}
		if h.metrics, err = freeAddress(); err != nil {
			return "", err
		}
		flags := []string{"--store", "consul://" + r.servers[i] + "/meshkit?dc=demo", "--data", r.path(h.name), "--name", h.name, "--listen", h.address, "--metrics", h.metrics}
		if i == 0 {
			r.say.now("meshhub init --domain %s --store consul://…", domain)
			err = r.sup.run(ctx, "init", r.bins.hub, append([]string{"init", "--domain", domain}, flags...)...)
		} else {
			err = r.joinHub(ctx, h, flags)
		}
		if err != nil {
			return "", err
		}
		r.hubs = append(r.hubs, h)
		if err := r.runRingHub(ctx, h); err != nil {
			return "", err
		}
		if i == 0 {
			if err := r.useHub(h); err != nil {
				return "", err
			}
		}
		target := r.target
		target.Hub = h.address
		if h.client, err = client.Dial(target); err != nil {
			return "", err
		}
	}
	leader, err := r.leader(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d hubs serve domain %s; %s leads", ringSize, domain, leader.name), nil
}

// useHub makes the first operator's credentials those of the story.
func (r *ring) useHub(h *ringHub) error {
	file, err := cliutil.LoadContexts(r.path(h.name, "admin", "context.yaml"))
	if err != nil {
		return err
	}
	admin, err := file.Choose("")
	if err != nil {
		return err
	}
	r.hubAddress = h.address
	r.target = client.Config{Hub: h.address, Domain: domain, CAFile: admin.CAFile, CertFile: admin.CertFile, KeyFile: admin.KeyFile}
	r.client, err = client.Dial(r.target)
	return err
}

func (r *ring) joinHub(ctx context.Context, h *ringHub, flags []string) error {
	t, err := r.client.CreateToken(ctx, &adminv1.CreateTokenRequest{Role: "hub", Node: h.name, Ttl: durationpb.New(time.Minute), Uses: 1, RequestId: r.app.NewID()})
	if err != nil {
		return err
	}
	r.say.now("meshhub join --name %s", h.name)
	return r.sup.run(ctx, h.name+"-join", r.bins.hub, append([]string{"join", "--hub", r.hubs[0].address, "--token", t.GetToken(), "--ca-pin", t.GetCaPin()}, flags...)...)
}

// runRingHub starts a hub, again or for the first time, and waits for it.
func (r *ring) runRingHub(ctx context.Context, h *ringHub) error {
	ready := r.path(h.name + ".ready")
	os.Remove(ready) // left by one that was killed
	var err error
	if h.process, err = r.sup.start(h.name, r.bins.hub, "run", "--config", r.path(h.name, "meshhub.yaml"), "--ready-file", ready); err != nil {
		return err
	}
	return r.await(ctx, startLimit, h.name+"'s readiness", func(context.Context) (bool, error) {
		_, err := os.Stat(ready)
		return err == nil, nil
	}, h.process)
}

// leader asks the hubs that run who leads.
func (r *ring) leader(ctx context.Context) (*ringHub, error) {
	var found *ringHub
	err := r.await(ctx, startLimit, "a leader", func(ctx context.Context) (bool, error) {
		for _, asked := range r.hubs {
			if asked.process.ended() != nil {
				continue
			}
			hubs, err := asked.client.Hubs(ctx)
			if err != nil {
				continue
			}
			for _, x := range hubs {
				i := slices.IndexFunc(r.hubs, func(h *ringHub) bool { return x.GetLeader() && h.name == x.GetName() && h.process.ended() == nil })
				if i >= 0 {
					found = r.hubs[i]
					return true, nil
				}
			}
		}
		return false, nil
	})
	return found, err
}

// follower gives a hub that does not lead.
func (r *ring) follower(ctx context.Context) (*ringHub, error) {
	leader, err := r.leader(ctx)
	if err != nil {
		return nil, err
	}
	return r.hubs[(slices.Index(r.hubs, leader)+1)%ringSize], nil
}

func (r *ring) joinFleet(ctx context.Context) (string, error) {
	h, err := r.follower(ctx)
	if err != nil {
		return "", err
	}
	r.say.now("meshagent fleet --hub %s --count %d", h.address, fleetSize)
	t, err := r.token(ctx, "eu", fleetSize)
	if err != nil {
		return "", err
	}
	r.fleet, err = r.sup.start("fleet", r.bins.agent, "fleet", "--hub", h.address, "--token", t.GetToken(), "--ca-pin", t.GetCaPin(),
		"--count", strconv.Itoa(fleetSize), "--data", r.path("fleet"))
	if err != nil {
		return "", err
	}
	var d *adminv1.GetDomainResponse
	err = r.await(ctx, 2*startLimit, "the agents", func(ctx context.Context) (bool, error) {
		d, err = r.client.Domain(ctx)
		return d.GetAgentsConnected() >= fleetSize, err
	}, r.fleet)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d agents joined through %s", d.GetAgentsConnected(), h.name), nil
}

func (r *ring) publishRing(ctx context.Context) (string, error) {
	h, err := r.follower(ctx)
	if err != nil {
		return "", err
	}
	direct := r.client
	r.client = h.client
	defer func() { r.client = direct }()
	resp, err := r.apply(ctx, "mesh", "the demo's sample mesh")
	if err != nil {
		return "", err
	}
	p, err := r.propagate(ctx, fleetSize)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d resources at version %d.%d through %s, %s", resp.GetPlan().GetCreated(), resp.GetEpoch(), resp.GetSeq(), h.name, arrival(p)), nil
}

func (r *ring) killLeaders(ctx context.Context) (string, error) {
	r.writes = startWriters(ctx, r.hubs, r.app.NewID())
	if err := r.more(ctx, 20); err != nil {
		return "", err
	}
	for i := range 3 {
		leader, err := r.leader(ctx)
		if err != nil {
			return "", err
		}
		r.say.now("kill -9 %d (%s, which leads), %d of 3", leader.process.cmd.Process.Pid, leader.name, i+1)
		leader.process.kill()
		gap, by, err := r.writes.next(ctx, startLimit)
		if err != nil {
			return "", err
		}
		r.kills = append(r.kills, gap)
		r.say.detail("kill -9 %s: the next write was acknowledged after %s, through %s", leader.name, ms(gap), by)
		if err := r.runRingHub(ctx, leader); err != nil {
			return "", err
		}
		if err := r.more(ctx, 30); err != nil {
			return "", err
		}
	}
	slices.Sort(r.kills)
	return fmt.Sprintf("leader lost to next acknowledged write: median %s, slowest %s; %d writes acknowledged so far", ms(r.kills[1]), ms(r.kills[2]), r.writes.count()), nil
}

// more waits until so many writes more are acknowledged.
func (r *ring) more(ctx context.Context, n int) error {
	want := r.writes.count() + n
	return r.await(ctx, startLimit, "writes", func(context.Context) (bool, error) { return r.writes.count() >= want, nil })
}

func (r *ring) handOver(ctx context.Context) (string, error) {
	h, err := r.follower(ctx)
	if err != nil {
		return "", err
	}
	r.say.detail("meshctl domain transfer %s --to %s", domain, h.name)
	t, err := h.client.TransferLeadership(ctx, h.name, r.app.NewID())
	if err != nil {
		return "", err
	}
	if err := r.more(ctx, 20); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s leads in term %d; nobody could write for %s", t.GetLeader(), t.GetTerm(), ms(t.GetTook().AsDuration())), nil
}

func (r *ring) count(ctx context.Context) (string, error) {
	acked := r.writes.stop()
	for _, h := range r.hubs {
		tokens, err := h.client.Tokens(ctx)
		if err != nil {
			return "", err
		}
		have := make(map[string]int)
		for _, t := range tokens {
			have[t.GetId()]++
		}
		for id := range acked {
			if have[id] != 1 {
				return "", fmt.Errorf("write %s was acknowledged, and hub %s has it %d times", id, h.name, have[id])
			}
		}
	}
	change, err := r.apply(ctx, "change", "after all that")
	if err != nil {
		return "", err
	}
	p, err := r.propagate(ctx, fleetSize)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d acknowledged writes, each on %d hubs once; version %d %s", len(acked), ringSize, change.GetSeq(), arrival(p)), nil
}

// errNoWrite is when no write is acknowledged.
var errNoWrite = errors.New("no write was acknowledged")
