package consul

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// TestACampaignTellsWhatKeepsItFromStanding: a refusal at once, another failure when it
// lasts, and their end while another hub leads.
func TestACampaignTellsWhatKeepsItFromStanding(t *testing.T) {
	t.Parallel()
	s := consultest.Start(t, t.TempDir(), consultest.Options{}).Servers[0]
	l, err := store.Open(bounded(t), open(t, Config{Address: s.HTTP}), store.Options{})
	ok(t, err)
	defer l.Close()
	_, err = l.Campaign(bounded(t), store.Holder{Name: "leader"}) // and keeps it
	ok(t, err)
	for name, c := range map[string]struct {
		status int
		text   string
		want   string
		within time.Duration
	}{
		"refused": {http.StatusForbidden, "Permission denied", "refuses the ACL token", reportAfter / 2},
		"failing": {http.StatusInternalServerError, "No cluster leader", "Consul has no leader", 2 * reportAfter},
	} {
		t.Run(name, func(t *testing.T) {
			var well atomic.Bool
			d := open(t, Config{Address: via(t, s, func(w http.ResponseWriter, r *http.Request, _ string) bool {
				if well.Load() || !strings.HasSuffix(r.URL.Path, "/session/create") {
					return false
				}
				http.Error(w, c.text, c.status)
				return true
			})})
			told := make(chan error, 1000)
			d.OnCampaign(func(err error) { told <- err })
			ctx, cancel := context.WithCancel(bounded(t))
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = d.Campaign(ctx, store.Holder{Name: "hub"}) })
			defer wg.Wait()
			defer cancel()
			began := time.Now()
			select {
			case err := <-told:
				if fault.CodeOf(err) != fault.CodeStoreUnavailable || !strings.Contains(err.Error(), c.want) {
					t.Errorf("told %v", err)
				}
				if took := time.Since(began); took > c.within {
					t.Errorf("told after %v", took)
				}
			case <-ctx.Done():
				t.Fatal("nobody is told")
			}
			well.Store(true)
			for {
				select {
				case err := <-told:
					if err == nil {
						return
					}
				case <-ctx.Done():
					t.Fatal("the end of it is not told")
				}
			}
		})
	}
}
