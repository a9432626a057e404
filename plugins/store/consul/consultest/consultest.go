// Package consultest runs real Consul servers for tests: it builds Consul from
// its module once per machine (about four minutes), keeps the program in the
// user's cache directory, and starts servers on free loopback ports.
package consultest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"
)

// version is what test/tools/consul/go.mod requires.
const version = "1.16.3"

// portsEach is how many ports one server is given.
const portsEach = 4

// patience bounds the start of a server.
const patience = 60 * time.Second

// TB is what is needed of a test; *testing.T has it.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Failed() bool
	Cleanup(f func())
}

var program struct {
	once sync.Once
	path string
	err  error
}

// Program gives the path of the Consul program, which it builds if it must.
func Program() (string, error) {
	program.once.Do(func() { program.path, program.err = build() })
	return program.path, program.err
}

func build() (string, error) {
	_, self, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(self), "..", "..", "..", "..")
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	dir := filepath.Join(cache, "meshkit")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("consul-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH))
	// Several test processes may come here at once: one builds.
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.Command("go", "build", "-C", filepath.Join(root, "test", "tools", "consul"), "-trimpath", "-ldflags=-s -w",
		"-o", path+".new", "github.com/hashicorp/consul")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Consul (./test/run tools does it too): %w\n%s", err, out)
	}
	return path, os.Rename(path+".new", path)
}

// Cluster is one Consul datacenter. Its methods are for one goroutine.
type Cluster struct {
	tb      TB
	Servers []*Server
}

// Server is one Consul server with its agent.
type Server struct {
	tb   TB
	dir  string
	bin  string
	name string
	via  []string
	// HTTP is the address of its API, host:port; HTTPS that of the same over TLS, if
	// there are TLS options.
	HTTP  string
	HTTPS string
	token string
	log   string

	mu   sync.Mutex // guards cmd
	cmd  *exec.Cmd
	done chan struct{}
}

// Options of a cluster.
type Options struct {
	// Servers is their number; 0 means 1.
	Servers int
	// Config is merged into the configuration of each server.
	Config map[string]any
	// Token is what Client uses, with ACLs in Config.
	Token string
	// TLS, if not nil, opens a second port that wants a client's certificate.
	TLS *TLS
	// Hosts are the IP addresses of the servers, in order, and Via the commands that
	// run their programs there, like "ip netns exec NAME"; without them all servers
	// are on loopback. A command must replace itself by the program.
	Hosts []string
	Via   [][]string
}

// host is where server i is.
func (o Options) host(i int) string {
	if i < len(o.Hosts) {
		return o.Hosts[i]
	}
	return "127.0.0.1"
}

// TLS names PEM files.
type TLS struct{ CA, Cert, Key string }

// Start starts a cluster that goes with the test, and waits until it has a
// leader and all its servers.
func Start(tb TB, dir string, opts Options) *Cluster {
	tb.Helper()
	bin, err := Program()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	n := max(opts.Servers, 1)
	c := &Cluster{tb: tb}
	ports, err := FreePorts(portsEach * n)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	var join []string
	for i := range n {
		join = append(join, fmt.Sprintf("%s:%d", opts.host(i), ports[portsEach*i+1]))
	}
	for i := range n {
		p := ports[portsEach*i:]
		name := fmt.Sprintf("server%d", i+1)
		conf := map[string]any{
			"node_name": name, "server": true, "bootstrap_expect": n, "bind_addr": opts.host(i), "client_addr": opts.host(i),
			"datacenter": "dc1", "retry_join": join, "retry_interval": "200ms", "retry_interval_wan": "200ms",
			"ports": map[string]any{"http": p[0], "serf_lan": p[1], "serf_wan": -1, "server": p[2], "dns": -1, "grpc": -1, "grpc_tls": -1},
			// The shortest elections, as in production on good networks.
			"performance": map[string]any{"raft_multiplier": 1}, "log_level": "warn", "disable_update_check": true,
			"leave_on_terminate": false, "connect": map[string]any{"enabled": false},
		}
		for k, v := range opts.Config {
			conf[k] = v
		}
		s := &Server{tb: tb, bin: bin, name: name, dir: filepath.Join(dir, name), HTTP: fmt.Sprintf("%s:%d", opts.host(i), p[0]), token: opts.Token}
		if i < len(opts.Via) {
			s.via = opts.Via[i]
		}
		if opts.TLS != nil {
			conf["ports"].(map[string]any)["https"] = p[3]
			conf["tls"] = map[string]any{"https": map[string]any{
				"ca_file": opts.TLS.CA, "cert_file": opts.TLS.Cert, "key_file": opts.TLS.Key, "verify_incoming": true,
			}}
			s.HTTPS = fmt.Sprintf("%s:%d", opts.host(i), p[3])
		}
		s.log = filepath.Join(s.dir, "log")
		data, err := json.Marshal(conf)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Join(s.dir, "data"), 0o755), os.WriteFile(filepath.Join(s.dir, "consul.json"), data, 0o600))
		}
		if err != nil {
			tb.Fatalf("%v", err)
		}
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Servers {
		s.Start()
		tb.Cleanup(s.Kill)
	}
	c.Ready()
	return c
}

