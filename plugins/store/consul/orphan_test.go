package consul

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// TestASessionThatCouldNotBeDestroyedBlocksNoCampaign: Consul had no leader when this
// hub gave the lock up, or when it was given it; its own session would hold it for up
// to twenty seconds more.
func TestASessionThatCouldNotBeDestroyedBlocksNoCampaign(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	noLeader := func(w http.ResponseWriter) bool {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	}
	var away, destroys atomic.Int32 // requests that still fail
	soon := func(t *testing.T, d *Driver) store.Lease {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		l, err := d.Campaign(ctx, store.Holder{Name: "hub"})
		ok(t, err)
		return l
	}
	t.Run("released", func(t *testing.T) {
		d := open(t, Config{Domain: "released", Address: via(t, s, func(w http.ResponseWriter, r *http.Request, _ string) bool {
			switch {
			case r.URL.Query().Has("release") && away.Load() > 0,
				strings.Contains(r.URL.Path, "/session/destroy/") && destroys.Add(-1) >= 0:
				return noLeader(w)
			}
			return false
		})})
		l := soon(t, d)
		away.Store(1)
		destroys.Store(4) // that of Release, and more while the lock is awaited
		if err := l.Release(bounded(t)); err == nil {
			t.Fatal("released without Consul")
		}
		away.Store(0)
		soon(t, d)
	})
	t.Run("acquired without an answer", func(t *testing.T) {
		var lost, refused atomic.Int32
		d := open(t, Config{Domain: "acquired", Address: via(t, s, func(w http.ResponseWriter, r *http.Request, body string) bool {
			switch {
			case r.URL.Query().Has("acquire") && lost.Add(1) == 1:
				req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+s.HTTP+r.URL.String(), strings.NewReader(body))
				if err == nil {
					var resp *http.Response
					if resp, err = http.DefaultClient.Do(req); err == nil {
						err = resp.Body.Close()
					}
				}
				if err != nil {
					t.Error(err)
				}
				return noLeader(w)
			case strings.Contains(r.URL.Path, "/session/destroy/") && refused.Add(1) == 1:
				return noLeader(w)
			}
			return false
		})})
		soon(t, d)
		if lost.Load() < 2 || refused.Load() < 2 {
			t.Errorf("%d acquisitions and %d destructions were tried", lost.Load(), refused.Load())
		}
	})
	http.DefaultClient.CloseIdleConnections()
}
