package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/mtls"
)

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	io, _, out, errs := cliutil.TestIO(nil)
	code = execute(context.Background(), io, args)
	return code, out.String(), errs.String()
}

func initialize(t *testing.T, dir string) {
	t.Helper()
	if code, _, errs := invoke(t, "init", "--domain", "eu-west", "--data", dir); code != 0 {
		t.Fatalf("init exits %d: %s", code, errs)
	}
}

// made is what init writes before made.json, in order. A kill leaves a beginning of it;
// what is later is gone on with, as pkg/hub/founding tests.
var made = []string{
	"root/root-1.key", "keys/keyset.key", "keys/config.key", "ca/root.key", "ca/intermediate.key", "ca/root.pem", "ca/intermediate.pem",
	"root/root-1.json", "tls/hub.pem", "tls/hub.key", "admin/admin.pem", "admin/admin.key", "admin/ca.pem", "admin/context.yaml",
}

func TestAnInitThatWasKilledAnywhereIsNamedAndCanBeMadeAgain(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "hub")
	initialize(t, whole)
	for i, last := range made {
		dir := filepath.Join(t.TempDir(), "hub")
		for _, name := range made[:i+1] {
			data, err := os.ReadFile(filepath.Join(whole, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		code, _, errs := invoke(t, "init", "--domain", "eu-west", "--data", dir)
		if code == 0 || !strings.Contains(errs, string(fault.CodeInitIncomplete)) {
			t.Errorf("killed after %s: init exits %d and says %s", last, code, errs)
		}
		code, _, errs = invoke(t, "run", "--config", filepath.Join(dir, "meshhub.yaml"))
		if code != 65 || !strings.Contains(errs, string(fault.CodeInitIncomplete)) || !strings.Contains(errs, "meshhub init") {
			t.Errorf("killed after %s: run exits %d and says %s", last, code, errs)
		}
		if err := os.RemoveAll(dir); err != nil { // the remedy
			t.Fatal(err)
		}
		if i%5 == 0 {
			initialize(t, dir)
		}
	}
}

func TestAHubThatLostItsConfigurationIsNoInterruptedInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	if err := os.Remove(filepath.Join(dir, "meshhub.yaml")); err != nil {
		t.Fatal(err)
	}
	code, _, errs := invoke(t, "init", "--domain", "eu-west", "--data", dir)
	if code == 0 || !strings.Contains(errs, string(fault.CodeInitIncomplete)) || !strings.Contains(errs, "restore") {
		t.Errorf("init exits %d and does not speak of the store in it: %s", code, errs)
	}
}

// Hubs of one ring name their store alike, but for the address at which each reaches it.
func TestThePlaceOfALogIsTheSameForAllHubs(t *testing.T) {
	for url, want := range map[string]string{
		"consul://127.0.0.1:8501/meshkit?dc=dc1&ca=ca.pem&token-file=t": "consul:meshkit",
		"consul://10.0.0.1:8500/meshkit/":                               "consul:meshkit",
		"consul://10.0.0.1:8500/other?partition=p":                      "consul:other",
		"": "",
	} {
		if got := (storeConf{URL: url}).place(); got != want {
			t.Errorf("%s is %q, want %q", url, got, want)
		}
	}
}

func TestInitLeavesWhatIsNotItsOwnAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keys"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := invoke(t, "init", "--domain", "eu-west", "--data", dir)
	if code == 0 || !strings.Contains(errs, string(fault.CodeInitNotEmpty)) {
		t.Errorf("exit %d: %s", code, errs)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "keys")); err != nil || string(data) != "mine" {
		t.Errorf("the file is %q (%v)", data, err)
	}
}

func TestInterruptedInitTakesBackWhatItMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	io, _, _, errs := cliutil.TestIO(nil)
	if code := execute(ctx, io, []string{"init", "--domain", "eu-west", "--data", dir}); code != 130 {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left (%v)", dir, err)
	}
}

