//go:build chaos

package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/test/chaos/check"
	"github.com/meshkit/meshkit/test/harness"
)

// noCrashLoops keeps an agent from going back on purpose: kills come from outside
// and say nothing about the configuration.
const noCrashLoops = "probation:\n  maxRestarts: 0\n"

// joinFleet joins n agents, and gives the arguments to run them with. Their logs tell
// what they activate.
func joinFleet(t *testing.T, c *harness.Cluster, hub *harness.Hub, n int) []string {
	t.Helper()
	token, pin := c.Token("--uses", fmt.Sprint(n))
	args := []string{"fleet", "--hub", hub.Address, "--ca-pin", pin, "--count", fmt.Sprint(n),
		"--data", c.Path("fleet"), "--log-level", "info", "--log-format", "json"}
	// A first run joins the agents, whose configurations are changed after that.
	joining, err := c.Patient(10*time.Minute).TryStart("joining", "meshagent", append(args, "--token", token)...)
	if err != nil {
		t.Fatal(err)
	}
	joining.Stop()
	configs, err := filepath.Glob(c.Path("fleet", "agents", "*", "meshagent.yaml"))
	if err != nil || len(configs) != n {
		t.Fatalf("%d agents of %d joined: %v", len(configs), n, err)
	}
	for _, path := range configs {
		appendTo(t, path, noCrashLoops)
	}
	return args
}

// appendTo adds text to a file.
func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fleetActivations reads the logs of a fleet's processes, one after the other. One
// that was killed may end in the middle of a line.
func fleetActivations(t *testing.T, c *harness.Cluster, logs ...string) []check.Activation {
	t.Helper()
	var out []check.Activation
	for start, name := range logs {
		for line := range strings.Lines(c.Log(name)) {
			var l struct {
				Msg, Node      string
				Version, Epoch uint64
				Back           bool
			}
			if json.Unmarshal([]byte(line), &l) != nil || l.Msg != "activated" {
				continue
			}
			if l.Back {
				t.Errorf("%s took a version back: %s", l.Node, line)
			}
			out = append(out, check.Activation{Node: l.Node, Epoch: l.Epoch, Version: l.Version, Start: start})
		}
	}
	return out
}

// hookActivations reads what an agent's hook wrote. It says nothing of starts, so the
// same version again is no matter.
func hookActivations(t *testing.T, a *harness.Agent) []check.Activation {
	t.Helper()
	f, err := os.Open(a.ActivationsPath())
	if err != nil {
		t.Errorf("%s: %v", a.Node, err)
		return nil
	}
	defer f.Close()
	var out []check.Activation
	for s := bufio.NewScanner(f); s.Scan(); {
		next := check.Activation{Node: a.Node, Start: len(out)}
		if _, err := fmt.Sscan(s.Text(), &next.Epoch, &next.Version); err != nil {
			t.Errorf("%s: activation record %q: %v", a.Node, s.Text(), err)
		}
		out = append(out, next)
	}
	return out
}
