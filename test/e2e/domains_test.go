package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// repeated gives the arguments of the command that goes on, as it was printed.
func repeated(t *testing.T, r harness.Result) []string {
	t.Helper()
	found := regexp.MustCompile(`(?m)meshctl (domain create .*--request-id=\S+)$`).FindStringSubmatch(r.Stderr)
	if found == nil {
		t.Fatalf("no command to repeat is printed: exit %d\n%s", r.Code, r.Stderr)
	}
	return strings.Fields(found[1])
}

// plainly makes a TLS connection as any client does, with the domain for the host's name:
// a port that serves several is told which one is meant.
func plainly(t *testing.T, address, domain, bundle string) error {
	t.Helper()
	text, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatalf("%s holds no certificate", bundle)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: domain, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	return conn.Close()
}

// halfJoined turns what a hub has of a domain into what a join leaves whose answer was
// lost: it has its keys, and the log lists it.
func halfJoined(t *testing.T, dir, name, pin string) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(dir, "tls", "hub.key"))
	if err != nil {
		t.Fatal(err)
	}
	pending, err := json.Marshal(map[string]string{"name": name, "pin": pin, "requestId": "lost", "token": "lost"})
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{"joining.key": key, "joining.json": pending} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"meshhub.yaml", "root", "tls", "log.position"} {
		if err := os.RemoveAll(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestADomainIsGoneOnWithAsItIsPrinted makes a domain while a hub is away, then has it
// served by that one too: one that has not begun to join, and one whose join's answer
// was lost. Whichever hub leads either domain, and whichever is asked.
func TestADomainIsGoneOnWithAsItIsPrinted(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	ring := newRing(t, c)
	leader := leaderOf(t, ring)
	away := ring[2]
	if leader == away {
		away = ring[1]
	}
	away.Kill()
	r := c.Run("meshctl", "domain", "create", "eu-north")
	wantRefused(t, r, 9, fault.CodePartial, "hub "+away.Name+" does not serve eu-north yet")
	again := repeated(t, r)
	certificate := filepath.Join(c.Path("eu-north"), "admin.pem")
	if err := os.Remove(certificate); err != nil {
		t.Fatal(err)
	}
	goesOn := func(when string, args ...string) {
		t.Helper()
		if r := c.Run("meshctl", append(again, args...)...); r.Code != 0 || !strings.Contains(r.Stderr, "served by 3 of 3 hubs") {
			t.Fatalf("%s: exit %d\n%s", when, r.Code, r.Stderr)
		}
		if r := c.Run("meshctl", "--context", "eu-north", "get", "domain"); r.Code != 0 {
			t.Fatalf("%s: the new operator gets nothing: %s", when, r.Stderr)
		}
	}
	away.Start()
	goesOn("the hub is back")
	for _, h := range ring {
		for domain, bundle := range map[string]string{"eu-north": c.Path("eu-north", "ca.pem"), "eu-west": c.Path("hub1", "ca", "root.pem")} {
			if err := plainly(t, h.Address, domain, bundle); err != nil {
				t.Errorf("a client that knows TLS and nothing of MeshKit, to %s on hub %s: %v", domain, h.Name, err)
			}
		}
	}
	if _, err := os.Stat(certificate); err != nil {
		t.Errorf("the certificate is not in place: %v", err)
	}

	away.Kill()
	dir := filepath.Join(away.Data, "domains", "eu-north")
	var token struct{ Token, CaPin string }
	c.JSON(&token, "--context", "eu-north", "token", "create")
	halfJoined(t, dir, away.Name, token.CaPin)
	third := ring[0]
	for _, h := range ring {
		if h != leader && h != away {
			third = h
		}
	}
	for _, domain := range []string{"eu-north", "eu-west"} {
		c.Ctl("--context", domain, "domain", "transfer", domain, "--to", third.Name)
	}
	transferred := time.Now()
	away.Start()
	goesOn("the answer to its join was lost")
	for _, h := range ring {
		goesOn("hub "+h.Name+" is asked, and "+third.Name+" leads", "--hub", h.Address)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "joining.*")); len(left) > 0 {
		t.Errorf("the join is not finished: %v", left)
	}

	// One hub leads two domains and two lead none, because an operator had it so: that
	// stays when leadership is spread, which happens at least every 13 s.
	time.Sleep(time.Until(transferred.Add(15 * time.Second)))
	var domains list[domainRow]
	c.JSON(&domains, "get", "domains")
	for _, d := range domains.Items {
		if d.Leader != third.Name {
			t.Errorf("%s leads a domain that an operator transferred to %s: %+v", d.Leader, third.Name, domains.Items)
		}
	}
}

// TestADomainWhoseMakingIsInterruptedIsMadeByTheSameCommand interrupts at moments from the
// first to the last step of the making, also with a kill, which says nothing.
func TestADomainWhoseMakingIsInterruptedIsMadeByTheSameCommand(t *testing.T) {
	t.Parallel()
	c := harness.New(t)
	store := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	c.NewRing("eu-west", "consul://"+store.HTTP+"/meshkit?dc=dc1")
	interrupted := 0
	for i, after := range []time.Duration{40, 60, 80, 100, 130, 160, 200, 250, 300, 400} {
		domain := fmt.Sprintf("d%d", i)
		cmd := c.Command(t.Context(), "meshctl", "domain", "create", domain)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		_ = cmd.Process.Signal([]os.Signal{syscall.SIGINT, syscall.SIGKILL}[i%2])
		if cmd.Wait() == nil {
			continue // it was faster
		}
		interrupted++
		if r := c.Run("meshctl", "domain", "create", domain); r.Code != 0 {
			t.Fatalf("%s after an interruption at %d ms: exit %d\n%s", domain, after, r.Code, r.Stderr)
		}
		if r := c.Run("meshctl", "--context", domain, "get", "domain"); r.Code != 0 {
			t.Errorf("%s after an interruption at %d ms: the new operator gets nothing: %s", domain, after, r.Stderr)
		}
	}
	if interrupted == 0 {
		t.Fatal("each domain was made before it was interrupted: the moments are too late for this machine")
	}
}
