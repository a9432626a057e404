package fleet

import (
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

func TestHubFlagAloneAsksForAHubsTokenAndWithAnAddressNamesTheHub(t *testing.T) {
	for line, want := range map[string]struct {
		bare    int
		address string
	}{
		"":                          {},
		"--hub --uses 2":            {bare: 1},
		"--uses 2 --hub":            {bare: 1},
		"--hub 10.0.0.1:8443":       {address: "10.0.0.1:8443"},
		"--hub=10.0.0.1:8443":       {address: "10.0.0.1:8443"},
		"--hub --hub 10.0.0.1:8443": {bare: 1, address: "10.0.0.1:8443"},
		"--hub=10.0.0.1:8443 --hub": {bare: 1, address: "10.0.0.1:8443"},
	} {
		o := &tokenCreateOptions{app: &cliutil.App{}}
		cmd := tokenCreateCommand(o)
		if err := cmd.ParseFlags(strings.Fields(line)); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if err := cmd.Args(cmd, cmd.Flags().Args()); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if o.hub.bare != want.bare || o.hub.address != want.address {
			t.Errorf("%q: %d bare, address %q; want %d, %q", line, o.hub.bare, o.hub.address, want.bare, want.address)
		}
	}
	o := &tokenCreateOptions{app: &cliutil.App{}}
	if cmd := tokenCreateCommand(o); cmd.ParseFlags([]string{"--hub", "nonsense"}) != nil || cmd.Args(cmd, cmd.Flags().Args()) == nil {
		t.Error("--hub nonsense was taken")
	}
}
