package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// Hub is a hub of a cluster, running or not.
type Hub struct {
	c       *Cluster
	Name    string
	Data    string
	Address string
	Metrics string
	// Admin is the directory of the administrator's credentials.
	Admin string
	*Process
}

// freeAddresses gives n loopback addresses that were free a moment ago, and differ.
func freeAddresses(n int) ([]string, error) {
	ports, err := consultest.FreePorts(n)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("127.0.0.1:%d", p))
	}
	return out, nil
}

// NewHub initializes a hub, starts it, and points meshctl at it.
func (c *Cluster) NewHub(domain string) *Hub {
	c.tb.Helper()
	h := c.InitHub(domain)
	h.Begin()
	return h
}

// InitHub initializes a hub on fixed free ports, so that it can come back at the
// same address.
func (c *Cluster) InitHub(domain string) *Hub {
	c.tb.Helper()
	addrs, err := freeAddresses(2)
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	h := &Hub{c: c, Name: "hub", Data: c.Path("hub"), Admin: c.Path("hub", "admin"), Address: addrs[0], Metrics: addrs[1]}
	c.Must("meshhub", "init", "--domain", domain, "--data", h.Data, "--listen", h.Address, "--metrics", h.Metrics)
	return h
}

// NewRing makes a ring of hubs, one for each URL of the store that they share,
// starts them, and points meshctl at the first.
func (c *Cluster) NewRing(domain string, stores ...string) []*Hub {
	c.tb.Helper()
	addrs, err := freeAddresses(2 * len(stores))
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	var ring []*Hub
	var token, pin string
	for i, url := range stores {
		name := fmt.Sprintf("hub%d", i+1)
		h := &Hub{c: c, Name: name, Data: c.Path(name), Admin: c.Path("hub1", "admin"), Address: addrs[2*i], Metrics: addrs[2*i+1]}
		flags := []string{"--store", url, "--name", name, "--data", h.Data, "--listen", h.Address, "--metrics", h.Metrics}
		if i == 0 {
			c.Must("meshhub", append([]string{"init", "--domain", domain}, flags...)...)
			h.Begin()
			token, pin = c.Token("--hub", "--uses", strconv.Itoa(max(1, len(stores)-1)))
		} else {
			c.Must("meshhub", append([]string{"join", "--hub", ring[0].Address, "--token", token, "--ca-pin", pin}, flags...)...)
			h.Start()
		}
		ring = append(ring, h)
	}
	return ring
}

// Begin starts the hub for the first time and points meshctl at it.
func (h *Hub) Begin() {
	h.c.tb.Helper()
	h.Start()
	h.c.Ctl("context", "add", "--from", filepath.Join(h.Data, "admin", "context.yaml"))
}

// Start starts the hub, again or for the first time.
func (h *Hub) Start() {
	h.c.tb.Helper()
	h.Process = h.c.Start(h.Name, "meshhub", "run", "--config", filepath.Join(h.Data, "meshhub.yaml"))
}

// Client gives an admin client of the hub, with the administrator's certificate.
func (h *Hub) Client() *client.Client {
	h.c.tb.Helper()
	admin := func(name string) string { return filepath.Join(h.Admin, name) }
	cl, err := client.Dial(client.Config{Hub: h.Address, CAFile: admin("ca.pem"), CertFile: admin("admin.pem"), KeyFile: admin("admin.key")})
	if err != nil {
		h.c.tb.Fatalf("%v", err)
	}
	h.c.tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// Token creates a join token and gives it with the CA pin.
func (c *Cluster) Token(args ...string) (token, pin string) {
	c.tb.Helper()
	var out struct {
		Token string `json:"token"`
		CAPin string `json:"caPin"`
	}
	c.JSON(&out, append([]string{"token", "create"}, args...)...)
	if out.Token == "" || !strings.HasPrefix(out.CAPin, "sha256:") {
		c.tb.Fatalf("token create printed token %q, pin %q", out.Token, out.CAPin)
	}
	return out.Token, out.CAPin
}

// Agent is one agent of a cluster, running or not.
type Agent struct {
	c    *Cluster
	Node string
	Data string
	*Process
}

// NewAgent joins an agent with a token of its own and starts it.
func (c *Cluster) NewAgent(h *Hub, node string, labels ...string) *Agent {
	c.tb.Helper()
	a := c.JoinAgent(h, node, labels...)
	a.Start()
	return a
}

// JoinAgent joins an agent without starting it.
func (c *Cluster) JoinAgent(h *Hub, node string, labels ...string) *Agent {
	c.tb.Helper()
	var args []string
	for _, l := range labels {
		args = append(args, "--label", l)
	}
	token, pin := c.Token(args...)
	a := &Agent{c: c, Node: node, Data: c.Path(node)}
	c.Must("meshagent", "join", "--hub", h.Address, "--token", token, "--ca-pin", pin, "--node", node, "--data", a.Data)
	return a
}

// Config is the path of the agent's configuration.
func (a *Agent) Config() string { return filepath.Join(a.Data, "meshagent.yaml") }

// Start starts the agent, again or for the first time.
func (a *Agent) Start() {
	a.c.tb.Helper()
	a.Process = a.c.Start(a.Node, "meshagent", "run", "--config", a.Config())
}

// ActivationsPath is the file that RecordActivations has the agent write.
func (a *Agent) ActivationsPath() string { return a.c.Path(a.Node + ".activations") }

// RecordActivations has the agent append "epoch version" to ActivationsPath for
// each activation, through its hook. Call it between join and start.
func (a *Agent) RecordActivations() {
	a.c.tb.Helper()
	const before = "bundle:\n  path: bundle.json\n"
	data, err := os.ReadFile(a.Config())
	if err != nil {
		a.c.tb.Fatalf("%v", err)
	}
	if !strings.Contains(string(data), before) {
		a.c.tb.Fatalf("%s holds no default bundle", a.Config())
	}
	hook := fmt.Sprintf("  hook: [sh, -c, 'echo $MESHKIT_EPOCH $MESHKIT_VERSION >> %s']\n", a.ActivationsPath())
	if err := os.WriteFile(a.Config(), []byte(strings.Replace(string(data), before, before+hook, 1)), 0o600); err != nil {
		a.c.tb.Fatalf("%v", err)
	}
}

// Configure appends settings, as YAML, to the agent's configuration.
func (a *Agent) Configure(yaml string) {
	a.c.tb.Helper()
	f, err := os.OpenFile(a.Config(), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(yaml)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		a.c.tb.Fatalf("%v", err)
	}
}
