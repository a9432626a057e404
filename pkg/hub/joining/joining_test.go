package joining

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
)

const storeURL = "consul://127.0.0.1:8500/meshkit"

// admitting is a hub that admits hubs, and a token for some.
func admitting(t *testing.T, uses uint32) (*hubtest.Running, string) {
	t.Helper()
	d := hubtest.NewDomain(t)
	h := d.Start(t, func(o *hub.Options) {
		o.HubCA, o.HubCAChain = d.HubCA(t)
		o.StoreURL = storeURL
	})
	return h, h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Uses: uses})
}

// options are those of hub2, with keys in memory.
func options(t *testing.T, h *hubtest.Running, token string) Options {
	t.Helper()
	keys := make(map[string]*hubtest.Keys)
	return Options{
		Hub: h.Address, Pin: h.Domain.Authority.Pin(), Token: token, Name: "hub2", Address: "127.0.0.1:7002", Dir: filepath.Join(t.TempDir(), "hub2"),
		Drivers: Drivers{
			Keys: func(dir string) (sign.Driver, error) {
				if keys[dir] == nil {
					keys[dir] = hubtest.NewKeys()
				}
				return keys[dir], nil
			},
			CA: func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error) {
				return hubtest.CA(issuer, key), nil
			},
			Configure: func(_ context.Context, domain, driver, url string) ([]byte, error) {
				return fmt.Appendf(nil, "%s %s %s", domain, driver, url), nil
			},
		},
	}
}

func uses(t *testing.T, h *hubtest.Running) uint32 {
	t.Helper()
	tokens, err := adminv1.NewFleetServiceClient(h.Operator(t)).ListTokens(t.Context(), &adminv1.ListTokensRequest{})
	if err != nil || len(tokens.GetTokens()) != 1 {
		t.Fatalf("tokens: %v (%v)", tokens, err)
	}
	return tokens.GetTokens()[0].GetUsed()
}

func TestAHubThatJoinsHasAllThatItNeeds(t *testing.T) {
	h, token := admitting(t, 1)
	o := options(t, h, token)
	domain, err := Join(t.Context(), o)
	if err != nil || domain != hubtest.Name {
		t.Fatalf("joined %q (%v)", domain, err)
	}
	text, err := os.ReadFile(filepath.Join(o.Dir, hubdir.ConfigFile))
	if want := hubtest.Name + " memory " + storeURL; err != nil || string(text) != want {
		t.Errorf("the configuration is %q, want %q (%v)", text, want, err)
	}
	source, err := mtls.LoadFiles(mtls.Files{Cert: filepath.Join(o.Dir, "tls", "hub.pem"), Key: filepath.Join(o.Dir, "tls", "hub.key"), CA: filepath.Join(o.Dir, "ca", "root.pem")})
	if err != nil || source.ID().String() != "spiffe://"+hubtest.Name+"/hub/hub2" {
		t.Fatalf("the certificate is %v (%v)", source, err)
	}
	if _, err := adminv1.NewFleetServiceClient(h.Dial(t, source)).ListHubs(t.Context(), &adminv1.ListHubsRequest{Local: true}); err != nil {
		t.Errorf("with its certificate: %v", err)
	}
	for _, name := range []string{"ca/intermediate.pem", "ca/hubs.pem", "root/root-1.json"} {
		if _, err := os.Stat(filepath.Join(o.Dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{pendingName, pendingKey} {
		if _, err := os.Stat(filepath.Join(o.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", name, err)
		}
	}
	if _, err := Join(t.Context(), o); fault.CodeOf(err) != fault.CodeInitNotEmpty {
		t.Errorf("joined again: %v", err)
	}
}

// A join that is cut short after it was granted goes on with the same keys and the same
// use of the token; one of another name does not take its place.
func TestAJoinThatWasCutShortGoesOn(t *testing.T) {
	h, token := admitting(t, 1)
	o := options(t, h, token)
	broken := o
	broken.Configure = func(context.Context, string, string, string) ([]byte, error) {
		return nil, errors.New("no way to the log")
	}
	if _, err := Join(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "no way to the log") {
		t.Fatal(err)
	}
	if n := uses(t, h); n != 1 {
		t.Fatalf("%d uses of the token", n)
	}
	other := o
	other.Name = "hub3"
	if _, err := Join(t.Context(), other); fault.CodeOf(err) != fault.CodeJoinOtherTarget {
		t.Errorf("as another hub: %v", err)
	}
	if _, err := Join(t.Context(), o); err != nil {
		t.Errorf("the token is for one hub, which this one is: %v", err)
	}
	if n := uses(t, h); n != 1 {
		t.Errorf("%d uses of the token", n)
	}
}

// A request that was refused is made anew with another token.
func TestAJoinGoesOnWithAnotherToken(t *testing.T) {
	h, token := admitting(t, 1)
	spent := options(t, h, token)
	spent.Name = "hub3"
	if _, err := Join(t.Context(), spent); err != nil {
		t.Fatal(err)
	}
	o := options(t, h, token)
	if _, err := Join(t.Context(), o); fault.CodeOf(err) != fault.CodeTokenUsed {
		t.Fatalf("with a token that is spent: %v", err)
	}
	o.Token = h.Token(t, &adminv1.CreateTokenRequest{Role: "hub", Uses: 1})
	if _, err := Join(t.Context(), o); err != nil {
		t.Errorf("with another: %v", err)
	}
}

func TestADirectoryOfSomethingElseIsLeftAlone(t *testing.T) {
	h, token := admitting(t, 1)
	o := options(t, h, token)
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	notes := filepath.Join(o.Dir, "notes")
	if err := os.WriteFile(notes, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), o); fault.CodeOf(err) != fault.CodeInitNotEmpty {
		t.Errorf("%v", err)
	}
	if data, err := os.ReadFile(notes); err != nil || string(data) != "mine" {
		t.Errorf("the file is %q (%v)", data, err)
	}
	if n := uses(t, h); n != 0 {
		t.Errorf("%d uses of the token", n)
	}
}

// A join has no flag for a request id: what goes on with one is the same command.
func TestAJoinWithoutAnAnswerIsRepeatedAsItWas(t *testing.T) {
	for _, code := range []fault.Code{fault.CodeTimeout, fault.CodeWriteUnknown, fault.CodeNotLeader} {
		err := unanswered(fmt.Errorf("join through hub 10.0.0.1:8443: %w", fault.New(code, "no answer")))
		if fix := fault.RemedyOf(err); fault.CodeOf(err) != code || strings.Contains(fix, "request id") || !strings.Contains(fix, "same command again") {
			t.Errorf("%s (%v): %q", code, err, fix)
		}
	}
	kept := fault.New(fault.CodeNoHubCA, "no hub that answers has the keys").WithRemedy("start hub1")
	if err := unanswered(kept); fault.RemedyOf(err) != "start hub1" {
		t.Errorf("a remedy that is better: %q", fault.RemedyOf(err))
	}
}
