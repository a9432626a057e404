package access

import (
	"context"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
)

func TestEveryMethodHasALineAndEveryLineAMethod(t *testing.T) {
	var all []string
	for _, d := range []grpc.ServiceDesc{
		adminv1.ResourceService_ServiceDesc, adminv1.FleetService_ServiceDesc, adminv1.TrustService_ServiceDesc, adminv1.RingService_ServiceDesc, adminv1.DomainService_ServiceDesc, adminv1.StoreService_ServiceDesc,
		controlv1.ControlService_ServiceDesc, identityv1.IdentityService_ServiceDesc,
		relay.ControlPlaneWatch_ServiceDesc, mesh.LeadershipControlService_ServiceDesc,
	} {
		for _, m := range d.Methods {
			all = append(all, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, s := range d.Streams {
			all = append(all, "/"+d.ServiceName+"/"+s.StreamName)
		}
	}
	for _, m := range all {
		if methods[m] == 0 {
			t.Errorf("%s has no line: nobody can call it", m)
		}
	}
	for m := range methods {
		if !slices.Contains(all, m) {
			t.Errorf("the line for %s is of no method", m)
		}
	}
}

func TestOnlyJoinsAreOpenToStrangers(t *testing.T) {
	g := &Guard{Members: state.New}
	for m := range methods {
		err := g.Check(t.Context(), m)
		if open := m == "/meshkit.identity.v1.IdentityService/Join" || m == "/meshkit.identity.v1.IdentityService/JoinHub"; open != (err == nil) {
			t.Errorf("%s without a certificate: %v", m, err)
		}
	}
	if err := g.Check(t.Context(), "/meshkit.admin.v1.ResourceService/New"); fault.CodeOf(err) != fault.CodeNotPermitted {
		t.Errorf("a method without a line: %v", err)
	}
}

func TestALimiterForgetsTheQuietestCaller(t *testing.T) {
	l := NewLimiter(0.001, 1)
	if err := l.Take("first"); err != nil {
		t.Fatal(err)
	}
	if err := l.Take("first"); fault.CodeOf(err) != fault.CodeRateLimited {
		t.Fatalf("the second call at once: %v", err)
	}
	for i := range maxLimiters {
		_ = l.Take(string(rune('a'+i%26)) + string(rune(i)))
	}
	if len(l.byKey) > maxLimiters || l.order.Len() > maxLimiters {
		t.Errorf("%d callers are remembered", len(l.byKey))
	}
	if err := l.Take("first"); err != nil {
		t.Errorf("a caller that was forgotten: %v", err)
	}
}

// A log entry holds text: the origin is cut between characters, and what is no text
// is shown as such.
func TestTheOriginIsTextWhateverACallerSays(t *testing.T) {
	for _, agent := range []string{strings.Repeat("é", maxOrigin), "a\xffb"} {
		c := CallerOf(metadata.NewIncomingContext(t.Context(), metadata.Pairs("user-agent", agent)))
		if !utf8.ValidString(c.Origin) || len(c.Origin) > maxOrigin+3 {
			t.Errorf("the origin of %q is %q", agent, c.Origin)
		}
	}
}

// as makes a context of a call with a certificate for who.
func as(t *testing.T, who string) context.Context {
	t.Helper()
	uri, err := url.Parse(who)
	if err != nil {
		t.Fatal(err)
	}
	return WithCaller(t.Context(), nil, []*x509.Certificate{{URIs: []*url.URL{uri}}})
}

func TestNobodyOfAnotherDomainIsLetIn(t *testing.T) {
	g := &Guard{Domain: "eu-central", Members: state.New}
	for m, may := range methods {
		if may&operator == 0 {
			continue
		}
		if err := g.Check(as(t, "spiffe://eu-central/operator/admin"), m); err != nil {
			t.Errorf("%s for an operator of the domain: %v", m, err)
		}
		if err := g.Check(as(t, "spiffe://eu-west/operator/admin"), m); fault.CodeOf(err) != fault.CodePeerDomain {
			t.Errorf("%s for one of another domain: %v", m, err)
		}
	}
}

// A hub that has just been started is not one that cannot write: it is waited for, and a
// client goes on to the next.
func TestAHubThatReadsItsLogSaysThatItIsStarting(t *testing.T) {
	g := &Guard{Domain: "demo", Members: func() *state.State { return nil }, Listed: func(string) (bool, bool) { return false, false }}
	_, listed := g.listed("hub1")
	node := g.member(t.Context(), identity.ID{Domain: "demo", Kind: identity.Node, Name: "n1"})
	for who, err := range map[string]error{"a hub": listed, "a node": node} {
		if fault.CodeOf(err) != fault.CodeHubStarting || !strings.Contains(fault.RemedyOf(err), "Wait") {
			t.Errorf("%s is told %v: %s", who, err, fault.RemedyOf(err))
		}
	}
}
