package forward

import (
	"crypto/x509"
	"maps"
	"net/url"
	"slices"
	"testing"

	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/identity"
)

// For whom a hub may call, over every method that is forwarded at all: a new one cannot
// let hubs speak for each other by being forgotten.
func TestForWhomAHubForwards(t *testing.T) {
	all := slices.Sorted(maps.Keys(methods))
	all = append(all, slices.Sorted(maps.Keys(handed))...)
	by := identity.ID{Domain: "eu-west", Kind: identity.Hub, Name: "hub2"}
	for _, tc := range []struct {
		caller string
		but    bool // only where anyone may call
	}{
		{"", false},
		{"spiffe://eu-west/operator/admin", false},
		{"spiffe://eu-west/node/hub1", false},
		{"spiffe://eu-west/hub/hub2", false},
		{"spiffe://eu-west/hub/hub1", true},
		{"spiffe://eu-west/hub/hub22", true},
	} {
		var chain []*x509.Certificate
		if tc.caller != "" {
			uri, err := url.Parse(tc.caller)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, &x509.Certificate{URIs: []*url.URL{uri}})
		}
		ctx := access.WithCaller(t.Context(), forwardedAddr("192.0.2.7:1234"), chain)
		for _, method := range all {
			joins := method == "/meshkit.identity.v1.IdentityService/Join" || method == "/meshkit.identity.v1.IdentityService/JoinHub"
			if err := mayName(ctx, by, method); (err == nil) != (!tc.but || joins) {
				t.Errorf("%s for %q: %v", method, tc.caller, err)
			}
		}
	}
}
