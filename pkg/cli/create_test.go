package cli_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// TestADomainWhoseMakingFailedCanBeGoneOnWith has every kind of failure: where the key
// stays, the command that goes on with it is printed; where nothing was made, it goes.
func TestADomainWhoseMakingFailedCanBeGoneOnWith(t *testing.T) {
	var answer error
	var ids []string
	s := newSession(t, &fakeHub{create: func(r *adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
		ids = append(ids, r.GetRequestId())
		return nil, answer
	}})
	dir := t.TempDir()
	env := s.app.IO.Env
	s.app.IO.Env = func(name string) string {
		if name == "MESHKIT_CONFIG" {
			return filepath.Join(dir, "config.yaml")
		}
		return env(name)
	}
	out := filepath.Join(dir, "zzz")
	key := filepath.Join(out, "admin.key")
	again := "meshctl domain create zzz --out " + out + " --request-id=6e2b57a1-0000-4000-8000-000000000001"
	for _, answer = range []error{
		fault.New(fault.CodeReadOnly, "no quorum"), fault.New(fault.CodeWriteUnknown, "lost"), fault.New(fault.CodeTimeout, "slow"), fault.New(fault.CodeInternal, "oops"),
	} {
		s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
		if !strings.Contains(s.err.String(), again) {
			t.Errorf("%v: the command to repeat is not printed:\n%s", answer, s.err)
		}
		before, err := os.ReadFile(key)
		if err != nil {
			t.Fatalf("%v: the key is gone: %v", answer, err)
		}
		s.run(cliutil.ExitError, strings.Fields(again)[1:]...)
		if after, err := os.ReadFile(key); err != nil || string(after) != string(before) || ids[len(ids)-1] != ids[len(ids)-2] {
			t.Errorf("%v: the repetition asks for something else", answer)
		}
		// However it ended, also without a word: the same command goes on.
		s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
		if after, err := os.ReadFile(key); err != nil || string(after) != string(before) || ids[len(ids)-1] != ids[0] {
			t.Errorf("%v: the same command asks for something else: %v", answer, ids)
		}
		s.run(cliutil.ExitUsage, "domain", "create", "yyy", "--out", out)
		ids = nil
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(when string) {
		t.Helper()
		if _, err := os.Stat(out); !os.IsNotExist(err) {
			t.Errorf("%s: a key is left that nothing was made for (%v)", when, err)
		}
	}
	answer = fault.New(fault.CodeDomainExists, "it exists")
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
	gone("refused")
	s.app.Dial = func(client.Config) (*client.Client, error) { return nil, errors.New("no such file") }
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
	gone("never asked")
}

// A hub that refuses need not be the one that had the try before, whose outcome nobody
// knows: that one may have made the domain for the key.
func TestTheKeyIsKeptOnceATryOfACommandWasLost(t *testing.T) {
	answers := []error{fault.New(fault.CodeWriteUnknown, "a leader got the request and did not answer"), fault.New(fault.CodeDomainExists, "it exists")}
	var ids []string
	s := newSession(t, &fakeHub{create: func(r *adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
		ids = append(ids, r.GetRequestId())
		return nil, answers[min(len(ids), len(answers))-1]
	}})
	out := filepath.Join(t.TempDir(), "zzz")
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
	before, err := os.ReadFile(filepath.Join(out, "admin.key"))
	if err != nil {
		t.Fatalf("the key is gone: %v", err)
	}
	for _, want := range []string{"it exists", "did not answer", "meshctl domain create zzz --out " + out + " --request-id=" + ids[0]} {
		if !strings.Contains(s.err.String(), want) {
			t.Errorf("%q is not said:\n%s", want, s.err)
		}
	}
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
	if after, err := os.ReadFile(filepath.Join(out, "admin.key")); err != nil || string(after) != string(before) || ids[len(ids)-1] != ids[0] {
		t.Errorf("the same command asks for something else: ids %v, %v", ids, err)
	}
}

// The directory of a domain whose making is not done is not taken for another's, whose
// certificate would be written over its own.
func TestARequestIDMakesNoDomainInTheDirectoryOfAnother(t *testing.T) {
	asked := 0
	s := newSession(t, &fakeHub{create: func(*adminv1.CreateDomainRequest) (*adminv1.CreateDomainResponse, error) {
		asked++
		return nil, fault.New(fault.CodeReadOnly, "no quorum")
	}})
	out := filepath.Join(t.TempDir(), "zzz")
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out)
	before := asked
	s.run(cliutil.ExitUsage, "domain", "create", "yyy", "--out", out, "--request-id", "r1")
	if asked != before || !strings.Contains(s.err.String(), `of the making of domain "zzz", not of yyy`) {
		t.Errorf("asked %d times more:\n%s", asked-before, s.err)
	}
	s.run(cliutil.ExitError, "domain", "create", "zzz", "--out", out, "--request-id", "r1")

	done := t.TempDir()
	files := mtls.Files{Cert: filepath.Join(done, "admin.pem"), Key: filepath.Join(done, "admin.key"), CA: filepath.Join(done, "ca.pem")}
	if err := hubtest.NewDomain(t).Source(t, identity.Operator, "admin").SaveFiles(files); err != nil {
		t.Fatal(err)
	}
	before = asked
	s.run(cliutil.ExitUsage, "domain", "create", "yyy", "--out", done, "--request-id", "r1")
	if asked != before || !strings.Contains(s.err.String(), `admin.pem is of domain "`+hubtest.Name+`", not of yyy`) {
		t.Errorf("asked %d times more:\n%s", asked-before, s.err)
	}
}

// A long problem is cut in the table, and whole where programs and describe read it.
func TestATableStaysNarrowWhateverTheProblem(t *testing.T) {
	problem := "the store cannot be used: " + strings.Repeat("x", 300)
	s := newSession(t, &fakeHub{hubs: []*adminv1.Hub{{Name: "hub1", Address: "127.0.0.1:8443", Seq: 7, Problem: problem}}})
	s.run(0, "get", "hubs")
	for line := range strings.Lines(s.out.String()) {
		if len([]rune(line)) > 190 {
			t.Errorf("a line of %d characters: %s", len([]rune(line)), line)
		}
	}
	if !strings.Contains(s.out.String(), "the store cannot be used") {
		t.Errorf("the table hides the problem:\n%s", s.out)
	}
	for _, args := range [][]string{{"get", "hubs", "-o", "json"}, {"describe", "hub", "hub1"}} {
		s.run(0, args...)
		if !strings.Contains(strings.Join(strings.Fields(s.out.String()), " "), problem) {
			t.Errorf("%v does not show all of it:\n%s", args, s.out)
		}
	}
}

// A hub joins a further domain in a directory below its own, which says all else.
func TestATokenOfAFurtherDomainSaysWhereAHubKeepsIt(t *testing.T) {
	s := newSession(t, &fakeHub{guest: "eu-central"})
	for name, args := range map[string][]string{"hub2": nil, "hub4": {"--node", "hub4"}} {
		s.run(0, append([]string{"token", "create", "--hub"}, args...)...)
		if said := s.err.String(); !strings.Contains(said, "--data ./"+name+"/domains/eu-central\n") || strings.Contains(said, "--listen") {
			t.Errorf("%s:\n%s", name, said)
		}
	}
	s.run(0, "token", "create")
	if !strings.Contains(s.err.String(), "--data ./agent") {
		t.Errorf("for a node:\n%s", s.err)
	}
}
