package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
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
	if _, err := os.Stat(certificate); err != nil {
		t.Errorf("the certificate is not in place: %v", err)
	}

	away.Kill()
	dir := filepath.Join(away.Data, "domains", "eu-north")
	var token struct{ Token, CaPin string }
	c.JSON(&token, "--context", "eu-north", "token", "create")
	halfJoined(t, dir, away.Name, token.CaPin)
	away.Start()
	goesOn("the answer to its join was lost")
	if left, _ := filepath.Glob(filepath.Join(dir, "joining.*")); len(left) > 0 {
		t.Errorf("the join is not finished: %v", left)
	}
}
