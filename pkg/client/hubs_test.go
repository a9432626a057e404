package client

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
)

func TestAddressesOfHubsAreSeparatedByCommas(t *testing.T) {
	for text, want := range map[string][]string{
		"a:1": {"a:1"}, "a:1,b:2": {"a:1", "b:2"}, " a:1 , [::1]:2,a:1": {"a:1", "[::1]:2"}, ":8443": {":8443"},
		"": nil, "a": nil, "a:": nil, "a:1,": nil, "a:1,,b:2": nil, "a:1;b:2": nil, "::1:2": nil,
	} {
		got, err := Addresses(text)
		if !slices.Equal(got, want) || (err != nil) != (want == nil) || err != nil && fault.CodeOf(err) != fault.CodeConfig {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// ring serves hubs of one domain over TLS.
type ring struct {
	hubs      []*hub
	servers   []*grpc.Server
	addresses []string
	operator  mtls.Files
}

func newRing(t *testing.T, ids ...string) *ring {
	t.Helper()
	ca := newAuthority(t)
	r := &ring{operator: ca.files("spiffe://demo/operator/ann")}
	for _, id := range ids {
		files := ca.files(id)
		cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		h := &hub{}
		r.servers = append(r.servers, serve(t, h, l, credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert})))
		r.hubs, r.addresses = append(r.hubs, h), append(r.addresses, l.Addr().String())
	}
	return r
}

func (r *ring) dial(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(Config{Hub: strings.Join(r.addresses, ","), CAFile: r.operator.CA, CertFile: r.operator.Cert, KeyFile: r.operator.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.policy = backoff.Policy{Base: 20 * time.Millisecond, Cap: 40 * time.Millisecond}
	return c
}

// asked tells how often each hub was asked.
func (r *ring) asked() []int {
	var out []int
	for _, h := range r.hubs {
		h.mu.Lock()
		out = append(out, len(h.ids))
		h.mu.Unlock()
	}
	return out
}

func TestTheNextHubIsAskedWhenOneIsGone(t *testing.T) {
	r := newRing(t, "spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2", "spiffe://demo/hub/hub3")
	r.servers[0].Stop()
	c := r.dial(t)
	if _, err := c.Domain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.servers[1].Stop() // while the client has a connection to it
	if _, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"}); err != nil {
		t.Fatal(err)
	}
	// A stream finds the other one as well.
	if err := r.dial(t).Watch(t.Context(), Selection{}, func(*adminv1.WatchResponse) error { return nil }); err != nil {
		t.Errorf("a stream: %v", err)
	}
	if got := r.asked(); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("asked %v times", got)
	}
	r.servers[2].Stop()
	_, err := c.Domain(t.Context())
	if !errors.Is(err, fault.CodeUnreachable) || !strings.Contains(err.Error(), "none of the hubs "+strings.Join(r.addresses, ",")) {
		t.Errorf("with none left: %v", err)
	}
}

// A hub that is starting takes connections and cannot serve: the others can. It did
// nothing, so a write that may be sent once only is sent to the next as well.
func TestTheNextHubIsAskedWhileOneIsStarting(t *testing.T) {
	starting := fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	ids := []string{"spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2", "spiffe://demo/hub/hub3"}
	for name, call := range map[string]func(*Client) error{
		"read": func(c *Client) error { _, err := c.Domain(t.Context()); return err },
		"write": func(c *Client) error {
			_, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"})
			return err
		},
		"once": func(c *Client) error { _, err := c.RevokeToken(t.Context(), "t1"); return err },
		"stream": func(c *Client) error {
			return c.Watch(t.Context(), Selection{}, func(*adminv1.WatchResponse) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRing(t, ids...)
			r.hubs[0].will(starting)
			r.hubs[1].will(starting)
			c := r.dial(t)
			if err := call(c); err != nil {
				t.Fatal(err)
			}
			if err := call(c); err != nil { // and stays with the one that served
				t.Fatal(err)
			}
			if got := r.asked(); !slices.Equal(got, []int{1, 1, 2}) {
				t.Errorf("asked %v times", got)
			}
			r.servers[2].Stop() // those that were passed over have started meanwhile
			if _, err := c.Domain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := r.asked(); !slices.Equal(got, []int{2, 1, 2}) {
				t.Errorf("asked %v times once the third was gone", got)
			}
		})
	}
}

func TestWhileAllHubsAreStartingThatIsSaid(t *testing.T) {
	starting := fault.New(fault.CodeHubStarting, "the hub is still reading its log")
	r := newRing(t, "spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2", "spiffe://demo/hub/hub3")
	r.hubs[0].will(slices.Repeat([]error{starting}, 100)...)
	r.servers[1].Stop()
	r.servers[2].Stop()
	if _, err := r.dial(t).Domain(t.Context()); !errors.Is(err, fault.CodeHubStarting) || !strings.Contains(fault.RemedyOf(err), "Wait") {
		t.Errorf("with the others gone: %v: %q", err, fault.RemedyOf(err))
	}
	r = newRing(t, "spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2")
	r.hubs[0].will(slices.Repeat([]error{starting}, 100)...)
	r.hubs[1].will(slices.Repeat([]error{starting}, 100)...)
	if _, err := r.dial(t).Domain(t.Context()); !errors.Is(err, fault.CodeHubStarting) {
		t.Errorf("both starting: %v", err)
	}
	r.hubs[0].will(starting)
	r.hubs[1].will(starting)
	if _, err := r.dial(t).Domain(t.Context()); err != nil {
		t.Errorf("both started while they were asked: %v", err)
	}
	// One alone is asked again, as before.
	r = newRing(t, "spiffe://demo/hub/hub1")
	r.hubs[0].will(starting)
	if _, err := r.dial(t).Domain(t.Context()); err != nil {
		t.Errorf("one alone: %v", err)
	}
}

// What got to the next hub and was lost there may have been done, whatever the one before
// said.
func TestACallThatIsLostAtTheNextHubIsNotSaidToBeUndone(t *testing.T) {
	r := newRing(t, "spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2")
	r.hubs[0].will(fault.New(fault.CodeHubStarting, "the hub is still reading its log"))
	r.hubs[1].dies = r.servers[1].Stop
	if _, err := r.dial(t).RotateHubKey(t.Context(), "one"); fault.KindOf(err) != fault.Unknown {
		t.Errorf("%v (%s), want that the outcome is not known", err, fault.CodeOf(err))
	}
	if got := r.asked(); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("asked %v times", got)
	}
}

