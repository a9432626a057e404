package main

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
)

// running is a hub with an embedded store, and an operator of it.
func running(t *testing.T) (dir, address string, operator *client.Client) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "hub")
	initialize(t, dir)
	ready, stop := run(t, dir)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("hub ended with %v", err)
		}
	})
	admin := func(name string) string { return filepath.Join(dir, "admin", name) }
	operator, err := client.Dial(client.Config{Hub: ready["listen"], CAFile: admin("ca.pem"), CertFile: admin("admin.pem"), KeyFile: admin("admin.key")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = operator.Close() })
	return dir, ready["listen"], operator
}

// A join that cannot work costs nothing: no directory, no use of the token.
func TestAJoinThatCannotWorkCostsNothing(t *testing.T) {
	_, address, operator := running(t)
	token, err := operator.CreateToken(t.Context(), &adminv1.CreateTokenRequest{Role: "hub", RequestId: "token"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags []string
		code  fault.Code
		says  string
	}{
		"a store that is not there":        {[]string{"--store", "consul://127.0.0.1:9/meshkit"}, fault.CodeStoreUnavailable, "127.0.0.1:9"},
		"a hub that is not the pinned one": {[]string{"--store", "consul://127.0.0.1:9/meshkit", "--ca-pin", "sha256:" + strings.Repeat("0", 64), "--timeout", "3s"}, fault.CodePinMismatch, "Compare the pin"},
		"a domain whose store is its own":  {nil, fault.CodeStoreNotShared, "meshhub restore --from"},
	} {
		data := filepath.Join(t.TempDir(), "hub2")
		args := append([]string{"join", "--hub", address, "--token", token.GetToken(), "--ca-pin", token.GetCaPin(), "--data", data, "--listen", "127.0.0.1:7000"}, c.flags...)
		code, _, errs := invoke(t, args...)
		if code == 0 || !strings.Contains(errs, string(c.code)) || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, want %s and %q:\n%s", name, code, c.code, c.says, errs)
		}
		if _, err := os.Stat(data); len(c.flags) > 0 && !os.IsNotExist(err) {
			t.Errorf("%s: %s is there (%v)", name, data, err)
		}
	}
	tokens, err := operator.Tokens(t.Context())
	if err != nil || len(tokens) != 1 || tokens[0].GetUsed() != 0 {
		t.Errorf("tokens afterwards: %v (%v)", tokens, err)
	}
}

// A hub that joins another domain of its ring does so as the hub that it is.
func TestAFurtherDomainIsJoinedAsTheHubThatServesIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	if code, _, errs := invoke(t, "init", "--domain", "eu-west", "--data", dir, "--name", "hub4", "--listen", "0.0.0.0:7000", "--advertise", "10.0.0.4:7000"); code != 0 {
		t.Fatalf("init exits %d: %s", code, errs)
	}
	parse := func(args ...string) *joinOptions {
		t.Helper()
		o := &joinOptions{io: cliutil.Discard()}
		cmd := joinCommand(o)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		if err := o.beside(cmd.Flags().Changed); err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := parse("--data", filepath.Join(dir, "domains", "eu-central"))
	if o.name != "hub4" || o.listen != "0.0.0.0:7000" || o.advertise != "10.0.0.4:7000" || o.metrics != "" || o.own != filepath.Join(dir, hubdir.ConfigFile) {
		t.Errorf("beside hub4: %+v", o)
	}
	if o := parse("--data", filepath.Join(dir, "domains", "eu-central"), "--name", "other"); o.name != "other" || o.listen != "0.0.0.0:7000" {
		t.Errorf("with another name: %+v", o)
	}
	if o := parse("--data", filepath.Join(dir, "elsewhere", "eu-central")); o.name != "" || o.own != "" || o.listen != "127.0.0.1:8443" {
		t.Errorf("a directory of its own: %+v", o)
	}
	_, address, operator := running(t)
	token, err := operator.CreateToken(t.Context(), &adminv1.CreateTokenRequest{Role: "hub", RequestId: "token"})
	if err != nil {
		t.Fatal(err)
	}
	code, _, errs := invoke(t, "join", "--hub", address, "--token", token.GetToken(), "--ca-pin", token.GetCaPin(), "--data", filepath.Join(dir, "domains", "eu-central"))
	if code != 64 || !strings.Contains(errs, filepath.Join(dir, "domains", "eu-west")) {
		t.Errorf("a directory of another domain's name: exit %d\n%s", code, errs)
	}
}

// The address of the hub that is asked is no address for another one: said before the
// token is spent.
func TestAJoinAtTheAddressOfTheHubThatIsAskedIsRefused(t *testing.T) {
	for _, c := range []struct {
		hub, listen, advertise string
		refused                bool
	}{
		{"127.0.0.1:8443", "127.0.0.1:8443", "", true},
		{"localhost:8443", "127.0.0.1:8443", "", true},
		{"127.0.0.1:8443", "localhost:8443", "", true},
		{"127.0.0.1:8443", "0.0.0.0:8443", "10.9.9.9:8443", true},
		{"127.0.0.1:8443", ":8443", "10.9.9.9:8443", true},
		{"10.9.9.9:8443", "127.0.0.1:8444", "10.9.9.9:8443", true},
		{"hub.invalid:8443", "127.0.0.1:8444", "HUB.invalid:8443", true},
		{"127.0.0.1:8443", "127.0.0.1:8444", "", false}, // the demo's ring
		{"10.9.9.9:8443", "10.9.9.8:8443", "", false},
		{"10.9.9.9:8443", "127.0.0.1:8443", "", false},
		{"10.9.9.9:8443", "0.0.0.0:8443", "10.9.9.8:8443", false},
		{"127.0.0.1:8443", "10.9.9.8:8443", "", false}, // a tunnel
		{"hub.invalid:8443", "127.0.0.1:8443", "hub2.invalid:8443", false},
	} {
		o := &joinOptions{hub: c.hub, listen: c.listen, advertise: cmp.Or(c.advertise, c.listen)}
		err := o.apart(t.Context())
		if refused := err != nil; refused != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if o.own = "meshhub.yaml"; o.apart(t.Context()) != nil {
			t.Errorf("%+v: refused for a domain beside the hub's own", c)
		}
	}
	dir := filepath.Join(t.TempDir(), "hub2")
	code, _, errs := invoke(t, "join", "--hub", "127.0.0.1:8443", "--token", "a.b", "--ca-pin", "sha256:"+strings.Repeat("0", 64), "--data", dir)
	if code != 64 || !strings.Contains(errs, "--listen 127.0.0.1:8443 is where the hub answers") {
		t.Errorf("exits %d: %s", code, errs)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

// A name stays the address that others are told: what it stands for may change.
func TestAHubIsAdvertisedAsItListens(t *testing.T) {
	for _, c := range []struct{ listen, advertise, want string }{
		{"hub1.example:8443", "", "hub1.example:8443"},
		{"10.0.0.1:8443", "", "10.0.0.1:8443"},
		{"0.0.0.0:8443", "", ""},
		{":8443", "", ""},
		{"127.0.0.1:0", "", ""},
		{"0.0.0.0:8443", "hub1.example:8443", "hub1.example:8443"},
	} {
		if got := (config{Listen: c.listen, Advertise: c.advertise}).advertised(); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
