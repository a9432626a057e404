package identity_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
)

func ExampleParse() {
	id, err := identity.Parse("spiffe://eu-west/node/edge-7")
	fmt.Println(id.Domain, id.Kind, id.Name, err)
	// Output: eu-west node edge-7 <nil>
}

func TestOnlyWellFormedIDsExist(t *testing.T) {
	for uri, ok := range map[string]bool{
		"spiffe://eu-west/node/n1":                               true,
		"spiffe://mesh.example.com/hub/hub-1.eu":                 true,
		"spiffe://eu-west/operator/alice":                        true,
		"":                                                       false,
		"https://eu-west/node/n1":                                false,
		"SPIFFE://eu-west/node/n1":                               false,
		"spiffe://EU-west/node/n1":                               false,
		"spiffe:///node/n1":                                      false,
		"spiffe://eu-west/":                                      false,
		"spiffe://eu-west/node":                                  false,
		"spiffe://eu-west/node/":                                 false,
		"spiffe://eu-west/node/n1/":                              false,
		"spiffe://eu-west/node/n1/x":                             false,
		"spiffe://eu-west/root/n1":                               false,
		"spiffe://eu-west/node/../hub":                           false,
		"spiffe://eu-west/node/N1":                               false,
		"spiffe://eu-west/node/n_1":                              false,
		"spiffe://eu-west/node/-n1":                              false,
		"spiffe://eu-west/node/n1.":                              false,
		"spiffe://eu-west/node/n..1":                             false,
		"spiffe://eu-west/node/n1?x=1":                           false,
		"spiffe://eu-west/node/n1#x":                             false,
		"spiffe://user@eu-west/node/n1":                          false,
		"spiffe://eu-west:8443/node/n1":                          false,
		"spiffe://eu_west/node/n1":                               false,
		"spiffe://eu-west/node/n\x1b[31m":                        false,
		"spiffe://eu-west/node/%6e1":                             false,
		"spiffe://eu-west/node/" + strings.Repeat("a", 63):       true,
		"spiffe://eu-west/node/" + strings.Repeat("a", 64):       false,
		"spiffe://" + strings.Repeat("a.", 127) + "a/node/n1":    false,
		"spiffe://eu-west/node/" + strings.Repeat("a", 1<<16):    false,
		"spiffe://eu-west/node/a\u202eb":                         false,
		"spiffe://eu-west/node/n1 ":                              false,
		" spiffe://eu-west/node/n1":                              false,
		"spiffe://eu-west//node/n1":                              false,
		"spiffe://eu-west/node/./n1":                             false,
		"spiffe://eu-west/Node/n1":                               false,
		"spiffe://eu-west/hub/" + strings.Repeat("h-", 31) + "h": true,
	} {
		id, err := identity.Parse(uri)
		if ok != (err == nil) {
			t.Errorf("%.80q: %v, want ok %t", uri, err, ok)
		}
		if err != nil && (!errors.Is(err, fault.CodeIdentityInvalid) || !id.IsZero() || id.String() != "") {
			t.Errorf("%.80q: id %q, error %v", uri, id, err)
		}
		if err == nil && id.String() != uri {
			t.Errorf("%q comes back as %q", uri, id)
		}
	}
}

func TestCertificateHasExactlyOneIdentity(t *testing.T) {
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	own, other := parse("spiffe://eu-west/node/n1"), parse("spiffe://eu-west/hub/h1")
	for what, c := range map[string]struct {
		uris []*url.URL
		ok   bool
	}{
		"one": {[]*url.URL{own}, true}, "none": {nil, false}, "two": {[]*url.URL{own, other}, false},
		"one and a web address": {[]*url.URL{own, parse("https://example.com")}, false},
		"a foreign path":        {[]*url.URL{parse("spiffe://eu-west/workload/x/y")}, false},
	} {
		id, err := identity.FromCertificate(&x509.Certificate{SerialNumber: big.NewInt(1), URIs: c.uris})
		if c.ok != (err == nil) || err != nil && !errors.Is(err, fault.CodeCertificateInvalid) {
			t.Errorf("%s: %v", what, err)
		}
		if c.ok && id.String() != own.String() {
			t.Errorf("%s: %s", what, id)
		}
	}
	if _, err := identity.FromCertificate(nil); !errors.Is(err, fault.CodeCertificateInvalid) {
		t.Errorf("nil: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://eu-west/node/n1")
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := identity.Parse(uri)
		if err != nil {
			return
		}
		again, err := identity.New(id.Domain, id.Kind, id.Name)
		if err != nil || again != id || id.String() != uri {
			t.Fatalf("%q parses to %+v, which is not the same: %v", uri, id, err)
		}
	})
}