// A rotation is of the hub that got it: another one would rotate its own key.
func TestARotationDoesNotGoOnToAnotherHub(t *testing.T) {
	r := newRing(t, "spiffe://demo/hub/hub1", "spiffe://demo/hub/hub2")
	r.hubs[0].dies = r.servers[0].Stop
	if _, err := r.dial(t).RotateHubKey(t.Context(), "one"); fault.KindOf(err) != fault.Unknown {
		t.Errorf("%v (%s)", err, fault.CodeOf(err))
	}
	if got := r.asked(); !slices.Equal(got, []int{1, 0}) {
		t.Errorf("asked %v times", got)
	}
}

// Whoever answers at an address of the list is believed no more than alone.
func TestOfSeveralAddressesOnlyHubsOfTheDomainAreAsked(t *testing.T) {
	r := newRing(t, "spiffe://prod/hub/hub1", "spiffe://demo/node/eu-1", "spiffe://demo/hub/hub3")
	if _, err := r.dial(t).Domain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.asked(); !slices.Equal(got, []int{0, 0, 1}) {
		t.Errorf("asked %v times", got)
	}
}

func TestAHubThatIsAloneAndGoneSaysWhatElseThereIs(t *testing.T) {
	r := newRing(t, "spiffe://demo/hub/hub1")
	r.servers[0].Stop()
	_, err := r.dial(t).Domain(t.Context())
	if fix := fault.RemedyOf(err); !errors.Is(err, fault.CodeUnreachable) || !strings.Contains(fix, "Check that meshhub runs") || !strings.Contains(fix, "--hub "+r.addresses[0]+",HOST:PORT") {
		t.Errorf("%v: %q", err, fix)
	}
}

func TestANameThatCannotBeResolvedIsSaidToBeOne(t *testing.T) {
	r := newRing(t)
	r.addresses = []string{"nohost.invalid:8443"}
	_, err := r.dial(t).Domain(t.Context())
	if !errors.Is(err, fault.CodeUnreachable) || !strings.Contains(err.Error(), "the name nohost.invalid cannot be resolved: ") || strings.Contains(fault.RemedyOf(err), "meshhub runs") {
		t.Errorf("%v: %q", err, fault.RemedyOf(err))
	}
	for reason, want := range map[string][2]string{
		"dial tcp: lookup nohost.invalid on 127.0.0.11:53: no such host":                   {"nohost.invalid", "no such host"},
		"dial tcp: lookup nohost.invalid: no such host":                                    {"nohost.invalid", "no such host"},
		"dial tcp: lookup h on 10.0.0.1:53: read udp 10.0.0.9:4->10.0.0.1:53: i/o timeout": {"h", "i/o timeout"},
	} {
		if name, why, ok := unresolved(reason); !ok || name != want[0] || why != want[1] {
			t.Errorf("%s: %q, %q", reason, name, why)
		}
	}
}
