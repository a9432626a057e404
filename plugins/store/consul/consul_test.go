package consul

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/storetest"
	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(holderEnv); address != "" {
		holdLease(address)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestDriver(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, t.TempDir(), consultest.Options{})
	storetest.Run(t, func(t *testing.T) storetest.Engine { return engine(t, c) })
}

func TestDriverOnThreeServers(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, t.TempDir(), consultest.Options{Servers: 3})
	storetest.Run(t, func(t *testing.T) storetest.Engine { return engine(t, c) })
}

// engine gives a log of its own; its drivers go round the servers.
func engine(t *testing.T, c *consultest.Cluster) storetest.Engine {
	domain := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	next := 0
	return storetest.Engine{
		Driver: func(t *testing.T) store.Driver {
			d, err := Open(Config{Address: c.Servers[next%len(c.Servers)].HTTP, Domain: domain})
			if err != nil {
				t.Fatal(err)
			}
			next++
			t.Cleanup(func() { d.Close() })
			return d
		},
		Expire: func(t *testing.T) { expire(t, c, domain) },
		Restart: func(t *testing.T) {
			for _, s := range c.Servers {
				s.Kill()
			}
			for _, s := range c.Servers {
				s.Start()
			}
			c.Ready()
			expire(t, c, domain) // the drivers from before are gone
		},
	}
}

// expire destroys the session that holds the lock, if any.
func expire(t *testing.T, c *consultest.Cluster, domain string) {
	client := c.Servers[0].Client()
	pair, _, err := client.KV().Get("meshkit/"+domain+"/leader", nil)
	if err != nil {
		t.Fatal(err)
	}
	if pair != nil && pair.Session != "" {
		if _, err := client.Session().Destroy(pair.Session, nil); err != nil {
			t.Fatal(err)
		}
	}
}
