//go:build chaos

package chaos

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// network is a bridge in the process's own network namespace, and hosts on it, each
// a namespace of its own. What the test process itself serves and calls has two
// addresses on the bridge, so that hubs can lose the way to the store, which leads
// through the proxies, and keep the one to clients.
type network struct {
	hosts map[string]string // address by name

	mu   sync.Mutex        // guards cuts, and the order of commands
	cuts map[[2]string]int // how often [0] lost the route to [1]
}

const (
	clientsHost = "clients"
	proxiesHost = "proxies"
)

// newNetwork makes the bridge and a host for each name.
func newNetwork(t *testing.T, names ...string) *network {
	t.Helper()
	n := &network{hosts: map[string]string{clientsHost: "10.77.0.1", proxiesHost: "10.77.0.2"}, cuts: make(map[[2]string]int)}
	commands := []string{
		"link set lo up",
		"link add mesh type bridge",
		"addr add 10.77.0.1/24 dev mesh",
		"addr add 10.77.0.2/24 dev mesh",
		"link set mesh up",
	}
	for i, name := range names {
		n.hosts[name] = fmt.Sprintf("10.77.0.%d", 11+i)
		commands = append(commands,
			"netns add "+name,
			"link add to-"+name+" type veth peer name eth0 netns "+name,
			"link set to-"+name+" master mesh up",
			"-n "+name+" addr add "+n.hosts[name]+"/24 dev eth0",
			"-n "+name+" link set eth0 up",
			"-n "+name+" link set lo up",
		)
	}
	for _, c := range commands {
		if err := ip(c); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// in is the command that runs a program on a host.
func (n *network) in(host string) []string { return []string{"ip", "netns", "exec", host} }

// route changes how a host reaches another.
func (n *network) route(verb, from, to string) error {
	where := ""
	if from != clientsHost && from != proxiesHost {
		where = "-n " + from + " "
	}
	return ip(where + "route " + verb + " blackhole " + n.hosts[to] + "/32")
}

// cut takes the way from one host to another, until heal was called as often. The
// way back stays: what is sent there is then never answered.
func (n *network) cut(from, to string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{from, to}
	if n.cuts[key]++; n.cuts[key] > 1 {
		return nil
	}
	return n.route("add", from, to)
}

// heal takes one cut back.
func (n *network) heal(from, to string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{from, to}
	if n.cuts[key]--; n.cuts[key] > 0 {
		return nil
	}
	delete(n.cuts, key)
	return n.route("del", from, to)
}

// plug connects a host to the bridge, or takes it off: it reaches nobody, and none
// of those who wait for its answer is told.
func (n *network) plug(host string, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return ip("link set to-" + host + " " + state)
}
