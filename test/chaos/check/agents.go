package check

import "fmt"

// Activation is one line of an agent's log: it gave that version to its data plane.
type Activation struct {
	Node           string
	Epoch, Version uint64
	// Start counts the starts of the agent's process before it.
	Start int
}

func (a Activation) point() string { return fmt.Sprintf("epoch %d version %d", a.Epoch, a.Version) }

// older tells whether a comes before b, as agents order them.
func (a Activation) older(b Activation) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Version < b.Version
}

// Agents checks that no agent ever activated something older than it had, across its
// restarts; and nothing twice, except the last one again when it starts.
func Agents(activations []Activation) []string {
	var p problems
	last := make(map[string]Activation)
	for _, a := range activations {
		before, ok := last[a.Node]
		switch {
		case !ok:
		case a.older(before):
			p.add("%s went back from %s to %s", a.Node, before.point(), a.point())
		case !before.older(a) && a.Start == before.Start:
			p.add("%s activated %s twice", a.Node, a.point())
		}
		last[a.Node] = a
	}
	return p
}