func TestAHubThatHasJoinedIsNotJoinedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	code, _, errs := invoke(t, "join", "--hub", "127.0.0.1:1", "--token", "a.b", "--ca-pin", "sha256:"+strings.Repeat("0", 64), "--data", dir)
	if code == 0 || !strings.Contains(errs, "has joined already") || !strings.Contains(errs, "meshhub run --config") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestMistakesEndWithTheirExitCode(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "meshhub.yaml")
	if err := os.WriteFile(broken, []byte("domain: eu-west\nname: hub1\nlisten: 127.0.0.1:0\nmetrisc: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 0, ""},
		{[]string{"inti"}, 64, "inti"},
		{[]string{"init", "--domain", "eu-west"}, 64, "--data"},
		{[]string{"init", "--domain", "EU", "--data", filepath.Join(dir, "x")}, 64, "EU"},
		{[]string{"init", "--domain", "eu", "--root-keys", "1", "--root-threshold", "2", "--data", filepath.Join(dir, "x")}, 64, "--root-threshold"},
		{[]string{"init", "--domain", "eu", "--listen", "0.0.0.0:22001", "--data", filepath.Join(dir, "x")}, 64, "--advertise HOST:PORT"},
		{[]string{"init", "--domain", "eu", "--listen", ":22001", "--data", filepath.Join(dir, "x")}, 64, "--advertise HOST:PORT"},
		{[]string{"init", "--domain", "eu", "--advertise", "[::]:22001", "--data", filepath.Join(dir, "x")}, 64, "--advertise HOST:PORT"},
		{[]string{"join", "--hub", "h:1", "--token", "t", "--ca-pin", "p", "--listen", "0.0.0.0:22001", "--data", filepath.Join(dir, "x")}, 64, "--advertise HOST:PORT"},
		{[]string{"run", "--config", broken}, 65, "metrics"},
		{[]string{"run"}, 64, "--config"},
		{[]string{"store", "accept", "--config", broken, "--give-up", "8"}, 64, "--reason"},
		{[]string{"root", "rotate", "--data", dir, "--new-keyset-key"}, 64, "--metadata"},
		{[]string{"root", "rotate", "--data", dir, "--root-keys", "17"}, 64, "at most 16"},
		{[]string{"root", "rotate", "--data", dir, "--root-keys", "2", "--keep-keys"}, 64, "--root-keys has nothing to say"},
	} {
		code, _, errs := invoke(t, c.args...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("meshhub %s: exit %d, want %d and %q:\n%s", strings.Join(c.args, " "), code, c.code, c.says, errs)
		}
	}
}

