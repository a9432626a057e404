package consul

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// TestAnAgentThatHangsHoldsUpNoCampaign has the agent take one request, each kind in
// turn, and not answer it.
func TestAnAgentThatHangsHoldsUpNoCampaign(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	hanging := func(t *testing.T, domain string, is func(r *http.Request, body string) bool) (*Driver, *gate) {
		t.Helper()
		g := newGate(t)
		var met atomic.Bool
		return open(t, Config{Domain: domain, Timeout: 500 * time.Millisecond, Address: via(t, s, func(_ http.ResponseWriter, r *http.Request, body string) bool {
			if !is(r, body) || !met.CompareAndSwap(false, true) {
				return false
			}
			g.pass(r.Context())
			return true
		})}), g
	}
	for name, is := range map[string]func(r *http.Request, body string) bool{
		"session":   func(r *http.Request, _ string) bool { return strings.HasSuffix(r.URL.Path, "/session/create") },
		"acquire":   func(r *http.Request, _ string) bool { return r.URL.Query().Has("acquire") },
		"read-head": func(_ *http.Request, body string) bool { return strings.Contains(body, `"get-or-empty"`) },
		"new-term":  func(_ *http.Request, body string) bool { return strings.Contains(body, `"cas"`) },
	} {
		t.Run(name, func(t *testing.T) {
			d, g := hanging(t, name, is)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			l, err := d.Campaign(ctx, store.Holder{Name: "hub"})
			ok(t, err)
			g.meets(t, "the request that hangs")
			ok(t, l.Release(bounded(t)))
		})
	}
	t.Run("renew", func(t *testing.T) {
		var renewals atomic.Int32
		d, g := hanging(t, "renew", func(r *http.Request, _ string) bool {
			if !strings.Contains(r.URL.Path, "/session/renew/") {
				return false
			}
			renewals.Add(1)
			return true
		})
		ok(t, d.register(bounded(t), store.Holder{Name: "hub"}))
		session, err := d.newSession(bounded(t), store.Holder{Name: "hub"})
		ok(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), sessionTTL)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.keepSession(ctx, session) })
		g.meets(t, "the renewal that hangs")
		wg.Wait()
		if n := renewals.Load(); n < 2 {
			t.Errorf("%d renewals within the time of a session", n)
		}
	})
}
