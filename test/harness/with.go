package harness

import (
	"os"
	"time"
)

// With gives the same cluster to another test: what it reports goes to tb, and
// what it starts ends with tb.
func (c *Cluster) With(tb TB) *Cluster {
	d := *c
	d.tb = tb
	return &d
}

// Via gives the same cluster with its programs run through a command, like
// "ip netns exec NAME": the command must replace itself by the program.
func (c *Cluster) Via(command ...string) *Cluster {
	d := *c
	d.via = command
	return &d
}

// Patient gives the same cluster with another bound on how long a program may take
// to be ready.
func (c *Cluster) Patient(patience time.Duration) *Cluster {
	d := *c
	d.patience = patience
	return &d
}

// With gives the same hub to another test. A test that restarts it starts a hub
// that ends with that test.
func (h *Hub) With(c *Cluster) *Hub {
	g := *h
	g.c = c
	return &g
}

// With gives the same agent to another test.
func (a *Agent) With(c *Cluster) *Agent {
	b := *a
	b.c = c
	return &b
}

// Log is what a program has written to its log so far; name is the one that it
// was started under: "hub", or an agent's node.
func (c *Cluster) Log(name string) string {
	c.tb.Helper()
	data, err := os.ReadFile(c.Path(name + ".log"))
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return string(data)
}