// Client gives an API client of the server.
func (s *Server) Client() *api.Client {
	conf := api.DefaultConfig()
	conf.Address, conf.Token = s.HTTP, s.token
	c, err := api.NewClient(conf)
	if err != nil {
		s.tb.Fatalf("%v", err)
	}
	return c
}

// Start starts the server's process on what it has on disk.
func (s *Server) Start() {
	s.tb.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.tb.Fatalf("%v", err)
	}
	defer log.Close()
	line := append(slices.Clone(s.via), s.bin, "agent", "-config-file", filepath.Join(s.dir, "consul.json"), "-data-dir", filepath.Join(s.dir, "data"))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		s.tb.Fatalf("start Consul: %v", err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd, s.done = cmd, done
}

// Signal sends a signal to the server's process.
func (s *Server) Signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
	}
}

// Kill ends the process without warning, and waits for its end.
func (s *Server) Kill() {
	s.Signal(syscall.SIGCONT)
	s.Signal(syscall.SIGKILL)
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	if done != nil {
		<-done
	}
	if s.tb.Failed() {
		if data, err := os.ReadFile(s.log); err == nil {
			s.tb.Logf("%s of %s:\n%s", s.log, s.name, data[max(0, len(data)-4000):])
		}
	}
}

// Ready waits until every server answers consistent reads, with all healthy.
func (c *Cluster) Ready() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range c.Servers {
		client := s.Client()
		for {
			err := s.ready(ctx, client, len(c.Servers))
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				data, _ := os.ReadFile(s.log)
				c.tb.Fatalf("%s is not ready: %v\n%s", s.name, err, data[max(0, len(data)-4000):])
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (s *Server) ready(ctx context.Context, client *api.Client, n int) error {
	q := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	checks, _, err := client.Health().State(api.HealthPassing, q)
	if err != nil {
		return err
	}
	healthy := 0
	for _, c := range checks {
		if c.CheckID == "serfHealth" {
			healthy++
		}
	}
	if healthy < n {
		return fmt.Errorf("%d of %d servers are healthy", healthy, n)
	}
	return nil
}

// Leader gives the server that leads, or nil.
func (c *Cluster) Leader() *Server {
	for _, s := range c.Servers {
		var self struct{ Stats map[string]map[string]string }
		if _, err := s.Client().Raw().Query("/v1/agent/self", &self, nil); err == nil && self.Stats["consul"]["leader"] == "true" {
			return s
		}
	}
	return nil
}

// Ports that FreePorts gives: below those that systems give to connections that go
// out, any of which could take one before it is used.
const (
	lowestPort  = 10_000
	highestPort = 30_000
)

var handedOut sync.Map // ports that this process was given

// FreePorts finds ports on loopback that nobody uses now, for TCP and UDP, and that
// this process was not given before.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > highestPort-lowestPort {
			return nil, errors.New("no free ports")
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if _, given := handedOut.LoadOrStore(port, true); given {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", address)
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = u.Close()
		ports = append(ports, port)
	}
	return ports, nil
}