// run starts the hub of a directory by the command's own struct.
func run(t *testing.T, dir string) (ready map[string]string, stop func() error) {
	t.Helper()
	o := &runOptions{config: filepath.Join(dir, "meshhub.yaml"), readyFile: filepath.Join(t.TempDir(), "ready.json")}
	c, err := loadConfig(filepath.Join(dir, "meshhub.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Metrics = "127.0.0.1:0", "127.0.0.1:0"
	p, err := o.assemble(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.serve(ctx, p, slog.New(slog.DiscardHandler)) }()
	select {
	case <-p.hub.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	listen, metrics := p.hub.Addresses()
	return map[string]string{"listen": listen, "metrics": metrics, "file": o.readyFile}, func() error {
		cancel()
		return <-ended
	}
}

// A mistyped path must not cost a directory.
func TestAMissingConfigurationCostsNoDirectory(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "prod")
	other := t.TempDir()
	for _, dir := range []string{filepath.Join(keys, "keys"), filepath.Join(other, "photos")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for dir, says := range map[string]string{keys: "move ", other: "Check the path", t.TempDir(): "Check the path", "/": "Check the path"} {
		code, _, errs := invoke(t, "run", "--config", filepath.Join(dir, "nope.yaml"))
		if code == 0 || !strings.Contains(errs, says) || strings.Contains(strings.ToLower(errs), "remove") {
			t.Errorf("in %s: exit %d, %s", dir, code, errs)
		}
	}
}

// No grace is a choice, and not the default in disguise.
func TestGraceIsTakenAsItIsGiven(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meshhub.yaml")
	for text, want := range map[string]time.Duration{
		"": 72 * time.Hour, "tls:\n  grace: 0s\n": 0, "tls:\n  grace: 1h\n": time.Hour, "tls:\n  grace: -1s\n": -1,
	} {
		if err := os.WriteFile(path, []byte("domain: eu\nname: hub1\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(path)
		switch {
		case want < 0 && fault.CodeOf(err) != fault.CodeConfig:
			t.Errorf("%q: %v", text, err)
		case want >= 0 && (err != nil || c.TLS.Grace != want):
			t.Errorf("%q gives a grace of %s (%v), want %s", text, c.TLS.Grace, err, want)
		}
	}
}

func TestAHubRunsFromWhatInitMadeAndStopsInTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	for range 2 { // and again after a stop
		ready, stop := run(t, dir)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("stopping took %s", took)
		}
		data, err := os.ReadFile(ready["file"])
		if err != nil || !strings.Contains(string(data), fmt.Sprintf("%q", ready["listen"])) {
			t.Errorf("the ready file says %s (%v), the hub listens on %s", data, err, ready["listen"])
		}
		if _, err := os.Stat(filepath.Join(dir, "store.db")); err != nil {
			t.Error(err)
		}
	}
	source, err := mtls.LoadFiles(mtls.Files{Cert: filepath.Join(dir, "admin", "admin.pem"), Key: filepath.Join(dir, "admin", "admin.key"), CA: filepath.Join(dir, "admin", "ca.pem")})
	if err != nil || source.ID().String() != "spiffe://eu-west/operator/admin" {
		t.Errorf("the operator's certificate is %v (%v)", source, err)
	}
}

// Two hubs in one directory, with one name: the second does not start.
func TestASecondHubInADirectoryIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	_, stop := run(t, dir)
	config := filepath.Join(dir, "meshhub.yaml")
	code, _, errs := invoke(t, "run", "--config", config, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
	if code == 0 || !strings.Contains(errs, string(fault.CodeHubDirectoryUsed)) {
		t.Errorf("exit %d: %s", code, errs)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, stop = run(t, dir)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// logged keeps what is logged, and tells when a text is in it.
type logged struct {
	text string
	seen chan struct{}

	mu  sync.Mutex // guards both below
	all []string
	had bool
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	if !l.had && strings.Contains(string(p), l.text) {
		l.had = true
		close(l.seen)
	}
	return len(p), nil
}

// A line of the log names the domain that it is about, and no other.
func TestEachLineIsOfOneDomain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	o := &runOptions{config: filepath.Join(dir, "meshhub.yaml")}
	c, err := loadConfig(o.config)
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Metrics = "127.0.0.1:0", "127.0.0.1:0"
	lines := &logged{text: `"domain":"guest"`, seen: make(chan struct{})}
	p, err := o.assemble(t.Context(), c, slog.New(slog.NewJSONHandler(lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	guest, err := beside{own: c, address: p.port.Addr().String()}.Founding("guest", filepath.Join(dir, "domains", "guest"))
	if err != nil {
		t.Fatal(err)
	}
	guest.Maker = &founding.Maker{}
	if _, err := founding.Found(t.Context(), guest); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- o.serve(ctx, p, slog.New(slog.DiscardHandler)) }()
	select {
	case <-lines.seen:
		cancel()
		err = <-ended
	case err = <-ended:
		t.Error("the guest's domain logs nothing under its name")
	}
	if err != nil {
		t.Error(err)
	}
	for _, line := range lines.all {
		if strings.Count(line, `"domain":`) > 1 {
			t.Errorf("two domains: %s", line)
		}
	}
}

func TestAPrivateFileIsReadByItsOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	for _, name := range made {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".key") || name == "store.db" || strings.HasSuffix(name, ".yaml") {
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %o", name, info.Mode().Perm())
			}
		}
	}
}

// What is made for a further domain is published there, whatever the current context is.
func TestTheNextRootOfAFurtherDomainIsPublishedInItsContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub1")
	further := filepath.Join(dir, hubdir.DomainsDir, "eu-north")
	initialize(t, dir)
	if code, _, errs := invoke(t, "init", "--domain", "eu-north", "--data", further); code != 0 {
		t.Fatalf("init exits %d: %s", code, errs)
	}
	for data, want := range map[string]string{dir: "  meshctl trust publish --root ", further: "  meshctl --context eu-north trust publish --root "} {
		code, out, errs := invoke(t, "root", "rotate", "--data", data)
		if code != 0 || !strings.Contains(out, want+filepath.Join(data, "root", "root-2.json")) {
			t.Errorf("exit %d, want %q:\n%s%s", code, want, out, errs)
		}
	}
}
