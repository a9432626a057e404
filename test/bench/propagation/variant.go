//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/graph/graphtest"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/test/harness"
)

// variant is one way to bring a change to many clients.
type variant struct {
	name string
	tls  bool
	// start starts the server in dir, before any client.
	start func(ctx context.Context, o options, dir string, n int) (*running, error)
}

// running is a variant with its clients connected. One goroutine uses it.
type running struct {
	variant
	server, clients *child
	// change makes one more change and gives when it was asked for.
	// size is how long the floors' message is to be, in bytes.
	change  func(ctx context.Context, size int) (at int64, err error)
	cleanup []func()
	// memory per stream, and what the allocator holds for it, in bytes; 0: not known.
	memory, spans float64
	turns         []turn
	// again starts another one of the same variant.
	again func() (*running, error)
}

// turn is what one change took.
type turn struct {
	cpu            time.Duration // of the server
	p50, p99, last time.Duration
	bytes          int // of the message that the clients got
}

func (r *running) stop() {
	for _, c := range []*child{r.clients, r.server} {
		if c != nil {
			c.stop()
		}
	}
	for _, f := range r.cleanup {
		f()
	}
}

// attempt takes a turn. When a connection breaks, as happens to the bare floor on a
// machine with too much to do, it starts the variant anew, says so, and takes the turn
// with that one, which it gives.
func (r *running) attempt(ctx context.Context, size int) (turn, *running, error) {
	t, err := r.turn(ctx, size)
	if err == nil || ctx.Err() != nil {
		return t, r, err
	}
	fmt.Fprintf(os.Stderr, "%s is started anew: %v\n", r.name, err)
	r.stop()
	next, err := r.again()
	if err != nil {
		return t, r, err
	}
	next.turns, next.again = r.turns, r.again
	if _, err := next.turn(ctx, size); err != nil { // the first one warms it up
		return t, next, err
	}
	t, err = next.turn(ctx, size)
	return t, next, err
}

// turn makes one change and waits until it has arrived and the server is at rest.
func (r *running) turn(ctx context.Context, size int) (turn, error) {
	var t turn
	if err := r.clients.call("arm", nil, nil); err != nil {
		return t, err
	}
	before, err := r.server.settled(ctx)
	if err != nil {
		return t, err
	}
	at, err := r.change(ctx, size)
	if err != nil {
		return t, errors.Join(err, r.clients.call("failure", nil, nil))
	}
	var a arrivals
	if err := r.clients.call("wait", nil, &a); err != nil {
		return t, err
	}
	after, err := r.server.settled(ctx)
	if err != nil {
		return t, err
	}
	return turn{cpu: after - before, p50: time.Duration(a.P50 - at), p99: time.Duration(a.P99 - at), last: time.Duration(a.Last - at), bytes: a.Bytes}, nil
}

const (
	floorPlain = "floor"
	floorTLS   = "floor, TLS"
	hubPlain   = "hub's path"
	hubTLS     = "hub, TLS"
	linear     = "LinearCache"
	etcd       = "etcd watch"
)

var variants = []variant{
	{floorPlain, false, startFloor(false, false, false)},
	{"floor, tuned", false, startFloor(false, false, true)},
	{"floor, tuned, acked", false, startFloor(false, true, true)},
	{hubPlain, false, startPlain},
	{linear, false, startLinear},
	{etcd, false, startEtcd},
	{floorTLS, true, startFloor(true, false, false)},
	{"floor, TLS, tuned", true, startFloor(true, false, true)},
	{"floor, TLS, tuned, acked", true, startFloor(true, true, true)},
	{hubTLS, true, startHub},
}

