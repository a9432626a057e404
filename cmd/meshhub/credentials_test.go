package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/cli"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// ctl runs meshctl with a context file, at a clock that is ahead of the machine's.
func ctl(t *testing.T, file string, ahead time.Duration, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	io, _, out, errs := cliutil.TestIO(map[string]string{"MESHKIT_CONFIG": file})
	app := cliutil.NewApp(io, append([]string{"meshctl"}, args...))
	app.Now = func() time.Time { return time.Now().Add(ahead) }
	code = cli.Run(context.Background(), app)
	return code, out.String(), errs.String()
}

func adminFiles(dir string) mtls.Files {
	return mtls.Files{Cert: filepath.Join(dir, "admin.pem"), Key: filepath.Join(dir, "admin.key"), CA: filepath.Join(dir, "ca.pem")}
}

func load(t *testing.T, f mtls.Files) *mtls.Source {
	t.Helper()
	s, err := mtls.LoadFiles(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const day = 24 * time.Hour

func TestAnOperatorIsWarnedAndRenewsInTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	ready, stop := run(t, dir)
	defer stop()
	file, hub := filepath.Join(dir, "admin", "context.yaml"), "--hub="+ready["listen"]
	const command = "meshctl credentials renew"
	for ahead, warned := range map[time.Duration]bool{0: false, 75 * day: false, 77 * day: true} {
		code, out, errs := ctl(t, file, ahead, "get", "domain", "-o", "json", hub)
		if n := strings.Count(errs, command); code != 0 || (n == 1) != warned || strings.Contains(out, command) {
			t.Errorf("%s later: exit %d, the command is named %d times on stderr:\n%s", ahead, code, n, errs)
		}
	}
	before := load(t, adminFiles(filepath.Join(dir, "admin")))
	code, _, errs := ctl(t, file, 0, "credentials", "renew", hub)
	after := load(t, adminFiles(filepath.Join(dir, "admin")))
	if code != 0 || after.ID() != before.ID() || string(after.Certificate().Certificate[0]) == string(before.Certificate().Certificate[0]) {
		t.Errorf("exit %d, %s became %s:\n%s", code, before.ID(), after.ID(), errs)
	}
	if !strings.Contains(errs, cliutil.Stamp(after.NotAfter())) || !strings.Contains(errs, "admin.key") {
		t.Errorf("what was written, and its end, are not named:\n%s", errs)
	}
	if code, out, errs := ctl(t, file, 0, "credentials", "show"); code != 0 || !strings.Contains(out, after.ID().String()) || !strings.Contains(out, cliutil.Stamp(after.NotAfter())) {
		t.Errorf("show: exit %d\n%s%s", code, out, errs)
	}
	if code, _, errs := ctl(t, file, 0, "get", "domain", hub); code != 0 {
		t.Errorf("with the new pair: exit %d\n%s", code, errs)
	}
}

func TestARefusedRenewalLeavesThePairAndNamesTheWayOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	cert := filepath.Join(dir, "admin", "admin.pem")
	before, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	code, _, errs := ctl(t, filepath.Join(dir, "admin", "context.yaml"), 100*day, "credentials", "renew", "--hub=127.0.0.1:1")
	if code == 0 || !strings.Contains(errs, "meshhub credentials issue") {
		t.Errorf("exit %d:\n%s", code, errs)
	}
	if after, err := os.ReadFile(cert); err != nil || string(after) != string(before) {
		t.Errorf("the certificate changed (%v)", err)
	}
	load(t, adminFiles(filepath.Join(dir, "admin")))
}

func TestTheHubsMachineIssuesAnOperatorsCertificateWhileTheHubRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	ready, stop := run(t, dir)
	defer stop()
	out := filepath.Join(t.TempDir(), "ann")
	args := []string{"credentials", "issue", "--config", filepath.Join(dir, "meshhub.yaml"), "--operator", "ann", "--out", out}
	for range 2 { // the second replaces the first
		if code, _, errs := invoke(t, args...); code != 0 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		if code, _, errs := ctl(t, filepath.Join(out, "context.yaml"), 0, "get", "domain", "--hub="+ready["listen"]); code != 0 {
			t.Errorf("the hub refuses it: exit %d\n%s", code, errs)
		}
	}
	args[5] = "bob"
	if code, _, errs := invoke(t, args...); code != 64 || !strings.Contains(errs, "new directory") {
		t.Errorf("bob over ann's: exit %d: %s", code, errs)
	}
}
