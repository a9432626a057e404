package e2e

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
	"github.com/meshkit/meshkit/test/harness"
)

// countingProxy stands between a hub and Consul, and counts requests.
func countingProxy(t *testing.T, to string) (address string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // a client that leaves is no news
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(func() { _ = srv.Close() })
	return lis.Addr().String(), count
}

// TestConsulsLoadDoesNotGrowWithAgents counts what a hub asks of Consul, idle and
// during changes, without agents and with many.
func TestConsulsLoadDoesNotGrowWithAgents(t *testing.T) {
	t.Parallel()
	const agents, changes, idle = 200, 20, 5 * time.Second
	c := harness.New(t)
	server := consultest.Start(t, c.Path("consul"), consultest.Options{}).Servers[0]
	proxy, count := countingProxy(t, server.HTTP)
	hub := c.NewRing("eu-west", "consul://"+proxy+"/meshkit")[0]
	next := 0
	change := func() string {
		t.Helper()
		next++
		at := fmt.Sprintf("10.9.%d.%d:80", next/250, next%250)
		if r := probe(t, c, at); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		return at
	}
	measure := func(name string) (quiet, busy int64) {
		t.Helper()
		before := count.Load()
		<-time.After(idle) // a window of time is what is measured
		quiet = count.Load() - before
		before = count.Load()
		began := time.Now()
		for range changes {
			change()
		}
		busy = count.Load() - before
		t.Logf("%s: %d requests in %s idle, %d in %d changes, which took %s", name, quiet, idle, busy, changes, time.Since(began).Round(100*time.Millisecond))
		return quiet, busy
	}
	change()
	quiet0, busy0 := measure("no agent")
	token, pin := c.Token("--uses", strconv.Itoa(agents))
	c.Start("fleet", "meshagent", "fleet", "--hub", hub.Address, "--token", token, "--ca-pin", pin, "--count", strconv.Itoa(agents), "--data", c.Path("fleet"))
	connected := func() bool {
		return strings.Contains(c.Ctl("get", "hubs", "-o", "json"), fmt.Sprintf(`"streams": %d`, agents))
	}
	if err := harness.Poll(2*harness.Patience, func() (bool, error) { return connected(), nil }); err != nil {
		t.Fatalf("the fleet is not connected: %v\n%s", err, c.Ctl("get", "hubs", "-o", "json"))
	}
	quiet, busy := measure(fmt.Sprintf("%d agents", agents))
	if !connected() {
		t.Error("the fleet did not stay connected")
	}
	// One request for each agent and five seconds, or ten for each change, would show.
	if quiet >= quiet0+agents/2 || busy >= busy0+agents {
		t.Errorf("with %d agents Consul gets %d requests idle instead of %d, and %d in %d changes instead of %d", agents, quiet, quiet0, busy, changes, busy0)
	}
}