// startServer starts a server part and gives its address.
func startServer(name string, s serverSpec) (*child, string, error) {
	config, err := json.Marshal(s)
	if err != nil {
		return nil, "", err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	c, err := startPart(name+" server", self, "part", "server", string(config))
	if err != nil {
		return nil, "", err
	}
	var st started
	if err := c.call("start", nil, &st); err != nil {
		c.stop()
		return nil, "", err
	}
	return c, st.Address, nil
}

// startClients starts a process with clients.
func startClients(name string, spec clientSpec) (*child, error) {
	config, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startPart(name, self, "part", "clients", string(config))
}

// connect starts the clients of r and measures the memory that the server needs for
// them.
func (r *running) connect(spec clientSpec) error {
	before, err := r.held()
	if err != nil {
		return err
	}
	if r.clients, err = startClients(r.name+" clients", spec); err != nil {
		return err
	}
	if err := r.clients.call("connect", nil, nil); err != nil {
		return err
	}
	if _, err := r.server.settled(context.Background()); err != nil {
		return err
	}
	after, err := r.held()
	r.memory = (float64(after.Bytes) - float64(before.Bytes)) / float64(spec.Count)
	r.spans = (float64(after.Spans) - float64(before.Spans)) / float64(spec.Count)
	return err
}

// held is the memory that the server has in use; of etcd, its resident set.
func (r *running) held() (inUse, error) {
	if r.name == etcd {
		resident, err := rss(r.server.cmd.Process.Pid)
		return inUse{resident, resident}, err
	}
	var m inUse
	err := r.server.call("memory", nil, &m)
	return m, err
}

// rss is a process's resident set, in bytes.
func rss(pid int) (uint64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0, err
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		return 0, err
	}
	return pages * uint64(os.Getpagesize()), nil
}

// byServer has the server part make the changes.
func (r *running) byServer(_ context.Context, size int) (int64, error) {
	var c changed
	err := r.server.call("change", changeRequest{Bytes: size}, &c)
	return c.At, err
}

// begin gives r when err is nil, and ends it otherwise.
func (r *running) begin(err error) (*running, error) {
	if err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func startFloor(tls, acked, tuned bool) func(context.Context, options, string, int) (*running, error) {
	name := floorPlain
	if tls {
		name = floorTLS
	}
	if tuned {
		name += ", tuned"
	}
	if acked {
		name += ", acked"
	}
	return func(_ context.Context, _ options, dir string, n int) (*running, error) {
		r := &running{variant: variant{name: name, tls: tls}}
		r.change = r.byServer
		server, client := serverSpec{Kind: "floor", Acked: acked, Tuned: tuned}, clientSpec{Kind: "floor", Count: n, Acked: acked, Tuned: tuned}
		if tls {
			d, err := initDomain(dir, anyPort, anyPort)
			if err != nil {
				return nil, err
			}
			server.Files, client.Files = hubFiles(d), adminFiles(d)
		}
		var err error
		if r.server, client.Address, err = startServer(name, server); err != nil {
			return nil, err
		}
		return r.begin(r.connect(client))
	}
}

func startPlain(_ context.Context, o options, dir string, n int) (*running, error) {
	r := &running{variant: variant{name: hubPlain}}
	r.change = r.byServer
	client := clientSpec{Kind: "control", Count: n}
	own, err := os.MkdirTemp(dir, "plain")
	if err != nil {
		return nil, err
	}
	if r.server, client.Address, err = startServer(hubPlain, serverSpec{Kind: "plain", Resources: o.resources, Dir: own}); err != nil {
		return nil, err
	}
	return r.begin(r.connect(client))
}

func adminFiles(hubDir string) mtls.Files {
	return mtls.Files{Cert: filepath.Join(hubDir, "admin", "admin.pem"), Key: filepath.Join(hubDir, "admin", "admin.key"), CA: filepath.Join(hubDir, "admin", "ca.pem")}
}

// anyPort of loopback.
const anyPort = "127.0.0.1:0"

// initDomain makes a hub's directory below dir.
func initDomain(dir, listen, metrics string) (string, error) {
	programs, err := harness.Programs()
	if err != nil {
		return "", err
	}
	own, err := os.MkdirTemp(dir, "hub")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(programs, "meshhub"), "init", "--domain", domain, "--data", filepath.Join(own, "data"), "--listen", listen, "--metrics", metrics)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("meshhub init: %w\n%s", err, out)
	}
	return filepath.Join(own, "data"), nil
}

// startHub starts a whole hub; this process is its operator.
func startHub(ctx context.Context, o options, dir string, n int) (*running, error) {
	d, err := initDomain(dir, anyPort, anyPort)
	if err != nil {
		return nil, err
	}
	r := &running{variant: variant{name: hubTLS, tls: true}}
	client := clientSpec{Kind: "control", Count: n}
	if r.server, client.Address, err = startServer(hubTLS, serverSpec{Kind: "hub", Dir: d}); err != nil {
		return nil, err
	}
	op, err := operator(ctx, client.Address, d, o.resources)
	if err != nil {
		return r.begin(err)
	}
	r.cleanup = append(r.cleanup, func() { _ = op.Close() })
	mesh := graphtest.Mesh(o.resources, 1)
	revision := 0
	r.change = func(ctx context.Context, _ int) (int64, error) {
		revision++ // not i: a turn may be taken twice
		c := &adminv1.Change{FieldManager: "bench", Resources: [][]byte{graphtest.Edit(mesh[1], revision).Content}}
		at := now()
		_, err := op.Apply(ctx, &adminv1.ApplyRequest{RequestId: fmt.Sprintf("change-%d", revision), Change: c})
		return at, err
	}
	if client.Token, client.Pin, err = token(ctx, op, n); err != nil {
		return r.begin(err)
	}
	return r.begin(r.connect(client))
}

// operator connects to a hub and gives it its resources.
func operator(ctx context.Context, address, dir string, resources int) (*client.Client, error) {
	f := adminFiles(dir)
	op, err := client.Dial(client.Config{Hub: address, CAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key})
	if err != nil {
		return nil, err
	}
	_, err = op.Apply(ctx, &adminv1.ApplyRequest{RequestId: "all", Change: wholeMesh(graphtest.Mesh(resources, 1))})
	if err != nil {
		_ = op.Close()
		return nil, err
	}
	return op, nil
}

func wholeMesh(mesh []graph.Change) *adminv1.Change {
	c := &adminv1.Change{FieldManager: "bench", AllowLargeChange: true}
	for _, m := range mesh {
		c.Resources = append(c.Resources, m.Content)
	}
	return c
}

// token makes a join token for n nodes.
func token(ctx context.Context, op *client.Client, n int) (token, pin string, err error) {
	t, err := op.CreateToken(ctx, &adminv1.CreateTokenRequest{Ttl: durationpb.New(time.Hour), Uses: uint32(n), RequestId: "token"})
	if err != nil {
		return "", "", err
	}
	return t.GetToken(), t.GetCaPin(), nil
}

func startLinear(_ context.Context, o options, dir string, n int) (*running, error) {
	program := filepath.Join(dir, "linearcache")
	if err := build("test/bench/propagation/linearcache", ".", program); err != nil {
		return nil, err
	}
	r := &running{variant: variant{name: linear}}
	r.change = r.byServer
	var err error
	if r.server, err = startPart(linear+" server", program, strconv.Itoa(o.resources)); err != nil {
		return nil, err
	}
	var st started
	if err := r.server.call("start", nil, &st); err != nil {
		return r.begin(err)
	}
	return r.begin(r.connect(clientSpec{Kind: "ads", Address: st.Address, Count: n}))
}

// etcdVersion is the one that test/tools/etcd names.
const etcdVersion = "3.7.3"

func startEtcd(ctx context.Context, _ options, dir string, n int) (*running, error) {
	program, err := etcdProgram()
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(dir, "etcd")
	if err != nil {
		return nil, err
	}
	client, peer, err := freeAddresses()
	if err != nil {
		return nil, err
	}
	r := &running{variant: variant{name: etcd}}
	if r.server, err = startPart(etcd+" server", program, "--data-dir", data, "--log-level", "fatal",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer); err != nil {
		return nil, err
	}
	conn, err := dialPlain(client)
	if err != nil {
		return r.begin(err)
	}
	r.cleanup = append(r.cleanup, func() { _ = conn.Close() })
	value := make([]byte, 1024)
	r.change = func(ctx context.Context, _ int) (int64, error) {
		at := now()
		return at, etcdPut(ctx, conn, value)
	}
	err = harness.Poll(harness.Patience, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return etcdPut(ctx, conn, value) == nil, nil
	})
	if err != nil {
		return r.begin(fmt.Errorf("etcd does not answer: %w", err))
	}
	return r.begin(r.connect(clientSpec{Kind: "etcd", Address: client, Count: n}))
}

// etcdProgram builds etcd once and keeps it in the user's cache directory.
func etcdProgram() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(cache, "meshkit", "etcd-"+etcdVersion)
	if _, err := os.Stat(program); !errors.Is(err, os.ErrNotExist) {
		return program, err
	}
	return program, build("test/tools/etcd", "go.etcd.io/etcd/server/v3", program)
}

// build builds a package of another module of this repository.
func build(module, pkg, program string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module (run the bench from within it): %w", err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Dir = filepath.Join(string(root[:len(root)-1]), module)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// freeAddresses gives two loopback addresses that were free a moment ago.
func freeAddresses() (string, string, error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = a.Close() }()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = b.Close() }()
	return a.Addr().String(), b.Addr().String(), nil
}
